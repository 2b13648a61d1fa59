"""Snapshots and clones through the vSphere API."""

from typing import Any

import pytest
from pyVmomi import vim, vmodl

from .site import Site, wait


def _snapshot(vm: Any, name: str, *, memory: bool = False) -> Any:
    return wait(vm.CreateSnapshot_Task(name, f"about {name}", memory, False))


def _tree(vm: Any) -> Any:
    return vm.snapshot


def test_the_tree_of_snapshots_is_as_they_were_made(site: Site) -> None:
    vm = site.create_running()
    assert _tree(vm) is None
    first = _snapshot(vm, "first")
    second = _snapshot(vm, "second")
    assert _tree(vm).currentSnapshot == second
    (root,) = _tree(vm).rootSnapshotList
    assert (root.name, root.description, root.snapshot) == ("first", "about first", first)
    (child,) = root.childSnapshotList
    assert (child.name, child.snapshot, child.state) == ("second", second, "poweredOn")
    second.RenameSnapshot("other", "changed")
    assert _tree(vm).rootSnapshotList[0].childSnapshotList[0].name == "other"
    wait(first.RemoveSnapshot_Task(False, True))
    (root,) = _tree(vm).rootSnapshotList
    assert root.name == "other"
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        wait(first.RevertToSnapshot_Task(None, True))
    wait(vm.RemoveAllSnapshots_Task(True))
    assert _tree(vm) is None


def test_a_vm_goes_back_to_its_snapshot(site: Site) -> None:
    vm = site.create()
    snapshot = _snapshot(vm, "clean")
    wait(vm.PowerOnVM_Task())
    wait(snapshot.RevertToSnapshot_Task(None, True))
    assert vm.runtime.powerState == "poweredOff"
    wait(vm.RevertToCurrentSnapshot_Task(None, True))
    assert _tree(vm).currentSnapshot == snapshot


def test_a_vm_with_snapshots_does_not_move_with_its_disks(site: Site) -> None:
    vm = site.create_running()
    _snapshot(vm, "in the way")
    with pytest.raises(vim.fault.SnapshotCopyNotSupported):
        wait(vm.RelocateVM_Task(vim.vm.RelocateSpec(host=site.hosts[1], datastore=site.datastore(1))))
    assert vm.runtime.host == site.hosts[0]


@pytest.mark.parametrize("host", [0, 1])
def test_a_clone_is_a_vm_of_its_own(site: Site, host: int) -> None:
    vm = site.create()
    location = vim.vm.RelocateSpec(host=site.hosts[host], datastore=site.datastore(host))
    spec = vim.vm.CloneSpec(location=location, powerOn=True, template=False)
    clone = wait(vm.CloneVM_Task(site.datacenter.vmFolder, f"clone on {host}", spec))
    assert clone.name == f"clone on {host}"
    assert clone.runtime.host == site.hosts[host]
    assert clone.runtime.powerState == "poweredOn"
    assert clone.config.instanceUuid != vm.config.instanceUuid
    assert clone.config.uuid != vm.config.uuid
    wait(clone.PowerOffVM_Task())
    wait(clone.Destroy_Task())
    wait(vm.PowerOnVM_Task())


def test_a_linked_clone_is_refused(site: Site) -> None:
    vm = site.create()
    location = vim.vm.RelocateSpec(diskMoveType="createNewChildDiskBacking")
    spec = vim.vm.CloneSpec(location=location, powerOn=False, template=False)
    with pytest.raises(vmodl.fault.NotSupported):
        wait(vm.CloneVM_Task(site.datacenter.vmFolder, "linked", spec))
