"""Keeps the northbound database as the newest snapshot wants it.

It compares everything with everything: after each new snapshot, and after each change of the database that was not its
own. What differs is written in one transaction, so a crash leaves either the old rows or the new ones, and somebody's
change by hand is undone.
"""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable

from landbridge.nsx.ovn.compile import compile_snapshot
from landbridge.nsx.ovn.difference import Difference, difference, ours, present
from landbridge.nsx.ovn.northbound import Northbound
from landbridge.nsx.ovn.ovsdb import Tables
from landbridge.nsx.ovn.rows import Claim, Ref
from landbridge.nsx.snapshot import RealizationState, Realized, Snapshot

_log = logging.getLogger(__name__)

_RETRY = 2.0  # seconds until a transaction that was refused is tried again


class Reconciler:
    """`snapshots(n)` waits for a snapshot with a sequence above n and returns the newest there is."""

    def __init__(self, northbound: Northbound, snapshots: Callable[[int], Awaitable[Snapshot]]) -> None:
        self.transactions = 0  # committed ones
        self._northbound = northbound
        self._snapshots = snapshots
        self._snapshot: Snapshot | None = None
        self._claims: dict[str, list[Claim]] = {}
        self._uuids: dict[Ref, str] = {}
        # Rows that ovn-northd has not seen yet: the number of the transaction that wrote them.
        self._pending: dict[Ref, int] = {}
        self._failure = ""
        # What was compared last: a snapshot with a state of the database.
        self._compared: tuple[int, tuple[int, int]] | None = None
        self._settled = asyncio.Condition()
        self._done = -1  # sequence of the newest snapshot that was committed

    @property
    def compiled(self) -> int:
        """The sequence of the snapshot that `realized` speaks of; -1 before the first."""
        return self._done

    def realized(self, path: str) -> list[Realized]:
        """What became of the intent; nothing while no snapshot with it was compiled."""
        return [self._state(claim) for claim in self._claims.get(path, ())]

    async def committed(self, sequence: int) -> None:
        """Wait until a snapshot at least as new has been written."""
        async with self._settled:
            await self._settled.wait_for(lambda: self._done >= sequence)

    async def settled(self, sequence: int) -> None:
        """Wait until a snapshot at least as new has been written, and ovn-northd has followed."""
        async with self._settled:
            await self._settled.wait_for(lambda: self._done >= sequence and not self._pending)

    async def run(self) -> None:
        """Reconcile until cancelled."""
        reader = asyncio.create_task(self._follow_snapshots(), name="NSX snapshots")
        try:
            while True:
                await self._northbound.connect()
                if reader.done():
                    reader.result()  # it only ends by an error, which ends us
                await self._northbound.woken.wait()
                self._northbound.woken.clear()
                await self._attempt()
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await self._northbound.close()

    async def _follow_snapshots(self) -> None:
        try:
            while True:
                sequence = self._snapshot.sequence if self._snapshot else -1
                self._snapshot = await self._snapshots(sequence)
                self._northbound.woken.set()
        finally:
            self._northbound.woken.set()

    async def _attempt(self) -> None:
        try:
            await self._reconcile()
        except Exception as error:  # one intent that nobody foresaw must not end the realisation of all
            if not self._northbound.connected():
                return
            self._failure = str(error)
            self._compared = None
            _log.exception("the northbound database is not as it should be")
            await asyncio.sleep(_RETRY)
            self._northbound.woken.set()

    async def _reconcile(self) -> None:
        snapshot = self._snapshot
        if snapshot is None or not self._northbound.ready():
            return
        version = self._northbound.version()
        if self._compared != (snapshot.sequence, version):
            tables = self._northbound.tables()
            # In a thread: with thousands of rows it takes tenths of a second, which the API's callers should not wait.
            claims, needed = await asyncio.to_thread(_plan, snapshot, tables)
            if needed.operations:
                number = await self._northbound.commit(needed.operations)
                self.transactions += 1
                self._pending.update(dict.fromkeys(needed.touched, number))
                counts = len(needed.touched), needed.removed
                _log.info("snapshot %d: %d rows written, %d removed", snapshot.sequence, *counts)
                # Our own change was the next one, or somebody else's came between: then all is compared again.
                version = version[0], version[1] + 1
            self._compared = snapshot.sequence, version
            self._uuids = ours(self._northbound.tables())
            self._claims = claims
            self._failure = ""
        caught_up = self._northbound.realised()
        self._pending = {
            ref: number for ref, number in self._pending.items() if number > caught_up and ref in self._uuids
        }
        async with self._settled:
            self._done = snapshot.sequence
            self._settled.notify_all()

    def _state(self, claim: Claim) -> Realized:
        uuid = self._uuids.get(claim.rows[0], "") if claim.rows else ""
        state, error = RealizationState.REALIZED, claim.error or self._failure
        if error:
            state = RealizationState.ERROR
        elif any(ref not in self._uuids or ref in self._pending for ref in claim.rows):
            state = RealizationState.UNREALIZED
        return Realized(claim.intent_path, claim.entity_type, uuid, state, error)


def _plan(snapshot: Snapshot, tables: Tables) -> tuple[dict[str, list[Claim]], Difference]:
    collecting = gc.isenabled()
    # So many new objects make the collector walk over all there are again and again: half of the time. None of them
    # refer to each other in circles.
    gc.disable()
    try:
        wanted = compile_snapshot(snapshot, present(tables))
        claims: dict[str, list[Claim]] = {}
        for claim in wanted.claims:
            claims.setdefault(claim.intent_path, []).append(claim)
        return claims, difference(wanted.rows, tables)
    finally:
        if collecting:
            gc.enable()
