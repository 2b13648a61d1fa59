"""A connection to an OVSDB server (RFC 7047) on asyncio: it monitors tables and sends transactions.

Written here, because the bindings of Open vSwitch wait in threads of their own and parse JSON in Python: 0.83 s where
the standard library takes 0.024 s for the 0.77 MB that 2,000 rows are.

Values in their normal form: a column of exactly one value is that value, a map is a dict, any other (a set, or an
optional value) a frozenset; a UUID is its text.
"""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

Columns = dict[str, Any]
Tables = dict[str, dict[str, Columns]]  # table, the row's UUID, column

_CONNECT_TIMEOUT = 5.0  # seconds
_CHUNK = 1 << 18
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')


class OvsdbError(Exception):
    """The database can not be reached, or refused a transaction: what it said."""


class Ovsdb:
    """One connection. `tables` holds the monitored rows; `changed` is called after each change of them.

    `version` counts the updates that changed more than the columns that are passed as `quiet`.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, database: str) -> None:
        self.tables: Tables = {}
        self.version = 0
        self.changed: Callable[[], None] = lambda: None
        self.closed = asyncio.Event()
        self._reader, self._writer, self._database = reader, writer, database
        self._kinds: dict[str, dict[str, str]] = {}
        self._quiet: frozenset[tuple[str, str]] = frozenset()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._last = 0
        self._task = asyncio.create_task(self._receive(), name=f"{database} receiver")

    @classmethod
    async def open(
        cls,
        socket: Path,
        database: str,
        columns: Mapping[str, Sequence[str]],
        quiet: Iterable[tuple[str, str]] = (),
    ) -> "Ovsdb":
        """Connect and monitor these columns by table. OvsdbError if it does not work."""
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_unix_connection(socket), _CONNECT_TIMEOUT)
        except (OSError, TimeoutError) as error:
            raise OvsdbError(f"{socket}: {error}") from error
        self = cls(reader, writer, database)
        self._quiet = frozenset(quiet)
        try:
            schema = await self._ask("get_schema", [database])
            for table, names in columns.items():
                of_table = schema["tables"][table]["columns"]
                self._kinds[table] = {name: _kind(of_table[name]["type"]) for name in names}
                self.tables[table] = {}
            monitored = {table: [{"columns": list(names)}] for table, names in columns.items()}
            self._update(await self._ask("monitor", [database, "landbridge", monitored]))
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def kind(self, table: str, column: str) -> str:
        """`one`, `set` or `map`."""
        return self._kinds[table][column]

    async def transact(self, operations: Sequence[Mapping[str, Any]], timeout: float) -> list[dict[str, Any]]:
        """Send operations as the wire has them, all or nothing. The monitored rows are up to date afterwards."""
        results = await self._ask("transact", [self._database, *operations], timeout)
        for result in results:
            if result and "error" in result:
                raise OvsdbError(f"{result['error']}: {result.get('details', '')}")
        return list(results)

    # -- the wire -------------------------------------------------------------------------------------------

    async def _ask(self, method: str, params: Sequence[Any], timeout: float = 30.0) -> Any:
        if self.closed.is_set():
            raise OvsdbError(f"{self._database}: the connection is closed")
        self._last += 1
        number = self._last
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            self._send({"method": method, "params": params, "id": number})
            await asyncio.wait_for(self._writer.drain(), timeout)
            return await asyncio.wait_for(answer, timeout)
        except TimeoutError:
            raise OvsdbError(f"{self._database}: no answer to {method} in {timeout:.0f} s") from None
        except OSError as error:
            raise OvsdbError(f"{self._database}: {error}") from error
        finally:
            self._answers.pop(number, None)

    def _send(self, message: Mapping[str, Any]) -> None:
        self._writer.write(json.dumps(message, separators=(",", ":")).encode())

    async def _receive(self) -> None:
        reason = "the server closed the connection"
        framer = _Framer()
        try:
            while data := await self._reader.read(_CHUNK):
                for message in framer.feed(data):
                    self._dispatch(message)
        except (OSError, ValueError) as error:
            reason = str(error)
        finally:
            self.closed.set()
            self._writer.close()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(OvsdbError(f"{self._database}: {reason}"))
            self.changed()

    def _dispatch(self, message: Mapping[str, Any]) -> None:
        method = message.get("method")
        if method == "echo":
            self._send({"result": message["params"], "error": None, "id": message["id"]})
        elif method == "update":
            self._update(message["params"][1])
            self.changed()
        elif method is None and (answer := self._answers.get(message["id"])) is not None and not answer.done():
            if message.get("error"):
                answer.set_exception(OvsdbError(f"{self._database}: {message['error']}"))
            else:
                answer.set_result(message["result"])

    def _update(self, tables: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        loud = False
        for table, rows in tables.items():
            kinds, mine = self._kinds[table], self.tables[table]
            for uuid, change in rows.items():
                new, old = change.get("new"), change.get("old")
                # Of a row that was changed, `old` has only the columns that were.
                loud = loud or not new or not old or any((table, column) not in self._quiet for column in old)
                if new is None:
                    mine.pop(uuid, None)
                else:
                    # A row is replaced, not changed: who compares in a thread has a copy of the table.
                    mine[uuid] = {column: _normal(value, kinds[column]) for column, value in new.items()}
        self.version += loud


class _Framer:
    """Cuts a stream of JSON objects, which nothing separates, where their braces balance."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._rest = b""  # from where a string began that has not ended yet
        self._depth = 0

    def feed(self, data: bytes) -> list[Any]:
        """The messages there are, once nothing is left over: to parse at each chunk would take squares of time."""
        self._data += data
        bare = _STRING.sub(b"", self._rest + data)
        end = bare.find(b'"')
        self._rest = b"" if end < 0 else bare[end:]
        bare = bare if end < 0 else bare[:end]
        self._depth += bare.count(b"{") - bare.count(b"}")
        if self._depth or self._rest:
            return []
        text, self._data = self._data.decode().rstrip(), bytearray()
        messages, position, decoder = [], 0, json.JSONDecoder()
        while position < len(text):
            if text[position].isspace():
                position += 1
                continue
            message, position = decoder.raw_decode(text, position)
            messages.append(message)
        return messages


def _kind(column: Any) -> str:
    if not isinstance(column, dict):
        return "one"
    if "value" in column:
        return "map"
    return "one" if column.get("min", 1) == column.get("max", 1) == 1 else "set"


def _normal(value: Any, kind: str) -> Any:
    if kind == "map":
        return {_atom(key): _atom(item) for key, item in value[1]}
    if kind == "set":
        items = value[1] if isinstance(value, list) and value[0] == "set" else [value]
        return frozenset([_atom(item) for item in items])
    return _atom(value)


def _atom(value: Any) -> Any:
    return value[1] if isinstance(value, list) else value
