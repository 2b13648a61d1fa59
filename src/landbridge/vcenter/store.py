"""What vCenter remembers: objects, events, users, settings, in SQLite (WAL) or PostgreSQL.

SQLAlchemy Core, synchronous, in one worker thread: statements run in the order they were asked for, and the event loop
never waits for a disk. A call returns when its transaction is committed.
"""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

_T = TypeVar("_T")
_metadata = sa.MetaData()
_objects = sa.Table(
    "objects",
    _metadata,
    sa.Column("moid", sa.String(200), primary_key=True),
    sa.Column("kind", sa.String(200), nullable=False),
    # The order objects were added in: parents come before children.
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
)
_events = sa.Table(
    "events",
    _metadata,
    sa.Column("key", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event", sa.Text, nullable=False),
)
_users = sa.Table(
    "users",
    _metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("role", sa.Integer, nullable=False),
)
_settings = sa.Table(
    "settings",
    _metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


class Store:
    """One database. `open` it, call it, `close` it."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._position = 0

    @classmethod
    async def open(cls, url: str) -> "Store":
        """Open the database at a SQLAlchemy URL (`sqlite:////path`, `postgresql+psycopg://...`); make its tables."""
        store = cls(_engine(url))
        await store._run(store._prepare)
        return store

    async def close(self) -> None:
        await self._run(lambda _: None)
        await asyncio.to_thread(self._thread.shutdown)
        self._engine.dispose()

    # -- objects ------------------------------------------------------------------------------------------

    async def objects(self) -> tuple[list[tuple[str, str, dict[str, Any]]], int]:
        """All objects as (moId, kind, facts) in the order they were added, and the counter of moIds."""

        def read(connection: sa.Connection) -> tuple[list[tuple[str, str, dict[str, Any]]], int]:
            rows = connection.execute(sa.select(_objects).order_by(_objects.c.position)).all()
            counter = _value(connection, "counter")
            return [(row.moid, row.kind, json.loads(row.facts)) for row in rows], int(counter or 0)

        return await self._run(read)

    async def put_object(self, moid: str, kind: str, facts: dict[str, Any], counter: int) -> None:
        """Insert or replace an object. `counter` is the inventory's: no moId at or under it is used again."""
        # Encoded here, not in the thread: the caller may go on changing its facts.
        encoded = json.dumps(facts)

        def write(connection: sa.Connection) -> None:
            self._position += 1
            values = {"moid": moid, "kind": kind, "position": self._position, "facts": encoded}
            self._upsert(connection, _objects, values, keep=("position",))
            self._upsert(connection, _settings, {"name": "counter", "value": str(counter)})

        await self._run(write)

    async def delete_object(self, moid: str) -> None:
        await self._run(lambda connection: connection.execute(sa.delete(_objects).where(_objects.c.moid == moid)))

    # -- events -------------------------------------------------------------------------------------------

    async def events(self, limit: int) -> list[tuple[int, str]]:
        """The latest events as (key, XML), oldest first."""
        latest = sa.select(_events).order_by(_events.c.key.desc()).limit(limit)
        rows = await self._run(lambda connection: connection.execute(latest).all())
        return [(row.key, row.event) for row in reversed(rows)]

    async def put_events(self, events: list[tuple[int, str]], *, keep: int) -> None:
        """Append events; those more than `keep` keys older than the last are deleted."""

        def write(connection: sa.Connection) -> None:
            connection.execute(sa.insert(_events), [{"key": key, "event": event} for key, event in events])
            connection.execute(sa.delete(_events).where(_events.c.key <= events[-1][0] - keep))

        await self._run(write)

    # -- users, settings ----------------------------------------------------------------------------------

    async def users(self) -> dict[str, tuple[str, int]]:
        """Password hash and role id by user name."""
        rows = await self._run(lambda connection: connection.execute(sa.select(_users)).all())
        return {row.name: (row.password_hash, row.role) for row in rows}

    async def put_user(self, name: str, password_hash: str, role: int) -> None:
        values = {"name": name, "password_hash": password_hash, "role": role}
        await self._run(lambda connection: self._upsert(connection, _users, values))

    async def delete_user(self, name: str) -> None:
        await self._run(lambda connection: connection.execute(sa.delete(_users).where(_users.c.name == name)))

    async def setting(self, name: str) -> str | None:
        return await self._run(lambda connection: _value(connection, name))

    async def put_setting(self, name: str, value: str) -> None:
        values = {"name": name, "value": value}
        await self._run(lambda connection: self._upsert(connection, _settings, values))

    # -- inside -------------------------------------------------------------------------------------------

    def _prepare(self, connection: sa.Connection) -> None:
        _metadata.create_all(connection)
        self._position = connection.execute(sa.select(sa.func.max(_objects.c.position))).scalar() or 0

    def _upsert(
        self, connection: sa.Connection, table: sa.Table, values: dict[str, Any], keep: tuple[str, ...] = ()
    ) -> None:
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        keys = [column.name for column in table.primary_key]
        statement = dialect.insert(table).values(values)
        changed = {name: statement.excluded[name] for name in values if name not in keys and name not in keep}
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed))

    async def _run(self, work: Callable[[sa.Connection], _T]) -> _T:
        def transaction() -> _T:
            with self._engine.begin() as connection:
                return work(connection)

        return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)


def default_url(state_dir: Path) -> str:
    """SQLite in the state directory."""
    return f"sqlite:///{state_dir / 'vcenter.db'}"


def _value(connection: sa.Connection, name: str) -> str | None:
    value: str | None = connection.execute(sa.select(_settings.c.value).where(_settings.c.name == name)).scalar()
    return value


def _engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url, pool_pre_ping=True)
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def prepare(connection: Any, _record: Any) -> None:
            # FULL: what was committed is there after a power failure too, not only after a crash of ours.
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
                connection.execute(f"PRAGMA {pragma}")

    return engine
