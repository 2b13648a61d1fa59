"""Snapshots, clones and storage that moves, of running and of powered-off VMs."""

import os
import signal
import uuid
from pathlib import Path

import pytest

from landbridge.esx.client import HostError
from landbridge.esx.model import (
    CloneVm,
    CreateSnapshot,
    Firmware,
    JobState,
    PowerOperation,
    PowerState,
    RegisterVm,
    RelocateStorage,
    VmConfig,
    VmState,
)
from tests.integration.esx.vmotion.conftest import HostUnderTest, Pair, qemu_io


def disks(host: HostUnderTest, vm: VmState) -> list[str]:
    """The disk files in a VM's home."""
    return sorted(path.name for path in host.file(vm.vmx).parent.glob("*.vmdk"))


async def snapshot(host: HostUnderTest, vm: VmState, name: str, *, memory: bool = False, quiesce: bool = False) -> int:
    request = CreateSnapshot(name=name, memory=memory, quiesce=quiesce)
    return (await host.client.create_snapshot(vm.config.instance_uuid, request)).id


async def state_of(host: HostUnderTest, vm: VmState) -> VmState:
    return await host.client.vm(vm.config.instance_uuid)


async def write(host: HostUnderTest, vm: VmState, pattern: int) -> None:
    """Fill the first megabyte of a powered-off VM's disk."""
    qemu_io(host.file((await state_of(host, vm)).config.disks[0].path), f"write -P {pattern} 0 1M")


async def reads(host: HostUnderTest, vm: VmState, pattern: int) -> None:
    qemu_io(host.file((await state_of(host, vm)).config.disks[0].path), f"read -P {pattern} 0 1M", "read -P 0x51 2M 8M")


async def test_a_powered_off_vm_goes_back_to_any_of_its_snapshots(hosts: Pair) -> None:
    host = hosts.source
    vm = await host.create("snap01")
    uuid_ = vm.config.instance_uuid
    ids = []
    for number in (1, 2, 3):
        await write(host, vm, number)
        ids.append(await snapshot(host, vm, f"s{number}"))
    await write(host, vm, 4)
    for number in (2, 1, 3, 2):
        reverted = await host.client.revert_snapshot(uuid_, ids[number - 1])
        assert reverted.current_snapshot == ids[number - 1]
        await reads(host, vm, number)
    # A branch: 4 stands on 2 beside 3.
    await write(host, vm, 44)
    fourth = await snapshot(host, vm, "s4")
    state = await state_of(host, vm)
    assert {one.id: one.parent for one in state.snapshots} == {1: None, 2: 1, 3: 2, fourth: 2}
    await host.client.rename_snapshot(uuid_, fourth, "branch", "of two")

    await host.kill()
    await host.start()
    again = await state_of(host, vm)
    assert [(one.id, one.parent, one.created) for one in again.snapshots] == [
        (one.id, one.parent, one.created) for one in state.snapshots
    ]
    assert again.snapshots[-1].name == "branch"

    await host.done(await host.client.remove_snapshot(uuid_, ids[1]))
    assert {one.id: one.parent for one in (await state_of(host, vm)).snapshots} == {1: None, 3: 1, fourth: 1}
    await reads(host, vm, 44)
    await host.client.revert_snapshot(uuid_, 3)
    await reads(host, vm, 3)
    await host.done(await host.client.remove_snapshot(uuid_, fourth))
    await host.client.revert_snapshot(uuid_, 1)
    await reads(host, vm, 1)
    await host.done(await host.client.remove_all_snapshots(uuid_))
    await reads(host, vm, 1)
    assert disks(host, vm) == ["snap01.vmdk"]
    assert not [name for name in host.files() if "Snapshot" in name or name.endswith(".vmsd")]


