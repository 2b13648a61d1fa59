"""The sending end of a live move: it drives, in the order that docs/vmotion.md explains.

What QEMU does goes on while this agent is dead; a restarted one looks at what there is and continues from there.
"""

import asyncio
import contextlib
import logging
from typing import Any

from landbridge.esx import vifs
from landbridge.esx.block_watch import BlockWatch
from landbridge.esx.faults import Fault, as_fault
from landbridge.esx.inventory import Inventory
from landbridge.esx.life import Life
from landbridge.esx.model import Progress, VmotionPhase
from landbridge.esx.qmp import QmpError, QmpGone
from landbridge.esx.switch import SwitchError
from landbridge.esx.vm import VirtualMachine
from landbridge.esx.vmotion_control import ControlLost
from landbridge.esx.vmotion_disks import DiskMirrors
from landbridge.esx.vmotion_journal import Journal, Record
from landbridge.esx.vmotion_leave import PATIENCE_AT_END, Departure
from landbridge.esx.vmotion_memory import MemoryStream
from landbridge.esx.vmotion_move import RAM
from landbridge.esx.vmotion_sides import side_of
from landbridge.esx.vmotion_target import RUNNING
from landbridge.relay import Relay

_log = logging.getLogger(__name__)

# Seconds. The guest stands still while the target is asked to close its exports.
_PATIENCE_IN_SWITCHOVER = 4.0
PATIENCE_AT_START = 20.0
_UNEASY = 2.0
_PROGRESS_INTERVAL = 0.5

UNDECIDED = (VmotionPhase.SWITCHOVER, VmotionPhase.IN_DOUBT)


class Source(Departure):
    """One VM that leaves, live or not, until it is known where it is and the target knows that."""

    def __init__(
        self, record: Record, journal: Journal, inventory: Inventory, relay: Relay, vm: VirtualMachine
    ) -> None:
        super().__init__(record, journal, inventory, relay)
        self.vm = vm
        self._aborted: Fault | None = None
        self._undoing = False

    # ------------------------------------------------------------------------------------- begun and ended by others

    def start(self) -> None:
        """Begin, or go on after the agent's restart."""
        self.vm.vmotion = self.id
        self.vm.changed("is being moved")
        self._task = asyncio.create_task(self._run(), name=f"vmotion source {self.id}")

    async def abort(self, fault: Fault) -> None:
        """Give the move up; return when the VM is here as before. Fault `InvalidState` from the switchover on."""
        if self.record.final:
            return
        if self.phase in UNDECIDED:
            raise Fault(
                "InvalidState", f"vMotion {self.id} is at its switchover: it can not be taken back; wait for its end"
            )
        if not self._undoing:
            self._aborted, self._undoing = fault, True
            if self._task is not None:
                self._task.cancel()
        await self.ended.wait()

    async def close(self) -> None:
        """The agent ends; QEMU goes on, and so will the next agent."""
        if self._task is not None and self.phase is VmotionPhase.SWITCHOVER:
            # The guest stands still: a moment for its sake.
            await asyncio.wait([self._task], timeout=_PATIENCE_IN_SWITCHOVER)
        await super().close()

    async def _run(self) -> None:
        try:
            await self._attempt()
        except asyncio.CancelledError:
            if self._aborted is None:
                raise
            await self._undo(self._aborted)
        except Exception as error:
            if not isinstance(error, Fault | ControlLost | TimeoutError):
                _log.exception("vMotion %s failed", self.id)
            fault = Fault("HostNotConnected", str(error)) if isinstance(error, ControlLost) else as_fault(error)
            await self._undo(fault)
        await self.take_leave()

    async def _attempt(self) -> None:
        """Move the VM. Whatever is raised, the target can not have the VM."""
        raise NotImplementedError

    async def _undo(self, fault: Fault) -> None:
        """Make everything here as it was, tell the target, and end as failed."""
        self._undoing = True
        _log.warning("vMotion %s is taken back: %s", self.id, fault)
        try:
            await self.restore()
        except Exception:
            _log.exception("vMotion %s: not everything could be taken back", self.id)
        # One that can not be told now finds out by itself: it never got the end of the stream, and nobody talks to it.
        if self.link.connected:
            await self.tell("give-up", PATIENCE_AT_END, fault)
        self.vm.vmotion = None
        await self.end(VmotionPhase.FAILED, fault)
        self.vm.changed("stays here: its move failed")

    async def restore(self) -> None:
        """Take back what the move did to the VM here."""
        raise NotImplementedError

    async def succeed(self) -> None:
        """The VM is the target's, or copied."""
        self.vm.vmotion = None
        await self.end(VmotionPhase.SUCCEEDED)

    async def yield_vm(self, *, delete_files: bool) -> None:
        """The target has the VM: whatever fails here, it must never run here again."""
        while True:
            try:
                await self.inventory.remove_after_move(self.vm, delete_files=delete_files)
            except Exception:
                _log.exception("vMotion %s: what is left of the VM here can not be removed yet", self.id)
                await asyncio.sleep(_UNEASY)
            else:
                return

    async def ask_outcome(self, question: str = "outcome") -> str:
        """Who has the VM, as only the target knows; asked until it answers."""
        doubting = asyncio.create_task(self._doubt(), name=f"vmotion doubt {self.id}")
        try:
            answer = await self.link.call(question, patience=None, timeout=None)
        finally:
            doubting.cancel()
            await asyncio.wait([doubting])
        return str(answer["state"])

    async def _doubt(self) -> None:
        """Say so while the target can not be asked."""
        while True:
            await asyncio.sleep(_UNEASY)
            wanted = VmotionPhase.SWITCHOVER if self.link.connected else VmotionPhase.IN_DOUBT
            if self.phase is not wanted and not self.record.final:
                self.enter(wanted)
                await self.save()


