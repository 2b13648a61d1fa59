"""Snapshots: every disk goes on in a new layer, and the layers below are what can be come back to.

Each step leaves files that make sense: the VMX file names a chain with the guest's data in it at every instant, so
that a crash costs an extra layer at worst, which the next removal merges away.
"""

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

from landbridge.esx import hardware, memory_image, snapshot_file
from landbridge.esx.block_watch import node_names
from landbridge.esx.faults import Fault
from landbridge.esx.jobs import JobRun
from landbridge.esx.life import ON, Life, require
from landbridge.esx.model import CreateSnapshot, Disk, Snapshot, VmConfig
from landbridge.esx.snapshot_layers import consolidate
from landbridge.esx.vm import VirtualMachine, read_vmx, write_vmx
from landbridge.esx.vmx import VmxFile
from landbridge.vsan import image

_log = logging.getLogger(__name__)
_MEMORY_TIMEOUT = 400.0  # seconds
_FREEZE_TIMEOUT = 30.0
_USABLE = frozenset({Life.OFF, Life.RUNNING, Life.PAUSED})


@contextlib.asynccontextmanager
async def exclusively(vm: VirtualMachine) -> AsyncIterator[None]:
    """Hold the VM for a change of its disks' layers; Fault if it moves or can not be used."""
    async with vm.lock:
        if vm.invalid:
            raise Fault("InvalidState", f"VM {vm.name!r} can not be used: {vm.invalid}")
        if vm.vmotion:
            raise Fault("TaskInProgress", f"VM {vm.name!r} is being moved (vMotion {vm.vmotion})")
        yield


def find(vm: VirtualMachine, snapshot: int) -> Snapshot:
    """The snapshot with this number; Fault `ManagedObjectNotFound`."""
    for one in vm.snapshots:
        if one.id == snapshot:
            return one
    raise Fault("ManagedObjectNotFound", f"VM {vm.name!r} has no snapshot {snapshot}")


def frozen_config(vm: VirtualMachine, snapshot: int) -> VmConfig:
    """The configuration a snapshot froze; its disks' paths are the frozen layers."""
    return read_vmx(vm.host, snapshot_file.vmsn_file(vm.vmx, snapshot)).config


# ------------------------------------------------------------------------------------------------------- create


async def create(vm: VirtualMachine, request: CreateSnapshot) -> Snapshot:
    """Take a snapshot. Fault `ToolsUnavailable` if it is to be quiesced and no guest agent answers."""
    async with exclusively(vm):
        require(vm.name, vm.life, _USABLE, "snapshotted")
        live = vm.life in ON
        snapshot = Snapshot(
            id=_next_id(vm),
            name=request.name,
            description=request.description,
            created=round(time.time(), 6),  # as the VMSD file has it
            parent=vm.current_snapshot,
            power_state=vm.power_state,
            memory=request.memory and live,
            quiesced=request.quiesce and live,
        )
        if snapshot.memory:
            await _require_memory_saves(vm)
        frozen = vm.config
        try:
            async with _standing_still(vm, snapshot):
                await _add_layers(vm)
                if snapshot.memory:
                    path = snapshot_file.memory_file(vm.vmx, snapshot.id)
                    await memory_image.save(vm.qmp, path, _MEMORY_TIMEOUT)
            write_vmx(vm.host, snapshot_file.vmsn_file(vm.vmx, snapshot.id), VmxFile(frozen, vm.file.nvram))
        except BaseException:
            _delete_files(vm, snapshot.id)
            if vm.config is not frozen:
                with contextlib.suppress(Fault):
                    await consolidate(vm)
            raise
        _keep(vm, [*vm.snapshots, snapshot], snapshot.id)
    vm.changed(f"snapshot {snapshot.name!r} was taken")
    return snapshot


def _next_id(vm: VirtualMachine) -> int:
    return max([0, *(snapshot.id for snapshot in vm.snapshots)]) + 1