async def test_layers_are_merged_under_a_writing_guest_and_no_write_is_lost(hosts: Pair) -> None:
    host = hosts.source
    vm = await host.counting("snap02")
    uuid_ = vm.config.instance_uuid
    for name in ("a", "b", "c", "d"):
        await snapshot(host, vm, name)
        await host.writes(await state_of(host, vm))
    assert len(disks(host, vm)) == 10
    # In the middle, at the base, at the top, and all the rest.
    for number in (2, 1, 4):
        await host.done(await host.client.remove_snapshot(uuid_, number))
        await host.writes(await state_of(host, vm))
    await host.done(await host.client.remove_all_snapshots(uuid_))
    state = await state_of(host, vm)
    assert (state.power_state, state.snapshots, state.current_snapshot) == (PowerState.ON, [], None)
    assert [disk.path for disk in state.config.disks] == [disk.path for disk in vm.config.disks]
    assert disks(host, vm) == ["snap02.vmdk", "snap02_1.vmdk"]
    await host.writes(state)
    assert await host.numbers_are_whole(state) > 0
    await host.client.power(uuid_, PowerOperation.ON)
    await host.writes(state)


async def test_a_running_guest_goes_back_to_the_memory_it_had(hosts: Pair) -> None:
    host = hosts.source
    vm = await host.counting("snap03")
    taken = await snapshot(host, vm, "with memory", memory=True)
    await host.writes(await state_of(host, vm))
    for _ in range(2):
        state = await host.client.revert_snapshot(vm.config.instance_uuid, taken)
        assert state.power_state is PowerState.ON
        await host.writes(state)
    # The guest went on from its memory: on its disk are the numbers up to the snapshot and those after, without a gap.
    assert await host.numbers_are_whole(await state_of(host, vm)) > 0
    await host.client.revert_snapshot(vm.config.instance_uuid, taken)
    await host.done(await host.client.remove_all_snapshots(vm.config.instance_uuid))
    await host.writes(await state_of(host, vm))


async def test_snapshots_survive_the_vms_registration_elsewhere(hosts: Pair) -> None:
    host = hosts.source
    vm = await host.create("snap04")
    await snapshot(host, vm, "kept")
    await host.client.unregister_vm(vm.config.instance_uuid)
    state = await host.client.register_vm(RegisterVm(vmx=vm.vmx).vmx)
    assert [one.name for one in state.snapshots] == ["kept"]
    await host.client.revert_snapshot(vm.config.instance_uuid, state.snapshots[0].id)
    await host.client.destroy_vm(vm.config.instance_uuid)
    assert not [name for name in host.files() if name.startswith("snap04")]


async def test_a_merge_that_was_cut_off_is_done_by_the_next_one(hosts: Pair) -> None:
    host = hosts.source
    vm = await host.counting("snap05")
    uuid_ = vm.config.instance_uuid
    await snapshot(host, vm, "a")
    await host.writes(await state_of(host, vm))
    await host.client.remove_snapshot(uuid_, 1)
    await host.kill()
    await host.start()
    await host.done(await host.client.remove_all_snapshots(uuid_))
    assert disks(host, vm) == ["snap05.vmdk", "snap05_1.vmdk"]
    await host.writes(await state_of(host, vm))
    await host.numbers_are_whole(await state_of(host, vm))


async def test_a_snapshot_that_can_not_be_quiesced_is_not_taken(hosts: Pair) -> None:
    host = hosts.source
    vm = await host.counting("snap06")
    with pytest.raises(HostError) as error:
        await snapshot(host, vm, "quiesced", quiesce=True)
    assert error.value.type == "ToolsUnavailable"
    assert (await state_of(host, vm)).snapshots == []
    assert disks(host, vm) == ["snap06.vmdk", "snap06_1.vmdk"]


def clone_config(vm: VmState, name: str) -> VmConfig:
    nics = [nic.model_copy(update={"mac": None}) for nic in vm.config.nics]
    identity = {"instance_uuid": str(uuid.uuid4()), "uuid": str(uuid.uuid4())}
    return vm.config.model_copy(update={"name": name, "nics": nics, **identity})


