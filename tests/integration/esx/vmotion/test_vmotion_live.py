"""Running VMs move between two agents, and stay where they are when something goes wrong."""

import asyncio
import contextlib
import os
import signal

import pytest

from landbridge.esx.client import HostError
from landbridge.esx.model import (
    CreateSnapshot,
    OutgoingVm,
    PowerOperation,
    PowerState,
    Vmotion,
    VmotionMode,
    VmotionPhase,
    VmState,
)
from landbridge.relay.admin import Admin, AdminError
from tests.integration.esx.vmotion.conftest import MIB, HostUnderTest, Pair, qemu_io

SLOW = 5 * MIB  # bytes a second: what moves is some 20 MiB


async def in_phase(hosts: Pair, move: str, phase: VmotionPhase) -> None:
    view = await hosts.source.reached(move, lambda view: view.phase is phase)
    assert view.phase is phase, view


async def stays(hosts: Pair, vm: VmState, move: str) -> Vmotion:
    """The VM runs at the source, loses nothing, and the target has nothing of it; no stream is open."""
    here = await hosts.source.end(move)
    assert here.phase is VmotionPhase.FAILED
    state = await hosts.source.client.vm(vm.config.instance_uuid)
    assert (state.power_state, state.vmotion) == (PowerState.ON, None)
    await hosts.source.writes(vm)
    await hosts.nothing_left(hosts.target)
    await hosts.no_streams(hosts.source)
    return here


async def arrives(hosts: Pair, vm: VmState, move: str) -> VmState:
    """The VM runs at the target, and the source has nothing of it; no stream is open."""
    here, there = await hosts.source.end(move), await hosts.target.end(move)
    assert (here.phase, there.phase) == (VmotionPhase.SUCCEEDED, VmotionPhase.SUCCEEDED), (here, there)
    state = await hosts.target.client.vm(vm.config.instance_uuid)
    assert (state.power_state, state.vmotion) == (PowerState.ON, None)
    await hosts.target.writes(state)
    await hosts.nothing_left(hosts.source)
    await hosts.no_streams(hosts.target)
    return state


async def test_a_running_vm_moves_there_and_back_and_loses_no_write(hosts: Pair) -> None:
    vm = await hosts.source.counting("web01")
    move = await hosts.begin(vm)
    there = await arrives(hosts, vm, move)
    view = await hosts.source.client.vmotion(move)
    assert view.progress.disk_done == view.progress.disk_total > 16 * MIB
    assert view.progress.memory_done > 0
    assert view.progress.downtime_ms is not None
    assert there.config.nics == vm.config.nics
    # Thin stays thin: 16 MiB of 64 hold data.
    assert hosts.target.file(there.config.disks[1].path).stat().st_blocks * 512 < 20 * MIB

    back = Pair(hosts.target, hosts.source)
    return_move = await back.begin(there)
    here = await arrives(back, there, return_move)
    # What is empty is not sent, neither there nor back: 16 MiB of data, and what the guest counts.
    for progress in (view.progress, (await hosts.target.client.vmotion(return_move)).progress):
        assert progress.disk_total < 30 * MIB
        assert sum(progress.disks.values()) == progress.disk_done
    assert await hosts.source.numbers_are_whole(here) > 0
    qemu_io(hosts.source.file(here.config.disks[1].path), "read -P 0x5a 1M 16M", "read -P 0 17M 47M")
    await hosts.source.destroy(here)


async def test_an_aborted_move_leaves_the_source_as_it_was_and_a_second_one_succeeds(hosts: Pair) -> None:
    vm = await hosts.source.counting("web02")
    for phase in (VmotionPhase.DISK, VmotionPhase.MEMORY):
        move = await hosts.begin(vm, bandwidth=SLOW)
        await in_phase(hosts, move, phase)
        assert (await hosts.source.client.vm(vm.config.instance_uuid)).vmotion == move
        aborted = await hosts.source.client.abort_vmotion(move)
        assert aborted.phase is VmotionPhase.FAILED
        assert aborted.error is not None
        assert aborted.error.type == "RequestCanceled"
        await stays(hosts, vm, move)
    there = await arrives(hosts, vm, await hosts.begin(vm))
    await hosts.target.numbers_are_whole(there)
    await hosts.target.destroy(there)


