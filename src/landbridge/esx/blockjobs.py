"""Copies of whole VMs on one host: clones, and storage that moves under a VM, running or not."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landbridge.esx import hardware, snapshot_file
from landbridge.esx.block_watch import BlockWatch, cancel_jobs, dismiss_jobs, node_names
from landbridge.esx.faults import Fault
from landbridge.esx.inventory import Inventory
from landbridge.esx.jobs import JobRun
from landbridge.esx.layout import make_directory_on, make_home, new_disk_file, own_files
from landbridge.esx.life import ON, Life, require
from landbridge.esx.model import CloneVm, Disk, Firmware, RelocateStorage, VmConfig
from landbridge.esx.qmp import Qmp
from landbridge.esx.snapshots import exclusively, find, frozen_config, with_disk_files
from landbridge.esx.vm import VirtualMachine
from landbridge.vsan import image

_PROGRESS_INTERVAL = 0.3
_PIVOT_TIMEOUT = 60.0
_NVRAM_NODE = "pflash-nvram"


@dataclass
class Copy:
    """A block job of one disk: from the node `source` to a node made by `target` (`blockdev-add` arguments)."""

    job: str
    source: str
    target: dict[str, Any]

    @property
    def node(self) -> str:
        return str(self.target["node-name"])


# ------------------------------------------------------------------------------------------------------- clone


async def clone(inventory: Inventory, vm: VirtualMachine, request: CloneVm, job: JobRun) -> str:
    """Make a full copy of a VM as it is now, or of one of its snapshots; returns the copy's instance UUID.

    All disks are copied as they are at one instant, also under a running guest.
    """
    async with exclusively(vm):
        require(vm.name, vm.life, frozenset({Life.OFF, Life.SUSPENDED}) | ON, "cloned")
        origin = vm.config
        if request.snapshot is not None:
            find(vm, request.snapshot)
            origin = await asyncio.to_thread(frozen_config, vm, request.snapshot)
        config = _clone_config(request.config, origin)
        new = await inventory.create_incoming(config, request.datastore, start=False)
        try:
            if request.snapshot is None and vm.life in ON:
                await _copy_running(vm, new, job)
            else:
                await _copy_files(vm, origin, new, job)
            await asyncio.to_thread(_copy_nvram, vm, new)
            new.save()
        except BaseException:
            await inventory.discard(new)
            raise
        await inventory.commit(new)
    return new.id


def _clone_config(wanted: VmConfig, origin: VmConfig) -> VmConfig:
    capacities = {disk.key: disk.capacity for disk in origin.disks}
    if {disk.key for disk in wanted.disks} != set(capacities):
        raise Fault("InvalidDeviceSpec", f"a clone has the disks of its origin, {sorted(capacities)}: keys differ")
    disks = [disk.model_copy(update={"path": "", "capacity": capacities[disk.key]}) for disk in wanted.disks]
    pinned = {"cpu_model": wanted.cpu_model or origin.cpu_model, "firmware": origin.firmware}
    return wanted.model_copy(update={**pinned, "disks": disks})


async def _copy_running(vm: VirtualMachine, new: VirtualMachine, job: JobRun) -> None:
    copies = []
    for disk in new.config.disks:
        path = vm.host.datastores.file(disk.path)
        node = hardware.disk_node(disk, 0, path, backing=None) | {"node-name": f"clone-{disk.key}"}
        node["file"] = node["file"] | {"node-name": f"clone-file-{disk.key}"}
        copies.append(Copy(f"clone-{disk.key}", await vm.disk_node(disk.key), node))

    async def begin(qmp: Qmp) -> None:
        data = [
            {"job-id": one.job, "device": one.source, "target": one.node, "sync": "full", "auto-dismiss": False}
            for one in copies
        ]
        actions = [{"type": "blockdev-backup", "data": {**one, "on-target-error": "report"}} for one in data]
        if actions:
            await qmp.execute("transaction", actions=actions)

    jobs = [one.job for one in copies]

    def copied(watch: BlockWatch) -> bool:
        failed = [name for name in jobs if name in watch.errors]
        if failed:
            watch.require(*failed)
        return all(name in watch.jobs for name in jobs) and watch.concluded(*jobs)

    await _run(vm, copies, begin, copied, None, job)


async def _copy_files(vm: VirtualMachine, origin: VmConfig, new: VirtualMachine, job: JobRun) -> None:
    datastores = vm.host.datastores
    targets = {disk.key: disk for disk in new.config.disks}
    for disk in origin.disks:
        await _convert(datastores.file(disk.path), datastores.file(targets[disk.key].path), disk, targets, job)


async def _convert(source: Path, target: Path, disk: Disk, all_disks: dict[int, Disk], job: JobRun) -> None:
    total = sum(one.capacity for one in all_disks.values())
    before = sum(one.capacity for one in all_disks.values() if one.key < disk.key)

    def progress(share: float) -> None:
        job.report("copying", before + int(share * disk.capacity), total)

    await image.convert(source, target, thin=all_disks[disk.key].thin, progress=progress)


def _copy_nvram(vm: VirtualMachine, new: VirtualMachine) -> None:
    if vm.config.firmware is Firmware.EFI:
        shutil.copyfile(vm.prepare_nvram(), new.prepare_nvram())


# ------------------------------------------------------------------------------------------------------- the jobs


async def _run(
    vm: VirtualMachine,
    copies: list[Copy],
    begin: Callable[[Qmp], Awaitable[None]],
    reached: Callable[[BlockWatch], bool],
    conclude: Callable[[BlockWatch], Awaitable[None]] | None,
    job: JobRun,
) -> None:
    """Add the target nodes, run the jobs until `reached`, and `conclude`; without the latter the targets are let go of.

    On failure the VM is as it was; the target files are the caller's.
    """
    qmp = vm.qmp
    jobs = [one.job for one in copies]
    concluded = False
    await cancel_jobs(qmp, *jobs)
    try:
        for one in copies:
            await qmp.execute("blockdev-add", **one.target)
        async with BlockWatch(qmp) as watch:
            await begin(qmp)
            meter = asyncio.create_task(_measure(qmp, jobs, job), name=f"copy of {vm.name}")
            try:
                await watch.until(lambda: reached(watch), "the copy of the disks")
            finally:
                meter.cancel()
                await asyncio.wait([meter])
            if conclude is not None:
                await conclude(watch)
                concluded = True
    finally:
        if vm.process.alive:
            await cancel_jobs(qmp, *jobs)
            await dismiss_jobs(qmp, *jobs)
            present = await node_names(qmp)
            for one in copies:
                unused = one.source if concluded else one.node
                if unused in present:
                    await qmp.execute("blockdev-del", **{"node-name": unused})


async def _measure(qmp: Qmp, jobs: list[str], job: JobRun) -> None:
    while True:
        running = [one for one in await qmp.execute("query-jobs") if one["id"] in jobs]
        done = sum(one["current-progress"] for one in running)
        job.report("copying", done, sum(one["total-progress"] for one in running))
        await asyncio.sleep(_PROGRESS_INTERVAL)


# ------------------------------------------------------------------------------------------------------- relocate


async def relocate(inventory: Inventory, vm: VirtualMachine, request: RelocateStorage, job: JobRun) -> str:
    """Move a VM's home, and disks of it, to other datastores of this host. Disks in the home go with it."""
    async with exclusively(vm):
        require(vm.name, vm.life, frozenset({Life.OFF}) | ON, "moved to another datastore")
        if vm.snapshots:
            raise Fault(
                "SnapshotCopyNotSupported",
                f"VM {vm.name!r} has {len(vm.snapshots)} snapshots and its storage would move: remove them first",
            )
        await _Relocation(inventory, vm, request, job).run()
    vm.changed("moved to another datastore")
    return vm.id