async def test_a_running_vm_and_its_snapshots_are_cloned(hosts: Pair) -> None:
    host = hosts.source
    vm = await host.counting("origin01")
    taken = await snapshot(host, vm, "then")
    for name, number in (("now", None), ("then", taken)):
        request = CloneVm(config=clone_config(vm, name), datastore="datastore2", snapshot=number)
        job = await host.done(await host.client.clone_vm(vm.config.instance_uuid, request))
        assert job.vm == request.config.instance_uuid
        clone = await host.client.vm(job.vm)
        assert clone.power_state is PowerState.OFF
        assert clone.vmx.startswith("[datastore2]")
        assert clone.config.nics[0].mac not in (None, vm.config.nics[0].mac)
        qemu_io(host.file(clone.config.disks[1].path), "read -P 0x5a 1M 16M")
        await host.client.power(job.vm, PowerOperation.ON)
        await host.writes(clone)
        await host.numbers_are_whole(clone)
    await host.writes(await state_of(host, vm))


async def test_a_cancelled_clone_leaves_nothing(hosts: Pair) -> None:
    host = hosts.source
    vm = await host.counting("origin02")
    before = host.files()
    job = await host.client.clone_vm(
        vm.config.instance_uuid, CloneVm(config=clone_config(vm, "half"), datastore="datastore1")
    )
    cancelled = await host.client.cancel_job(job.id)
    if cancelled.state is JobState.ERROR:
        assert host.files() == before
        assert len(await host.client.vms()) == 1
    await host.writes(vm)


@pytest.mark.parametrize("running", [True, False])
async def test_a_vms_storage_moves_to_another_datastore(hosts: Pair, running: bool) -> None:
    host = hosts.source
    vm = await host.counting("move01")
    uuid_ = vm.config.instance_uuid
    if not running:
        await host.client.power(uuid_, PowerOperation.OFF)
    await host.done(await host.client.relocate_storage(uuid_, RelocateStorage(home="datastore2")))
    state = await state_of(host, vm)
    assert state.vmx == "[datastore2] move01/move01.vmx"
    assert [disk.path for disk in state.config.disks] == [
        "[datastore2] move01/move01.vmdk",
        "[datastore2] move01/move01_1.vmdk",
    ]
    assert not (host.datastore / "move01").exists()
    # One disk alone goes back.
    await host.done(await host.client.relocate_storage(uuid_, RelocateStorage(disks={2001: "datastore1"})))
    state = await state_of(host, vm)
    assert [disk.path[:12] for disk in state.config.disks] == ["[datastore2]", "[datastore1]"]
    if running:
        await host.writes(state)
        pid = host.qemu(uuid_)
        assert pid is not None
        await host.numbers_are_whole(state)
    qemu_io(host.file(state.config.disks[1].path), "read -P 0x5a 1M 16M", "read -P 0 17M 47M")
    await host.client.power(uuid_, PowerOperation.ON)
    await host.writes(state)


def open_files(pid: int) -> set[Path]:
    return {link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()}


async def test_a_running_efi_vms_home_moves(hosts: Pair) -> None:
    host = hosts.source
    vm = await host.create("move02", firmware=Firmware.EFI)
    uuid_ = vm.config.instance_uuid
    await host.client.power(uuid_, PowerOperation.ON)
    await host.done(await host.client.relocate_storage(uuid_, RelocateStorage(home="datastore2")))
    state = await state_of(host, vm)
    assert host.file(state.vmx).with_suffix(".nvram").exists()
    pid = host.qemu(uuid_)
    assert pid is not None
    assert host.file(state.vmx).with_suffix(".nvram") in open_files(pid)
    os.kill(pid, signal.SIGKILL)


async def test_storage_with_snapshots_stays(hosts: Pair) -> None:
    host = hosts.source
    vm = await host.create("move03")
    await snapshot(host, vm, "s")
    job = await host.client.relocate_storage(vm.config.instance_uuid, RelocateStorage(home="datastore2"))
    while job.state is JobState.RUNNING:
        job = await host.client.job(job.id, job.seq, 10)
    assert job.error is not None
    assert job.error.type == "SnapshotCopyNotSupported"
