"""The time in which the bytes flow: both halves watched, progress told, a cancel passed on."""

import asyncio
import contextlib
import logging

from landbridge.esx.client import HostError, HostUnreachable
from landbridge.hcx.faults import ApiFault
from landbridge.hcx.migrations.halves import Nothing, Source, Target
from landbridge.hcx.migrations.model import GAVE_UP, HalfState, MigrationStopped, Progress, Seen
from landbridge.hcx.peer import PeerUnreachable
from landbridge.vmodl.client import VCenterUnreachable

_log = logging.getLogger(__name__)
_POLL = 20.0  # seconds a long poll may last
_LOOK = 2.0  # seconds between looks whether the source's vCenter wants it given up
_RETRY = 1.0
# A site that does not answer stops nothing: its vCenter and hosts go on without the managers.
_AWAY = (PeerUnreachable, VCenterUnreachable, HostUnreachable, HostError, ApiFault)


class Carrying:
    """One migration between `join` and its end."""

    def __init__(
        self, migration: str, source: Source, target: Target, canceled: asyncio.Event, progress: Progress
    ) -> None:
        self._migration = migration
        self._source = source
        self._target = target
        self._canceled = canceled
        self.progress = progress
        self._news = asyncio.Event()
        self._ends: dict[str, HalfState | MigrationStopped] = {}

    async def run(self) -> bool:
        """True when the target has the VM; MigrationStopped when either half says that it stays at the source."""
        tasks = [
            asyncio.create_task(self._watch("target", self._target), name="carry target"),
            asyncio.create_task(self._watch("source", self._source), name="carry source"),
            asyncio.create_task(self._look(), name="carry look"),
            asyncio.create_task(self._pass_cancel(), name="carry cancel"),
        ]
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                if self._decided():
                    return True
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _decided(self) -> bool:
        target, source = self._ends.get("target"), self._ends.get("source")
        if isinstance(target, HalfState) and target.phase == "succeeded":
            self.progress.percent = 100
            self.progress.phase = "succeeded"
            return True
        for end, site in ((target, "target"), (source, "source")):
            if isinstance(end, MigrationStopped):
                raise MigrationStopped(end.message, canceled=self._canceled.is_set())
            if isinstance(end, HalfState) and end.phase == "failed":
                raise MigrationStopped(f"at the {site}: {end.error}", canceled=self._canceled.is_set())
        return False

    async def _watch(self, end: str, half: Source | Target) -> None:
        state = HalfState(seq=-1)
        while not state.final:
            try:
                state = await half.state(self._migration, Seen(seq=state.seq, wait=_POLL))
                if end == "source":
                    self._take(state)
            except MigrationStopped as stop:
                self._ends[end] = stop
                break
            except _AWAY as error:
                _log.warning("migration %s: the %s's half: %s", self._migration, end, error)
                await asyncio.sleep(_RETRY)
        else:
            self._ends[end] = state
        self._news.set()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            with contextlib.suppress(MigrationStopped, *_AWAY):
                self._take(await self._source.state(self._migration, Seen()))

    async def _pass_cancel(self) -> None:
        await self._canceled.wait()
        while True:
            try:
                await self._source.cancel(self._migration, Nothing())
            except _AWAY as error:
                _log.warning("migration %s: canceling: %s", self._migration, error)
                await asyncio.sleep(_RETRY)
            else:
                return

    def _take(self, state: HalfState) -> None:
        self.progress.take(state)
        if state.abort_requested and not state.final:
            self._ends["source"] = MigrationStopped(GAVE_UP)
            self._news.set()
