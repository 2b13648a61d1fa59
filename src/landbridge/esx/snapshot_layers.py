"""Merging the layers of disks that no snapshot needs any more, while the VM runs or not.

A layer that no snapshot froze and the VM does not write to is merged with the only layer on top of it, downwards, so
that the base file keeps its name; one with nothing on top of it is deleted; one that several others stand on stays.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landbridge.esx import snapshot_file
from landbridge.esx.block_watch import BlockWatch, cancel_jobs, dismiss_jobs
from landbridge.esx.faults import Fault
from landbridge.esx.jobs import JobRun
from landbridge.esx.life import ON, Life
from landbridge.esx.model import VmConfig
from landbridge.esx.vm import VirtualMachine, read_vmx, write_vmx
from landbridge.vsan import image
from landbridge.vsan.faults import StorageFault

_PROGRESS_INTERVAL = 0.3


@dataclass
class Layers:
    """The layers of one disk. `below`: what each layer stands on; `frozen`: those that are a snapshot's."""

    key: int
    top: Path
    below: dict[Path, Path | None]
    frozen: set[Path]

    def on(self, layer: Path) -> list[Path]:
        """The layers that stand on one."""
        return [path for path, lower in self.below.items() if lower == layer]

    def unneeded(self) -> Path | None:
        """A layer that can be deleted or merged; None when all are needed."""
        for layer in self.below:
            # A layer in another directory is somebody else's, a template's.
            mine = layer.parent == self.top.parent
            if mine and layer != self.top and layer not in self.frozen and len(self.on(layer)) < 2:
                return layer
        return None


async def consolidate(vm: VirtualMachine, job: JobRun | None = None) -> None:
    """Merge all layers nobody needs. Done again after it was interrupted, it goes on."""
    for disk in vm.config.disks:
        while True:
            layers = await asyncio.to_thread(_look, vm, disk.key)
            layer = layers.unneeded()
            if layer is None:
                break
            above = layers.on(layer)
            if above:
                await _merge(vm, layers, layer, above[0], job)
            else:
                layer.unlink()
    await _delete_strays(vm)


def _look(vm: VirtualMachine, key: int) -> Layers:
    datastores = vm.host.datastores
    top = datastores.file(_disk_path(vm.config, key)).resolve()
    frozen = set()
    for snapshot in vm.snapshots:
        config = read_vmx(vm.host, snapshot_file.vmsn_file(vm.vmx, snapshot.id)).config
        frozen |= {datastores.file(disk.path).resolve() for disk in config.disks if disk.key == key}
    below: dict[Path, Path | None] = {}
    for end in [top, *frozen]:
        chain = datastores.chain(end)
        below |= dict(zip(chain, [None, *chain], strict=False))
    # Layers that an interrupted revert or merge left beside them count too: what stands on a layer must not lose it.
    for stray in _siblings(top) - set(below):
        try:
            chain = datastores.chain(stray)
        except StorageFault:
            continue  # what it stood on is gone: it is not of this disk any more
        if chain[0] in below:
            below |= dict(zip(chain, [None, *chain], strict=False))
    return Layers(key, top, below, frozen)


def _disk_path(config: VmConfig, key: int) -> str:
    return next(disk.path for disk in config.disks if disk.key == key)


def _siblings(top: Path) -> set[Path]:
    """Snapshot layers beside a disk's top that were made for the same disk."""
    stem = top.stem[:-7] if top.stem[-7:-6] == "-" and top.stem[-6:].isdigit() else top.stem
    return {path.resolve() for path in top.parent.glob("*.vmdk") if path.stem[:-7] == stem and path.stem[-7:-6] == "-"}


async def _delete_strays(vm: VirtualMachine) -> None:
    """Snapshot files without a snapshot, of a removal that was interrupted."""
    known = {snapshot.id for snapshot in vm.snapshots}
    for path in vm.directory.glob("*-Snapshot*.vm[se]*"):
        number = path.stem.rpartition("-Snapshot")[2]
        mine = path.stem.startswith(f"{vm.vmx.stem}-Snapshot")
        if mine and number.isdigit() and int(number) not in known:
            path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------- one merge


async def _merge(vm: VirtualMachine, layers: Layers, lower: Path, upper: Path, job: JobRun | None) -> None:
    """Put what is in `upper` into `lower`, which then stands for both; `upper` is deleted."""
    nodes = await _nodes(vm, layers.key) if vm.life in ON else {}
    if upper in nodes and lower in nodes:
        await _merge_live(vm, layers, lower, upper, nodes, job)
    else:
        if job is not None:
            job.report(f"merging {upper.name}", 0, 0)
        await image.commit(upper)
        for path in layers.on(upper):
            await image.rebase(path, lower)
        await asyncio.to_thread(_rename_in_files, vm, layers.key, upper, lower)
    await asyncio.to_thread(upper.unlink, missing_ok=True)


