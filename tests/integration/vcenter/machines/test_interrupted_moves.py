"""Moves that do not go as planned: cancelled, vCenter killed under them, a host lost, adapters without a network."""

import os
import signal
import subprocess
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from landbridge.esx.model import Vmotion, VmotionPhase
from landbridge.esx.process import lock_holder
from landbridge.relay.admin import Admin, AdminError

from .site import MIB, Site, added, disk, eventually, scsi, until, wait

_SIZE = 320 * MIB


def _big_vm(site: Site, name: str) -> Any:
    """A running VM on the first host whose disk takes a second or more to copy."""
    folder = site.agents[0].datastore / f"{name} data"
    folder.mkdir()
    image = folder / "big.vmdk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, str(_SIZE)], check=True, timeout=60)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", f"write -P 0x5a 0 {_SIZE}", str(image)],
        check=True,
        timeout=120,
        stdout=subprocess.DEVNULL,
    )
    path = f"[{site.datastore(0).name}] {name} data/big.vmdk"
    vm = site.create(name, devices=[added(scsi()), added(disk(_SIZE, path=path))])
    wait(vm.PowerOnVM_Task())
    return vm


def _move(site: Site, vm: Any) -> Any:
    return vm.RelocateVM_Task(vim.vm.RelocateSpec(host=site.hosts[1], datastore=site.datastore(1)))


async def _copying(site: Site, host: int) -> Vmotion:
    """The move a host sends, as soon as it copies."""

    async def copying() -> Vmotion | None:
        phases = (VmotionPhase.DISK, VmotionPhase.MEMORY)
        moves = await site.agents[host].client.vmotions()
        return next((move for move in moves if move.direction == "outgoing" and move.phase in phases), None)

    move: Vmotion = await eventually(copying)
    return move


async def _listed(site: Site, host: int) -> list[str]:
    return [state.config.name for state in await site.agents[host].client.vms()]


async def _streams(site: Site, host: int) -> list[str]:
    """The channels of moves that a host's relay has open; none if the relay is dead."""
    run = site.agents[host].run / "relay"
    admin = Admin(run / "admin")
    try:
        maps = [await admin.map(run / name) for name in ("site.map", "names.map")]
    except AdminError:
        return []
    return [name.partition(".")[0].rpartition("-")[2] for name in (*maps[0], *maps[1].values())]


async def _no_streams(site: Site, host: int) -> None:
    async def none() -> bool:
        return await _streams(site, host) == []

    await eventually(none)


async def _lose_power(site: Site, host: int, vm: Any) -> None:
    """End all that runs for a host: its agent, its relay, the VM's process."""
    agent = site.agents[host]
    pids = [lock_holder(agent.run / vm.config.instanceUuid / "pid"), await Admin(agent.run / "relay" / "admin").pid()]
    await agent.kill()
    for pid in pids:
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


async def test_a_cancelled_move_leaves_the_vm_running_where_it_was(site: Site) -> None:
    vm = _big_vm(site, "stayer")
    task = _move(site, vm)
    await _copying(site, 0)
    task.CancelTask()
    with pytest.raises(vmodl.fault.RequestCanceled):
        wait(task)
    assert vm.runtime.host == site.hosts[0]
    assert vm.runtime.powerState == "poweredOn"
    assert "stayer" not in await _listed(site, 1)
    assert not (site.agents[1].datastore / "stayer").exists()
    # And it can still move.
    wait(_move(site, vm))
    assert vm.runtime.host == site.hosts[1]
    wait(vm.PowerOffVM_Task())
    wait(vm.Destroy_Task())


