"""The sending end of moves without memory: a powered-off VM leaves (cold), or a VM is copied and stays (copy)."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator

from landbridge.esx.block_watch import BlockWatch
from landbridge.esx.faults import Fault
from landbridge.esx.life import Life
from landbridge.esx.model import Firmware, VmotionMode, VmotionPhase
from landbridge.esx.qmp import QmpError, QmpGone
from landbridge.esx.vmotion_control import VERSION
from landbridge.esx.vmotion_disks import DiskMirrors
from landbridge.esx.vmotion_source import PATIENCE_AT_START, UNDECIDED, Source
from landbridge.esx.vmotion_target import RUNNING

_PROGRESS_INTERVAL = 0.5  # seconds


class ColdSource(Source):
    """Copies the disks of a VM; the target takes it over when all are there.

    A VM that is off gets a QEMU that stands still, so that its disks are read as those of a running one are.
    """

    _disks: DiskMirrors | None = None

    async def _attempt(self) -> None:
        if self.phase not in UNDECIDED:
            await self.link.call("hello", patience=PATIENCE_AT_START, version=VERSION, vm=self.request.vm)
            if not self.request.shared_storage:
                self.enter(VmotionPhase.DISK)
                await self._copy()
            await self._send_nvram()
            self.enter(VmotionPhase.SWITCHOVER)
            await self.save()
            await self.link.call("close-exports", patience=PATIENCE_AT_START)
        if await self.ask_outcome("commit") != RUNNING:
            raise Fault("MigrationFault", "the target gave the VM up before it was complete")
        if self.request.mode is VmotionMode.COLD:
            await self.yield_vm(delete_files=not self.request.shared_storage)
        else:
            await self.restore()
        await self.succeed()

    async def _copy(self) -> None:
        if not self.vm.process.alive:
            await self.vm.launch()
        qmp = self.vm.qmp
        self._disks = disks = DiskMirrors(qmp, self.vm.config)
        tops = {key: await self.vm.disk_node(key) for key in disks.keys}
        speed = (self.request.bandwidth or 0) // max(1, len(disks.jobs))
        await disks.connect(self.relay, self.request.endpoints)
        async with BlockWatch(qmp) as watch, self._measuring(disks):
            await disks.back_up(tops, speed)
            await watch.until(lambda: _settled(watch, disks.jobs), "the copy of the disks")
        await disks.remove()

    @contextlib.asynccontextmanager
    async def _measuring(self, disks: DiskMirrors) -> AsyncIterator[None]:
        async def look() -> None:
            progress = self.record.progress.model_copy()
            await disks.measure(progress)
            progress.rate = max(0, progress.disk_done - self.record.progress.disk_done) / _PROGRESS_INTERVAL
            self.report(progress)

        async def measure() -> None:
            with contextlib.suppress(QmpError, QmpGone, TimeoutError):
                while True:
                    await look()
                    await asyncio.sleep(_PROGRESS_INTERVAL)

        meter = asyncio.create_task(measure(), name=f"vmotion progress {self.id}")
        try:
            yield
            await look()
        finally:
            meter.cancel()
            await asyncio.wait([meter])

    async def _send_nvram(self) -> None:
        if self.vm.config.firmware is not Firmware.EFI or self.request.shared_storage:
            return
        path = await asyncio.to_thread(self.vm.prepare_nvram)
        content = await asyncio.to_thread(path.read_bytes)
        await self.link.call("nvram", patience=PATIENCE_AT_START, content=base64.b64encode(content).decode())

    async def restore(self) -> None:
        if self._disks is not None and self.vm.process.alive:
            await self._disks.remove()
        await self._shut()

    async def _shut(self) -> None:
        """End the QEMU that was started for the copy; one that runs the guest is left alone."""
        if self.vm.life is Life.STARTING:
            await self.vm.kill()
            self.vm.life = Life.OFF


def _settled(watch: BlockWatch, jobs: list[str]) -> bool:
    for job in jobs:
        if job in watch.errors:
            watch.require(job)
    return all(job in watch.jobs for job in jobs) and watch.concluded(*jobs)
