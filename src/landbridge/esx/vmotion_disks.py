"""A move's disks at the source: NBD nodes that lead to the target, mirrors onto them, and their end."""

import asyncio
from pathlib import Path

from landbridge.esx.block_watch import BlockWatch, cancel_jobs, dismiss_jobs, node_names
from landbridge.esx.faults import Fault
from landbridge.esx.model import Progress, VmConfig
from landbridge.esx.qmp import Qmp
from landbridge.esx.vmotion_sides import side_of
from landbridge.relay import Endpoint, Relay


def job_id(key: int) -> str:
    return f"vmotion-{key}"


def node_id(key: int) -> str:
    return f"vmotion-target-{key}"


def channel(key: int) -> str:
    """The name of a disk's stream among a move's endpoints, and of its export on the target's NBD server."""
    return f"disk-{key}"


class DiskMirrors:
    """Mirrors of all a VM's disks. What exists in QEMU already, of an earlier life of the agent, is used as it is."""

    def __init__(self, qmp: Qmp, config: VmConfig) -> None:
        self._qmp = qmp
        self.keys = [disk.key for disk in config.disks]
        self.jobs = [job_id(key) for key in self.keys]
        self.total = sum(disk.capacity for disk in config.disks)

    async def connect(self, relay: Relay, endpoints: dict[str, Endpoint]) -> None:
        """Connect to the target's exports."""
        nodes = await node_names(self._qmp)
        ways = {key: endpoints[channel(key)] for key in self.keys}
        paths = {key: await relay.dial(side_of(way), way) for key, way in ways.items()}
        await asyncio.gather(*(self._connect(key, paths[key]) for key in self.keys if node_id(key) not in nodes))

    async def mirror(self, tops: dict[int, str], speed: int) -> None:
        """Begin to copy and to follow what the guest writes. `tops`: the node of each disk; `speed` bytes/s, 0: any."""
        jobs = {job["id"] for job in await self._qmp.execute("query-jobs")}
        nodes = await self._qmp.execute("query-named-block-nodes", flat=True)
        depths = {node["node-name"]: node["backing_file_depth"] for node in nodes}
        for key in self.keys:
            if job_id(key) not in jobs:
                await self._mirror(key, tops[key], speed, layers=depths[tops[key]] + 1)

    async def back_up(self, tops: dict[int, str], speed: int) -> None:
        """Begin to copy all disks as they are at this one instant; what the guest writes later does not matter."""
        await cancel_jobs(self._qmp, *self.jobs)
        actions = [
            {
                "type": "blockdev-backup",
                "data": {
                    "job-id": job_id(key),
                    "device": tops[key],
                    "target": node_id(key),
                    "sync": "full",
                    "speed": speed,
                    "on-target-error": "report",
                    "auto-dismiss": False,
                },
            }
            for key in self.keys
        ]
        if actions:
            await self._qmp.execute("transaction", actions=actions)

    async def _connect(self, key: int, path: Path) -> None:
        await self._qmp.execute(
            "blockdev-add",
            driver="nbd",
            server={"type": "unix", "path": str(path)},
            export=channel(key),
            **{"node-name": node_id(key), "discard": "unmap", "detect-zeroes": "unmap"},
        )

    async def _mirror(self, key: int, top: str, speed: int, *, layers: int) -> None:
        # `full` begins with zeroes all over the target. It is a blank disk: that would only make it count as written,
        # here and on the way to the next host. Of a disk with one layer, `top` copies all there is, without that.
        await self._qmp.execute(
            "blockdev-mirror",
            device=top,
            target=node_id(key),
            sync="top" if layers == 1 else "full",
            speed=speed,
            **{
                "job-id": job_id(key),
                "copy-mode": "background",
                # A failing target must never become the guest's error.
                "on-target-error": "report",
                "auto-dismiss": False,
            },
        )

    async def measure(self, progress: Progress) -> None:
        """Put bytes done and bytes in all into `progress`; the latter grow with what the guest writes meanwhile."""
        jobs = {job["id"]: job for job in await self._qmp.execute("query-jobs")}
        there = {key: jobs[job_id(key)] for key in self.keys if job_id(key) in jobs}
        total = sum(job["total-progress"] for job in there.values())
        if total:
            progress.disks = {key: job["current-progress"] for key, job in there.items()}
            progress.disk_done = sum(progress.disks.values())
            progress.disk_total = max(total, progress.disk_done)

    async def finish(self, watch: BlockWatch, speed: int) -> None:
        """With the guest standing still, end the mirrors: both sides are equal when this returns.

        Fault if a mirror failed: what arrived is then worth nothing.
        """
        for job in self.jobs:
            if job not in watch.jobs:
                raise Fault("FileFault", f"block job {job} is gone: it is not certain that the disk was copied")
        orders = [
            self._qmp.execute("block-job-cancel", device=job)
            for job in self.jobs
            if watch.jobs.get(job) in ("ready", "standby")
        ]
        if speed:
            unlimited = [self._qmp.execute("block-job-set-speed", device=job, speed=0) for job in self.jobs]
            await asyncio.gather(*unlimited)
        await asyncio.gather(*orders)
        await watch.until(lambda: watch.concluded(*self.jobs), "the end of the mirrors", timeout=60)
        for job in self.jobs:
            if job in watch.errors:
                watch.require(job)

    async def remove(self) -> None:
        """Take everything out of the block graph again, done or not."""
        await cancel_jobs(self._qmp, *self.jobs)
        await dismiss_jobs(self._qmp, *self.jobs)
        present = await node_names(self._qmp)
        for key in self.keys:
            if node_id(key) in present:
                await self._qmp.execute("blockdev-del", **{"node-name": node_id(key)})
