"""Moves of VMs between hosts and datastores, through the vSphere API."""

from pyVmomi import vim

from .site import Site, wait


def _relocate_spec(site: Site, host: int) -> vim.vm.RelocateSpec:
    return vim.vm.RelocateSpec(host=site.hosts[host], datastore=site.datastore(host))


def test_a_running_vm_moves_live_to_another_host_with_its_disks(site: Site) -> None:
    vm = site.create_running("mover")
    before = vm.config
    task = vm.RelocateVM_Task(_relocate_spec(site, 1))
    wait(task)
    numbers = {argument.key: argument.value for argument in task.info.description.arg}
    assert int(numbers["memoryDone"]) > 0
    assert float(numbers["downtimeMs"]) >= 0
    assert vm.runtime.powerState == "poweredOn"
    assert vm.runtime.host == site.hosts[1]
    assert vm.config.files.vmPathName.startswith(f"[{site.datastore(1).name}]")
    assert (vm.config.instanceUuid, vm.config.uuid) == (before.instanceUuid, before.uuid)
    assert vm in site.hosts[1].vm
    assert vm not in site.hosts[0].vm
    assert list(vm.datastore) == [site.datastore(1)]
    # It goes back the same way: nothing was left behind that is in the way.
    wait(vm.RelocateVM_Task(_relocate_spec(site, 0)))
    assert vm.runtime.host == site.hosts[0]
    assert vm.runtime.powerState == "poweredOn"


def test_a_powered_off_vm_moves_to_another_host(site: Site) -> None:
    vm = site.create("cold mover")
    wait(vm.RelocateVM_Task(_relocate_spec(site, 1)))
    assert vm.runtime.host == site.hosts[1]
    wait(vm.PowerOnVM_Task())
    assert vm.runtime.powerState == "poweredOn"
