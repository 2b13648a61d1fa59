"""A VM's life through the vSphere API."""

from typing import Any

import pytest
from pyVmomi import vim

from .site import MIB, Site, added, disk, scsi, wait


def test_a_vm_is_created_powered_on_and_destroyed(site: Site) -> None:
    vm = site.create("first")
    assert vm.name == "first"
    assert vm.runtime.powerState == "poweredOff"
    assert vm.runtime.host == site.hosts[0]
    assert vm.parent == site.datacenter.vmFolder
    wait(vm.PowerOnVM_Task())
    assert vm.runtime.powerState == "poweredOn"
    assert vm.runtime.bootTime is not None
    wait(vm.PowerOffVM_Task())
    wait(vm.Destroy_Task())
    assert not any(child.name == "first" for child in site.datacenter.vmFolder.childEntity)