async def test_a_move_aborted_at_the_target_ends_at_both_ends(hosts: Pair) -> None:
    vm = await hosts.source.counting("web03")
    move = await hosts.begin(vm, bandwidth=SLOW)
    await in_phase(hosts, move, VmotionPhase.DISK)
    assert (await hosts.target.client.abort_vmotion(move)).phase is VmotionPhase.FAILED
    await stays(hosts, vm, move)
    await hosts.source.destroy(vm)


@pytest.mark.parametrize("phase", [VmotionPhase.DISK, VmotionPhase.MEMORY])
async def test_the_guest_goes_on_when_the_targets_qemu_is_killed(hosts: Pair, phase: VmotionPhase) -> None:
    vm = await hosts.source.counting("web04")
    move = await hosts.begin(vm, bandwidth=SLOW)
    await in_phase(hosts, move, phase)
    kill_qemu(hosts.target, vm)
    await stays(hosts, vm, move)
    await hosts.source.numbers_are_whole(vm)
    await hosts.source.destroy(vm)


async def test_nothing_is_left_at_the_target_when_the_sources_qemu_dies(hosts: Pair) -> None:
    vm = await hosts.source.counting("web05")
    move = await hosts.begin(vm, bandwidth=SLOW)
    await in_phase(hosts, move, VmotionPhase.MEMORY)
    kill_qemu(hosts.source, vm)
    view = await hosts.source.end(move)
    assert view.phase is VmotionPhase.FAILED
    await hosts.nothing_left(hosts.target)
    await hosts.no_streams(hosts.source)
    assert (await hosts.source.client.vm(vm.config.instance_uuid)).power_state is PowerState.OFF
    await hosts.source.destroy(vm)


@pytest.mark.parametrize("phase", [VmotionPhase.DISK, VmotionPhase.MEMORY, VmotionPhase.SWITCHOVER])
async def test_a_killed_source_agent_goes_on_where_it_was(hosts: Pair, phase: VmotionPhase) -> None:
    vm = await hosts.source.counting("web06")
    move = await hosts.begin(vm, bandwidth=SLOW)
    await in_phase(hosts, move, phase)
    await hosts.source.kill()
    await hosts.source.start()
    there = await arrives(hosts, vm, move)
    await hosts.target.numbers_are_whole(there)
    await hosts.target.destroy(there)


@pytest.mark.parametrize("phase", [VmotionPhase.DISK, VmotionPhase.MEMORY, VmotionPhase.SWITCHOVER])
async def test_a_killed_target_agent_goes_on_where_it_was(hosts: Pair, phase: VmotionPhase) -> None:
    vm = await hosts.source.counting("web07")
    move = await hosts.begin(vm, bandwidth=SLOW)
    await in_phase(hosts, move, phase)
    await hosts.target.kill()
    await hosts.target.start()
    # Away in the switchover for longer than a guest can stand still, it loses the guest to the source: that is right.
    if (await hosts.source.end(move)).phase is VmotionPhase.FAILED:
        assert phase is not VmotionPhase.DISK
        await stays(hosts, vm, move)
        await hosts.source.numbers_are_whole(vm)
        await hosts.source.destroy(vm)
        return
    there = await arrives(hosts, vm, move)
    await hosts.target.numbers_are_whole(there)
    await hosts.target.destroy(there)


async def test_the_guest_goes_on_when_the_target_is_silent_in_the_switchover(hosts: Pair) -> None:
    vm = await hosts.source.counting("web08")
    move = await hosts.begin(vm, bandwidth=SLOW)
    await in_phase(hosts, move, VmotionPhase.MEMORY)
    assert hosts.target.process is not None
    hosts.target.process.send_signal(signal.SIGSTOP)
    try:
        view = await hosts.source.reached(move, lambda view: view.phase is VmotionPhase.SWITCHOVER)
        assert view.phase is VmotionPhase.SWITCHOVER
        await hosts.source.writes(vm)
    finally:
        hosts.target.process.send_signal(signal.SIGCONT)
    failed = await stays(hosts, vm, move)
    assert failed.error is not None
    assert failed.error.type == "HostNotConnected"
    await hosts.source.numbers_are_whole(vm)
    await hosts.source.destroy(vm)