class _Relocation:
    def __init__(self, inventory: Inventory, vm: VirtualMachine, request: RelocateStorage, job: JobRun) -> None:
        self.inventory, self.vm, self.request, self.job = inventory, vm, request, job
        self.datastores = vm.host.datastores
        self.old_vmx = vm.vmx
        self.vmx = vm.vmx
        self.stores: dict[int, str] = {}
        self.files: dict[int, Path] = {}
        self.directories: dict[str, Path] = {}

    async def run(self) -> None:
        moving = self._moving()
        if not moving and not self._home_moves():
            return
        left_behind: set[Path] = set()
        for disk in moving:
            left_behind |= set(self.datastores.chain(self.datastores.file(disk.path)))
        try:
            await self._make_room(moving)
            if self.vm.life in ON:
                await self._move_live(moving)
            else:
                await self._move_files(moving)
        except BaseException:
            await asyncio.to_thread(self._undo)
            raise
        await asyncio.to_thread(self._clean_up, left_behind)

    def _home_moves(self) -> bool:
        home = self.request.home
        return home is not None and self.datastores.get(home) is not self.datastores.holding(self.old_vmx)

    def _moving(self) -> list[Disk]:
        moving = []
        for disk in self.vm.config.disks:
            file = self.datastores.file(disk.path)
            default = self.request.home if self._home_moves() and file.parent == self.old_vmx.parent.resolve() else None
            wanted = self.request.disks.get(disk.key, default)
            if wanted is not None and self.datastores.get(wanted) is not self.datastores.holding(file):
                moving.append(disk)
                self.stores[disk.key] = wanted
        return moving

    async def _make_room(self, moving: list[Disk]) -> None:
        if self._home_moves():
            assert self.request.home is not None
            self.vmx = make_home(self.datastores.get(self.request.home), self.vm.name)
        self.directories[self.datastores.holding(self.vmx.parent).name] = self.vmx.parent
        taken = set[Path]()
        for disk in moving:
            store = self.datastores.get(self.stores[disk.key])
            if store.name not in self.directories:
                self.directories[store.name] = make_directory_on(store, self.vm.name)
            path = new_disk_file(self.directories[store.name], self.vmx.stem, taken)
            self.files[disk.key] = path
            await store.create_disk(path, disk.capacity, thin=disk.thin)

    def _new_config(self) -> VmConfig:
        return with_disk_files(self.vm, self.vm.config, self.files)

    async def _switch(self) -> None:
        """From here on the VMX file, old or new, names the new places."""
        if self.vmx == self.old_vmx:
            self.vm.save(self._new_config())
            return
        self.vm.file.config = self._new_config()
        await self.inventory.set_home(self.vm, self.vmx)

    async def _move_files(self, moving: list[Disk]) -> None:
        disks = {disk.key: disk for disk in moving}
        for disk in moving:
            await _convert(self.datastores.file(disk.path), self.files[disk.key], disk, disks, self.job)
        if self.vmx != self.old_vmx and self.vm.config.firmware is Firmware.EFI:
            old = await asyncio.to_thread(self.vm.prepare_nvram)
            await asyncio.to_thread(shutil.copyfile, old, self.vmx.parent / old.name)
        await self._switch()

    async def _move_live(self, moving: list[Disk]) -> None:
        vm, present = self.vm, await node_names(self.vm.qmp)
        copies = []
        for disk in moving:
            number = next(n for n in range(1000) if f"disk-{disk.key}-{n}" not in present)
            node = hardware.disk_node(disk, number, self.files[disk.key], backing=None)
            copies.append(Copy(f"relocate-{disk.key}", await vm.disk_node(disk.key), node))
        if self.vmx != self.old_vmx and vm.config.firmware is Firmware.EFI:
            copies.append(await self._nvram_copy(present))

        async def begin(qmp: Qmp) -> None:
            for one in copies:
                arguments = {"job-id": one.job, "device": one.source, "target": one.node, "auto-dismiss": False}
                await qmp.execute("blockdev-mirror", sync="full", **{**arguments, "on-target-error": "report"})

        jobs = [one.job for one in copies]
        await _run(
            vm, copies, begin, lambda watch: watch.ready(*jobs), lambda watch: self._pivot(watch, jobs), self.job
        )
        if self.vmx != self.old_vmx:
            await self._move_serial_ports()

    async def _nvram_copy(self, present: set[str]) -> Copy:
        old = await asyncio.to_thread(self.vm.prepare_nvram)
        new = self.vmx.parent / old.name
        await asyncio.to_thread(shutil.copyfile, old, new)
        source = next(name for name in sorted(present) if name.startswith(_NVRAM_NODE))
        name = next(f"{_NVRAM_NODE}-{n}" for n in range(1000) if f"{_NVRAM_NODE}-{n}" not in present)
        return Copy(
            "relocate-nvram",
            source,
            {"driver": "raw", "node-name": name, "file": {"driver": "file", "filename": str(new)}},
        )

    async def _pivot(self, watch: BlockWatch, jobs: list[str]) -> None:
        """Let the devices write to the new files.

        The guest stands still until the VMX file says so too: a crash in between loses no write then.
        """
        running = self.vm.life is Life.RUNNING
        if running:
            await self.vm.qmp.execute("stop")
        try:
            for job in jobs:
                await self.vm.qmp.execute("block-job-complete", device=job)
            await watch.until(lambda: watch.concluded(*jobs), "the switch to the new files", timeout=_PIVOT_TIMEOUT)
            failed = [job for job in jobs if job in watch.errors]
            if failed:
                watch.require(*failed)
            await self._switch()
        finally:
            if running and self.vm.process.alive:
                await self.vm.qmp.execute("cont")

    async def _move_serial_ports(self) -> None:
        for port in self.vm.config.serial_ports:
            if not port.file:
                file = {"out": str(self.vmx.parent / "serial.log"), "append": True}
                backend = {"type": "file", "data": file}
                await self.vm.qmp.execute("chardev-change", id=f"serial-{port.key}", backend=backend)

    def _undo(self) -> None:
        if self.vm.vmx != self.old_vmx or any(
            self.datastores.file(disk.path) in self.files.values() for disk in self.vm.config.disks
        ):
            return  # it has switched: the new files are the VM's
        for path in self.files.values():
            path.unlink(missing_ok=True)
        for directory in {self.vmx.parent, *self.directories.values()} - {self.old_vmx.parent}:
            shutil.rmtree(directory, ignore_errors=True)

    def _clean_up(self, left_behind: set[Path]) -> None:
        if self.vmx != self.old_vmx:
            stays = {self.datastores.file(disk.path) for disk in self.vm.config.disks}
            left_behind |= own_files(self.datastores, self.old_vmx, self.vm.config) - stays
            left_behind.discard(snapshot_file.vmsd_file(self.old_vmx))
        for path in left_behind:
            path.unlink(missing_ok=True)
        for directory in {path.parent for path in left_behind} | {self.old_vmx.parent}:
            if directory != self.vmx.parent and directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()