async def _require_memory_saves(vm: VirtualMachine) -> None:
    reasons = (await vm.qmp.execute("query-migrate")).get("blocked-reasons", [])
    if reasons:
        raise Fault("NotSupported", f"the memory of VM {vm.name!r} can not be saved: {'; '.join(reasons)}")
    datastore = vm.host.datastores.holding(vm.directory)
    datastore.require_space(vm.config.memory_mib << 20, f"the memory of VM {vm.name!r}")


@contextlib.asynccontextmanager
async def _standing_still(vm: VirtualMachine, snapshot: Snapshot) -> AsyncIterator[None]:
    """Stop the guest for a snapshot with memory, or quiesce its file systems, as far as asked."""
    if snapshot.quiesced:
        if not vm.tools_connected:
            raise Fault("ToolsUnavailable", f"no guest agent runs in VM {vm.name!r}: install qemu-guest-agent in it")
        try:
            await vm.guest_agent.call("guest-fsfreeze-freeze", _FREEZE_TIMEOUT)
        except BaseException:
            await _thaw(vm)
            raise
    was_running = vm.life is Life.RUNNING
    try:
        if snapshot.memory:
            await vm.qmp.execute("stop")
        yield
    finally:
        if snapshot.memory and was_running and vm.process.alive:
            await vm.qmp.execute("cont")
        if snapshot.quiesced:
            await _thaw(vm)


async def _thaw(vm: VirtualMachine) -> None:
    try:
        await vm.guest_agent.call("guest-fsfreeze-thaw", _FREEZE_TIMEOUT)
    except Fault as error:
        # The guest thaws by itself after a while; the snapshot is none the worse.
        _log.warning("VM %s: the guest did not say that it thawed: %s", vm.name, error)


async def _add_layers(vm: VirtualMachine) -> None:
    """Put an empty layer on top of every disk; the VMX names it first, since an empty layer harms nobody."""
    made: dict[int, Path] = {}
    old = vm.config
    try:
        for disk in old.disks:
            top = vm.host.datastores.file(disk.path)
            made[disk.key] = path = next_layer(top)
            await image.create(path, disk.capacity, backing=top)
        vm.save(with_disk_files(vm, old, made))
        if vm.life in ON:
            await _switch_to_layers(vm, made)
    except BaseException:
        vm.save(old)
        for path in made.values():
            path.unlink(missing_ok=True)
        raise


async def _switch_to_layers(vm: VirtualMachine, layers: dict[int, Path]) -> None:
    qmp = vm.qmp
    present = await node_names(qmp)
    tops = {key: await vm.disk_node(key) for key in layers}
    added: list[str] = []
    actions = []
    try:
        for disk in vm.config.disks:
            node = hardware.disk_node(disk, _free_number(disk, present), layers[disk.key], backing=None)
            await qmp.execute("blockdev-add", **node)
            added.append(str(node["node-name"]))
            data = {"node": tops[disk.key], "overlay": node["node-name"]}
            actions.append({"type": "blockdev-snapshot", "data": data})
        if actions:
            await qmp.execute("transaction", actions=actions)
    except BaseException:
        for name in added:
            with contextlib.suppress(Fault):
                await qmp.execute("blockdev-del", **{"node-name": name})
        raise


def _free_number(disk: Disk, present: set[str]) -> int:
    number = 0
    while f"disk-{disk.key}-{number}" in present:
        number += 1
    return number


def next_layer(top: Path) -> Path:
    """The next free `<disk>-000001.vmdk` beside a layer."""
    stem = re.sub(r"-\d{6}$", "", top.stem)
    number = 1
    while (path := top.with_name(f"{stem}-{number:06}.vmdk")).exists():
        number += 1
    return path


def with_disk_files(vm: VirtualMachine, config: VmConfig, files: dict[int, Path]) -> VmConfig:
    """The configuration with other files for some of its disks."""
    disks = [
        disk.model_copy(update={"path": vm.host.datastores.path_of(files[disk.key])}) if disk.key in files else disk
        for disk in config.disks
    ]
    return config.model_copy(update={"disks": disks})


def _keep(vm: VirtualMachine, snapshots: list[Snapshot], current: int | None) -> None:
    snapshot_file.write(vm.vmx, snapshots, current)
    vm.snapshots, vm.current_snapshot = snapshots, current


