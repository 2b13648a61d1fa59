"""Snapshots for the reconciler: the Policy tree and the fabric together, numbered by their changes."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from landbridge.nsx.policy.contents import Contents
from landbridge.nsx.policy.store import Store
from landbridge.nsx.snapshot import Machine, Snapshot

_POLL = 30.0  # seconds; the store wakes for changes of its own, and looks for those of other managers
_REMEMBERED = 1000


class Snapshots:
    """`newer` is the reconciler's source; `fabric` is told what changed there."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._machines: Mapping[str, Machine] = {}
        self._moves: Mapping[str, tuple[str, ...]] = {}
        self._fabric_changed = asyncio.Event()
        self._made: Snapshot | None = None
        self._of_store: dict[int, int] = {}
        self.contents: Contents | None = None
        self.sequence = 0

    def fabric(self, machines: Mapping[str, Machine], moves: Mapping[str, tuple[str, ...]]) -> None:
        """The fabric is this now. `sequence` is then the number of the snapshot that has it, or a later one's."""
        if machines == self._machines and moves == self._moves:
            return
        self._machines, self._moves = dict(machines), dict(moves)
        self.sequence += 1
        self._fabric_changed.set()

    def store_sequence(self, sequence: int) -> int:
        """The store's sequence that a snapshot was made of; -1 if there was none."""
        return self._of_store.get(sequence, -1)

    async def newer(self, after: int) -> Snapshot:
        """A snapshot with a number above `after`, as soon as there is one."""
        while True:
            known = self.contents.sequence if self.contents is not None else -1
            changed = asyncio.create_task(self._fabric_changed.wait())
            contents = asyncio.create_task(self._store.newer(known, _POLL))
            try:
                await asyncio.wait({changed, contents}, return_when=asyncio.FIRST_COMPLETED)
                self._fabric_changed.clear()
                if contents.done():
                    self._take(contents.result())
            finally:
                for task in (changed, contents):
                    task.cancel()
                await asyncio.gather(changed, contents, return_exceptions=True)
            if self.contents is not None and self.sequence > after:
                return self._make(self.contents)

    def _take(self, contents: Contents) -> None:
        if self.contents is None or contents.sequence != self.contents.sequence:
            self.contents = contents
            self.sequence += 1

    def _make(self, contents: Contents) -> Snapshot:
        machines = {
            key: replace(machine, tags=tags) if (tags := contents.machine_tags.get(key)) else machine
            for key, machine in self._machines.items()
        }
        self._of_store[self.sequence] = contents.sequence
        while len(self._of_store) > _REMEMBERED:
            self._of_store.pop(next(iter(self._of_store)))
        return Snapshot(self.sequence, contents.intents, machines, self._moves)
