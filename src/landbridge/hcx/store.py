"""What a manager must not forget: documents in one table, SQLite by default, PostgreSQL by URL."""

import asyncio
import time
from typing import Any, ClassVar, TypeVar

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """Something kept under an id; `kind` names its sort and is part of the key."""

    model_config = ConfigDict(extra="ignore")  # an older manager may read what a newer one wrote
    kind: ClassVar[str]
    id: str


_D = TypeVar("_D", bound=Document)
_metadata = sa.MetaData()
_documents = sa.Table(
    "hcx_documents",
    _metadata,
    sa.Column("kind", sa.String(40), primary_key=True),
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # WAL: readers do not wait for the writer; FULL: what was answered for survives a power cut.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


class Store:
    """Documents by kind and id. Every call is one transaction, done when it returns."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        if url.startswith("sqlite"):
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
        _metadata.create_all(self._engine)

    async def get(self, sort: type[_D], key: str) -> _D | None:
        """The document of that id, None if there is none."""
        query = sa.select(_documents.c.body).where(_documents.c.kind == sort.kind, _documents.c.id == key)
        rows = await asyncio.to_thread(self._rows, query)
        return sort.model_validate_json(rows[0][0]) if rows else None

    async def all(self, sort: type[_D]) -> list[_D]:
        """All documents of a kind, oldest first."""
        query = sa.select(_documents.c.body).where(_documents.c.kind == sort.kind).order_by(_documents.c.created)
        return [sort.model_validate_json(row[0]) for row in await asyncio.to_thread(self._rows, query)]

    async def put(self, document: Document) -> None:
        """Keep a document, in place of one with the same id."""
        await asyncio.to_thread(self._put, document.kind, document.id, document.model_dump_json())

    async def delete(self, sort: type[Document], key: str) -> None:
        """Forget a document; none of that id is no error."""
        order = sa.delete(_documents).where(_documents.c.kind == sort.kind, _documents.c.id == key)
        await asyncio.to_thread(self._execute, order)

    def close(self) -> None:
        self._engine.dispose()

    def _rows(self, query: sa.Select[Any]) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.execute(query).all())

    def _execute(self, order: sa.Delete) -> None:
        with self._engine.begin() as connection:
            connection.execute(order)

    def _put(self, kind: str, key: str, body: str) -> None:
        same = (_documents.c.kind == kind) & (_documents.c.id == key)
        with self._engine.begin() as connection:
            if connection.execute(sa.update(_documents).where(same).values(body=body)).rowcount == 0:
                row = {"kind": kind, "id": key, "body": body, "created": time.time()}
                connection.execute(sa.insert(_documents).values(row))
