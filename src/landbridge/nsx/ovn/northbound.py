"""The northbound database as the reconciler sees it: its rows, a wake-up when they change, and transactions."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from landbridge.nsx.ovn.difference import COLUMNS
from landbridge.nsx.ovn.ovsdb import Ovsdb, OvsdbError, Tables

_log = logging.getLogger(__name__)

_DATABASE = "OVN_Northbound"
_RETRY = (0.1, 0.2, 0.5, 1.0)  # seconds between attempts to connect; the last goes on
_TRANSACTION_TIMEOUT = 60.0  # seconds
_MONITORED = {
    **{table: [*columns, "external_ids"] for table, columns in COLUMNS.items()},
    "NB_Global": ["nb_cfg", "sb_cfg"],
}
_MONITORED["Logical_Switch_Port"] += ["dynamic_addresses"]
_COUNTERS = (("NB_Global", "nb_cfg"), ("NB_Global", "sb_cfg"))


class Northbound:
    """A connection that is made again when it breaks. `woken` is set when rows change or the connection does."""

    def __init__(self, socket: Path) -> None:
        self.woken = asyncio.Event()
        self._socket = socket
        self._connection: Ovsdb | None = None
        self._connections = 0

    async def connect(self) -> None:
        """Wait for the connection and all rows, however long the server is away."""
        attempt = 0
        while self._connection is None or self._connection.closed.is_set():
            await self.close()
            try:
                self._connection = await Ovsdb.open(self._socket, _DATABASE, _MONITORED, _COUNTERS)
            except OvsdbError as error:
                if attempt == 0:
                    _log.warning("waiting for the northbound database: %s", error)
                await asyncio.sleep(_RETRY[min(attempt, len(_RETRY) - 1)])
                attempt += 1
            else:
                self._connections += 1
                self._connection.changed = self.woken.set
                self.woken.set()

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    def tables(self) -> Tables:
        """The rows of this moment; they do not change under the caller."""
        return {table: dict(rows) for table, rows in self._open().tables.items()}

    def connected(self) -> bool:
        return self._connection is not None and not self._connection.closed.is_set()

    def ready(self) -> bool:
        """Whether somebody made a new database's first row (`ovn-nbctl init`), which wakes us."""
        return bool(self._open().tables["NB_Global"])

    def version(self) -> tuple[int, int]:
        """Another one after each change of the rows; the second number grows by one for each."""
        return self._connections, self._open().version

    def realised(self) -> int:
        """The last number given to `commit` that ovn-northd has done with."""
        return self._global("sb_cfg")

    async def commit(self, operations: Sequence[Mapping[str, Any]]) -> int:
        """Write in one transaction. A number that `realised` reaches when ovn-northd has followed."""
        number = self._global("nb_cfg") + 1
        count = {"op": "update", "table": "NB_Global", "where": [], "row": {"nb_cfg": number}}
        await self._open().transact([*operations, count], _TRANSACTION_TIMEOUT)
        return number

    def _global(self, column: str) -> int:
        for row in self._open().tables["NB_Global"].values():
            return int(row[column])
        return 0

    def _open(self) -> Ovsdb:
        if self._connection is None or self._connection.closed.is_set():
            raise OvsdbError(f"{self._socket}: not connected")
        return self._connection
