"""What both ends of a move have: a record that outlives the agent, a state others watch, and the way to say so."""

import asyncio
import logging
from typing import Literal

from landbridge.esx.faults import Fault
from landbridge.esx.inventory import Inventory
from landbridge.esx.jobs import LongPoll
from landbridge.esx.model import Progress, Vmotion, VmotionPhase
from landbridge.esx.vmotion_journal import Journal, Record
from landbridge.relay import Relay, RelayError

_log = logging.getLogger(__name__)

CONTROL, RAM = "control", "ram"

# What may follow what. IN_DOUBT is only the source's: the target always knows about itself.
_MOVES: dict[VmotionPhase, frozenset[VmotionPhase]] = {
    VmotionPhase.PREPARED: frozenset({VmotionPhase.DISK, VmotionPhase.MEMORY, VmotionPhase.SWITCHOVER}),
    VmotionPhase.DISK: frozenset({VmotionPhase.MEMORY, VmotionPhase.SWITCHOVER}),
    VmotionPhase.MEMORY: frozenset({VmotionPhase.SWITCHOVER}),
    VmotionPhase.SWITCHOVER: frozenset({VmotionPhase.IN_DOUBT, VmotionPhase.SUCCEEDED}),
    VmotionPhase.IN_DOUBT: frozenset({VmotionPhase.SWITCHOVER, VmotionPhase.SUCCEEDED}),
    VmotionPhase.SUCCEEDED: frozenset(),
    VmotionPhase.FAILED: frozenset(),
}


class Move:
    """One end of a move."""

    direction: Literal["incoming", "outgoing"]

    def __init__(self, record: Record, journal: Journal, inventory: Inventory, relay: Relay) -> None:
        self.record = record
        self.journal = journal
        self.inventory = inventory
        self.relay = relay
        self.poll = LongPoll()
        self.ended = asyncio.Event()
        if record.final:
            self.ended.set()

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def phase(self) -> VmotionPhase:
        return self.record.phase

    @property
    def view(self) -> Vmotion:
        """The move as the API shows it."""
        request = self.record.incoming or self.record.outgoing
        assert request is not None
        vm = request.vm if self.record.outgoing else self.record.incoming.config.instance_uuid  # type: ignore[union-attr]
        return Vmotion(
            id=self.id,
            direction=self.direction,
            mode=request.mode,
            vm=vm,
            phase=self.phase,
            progress=self.record.progress,
            endpoints=self.record.endpoints,
            seq=self.poll.seq,
            error=self.record.error,
        )

    def enter(self, phase: VmotionPhase) -> None:
        """Go to a phase, in memory; `save` makes it last. A move may fail in any phase but a final one."""
        if phase not in _MOVES[self.phase] | {self.phase} and (self.record.final or phase is not VmotionPhase.FAILED):
            raise Fault("InvalidState", f"vMotion {self.id} is {self.phase} and can not become {phase}")
        if phase is not self.phase:
            _log.info("vMotion %s (%s) is %s", self.id, self.direction, phase)
        self.record.phase = phase
        if phase is not VmotionPhase.FAILED:
            self.record.progress = self.record.progress.model_copy(update={"phase": phase.value})
        self.poll.bump()

    async def save(self) -> None:
        """Make the record last."""
        await self.journal.save(self.record)

    async def end(self, phase: VmotionPhase, fault: Fault | None = None) -> None:
        """Reach a final phase, for good: who watches sees it only when it is certain to be remembered."""
        final = self.record.model_copy(update={"phase": phase, "error": fault.error if fault else None})
        await self.journal.save(final)
        self.record.error = final.error
        self.enter(phase)
        self.ended.set()

    def report(self, progress: Progress) -> None:
        """Show new numbers."""
        self.record.progress = progress
        self.poll.bump()

    async def close_streams(self, but: str | None = None) -> None:
        """Close what the relay has open for this end of the move, except one channel."""
        for name in {name for channel, name in self.record.streams.items() if channel != but}:
            try:
                await self.relay.close(name)
            except RelayError as error:
                _log.warning("vMotion %s: stream %s stays open: %s", self.id, name, error)
