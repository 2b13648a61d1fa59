"""The sending end of a move after its end: the target is told that nobody will ask it any more, the streams close.

A source that was killed in between does it after its restart. One whose target stays away gives up after a while, or
as soon as somebody who knows better, vCenter, tells it to.
"""

import asyncio
import logging
from typing import Any, Literal

from landbridge.esx.faults import Fault
from landbridge.esx.inventory import Inventory
from landbridge.esx.model import OutgoingVm
from landbridge.esx.vmotion_control import ControlLost
from landbridge.esx.vmotion_journal import Journal, Record
from landbridge.esx.vmotion_link import ControlLink
from landbridge.esx.vmotion_move import CONTROL, Move
from landbridge.relay import Relay

_log = logging.getLogger(__name__)

# Seconds.
PATIENCE_AT_END = 5.0
_PATIENCE_AFTERWARDS = 120.0
_LONGEST_PARTING = PATIENCE_AT_END + 25.0


class Departure(Move):
    """One VM's way out, which may have ended in an earlier life of the agent."""

    direction: Literal["outgoing"] = "outgoing"

    def __init__(self, record: Record, journal: Journal, inventory: Inventory, relay: Relay) -> None:
        super().__init__(record, journal, inventory, relay)
        assert record.outgoing is not None
        self.request: OutgoingVm = record.outgoing
        self._link: ControlLink | None = None
        if not record.parted:
            self._link = ControlLink(relay, self.request.endpoints[CONTROL], self.request.vm)
        self._task: asyncio.Task[None] | None = None
        self._released = asyncio.Event()
        self._gone = asyncio.Event()

    @property
    def link(self) -> ControlLink:
        """The way to the target, until this end has parted from it."""
        assert self._link is not None
        return self._link

    def start(self) -> None:
        """Go on after the agent's restart."""
        if not self.record.parted:
            self._task = asyncio.create_task(self.take_leave(), name=f"vmotion leave {self.id}")

    async def abort(self, fault: Fault) -> None:  # noqa: ARG002 - what a move under way needs
        """Nothing to give up: the move is over."""
        return

    async def part(self) -> None:
        """The target need not be told: nobody will ask it, or it is gone. Fault `InvalidState` before the end.

        A target that is there is told all the same. When this returns, no stream is open here.
        """
        if not self.record.final:
            raise Fault("InvalidState", f"vMotion {self.id} is {self.phase} here: it has not ended")
        if self.record.parted and self._task is None:
            return
        self._released.set()
        async with asyncio.timeout(_LONGEST_PARTING):
            await self._gone.wait()

    async def close(self) -> None:
        """The agent ends; the next one goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._link is not None:
            await self._link.close()

    async def tell(self, do: str, patience: float, fault: Fault | None = None) -> bool:
        """Tell the target something that needs no answer; whether it heard."""
        details: dict[str, Any] = {"type": fault.type, "message": fault.message} if fault else {}
        try:
            await self.link.call(do, patience=patience, **details)
        except (ControlLost, Fault) as error:
            _log.warning("vMotion %s: the target was not told %r: %s", self.id, do, error)
            return False
        return True

    async def take_leave(self) -> None:
        """After the end: the target need not remember it any longer, and what the relay has open here closes."""
        await self.close_streams(but=CONTROL)
        error = self.record.error
        fault = Fault(error.type, error.message) if error else None
        bye = asyncio.create_task(self.tell("bye", _PATIENCE_AFTERWARDS, fault), name=f"vmotion bye {self.id}")
        released = asyncio.create_task(self._released.wait(), name=f"vmotion released {self.id}")
        try:
            await asyncio.wait({bye, released}, return_when=asyncio.FIRST_COMPLETED)
            if self.link.connected:
                await asyncio.wait({bye}, timeout=PATIENCE_AT_END)
        finally:
            for task in (bye, released):
                task.cancel()
            await asyncio.wait({bye, released})
        # First remembered, then done: an agent killed in between closes at its start what nobody needs.
        self.record.parted = True
        await self.save()
        await self.link.close()
        await self.close_streams()
        self._gone.set()