async def test_a_move_goes_on_when_vcenter_is_killed_and_comes_out_right(private_site: Site) -> None:
    site = private_site
    vm = _big_vm(site, "survivor")
    task = _move(site, vm)
    await _copying(site, 0)
    site.vcenter.kill()
    site.vcenter.start()
    site.reconnect()
    vm, task = site.vcenter.ref(vm), site.vcenter.ref(task)
    wait(task)
    assert vm.runtime.host == site.hosts[1]
    assert vm.runtime.powerState == "poweredOn"
    assert await _listed(site, 0) == []
    # Killed again, and away until the hosts have long finished.
    task = vm.RelocateVM_Task(vim.vm.RelocateSpec(host=site.hosts[0], datastore=site.datastore(0)))
    await _copying(site, 1)
    site.vcenter.kill()

    async def arrived() -> bool:
        return await _listed(site, 0) == ["survivor"] and await _listed(site, 1) == []

    await eventually(arrived)
    site.vcenter.start()
    site.reconnect()
    vm, task = site.vcenter.ref(vm), site.vcenter.ref(task)
    wait(task)
    assert vm.runtime.host == site.hosts[0]
    assert vm.runtime.powerState == "poweredOn"
    assert vm in site.hosts[0].vm
    assert list(site.hosts[1].vm) == []


async def test_a_target_lost_in_the_middle_of_a_move_leaves_the_vm_running(private_site: Site) -> None:
    site = private_site
    vm = _big_vm(site, "unharmed")
    task = _move(site, vm)
    await _copying(site, 0)
    await site.agents[1].kill()
    with pytest.raises(vmodl.MethodFault):
        wait(task)
    assert vm.runtime.host == site.hosts[0]
    assert vm.runtime.powerState == "poweredOn"
    # Nobody is there to take leave of: vCenter lets the source go, and the target when it is back.
    await _no_streams(site, 0)
    assert await _streams(site, 1) != []
    await site.agents[1].start()
    await _no_streams(site, 1)
    until(lambda: site.hosts[1].runtime.connectionState == "connected")
    until(lambda: not (site.agents[1].datastore / "unharmed").exists())
    assert await _listed(site, 1) == []
    wait(_move(site, vm))
    assert vm.runtime.host == site.hosts[1]
    await _no_streams(site, 0)
    await _no_streams(site, 1)


async def test_a_target_answers_until_its_source_is_back_from_a_power_cut_and_not_longer(private_site: Site) -> None:
    site = private_site
    vm = _big_vm(site, "fallen")
    task = _move(site, vm)
    await _copying(site, 0)
    await _lose_power(site, 0, vm)
    with pytest.raises(vmodl.MethodFault):
        wait(task)

    async def only_answers() -> bool:
        return await _streams(site, 1) == ["control"]

    # The move failed for certain, but the source may have to ask.
    await eventually(only_answers)
    # And its agent killed meanwhile changes nothing about that.
    await site.agents[1].restart()
    until(lambda: site.hosts[1].runtime.connectionState == "connected")
    assert await _streams(site, 1) == ["control"]
    await site.agents[0].start()
    await _no_streams(site, 1)
    await _no_streams(site, 0)
    until(lambda: site.hosts[0].runtime.connectionState == "connected")
    until(lambda: vm.runtime.powerState == "poweredOff")
    assert vm.runtime.host == site.hosts[0]
    wait(vm.PowerOnVM_Task())


def test_wrong_destinations_are_refused_before_anything_moves(site: Site) -> None:
    vm = site.create_running()
    spec = vim.vm.RelocateSpec
    cases: list[tuple[Any, type[Exception]]] = [
        (spec(host=site.hosts[1]), vim.fault.InvalidDatastorePath),
        (spec(host=site.hosts[1], datastore=site.datastore(0)), vim.fault.InvalidDatastorePath),
        (spec(host=vim.HostSystem("host-999", None)), vmodl.fault.ManagedObjectNotFound),
        (
            spec(disk=[spec.DiskLocator(diskId=1234, datastore=site.datastore(1))]),
            vmodl.fault.InvalidArgument,
        ),
    ]
    for wanted, fault in cases:
        with pytest.raises(fault):
            wait(vm.RelocateVM_Task(wanted))
    assert vm.runtime.host == site.hosts[0]
    assert vm.runtime.powerState == "poweredOn"


def test_migrate_needs_storage_both_hosts_see(site: Site) -> None:
    vm = site.create()
    with pytest.raises(vim.fault.InvalidDatastorePath):
        wait(vm.MigrateVM_Task(None, site.hosts[1], "defaultPriority", None))
    with pytest.raises(vim.fault.InvalidPowerState):
        wait(vm.MigrateVM_Task(None, site.hosts[1], "defaultPriority", "poweredOn"))
