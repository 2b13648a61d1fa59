"""Moves without memory: powered-off VMs leave, VMs are copied to another host."""

import asyncio
import uuid

from landbridge.esx.model import Firmware, PowerOperation, PowerState, VmConfig, VmotionMode, VmotionPhase, VmState
from tests.integration.esx.vmotion.conftest import MIB, Pair, qemu_io


def renamed(config: VmConfig, name: str) -> VmConfig:
    """A configuration for a copy: another VM with the same hardware."""
    nics = [nic.model_copy(update={"mac": None}) for nic in config.nics]
    identity = {"instance_uuid": str(uuid.uuid4()), "uuid": str(uuid.uuid4())}
    return config.model_copy(update={"name": name, "nics": nics, **identity})


async def both_succeed(hosts: Pair, move: str) -> None:
    for host in (hosts.source, hosts.target):
        view = await host.end(move)
        assert view.phase is VmotionPhase.SUCCEEDED, view.error


async def test_a_powered_off_vm_moves_with_its_firmwares_variables(hosts: Pair) -> None:
    vm = await hosts.source.create("cold01", disks=2, firmware=Firmware.EFI)
    uuid_ = vm.config.instance_uuid
    await hosts.source.client.power(uuid_, PowerOperation.ON)
    await hosts.source.client.power(uuid_, PowerOperation.OFF)
    nvram = hosts.source.file(vm.vmx).with_suffix(".nvram")
    content = nvram.read_bytes()[:-64] + b"what the firmware remembers".ljust(64, b"\xff")
    nvram.write_bytes(content)

    await both_succeed(hosts, await hosts.begin(vm, VmotionMode.COLD))

    await hosts.nothing_left(hosts.source)
    there = await hosts.target.client.vm(uuid_)
    assert there.power_state is PowerState.OFF
    assert hosts.target.file(there.vmx).with_suffix(".nvram").read_bytes() == content
    for number, disk in enumerate(there.config.disks):
        half = f"read -P {0x51 + number} 0 32M"
        qemu_io(hosts.target.file(disk.path), half, "read -P 0 32M 32M")
    assert (await hosts.target.client.power(uuid_, PowerOperation.ON)).power_state is PowerState.ON


async def test_an_aborted_cold_move_leaves_the_vm_as_it_was(hosts: Pair) -> None:
    vm = await hosts.source.create("cold02")
    move = await hosts.begin(vm, VmotionMode.COLD, bandwidth=4 * MIB)
    await hosts.source.reached(move, lambda view: view.progress.disk_done > 0)
    assert (await hosts.source.client.abort_vmotion(move)).phase is VmotionPhase.FAILED
    await hosts.nothing_left(hosts.target)
    state = await hosts.source.client.power(vm.config.instance_uuid, PowerOperation.ON)
    assert state.power_state is PowerState.ON


async def test_a_cold_move_goes_on_or_back_when_an_agent_is_killed(hosts: Pair) -> None:
    vm = await hosts.source.create("cold03")
    move = await hosts.begin(vm, VmotionMode.COLD, bandwidth=8 * MIB)
    await hosts.source.reached(move, lambda view: view.progress.disk_done > 0)
    await hosts.source.kill()
    await hosts.source.start()
    here, there = await hosts.source.end(move), await hosts.target.end(move)
    assert here.phase == there.phase
    if here.phase is VmotionPhase.SUCCEEDED:
        await hosts.nothing_left(hosts.source)
    else:
        await hosts.nothing_left(hosts.target)


async def test_a_copy_of_a_running_vm_is_as_it_was_at_one_instant(hosts: Pair) -> None:
    vm = await hosts.source.counting("copied01")
    move = await copy(hosts, vm, "copy01")
    await both_succeed(hosts, move)
    await hosts.source.writes(vm)
    there = next(one for one in await hosts.target.client.vms() if one.config.name == "copy01")
    assert there.power_state is PowerState.OFF
    qemu_io(hosts.target.file(there.config.disks[1].path), "read -P 0x5a 1M 16M", "read -P 0 17M 47M")
    # The copy counts on from where it was made, and has every number up to there.
    await hosts.target.client.power(there.config.instance_uuid, PowerOperation.ON)
    await hosts.target.writes(there)
    assert await hosts.source.numbers_are_whole(vm) > 0


async def test_copies_of_a_powered_off_vm_leave_it_alone(hosts: Pair) -> None:
    vm = await hosts.source.create("copied02")
    moves = [await copy(hosts, vm, "copy02")]
    await both_succeed(hosts, moves[0])
    there = next(one for one in await hosts.target.client.vms() if one.config.name == "copy02")
    qemu_io(hosts.target.file(there.config.disks[0].path), "read -P 0x51 0 32M")
    state = await hosts.source.client.vm(vm.config.instance_uuid)
    assert (state.power_state, state.vmotion) == (PowerState.OFF, None)
    await asyncio.gather(hosts.source.destroy(vm), hosts.target.destroy(there))
    await hosts.nothing_left(hosts.source)


async def copy(hosts: Pair, vm: VmState, name: str) -> str:
    return await hosts.begin(vm, VmotionMode.COPY, config=renamed(vm.config, name))