def _rename_in_files(vm: VirtualMachine, key: int, old: Path, new: Path) -> None:
    """Let the VMX file and the snapshots that name a layer name another one."""
    datastores = vm.host.datastores
    name = datastores.path_of(new)

    def renamed(config: VmConfig) -> VmConfig:
        disks = [
            disk.model_copy(update={"path": name})
            if disk.key == key and datastores.file(disk.path).resolve() == old
            else disk
            for disk in config.disks
        ]
        return config.model_copy(update={"disks": disks})

    for snapshot in vm.snapshots:
        path = snapshot_file.vmsn_file(vm.vmx, snapshot.id)
        file = read_vmx(vm.host, path)
        changed = renamed(file.config)
        if changed != file.config:
            file.config = changed
            write_vmx(vm.host, path, file)
    changed = renamed(vm.config)
    if changed != vm.config:
        vm.save(changed)


async def _nodes(vm: VirtualMachine, key: int) -> dict[Path, str]:
    """The nodes of a disk's layers in the running QEMU, by file."""
    nodes = {}
    prefix = f"file-{key}-"
    for node in await vm.qmp.execute("query-named-block-nodes", flat=True):
        # A layer's own node tells its file as a description of the whole chain; the node of its file tells the name.
        name = str(node["node-name"])
        if name.startswith(prefix):
            nodes[Path(node["file"])] = f"disk-{key}-{name.removeprefix(prefix)}"
    return nodes


async def _merge_live(
    vm: VirtualMachine, layers: Layers, lower: Path, upper: Path, nodes: dict[Path, str], job: JobRun | None
) -> None:
    qmp, name = vm.qmp, f"consolidate-{layers.key}"
    await cancel_jobs(qmp, name)
    active = upper == layers.top
    arguments: dict[str, Any] = {"top-node": nodes[upper], "base-node": nodes[lower]}
    if not active:
        arguments["backing-file"] = lower.name
    async with BlockWatch(qmp) as watch:
        await qmp.execute(
            "block-commit", device=nodes[layers.top], **arguments, **{"job-id": name, "auto-dismiss": False}
        )
        meter = asyncio.create_task(_measure(vm, name, upper.name, job), name=f"consolidation of {vm.name}")
        try:
            if active:
                await watch.until(lambda: watch.ready(name), "the merge of layers")
                await _pivot(vm, watch, name, layers.key, upper, lower)
            else:
                await watch.until(lambda: watch.jobs.get(name) == "concluded", "the merge of layers")
                if name in watch.errors:
                    watch.require(name)
                await asyncio.to_thread(_rename_in_files, vm, layers.key, upper, lower)
        except BaseException:
            if vm.process.alive:
                await cancel_jobs(qmp, name)
            raise
        finally:
            meter.cancel()
            await asyncio.wait([meter])
    await dismiss_jobs(qmp, name)
    await qmp.execute("blockdev-del", **{"node-name": nodes[upper]})


async def _pivot(vm: VirtualMachine, watch: BlockWatch, job: str, key: int, upper: Path, lower: Path) -> None:
    """Let the device write to `lower`.

    The guest stands still until the VMX file says so too: were it to write to the lower layer while the file still
    named the upper, a crash would leave the upper's old data in front of it.
    """
    running = vm.life is Life.RUNNING
    if running:
        await vm.qmp.execute("stop")
    try:
        await vm.qmp.execute("block-job-complete", device=job)
        await watch.until(lambda: watch.jobs.get(job) == "concluded", "the end of the merge", timeout=60)
        if job in watch.errors:
            raise Fault("FileFault", f"layers could not be merged: {watch.errors[job]}")
        await asyncio.to_thread(_rename_in_files, vm, key, upper, lower)
    finally:
        if running and vm.process.alive:
            await vm.qmp.execute("cont")


async def _measure(vm: VirtualMachine, name: str, layer: str, job: JobRun | None) -> None:
    while job is not None:
        for one in await vm.qmp.execute("query-jobs"):
            if one["id"] == name:
                job.report(f"merging {layer}", one["current-progress"], one["total-progress"])
        await asyncio.sleep(_PROGRESS_INTERVAL)
