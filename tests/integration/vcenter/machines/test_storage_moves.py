"""Moves between datastores of one host, and between hosts that share one."""

from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from .site import MIB, Site, add_datastore, added, disk, until, wait


def _named(managed: Any, name: str) -> Any:
    return until(lambda: next((each for each in managed.datastore if each.name == name), None))


async def test_disks_move_between_datastores_while_the_vm_runs(private_site: Site, tmp_path: Path) -> None:
    site = private_site
    vm = site.create_running("roamer")
    await add_datastore(site.agents[0], "second", tmp_path / "second")
    host = site.hosts[0]
    first, second = site.datastore(0), _named(host, "second")
    until(lambda: host.runtime.connectionState == "connected")
    wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[added(disk(32 * MIB, 1000, 1), create=True)])))
    # One disk alone.
    locator = vim.vm.RelocateSpec.DiskLocator(diskId=2001, datastore=second)
    wait(vm.RelocateVM_Task(vim.vm.RelocateSpec(disk=[locator])))
    disks: list[Any] = [d for d in vm.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)]
    assert [d.backing.datastore for d in disks] == [first, second]
    assert vm.config.files.vmPathName.startswith(f"[{first.name}]")
    # All of it.
    wait(vm.RelocateVM_Task(vim.vm.RelocateSpec(datastore=second)))
    assert vm.config.files.vmPathName.startswith("[second]")
    assert list(vm.datastore) == [second]
    assert vm in second.vm
    assert vm not in first.vm
    assert vm.runtime.powerState == "poweredOn"


async def test_a_vm_on_shared_storage_moves_without_its_disks(private_site: Site, tmp_path: Path) -> None:
    site = private_site
    for agent in site.agents:
        await add_datastore(agent, "shared", tmp_path / "shared", shared=True)
    shared = _named(site.hosts[0], "shared")
    until(lambda: len(shared.host) == 2)
    until(lambda: all(host.runtime.connectionState == "connected" for host in site.hosts))
    vm = site.create("light", files=vim.vm.FileInfo(vmPathName="[shared]"))
    wait(vm.PowerOnVM_Task())
    path = vm.config.files.vmPathName
    wait(vm.MigrateVM_Task(None, site.hosts[1], "defaultPriority", None))
    assert vm.runtime.host == site.hosts[1]
    assert vm.runtime.powerState == "poweredOn"
    assert vm.config.files.vmPathName == path
    assert list(shared.vm) == [vm]
    with pytest.raises(vim.fault.InvalidPowerState):
        wait(vm.MigrateVM_Task(None, site.hosts[0], "defaultPriority", "poweredOff"))