def _delete_files(vm: VirtualMachine, snapshot: int) -> None:
    snapshot_file.vmsn_file(vm.vmx, snapshot).unlink(missing_ok=True)
    snapshot_file.memory_file(vm.vmx, snapshot).unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------- rename, revert


async def rename(vm: VirtualMachine, snapshot: int, name: str, description: str) -> None:
    """Give a snapshot another name and description."""
    async with vm.lock:
        renamed = find(vm, snapshot).model_copy(update={"name": name, "description": description})
        _keep(vm, [renamed if one.id == snapshot else one for one in vm.snapshots], vm.current_snapshot)
    vm.changed(f"snapshot {name!r} was renamed")


async def revert(vm: VirtualMachine, snapshot: int) -> None:
    """Make the VM what it was when the snapshot was taken: off, or running if the snapshot has its memory.

    What happened since the last snapshot is lost.
    """
    async with exclusively(vm):
        there = find(vm, snapshot)
        frozen = await asyncio.to_thread(frozen_config, vm, snapshot)
        if vm.life is Life.SUSPENDED or vm.life in ON:
            await vm.power_off()
        made: dict[int, Path] = {}
        try:
            for disk in frozen.disks:
                below = vm.host.datastores.file(disk.path)
                made[disk.key] = path = next_layer(below)
                await image.create(path, disk.capacity, backing=below)
            # What the VM is called is not what it was.
            kept = {field: getattr(vm.config, field) for field in ("name", "instance_uuid", "annotation", "template")}
            if there.memory:
                await asyncio.to_thread(_lend_memory, vm, snapshot)
            vm.save(with_disk_files(vm, frozen, made).model_copy(update=kept))
        except BaseException:
            for path in made.values():
                path.unlink(missing_ok=True)
            raise
        _keep(vm, vm.snapshots, snapshot)
        await consolidate(vm)
        if there.memory:
            vm.life = Life.SUSPENDED
            await vm.power_on()
    vm.changed(f"went back to snapshot {there.name!r}")


def _lend_memory(vm: VirtualMachine, snapshot: int) -> None:
    """To resume from a snapshot's memory is to resume from suspension, whose image is deleted after: a link is."""
    image_file = vm.vmx.with_suffix(".vmss")
    image_file.unlink(missing_ok=True)
    os.link(snapshot_file.memory_file(vm.vmx, snapshot), image_file)
    vm.file.suspend_image = image_file.name


# ------------------------------------------------------------------------------------------------------- remove


async def remove(vm: VirtualMachine, snapshot: int, *, children: bool, job: JobRun | None = None) -> None:
    """Remove a snapshot, with those below it in the tree if `children`; layers nobody needs are merged."""
    async with exclusively(vm):
        gone = {find(vm, snapshot).id}
        while children:
            more = {one.id for one in vm.snapshots if one.parent in gone} - gone
            if not more:
                break
            gone |= more
        await _remove(vm, gone, job)


async def remove_all(vm: VirtualMachine, job: JobRun | None = None) -> None:
    """Remove all snapshots and merge all layers into one file a disk."""
    async with exclusively(vm):
        await _remove(vm, {snapshot.id for snapshot in vm.snapshots}, job)


async def _remove(vm: VirtualMachine, gone: set[int], job: JobRun | None) -> None:
    parents = {snapshot.id: snapshot.parent for snapshot in vm.snapshots}

    def survivor(snapshot: int | None) -> int | None:
        while snapshot in gone:
            snapshot = parents[snapshot]
        return snapshot

    require(vm.name, vm.life, _USABLE | {Life.SUSPENDED}, "consolidated")
    left = [one.model_copy(update={"parent": survivor(one.parent)}) for one in vm.snapshots if one.id not in gone]
    # First the tree, then the layers: what a half-merged layer holds must not be called a snapshot.
    _keep(vm, left, survivor(vm.current_snapshot))
    for snapshot in gone:
        _delete_files(vm, snapshot)
    vm.changed("snapshots are being removed")
    await consolidate(vm, job)
    vm.changed("snapshots were removed")
