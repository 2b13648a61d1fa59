"""What must not be forgotten: intents by path in SQL, SQLite by default, PostgreSQL by URL.

Contents are kept in memory too, and brought up to date from the rows that changed since. Writers, also those of other
managers on the same database, queue at the row that holds the sequence: a change sees all changes before it.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import TypeAdapter

from landbridge.nsx.policy.contents import Contents, Draft, MachineTags
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.tree import PLACES

_T = TypeVar("_T")
_FIRST_RULE_NUMBER = 1000
_POLL = 1.0  # seconds between looks at the sequence, for changes that another manager makes
_WAIT = 10  # seconds for a lock or a connection
_TOMBSTONE_LIFE = 7 * 86400.0  # seconds; a manager that was away for longer starts anew anyway
_BATCH = 500

_metadata = sa.MetaData()
_state = sa.Table(
    "nsx_state",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("rule_number", sa.BigInteger, nullable=False),
)
_intents = sa.Table(
    "nsx_intents",
    _metadata,
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("kind", sa.String(80), nullable=False),
    sa.Column("body", sa.Text),  # NULL: deleted, kept so that other managers learn of it
    sa.Column("sequence", sa.BigInteger, nullable=False, index=True),
    sa.Column("changed", sa.Double, nullable=False),
)
_accounts = sa.Table(
    "nsx_accounts",
    _metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("password_hash", sa.Text, nullable=False),
)
_KINDS: dict[str, type[Intent]] = {place.kind.kind: place.kind for place in PLACES if not place.embedded}
_KINDS[MachineTags.kind] = MachineTags
_ADAPTERS = {name: TypeAdapter(kind) for name, kind in _KINDS.items()}


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # WAL: readers do not wait for the writer; FULL: what was answered for survives a power cut.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={_WAIT * 1000}"):
        connection.execute(f"PRAGMA {pragma}")


def _engine(url: str) -> sa.Engine:
    if url.startswith("sqlite"):
        engine = sa.create_engine(url)
        sa.event.listen(engine, "connect", _prepare_sqlite)
        return engine
    limits = f"-c lock_timeout={_WAIT}s -c statement_timeout={3 * _WAIT}s"
    return sa.create_engine(url, pool_pre_ping=True, connect_args={"options": limits, "connect_timeout": _WAIT})


class Store:
    """The tree's memory. A change is one transaction, done when the call returns."""

    def __init__(self, url: str) -> None:
        self._db = _engine(url)
        try:
            self._prepare()
        except (sa.exc.IntegrityError, sa.exc.ProgrammingError):
            self._prepare()  # another manager made the tables at the same moment
        self._known = Contents()
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def contents(self) -> Contents:
        """All intents as they are now, changes by other managers on the same database included."""
        if await asyncio.to_thread(self._sequence) != self._known.sequence:
            await self._alone(self._catch_up)
        return self._known

    async def change(self, work: Callable[[Draft], _T], user: str) -> _T:
        """Let `work` change a draft of the contents, and keep that; if it raises, nothing is changed."""
        return await self._alone(lambda: self._change(work, user))

    async def newer(self, sequence: int, timeout: float) -> Contents:
        """Wait until the contents are newer than `sequence`, for `timeout` seconds at most; they are the result."""
        deadline = time.monotonic() + timeout
        while True:
            changed = self._changed  # before looking: what comes after that is not missed
            contents = await self.contents()
            left = deadline - time.monotonic()
            if contents.sequence > sequence or left <= 0:
                return contents
            try:
                await asyncio.wait_for(changed.wait(), min(_POLL, left))
            except TimeoutError:
                continue

    async def password_hash(self, user: str) -> str | None:
        """The hash of an account's password; None if there is no such account."""
        return await asyncio.to_thread(self._password_hash, user)

    async def keep_password_hash(self, user: str, hashed: str) -> None:
        await asyncio.to_thread(self._keep_password_hash, user, hashed)

    def close(self) -> None:
        self._db.dispose()

    async def _alone(self, work: Callable[[], _T]) -> _T:
        """Run it in a thread, one at a time. It goes to its end even if the caller is cancelled meanwhile."""

        async def locked() -> _T:
            async with self._lock:
                result = await asyncio.to_thread(work)
            self._changed.set()
            self._changed = asyncio.Event()
            return result

        task = asyncio.create_task(locked())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def _prepare(self) -> None:
        _metadata.create_all(self._db)
        with self._db.begin() as connection:
            if connection.execute(sa.select(_state.c.id)).first() is None:
                connection.execute(sa.insert(_state).values(id=0, sequence=0, rule_number=_FIRST_RULE_NUMBER))
            old = _intents.c.body.is_(None) & (_intents.c.changed < time.time() - _TOMBSTONE_LIFE)
            connection.execute(sa.delete(_intents).where(old))

    def _sequence(self) -> int:
        with self._db.connect() as connection:
            return int(connection.execute(sa.select(_state.c.sequence)).scalar_one())

    def _catch_up(self) -> None:
        with self._db.connect() as connection:
            self._known = self._read(connection)

    def _read(self, connection: sa.Connection, ahead: int = 0) -> Contents:
        """The known contents and what changed since; `ahead`: how much the sequence is before what was committed.

        One statement: between two, another manager could commit, and half of that would be seen.
        """
        newer = _state.outerjoin(_intents, _intents.c.sequence > self._known.sequence)
        query = sa.select(_state.c.sequence.label("now"), *_intents.c).select_from(newer)
        rows = connection.execute(query).all()
        changes: dict[str, tuple[int, Intent | None]] = {
            row.path: (row.sequence, None if row.body is None else _ADAPTERS[row.kind].validate_json(row.body))
            for row in rows
            if row.path is not None
        }
        return self._known.followed_by(rows[0].now - ahead, changes)

    def _change(self, work: Callable[[Draft], _T], user: str) -> _T:
        with self._db.connect() as connection:
            # First of all: this makes other writers wait until we are through.
            connection.execute(sa.update(_state).values(sequence=_state.c.sequence + 1))
            sequence, rule_number = connection.execute(sa.select(_state.c.sequence, _state.c.rule_number)).one()
            contents = self._read(connection, ahead=1)
            draft = Draft(contents, user, int(time.time() * 1000), rule_number)
            result = work(draft)
            if not draft.touched and not draft.gone:
                connection.rollback()
                return result
            if draft.rule_number != rule_number:
                connection.execute(sa.update(_state).values(rule_number=draft.rule_number))
            self._write(connection, draft, sequence)
            connection.commit()
        written: dict[str, tuple[int, Intent | None]] = {path: (sequence, i) for path, i in draft.touched.items()}
        self._known = contents.followed_by(sequence, written | dict.fromkeys(draft.gone, (sequence, None)))
        return result

    def _write(self, connection: sa.Connection, draft: Draft, sequence: int) -> None:
        now = time.time()
        paths = [*draft.touched, *draft.gone]
        for start in range(0, len(paths), _BATCH):
            batch = paths[start : start + _BATCH]
            connection.execute(sa.delete(_intents).where(_intents.c.path.in_(batch)))
            rows = [self._row(draft, path) | {"sequence": sequence, "changed": now} for path in batch]
            connection.execute(sa.insert(_intents), rows)

    @staticmethod
    def _row(draft: Draft, path: str) -> dict[str, Any]:
        intent = draft.touched.get(path)
        kind = (intent or draft.before.intents[path]).kind
        return {"path": path, "kind": kind, "body": intent.model_dump_json(by_alias=True) if intent else None}

    def _password_hash(self, user: str) -> str | None:
        with self._db.connect() as connection:
            query = sa.select(_accounts.c.password_hash).where(_accounts.c.name == user)
            return connection.execute(query).scalar_one_or_none()

    def _keep_password_hash(self, user: str, hashed: str) -> None:
        with self._db.begin() as connection:
            connection.execute(sa.delete(_accounts).where(_accounts.c.name == user))
            connection.execute(sa.insert(_accounts).values(name=user, password_hash=hashed))