async def test_exactly_one_copy_is_left_when_the_targets_qemu_is_killed_in_the_switchover(hosts: Pair) -> None:
    vm = await hosts.source.counting("web09")
    move = await hosts.begin(vm, bandwidth=SLOW)
    await hosts.target.reached(move, lambda view: view.phase is VmotionPhase.SWITCHOVER)
    kill_qemu(hosts.target, vm)
    here, there = await hosts.source.end(move), await hosts.target.end(move)
    assert here.phase == there.phase
    if here.phase is VmotionPhase.SUCCEEDED:
        # It had run there: it is the target's, although it died.
        await hosts.nothing_left(hosts.source)
        await hosts.target.destroy(vm)
    else:
        await stays(hosts, vm, move)
        await hosts.source.numbers_are_whole(vm)
        await hosts.source.destroy(vm)


async def test_the_guest_goes_on_when_the_network_between_the_hosts_breaks(hosts: Pair) -> None:
    vm = await hosts.source.counting("web10")
    move = await hosts.begin(vm, bandwidth=SLOW)
    await in_phase(hosts, move, VmotionPhase.MEMORY)
    os.kill(await Admin(hosts.target.run / "relay" / "admin").pid(), signal.SIGKILL)
    here = await hosts.source.end(move)
    assert here.phase is VmotionPhase.FAILED
    await hosts.source.writes(vm)
    # The target is not told any more; that its QEMU's stream broke is enough.
    assert (await hosts.target.end(move)).phase is VmotionPhase.FAILED
    await relay_answers(hosts.target)  # its agent starts another
    there = await arrives(hosts, vm, await hosts.begin(vm))
    await hosts.target.numbers_are_whole(there)
    await hosts.target.destroy(there)


async def test_what_can_not_move_is_refused_with_the_reason(hosts: Pair) -> None:
    vm = await hosts.source.counting("web11")
    await refused(hosts.begin(vm, VmotionMode.COLD), "InvalidPowerState")
    for move in await hosts.target.client.vmotions():
        await hosts.target.client.abort_vmotion(move.id)
    await hosts.nothing_left(hosts.target)
    huge = vm.config.model_copy(
        update={"disks": [disk.model_copy(update={"capacity": 1 << 50}) for disk in vm.config.disks]}
    )
    await refused(hosts.prepare(vm.model_copy(update={"config": huge})), "NoDiskSpace")
    other = vm.config.model_copy(update={"cpu_model": "no-such-cpu"})
    await refused(hosts.prepare(vm.model_copy(update={"config": other})), "CPUIncompatible")
    other = vm.config.model_copy(update={"machine": "pc-q35-99.9"})
    await refused(hosts.prepare(vm.model_copy(update={"config": other})), "InvalidVmConfig")
    await hosts.nothing_left(hosts.target)
    await hosts.source.client.create_snapshot(vm.config.instance_uuid, CreateSnapshot(name="s"))
    await refused(hosts.begin(vm), "SnapshotCopyNotSupported")
    for move in await hosts.target.client.vmotions():
        await hosts.target.client.abort_vmotion(move.id)
    await hosts.nothing_left(hosts.target)
    await hosts.source.destroy(vm)


async def test_power_operations_wait_for_the_end_of_a_move(hosts: Pair) -> None:
    vm = await hosts.source.counting("web12")
    move = await hosts.begin(vm, bandwidth=SLOW)
    await in_phase(hosts, move, VmotionPhase.DISK)
    await refused(hosts.source.client.power(vm.config.instance_uuid, PowerOperation.OFF), "TaskInProgress")
    endpoints = (await hosts.target.client.vmotion(move)).endpoints
    second = OutgoingVm(id="second", mode=VmotionMode.LIVE, vm=vm.config.instance_uuid, endpoints=endpoints)
    await refused(hosts.source.client.start_outgoing(second), "TaskInProgress")
    await hosts.source.client.abort_vmotion(move)
    await hosts.nothing_left(hosts.target)
    await hosts.source.destroy(vm)


async def refused(call: object, kind: str) -> None:
    with pytest.raises(HostError) as error:
        await call  # type: ignore[misc]
    assert error.value.type == kind, error.value.message


def kill_qemu(host: HostUnderTest, vm: VmState) -> None:
    pid = host.qemu(vm.config.instance_uuid)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def relay_answers(host: HostUnderTest) -> None:
    for _ in range(600):
        with contextlib.suppress(AdminError):
            await host.streams()
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"the relay of {host.name} was not started again")