class LiveSource(Source):
    """A running VM leaves with its memory, and with its disks unless the storage is shared."""

    def __init__(
        self, record: Record, journal: Journal, inventory: Inventory, relay: Relay, vm: VirtualMachine
    ) -> None:
        super().__init__(record, journal, inventory, relay, vm)
        self._mirrors: DiskMirrors | None = None
        self._memory: MemoryStream | None = None
        self._meter: asyncio.Task[None] | None = None
        self._releasing: asyncio.Task[None] | None = None

    async def _attempt(self) -> None:
        qmp = self.vm.qmp if self.vm.process.alive else None
        if qmp is None and self.phase not in UNDECIDED:
            raise Fault("InvalidPowerState", "the VM's QEMU ended while it was being moved")
        if qmp is None:
            await self._settle(None)
            return
        self._mirrors = None if self.request.shared_storage else DiskMirrors(qmp, self.vm.config)
        self._memory = MemoryStream(qmp, self.request.bandwidth or 0)
        async with BlockWatch(qmp) as watch:
            if self.phase not in UNDECIDED:
                await self._copy(watch)
                await self._switch_over(watch)
            elif watch.migration == "pre-switchover":
                await self._switch_over(watch)
            await self._settle(watch)

    # ------------------------------------------------------------------------------------- while the guest runs

    async def _copy(self, watch: BlockWatch) -> None:
        assert self._memory is not None
        await self.link.call("hello", patience=PATIENCE_AT_START, version=1, vm=self.request.vm)
        self._meter = asyncio.create_task(self._measure(), name=f"vmotion progress {self.id}")
        try:
            jobs = await self._copy_disks(watch)
            self.enter(VmotionPhase.MEMORY)
            if not self._memory.under_way(watch):
                ram = self.request.endpoints[RAM]
                await self._memory.start(watch, await self.relay.dial(side_of(ram), ram))
            await self._memory.until_pause(watch, jobs)
            # No step back from here without the guest having stood still: nobody may cancel in between.
            self.enter(VmotionPhase.SWITCHOVER)
        finally:
            self._meter.cancel()
            await asyncio.wait([self._meter])

    async def _copy_disks(self, watch: BlockWatch) -> list[str]:
        mirrors = self._mirrors
        if mirrors is None or not mirrors.jobs:
            return []
        if self.phase is VmotionPhase.PREPARED:
            self.enter(VmotionPhase.DISK)
        tops = {key: await self.vm.disk_node(key) for key in mirrors.keys}
        speed = (self.request.bandwidth or 0) // len(mirrors.jobs)
        await mirrors.connect(self.relay, self.request.endpoints)
        await mirrors.mirror(tops, speed)
        await watch.until(lambda: watch.ready(*mirrors.jobs), "the mirrors")
        return mirrors.jobs

    async def _measure(self) -> None:
        """Bring the progress up to date, twice a second: more often costs the bytes processor time."""
        clock = asyncio.get_running_loop().time
        window = [(clock(), 0)]
        while True:
            try:
                progress = await self._progress()
            except (QmpError, QmpGone, TimeoutError):
                return
            now, moved = clock(), progress.disk_done + progress.memory_done
            window = [(t, n) for t, n in window if t > now - 1.2] + [(now, moved)]
            span = now - window[0][0]
            progress.rate = max(0.0, (moved - window[0][1]) / span) if span > 0 else 0.0
            self.report(progress)
            await asyncio.sleep(_PROGRESS_INTERVAL)

    async def _progress(self) -> Progress:
        assert self._memory is not None
        progress = self.record.progress.model_copy()
        if self._mirrors is not None:
            await self._mirrors.measure(progress)
        if self.phase is VmotionPhase.MEMORY:
            await self._memory.measure(progress)
        progress.phase = self.phase.value
        return progress

    # ------------------------------------------------------------------------------------- while it stands still

    async def _switch_over(self, watch: BlockWatch) -> None:
        """From the pause of the guest to the last word of this end. Only what must happen in between happens here."""
        assert self._memory is not None
        remembered = asyncio.create_task(self.save(), name=f"vmotion journal {self.id}")
        self._releasing = asyncio.create_task(self._release_ports(), name=f"vmotion ports {self.id}")
        try:
            if self._mirrors is not None:
                await self._mirrors.finish(watch, self.request.bandwidth or 0)
            await self.link.call("close-exports", patience=_PATIENCE_IN_SWITCHOVER)
        finally:
            # On the disk before the target can run, or a restarted agent would take back what can not be.
            await remembered
        await self._memory.proceed()
        await self._releasing

    async def _release_ports(self) -> None:
        """The guest hears nothing here any more: let OVN know, before this agent can be away.

        Two chassis that both say that they have a VIF take it from each other, by turns.
        """
        try:
            await vifs.deactivate(self.vm)
        except SwitchError as error:
            _log.error("vMotion %s: OVN was not told that the VM leaves: %s", self.id, error)

    async def _claim_ports(self) -> None:
        if self._releasing is not None:
            await self._releasing
        try:
            await vifs.activate(self.vm)
        except SwitchError as error:
            _log.error("vMotion %s: OVN was not told that the VM stays: %s", self.id, error)

    async def _settle(self, watch: BlockWatch | None) -> None:
        """Learn where the guest is, and act on it. Raises only if it is certain that it is not at the target."""
        asking = asyncio.create_task(self.ask_outcome(), name=f"vmotion outcome {self.id}")
        failing = asyncio.create_task(_failure(watch), name=f"vmotion failure {self.id}")
        try:
            await asyncio.wait({asking, failing}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                # The stream's last byte, without which the target does not run, never left.
                raise Fault("MigrationFault", "the memory stream broke before its end")
            state = asking.result()
        finally:
            for task in (asking, failing):
                task.cancel()
            await asyncio.wait({asking, failing})
        if state != RUNNING:
            raise Fault("MigrationFault", "the target did not take the guest over: it never ran there and is gone")
        await self._finish(watch)

    async def _finish(self, watch: BlockWatch | None) -> None:
        if watch is not None and self._memory is not None and not watch.gone:
            with contextlib.suppress(Exception):  # numbers are not worth a second copy of the guest
                await self._memory.measure_pause(watch, self.record.progress)
                if self._mirrors is not None:
                    await self._mirrors.measure(self.record.progress)
        await self.yield_vm(delete_files=not self.request.shared_storage)
        await self.succeed()

    # ------------------------------------------------------------------------------------- the way back

    async def restore(self) -> None:
        if not self.vm.process.alive:
            return
        qmp = self.vm.qmp
        if self._memory is not None:
            await self._memory.cancel()
        status: Any = await qmp.execute("query-status")
        if not status["running"] and status["status"] in ("paused", "postmigrate", "finish-migrate"):
            await qmp.execute("cont")
        await self._claim_ports()
        if self.vm.life is Life.PAUSED:
            self.vm.life = Life.RUNNING
        if self._mirrors is not None:
            await self._mirrors.remove()


async def _failure(watch: BlockWatch | None) -> None:
    """Return when QEMU says that the stream was cut before its end; if QEMU is gone, nobody will say so."""
    if watch is None:
        await asyncio.Event().wait()
        return
    try:
        await watch.until(lambda: watch.migration in ("failed", "cancelled"), "the end of the migration")
    except QmpGone:
        await asyncio.Event().wait()
