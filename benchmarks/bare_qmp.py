"""The physical limit of a live migration here: two QEMUs, QMP, loopback, nothing in between.

The order is that of docs/vmotion.md, on TCP without encryption. What landbridge adds is measured against it.
"""

import asyncio
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rig import in_namespace, machine, make_disk, run
from landbridge.esx.hardware import MachineFiles, command_line
from landbridge.esx.process import QemuProcess
from landbridge.esx.qmp import Qmp
from landbridge.lab.image import DISK_BYTES

_NBD_PORT, _RAM_PORT = 10809, 10810
_NODE = "disk-2000-0"
_UNLIMITED = 10 << 30
_DOWNTIME_MS = 300


@dataclass
class Side:
    """One QEMU of the pair."""

    process: QemuProcess
    qmp: Qmp


class BarePair:
    """A source with a booted guest, and the move to a target made for it."""

    def __init__(self, directory: Path, namespace: str, taps: tuple[str, str], version: str, cpu: str) -> None:
        self._directory = directory
        self._namespace = namespace
        self._taps = taps
        self._config = machine(version, cpu)
        self._sides: list[Side] = []

    async def boot(self, dirty_mib_per_s: int) -> None:
        """Start the source; the guest boots."""
        disk = self._directory / "source.qcow2"
        await asyncio.to_thread(make_disk, disk, dirty_mib_per_s)
        source = await self._start("source", disk, self._taps[0], incoming=False)
        await source.qmp.execute("cont")

    async def migrate(self) -> float:
        """Move the guest; seconds until it runs at the target and the source is gone."""
        began = time.perf_counter()
        source = self._sides[0].qmp
        disk = self._directory / "target.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", disk, str(DISK_BYTES))
        target = (await self._start("target", disk, self._taps[1], incoming=True)).qmp
        address = {"type": "inet", "data": {"host": "127.0.0.1", "port": str(_NBD_PORT)}}
        await target.execute("nbd-server-start", addr=address, **{"max-connections": 0})
        export = {"id": "export", "type": "nbd", "node-name": _NODE, "name": "disk", "writable": True}
        await target.execute("block-export-add", **export)
        for qmp in (source, target):
            wanted = [{"capability": name, "state": True} for name in ("pause-before-switchover", "events")]
            await qmp.execute("migrate-set-capabilities", capabilities=wanted)
            limits = {"max-bandwidth": _UNLIMITED, "downtime-limit": _DOWNTIME_MS}
            await qmp.execute("migrate-set-parameters", **limits)
        await target.execute("migrate-incoming", uri=f"tcp:127.0.0.1:{_RAM_PORT}")
        # Before the state is there this only says that the guest shall run once it is.
        await target.execute("cont")
        server = {"type": "inet", "host": "127.0.0.1", "port": str(_NBD_PORT)}
        nbd = {"driver": "nbd", "node-name": "target", "server": server, "export": "disk"}
        await source.execute("blockdev-add", **nbd)
        with source.listener() as events, target.listener("RESUME") as resumed:
            mirror = {"job-id": "mirror", "device": _NODE, "target": "target", "sync": "full"}
            await source.execute("blockdev-mirror", **mirror)
            await _until(events, "BLOCK_JOB_READY")
            await source.execute("migrate", uri=f"tcp:127.0.0.1:{_RAM_PORT}")
            await _until(events, "MIGRATION", "pre-switchover")
            await source.execute("block-job-cancel", device="mirror")
            await _until(events, "BLOCK_JOB_COMPLETED")
            await target.execute("nbd-server-stop")
            await source.execute("migrate-continue", state="pre-switchover")
            await resumed.get()
            await _until(events, "MIGRATION", "completed")
        await self._sides[0].process.kill()
        return time.perf_counter() - began

    async def close(self) -> None:
        for side in self._sides:
            await side.qmp.close()
            await side.process.kill()
        self._sides.clear()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _start(self, name: str, disk: Path, tap: str, *, incoming: bool) -> Side:
        home = self._directory / name
        home.mkdir(parents=True)
        process = QemuProcess(home)
        files = MachineFiles(chains={2000: [disk]}, taps={4000: tap})
        command = command_line(self._config, files, process, "tcg", incoming=incoming)
        process.start(in_namespace(self._namespace, *command), home / "qemu.log")
        side = Side(process, await Qmp.connect(process.qmp, name))
        self._sides.append(side)
        return side


async def _until(events: object, name: str, status: str | None = None) -> None:
    """Wait for an event, of this status; RuntimeError if the migration failed instead."""
    async for event in events:  # type: ignore[attr-defined]
        data = event.get("data", {})
        if event["event"] == "MIGRATION" and data.get("status") == "failed":
            raise RuntimeError("the bare migration failed")
        if event["event"] == "BLOCK_JOB_ERROR":
            raise RuntimeError(f"the bare mirror failed: {data}")
        if event["event"] == name and (status is None or data.get("status") == status):
            return
