"""A running guest's memory on its way out: QEMU's pre-copy migration, held at the moment before the switchover."""

import contextlib
from pathlib import Path
from typing import Any

from landbridge.esx.block_watch import BlockWatch
from landbridge.esx.faults import Fault
from landbridge.esx.model import Progress
from landbridge.esx.qmp import Qmp, QmpError, QmpGone

_CAPABILITIES = ("events", "pause-before-switchover", "auto-converge")
# QEMU's default of 128 MiB/s is made for shared networks; what has to share, says so by `bandwidth`.
_UNLIMITED = 1 << 40
# Milliseconds the guest may stand still for its last pages. Small at first, since most guests allow it; a guest that
# dirties memory as fast as it is sent gets more, step by step, rather than never to arrive.
_PAUSES = (100, 200, 300, 600, 1200, 2500)
_ROUNDS_A_STEP = 5
_DEFAULT_PAUSE = 300
_ACTIVE = ("setup", "active", "pre-switchover", "device", "cancelling")
_ENDED = ("completed", "failed", "cancelled", "none")


class MemoryStream:
    """The migration of one QEMU. `bandwidth` in bytes a second, 0 for any."""

    def __init__(self, qmp: Qmp, bandwidth: int) -> None:
        self._qmp = qmp
        self._bandwidth = bandwidth
        self._step = 0

    def under_way(self, watch: BlockWatch) -> bool:
        """Whether an earlier life of the agent started it."""
        return watch.migration in _ACTIVE

    async def start(self, watch: BlockWatch, path: Path) -> None:
        """Send to the UNIX socket `path`. Fault `NotSupported` if a device of the VM can not move."""
        await self._allow(True)
        await self._qmp.execute(
            "migrate-set-parameters",
            **{"max-bandwidth": self._bandwidth or _UNLIMITED, "downtime-limit": _PAUSES[0]},
        )
        watch.migration = "none"  # an earlier one may have left its end there
        try:
            await self._qmp.execute("migrate", uri=f"unix:{path}")
        except QmpError as error:
            raise Fault("NotSupported", f"the VM can not move while it runs: {error.description}") from error

    async def until_pause(self, watch: BlockWatch, jobs: list[str]) -> None:
        """Wait until the guest stands still for the switchover. Fault if the stream or one of the mirrors ends."""

        def reached() -> bool:
            watch.require(*jobs)
            return watch.migration == "pre-switchover" or watch.migration in _ENDED[:3]

        await watch.until(reached, "the pause before the switchover")
        if watch.migration != "pre-switchover":
            raise await self._failure()

    async def proceed(self) -> None:
        """Let QEMU send the rest: from here on the guest may run at the target."""
        # Whatever is answered: what became of the guest, only the target knows.
        with contextlib.suppress(QmpError, QmpGone, TimeoutError):
            await self._qmp.execute("migrate-continue", state="pre-switchover")

    async def measure(self, progress: Progress) -> None:
        """Put the numbers of now into `progress`, and give a guest that does not converge a longer pause."""
        answer = await self._qmp.execute("query-migrate")
        ram = answer.get("ram")
        if not ram or answer["status"] not in ("active", "pre-switchover", "device", "completed"):
            return
        progress.memory_done = ram["transferred"]
        progress.memory_total = ram["transferred"] + ram["remaining"]
        progress.dirty_rate = float(ram["dirty-pages-rate"] * ram["page-size"])
        step = min(ram["dirty-sync-count"] // _ROUNDS_A_STEP, len(_PAUSES) - 1)
        if step > self._step and answer["status"] == "active":
            self._step = step
            await self._qmp.execute("migrate-set-parameters", **{"downtime-limit": _PAUSES[step]})

    async def measure_pause(self, watch: BlockWatch, progress: Progress) -> None:
        """How long the guest stood still here, once all is sent."""
        try:
            await watch.until(lambda: watch.migration in _ENDED, "the end of the migration", timeout=5)
            await self.measure(progress)
            answer = await self._qmp.execute("query-migrate")
        except (Fault, TimeoutError):
            return
        if "downtime" in answer:
            progress.downtime_ms = float(answer["downtime"])

    async def cancel(self) -> None:
        """Give the migration up. QEMU lets a guest that stood still for it go on; returns when it is over."""
        async with BlockWatch(self._qmp) as watch:
            if watch.migration in _ACTIVE:
                await self._qmp.execute("migrate_cancel")
                await watch.until(lambda: watch.migration in _ENDED, "the end of the migration", timeout=60)
        await self._allow(False)
        await self._qmp.execute("migrate-set-parameters", **{"downtime-limit": _DEFAULT_PAUSE})

    async def _allow(self, state: bool) -> None:
        known = {one["capability"] for one in await self._qmp.execute("query-migrate-capabilities")}
        wanted = [{"capability": name, "state": state} for name in _CAPABILITIES if name in known]
        await self._qmp.execute("migrate-set-capabilities", capabilities=wanted)

    async def _failure(self) -> Fault:
        answer: Any = await self._qmp.execute("query-migrate")
        reason = answer.get("error-desc", "the stream to the target broke")
        return Fault("MigrationFault", f"the memory could not be sent: {reason}")
