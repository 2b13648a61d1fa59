"""A VM's life through the vSphere API: made, changed, renamed, forgotten, found again, deleted."""

import contextlib
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from .site import MIB, Site, added, disk, scsi, wait


def _edit(device: Any) -> vim.vm.device.VirtualDeviceSpec:
    return vim.vm.device.VirtualDeviceSpec(operation="edit", device=device)


def _devices(vm: Any, kind: type) -> list[Any]:
    return [device for device in vm.config.hardware.device if isinstance(device, kind)]


def _reconfigure(vm: Any, *changes: Any, **settings: Any) -> None:
    wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=list(changes), **settings)))


def test_a_vm_is_created_powered_on_and_destroyed(site: Site) -> None:
    vm = site.create("first")
    assert vm.name == "first"
    assert vm.runtime.powerState == "poweredOff"
    assert vm.runtime.host == site.hosts[0]
    assert vm.parent == site.datacenter.vmFolder
    assert vm.resourcePool == site.cluster.resourcePool
    wait(vm.PowerOnVM_Task())
    assert vm.runtime.powerState == "poweredOn"
    assert vm.runtime.bootTime is not None
    wait(vm.PowerOffVM_Task())
    wait(vm.Destroy_Task())
    assert not any(child.name == "first" for child in site.datacenter.vmFolder.childEntity)
    assert not (site.agents[0].datastore / "first").exists()


def test_every_property_of_a_vm_can_be_read(site: Site) -> None:
    vm = site.create_running()
    names = [info.name for info in vim.VirtualMachine._GetPropertyList()]
    values = {name: getattr(vm, name) for name in names}
    assert values["summary"].config.memorySizeMB == 32
    assert values["summary"].runtime.host == site.hosts[0]
    assert values["capability"].snapshotOperationsSupported
    assert values["guest"].toolsRunningStatus == "guestToolsNotRunning"
    assert values["storage"].perDatastoreUsage[0].datastore == site.datastore(0)
    assert values["config"].datastoreUrl[0].name == site.datastore(0).name


def test_every_property_of_hosts_clusters_pools_and_datastores_can_be_read(site: Site) -> None:
    for managed in (site.hosts[0], site.cluster, site.cluster.resourcePool, site.datastore(0), site.datacenter):
        for info in type(managed)._GetPropertyList():
            # What came after the version we speak is refused by the client itself.
            with contextlib.suppress(vmodl.fault.MethodNotFound):
                getattr(managed, info.name)
    assert site.hosts[0].summary.hardware.numCpuCores >= 1
    assert site.hosts[0].runtime.connectionState == "connected"
    assert site.cluster.summary.numEffectiveHosts >= 1
    assert site.cluster.resourcePool.owner == site.cluster
    assert site.datastore(0).summary.accessible
    assert site.datastore(0).summary.capacity > site.datastore(0).summary.freeSpace


def test_two_hosts_datastores_of_one_name_are_told_apart(site: Site) -> None:
    names = {site.datastore(0).name, site.datastore(1).name}
    assert len(names) == 2
    vm = site.create("on the second", host=1)
    assert vm.config.files.vmPathName == f"[{site.datastore(1).name}] on the second/on the second.vmx"
    assert (site.agents[1].datastore / "on the second" / "on the second.vmx").exists()


@pytest.mark.parametrize(("name", "written"), [("web/01", "web%2f01"), ("Zürich 東京", "Zürich 東京")])
def test_names_with_slashes_and_of_any_script_are_kept(site: Site, name: str, written: str) -> None:
    vm = site.create(name)
    assert vm.name == written
    assert vm.config.name == written
    wait(vm.PowerOnVM_Task())
    wait(vm.PowerOffVM_Task())
    wait(vm.Destroy_Task())


@pytest.mark.parametrize("name", ["two\nlines", "x" * 81, "   "])
def test_names_no_vm_can_have_are_refused(site: Site, name: str) -> None:
    with pytest.raises(vim.fault.InvalidName):
        site.create(name)


def test_a_second_vm_of_a_name_is_refused_and_told_which_has_it(site: Site) -> None:
    vm = site.create("only one")
    with pytest.raises(vim.fault.DuplicateName) as refused:
        site.create("only one", host=1)
    assert refused.value.name == "only one"
    assert refused.value.object == vm


def test_two_creations_of_one_name_at_once_leave_one_vm(site: Site) -> None:
    tasks = [site.create_task("twins"), site.create_task("twins", host=1)]
    outcomes = []
    for task in tasks:
        try:
            outcomes.append(wait(task))
        except vim.fault.DuplicateName as refused:
            outcomes.append(refused)
    assert sum(isinstance(outcome, vim.fault.DuplicateName) for outcome in outcomes) == 1


def test_a_vm_is_renamed(site: Site) -> None:
    site.create("taken name")
    vm = site.create("old name")
    wait(vm.Rename_Task("new name"))
    assert (vm.name, vm.config.name, vm.summary.config.name) == ("new name",) * 3
    with pytest.raises(vim.fault.DuplicateName):
        wait(vm.Rename_Task("taken name"))
    with pytest.raises(vim.fault.InvalidName):
        wait(vm.Rename_Task("a\tb"))


def test_memory_cpus_and_notes_change_while_the_vm_is_off(site: Site) -> None:
    vm = site.create()
    _reconfigure(vm, memoryMB=64, numCPUs=2, numCoresPerSocket=2, annotation="for later")
    assert (vm.config.hardware.memoryMB, vm.config.hardware.numCPU) == (64, 2)
    assert vm.config.hardware.numCoresPerSocket == 2
    assert vm.config.annotation == "for later"


def test_memory_does_not_change_under_a_running_vm(site: Site) -> None:
    vm = site.create_running()
    with pytest.raises(vim.fault.InvalidPowerState):
        _reconfigure(vm, memoryMB=64)
    assert vm.config.hardware.memoryMB == 32


def test_disks_come_grow_and_go_while_the_vm_runs(site: Site) -> None:
    vm = site.create_running()
    controller = _devices(vm, vim.vm.device.ParaVirtualSCSIController)[0]
    _reconfigure(vm, added(disk(32 * MIB, controller.key, 1), create=True))
    first, second = _devices(vm, vim.vm.device.VirtualDisk)
    assert second.controllerKey == controller.key
    assert second.backing.fileName != first.backing.fileName
    assert second.backing.datastore == site.datastore(0)
    second.capacityInKB = 128 * 1024
    _reconfigure(vm, _edit(second))
    assert _devices(vm, vim.vm.device.VirtualDisk)[1].capacityInBytes == 128 * MIB


def test_a_removed_disks_file_is_deleted_when_that_is_asked_for(site: Site) -> None:
    vm = site.create("shedder")
    controller = _devices(vm, vim.vm.device.ParaVirtualSCSIController)[0]
    _reconfigure(vm, added(disk(32 * MIB, controller.key, 1), create=True))
    extra = _devices(vm, vim.vm.device.VirtualDisk)[1]
    path = site.agents[0].datastore / extra.backing.fileName.partition("] ")[2]
    assert path.exists()
    remove = vim.vm.device.VirtualDeviceSpec(operation="remove", fileOperation="destroy", device=extra)
    _reconfigure(vm, remove)
    assert len(_devices(vm, vim.vm.device.VirtualDisk)) == 1
    assert not path.exists()


def test_a_disk_can_not_shrink_and_the_fault_says_which_change_it_was(site: Site) -> None:
    vm = site.create()
    shrunk = _devices(vm, vim.vm.device.VirtualDisk)[0]
    shrunk.capacityInKB = 1024
    nic = vim.vm.device.VirtualVmxnet3(key=-5)
    with pytest.raises(vim.fault.InvalidDeviceSpec) as refused:
        _reconfigure(vm, added(nic), _edit(shrunk))
    assert refused.value.deviceIndex == 1
    assert _devices(vm, vim.vm.device.VirtualVmxnet3) == []


def test_an_existing_disk_is_attached_to_another_vm(site: Site) -> None:
    giver, taker = site.create(), site.create()
    moved = _devices(giver, vim.vm.device.VirtualDisk)[0]
    _reconfigure(giver, vim.vm.device.VirtualDeviceSpec(operation="remove", device=moved))
    controller = _devices(taker, vim.vm.device.ParaVirtualSCSIController)[0]
    _reconfigure(taker, added(disk(0, controller.key, 1, moved.backing.fileName)))
    attached = _devices(taker, vim.vm.device.VirtualDisk)[1]
    assert attached.backing.fileName == moved.backing.fileName
    assert attached.capacityInBytes == 64 * MIB


def test_a_disk_that_does_not_fit_is_refused_and_leaves_nothing(site: Site) -> None:
    device = disk(40 << 40)
    device.backing.thinProvisioned = False
    with pytest.raises(vim.fault.NoDiskSpace):
        site.create("too big", devices=[added(scsi()), added(device, create=True)])
    assert not (site.agents[0].datastore / "too big").exists()
    assert site.create("too big").name == "too big"


def test_all_controllers_and_adapters_are_there_as_they_were_asked_for(site: Site) -> None:
    device = vim.vm.device
    kinds: list[Any] = [
        device.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing"),
        device.VirtualLsiLogicController(key=-2, busNumber=1, sharedBus="noSharing"),
        device.VirtualLsiLogicSASController(key=-3, busNumber=2, sharedBus="noSharing"),
        device.VirtualAHCIController(key=-4, busNumber=0),
        device.VirtualNVMEController(key=-5, busNumber=0),
        device.VirtualVmxnet3(key=-11),
        device.VirtualE1000(key=-12),
        device.VirtualE1000e(key=-13, macAddress="00:50:56:12:34:56", addressType="manual"),
        device.VirtualCdrom(
            key=-14,
            controllerKey=-4,
            backing=device.VirtualCdrom.RemotePassthroughBackingInfo(deviceName="", exclusive=False),
        ),
    ]
    disks = [added(disk(4 * MIB, controller, 0), create=True) for controller in (-1, -2, -3, -5)]
    for number, change in enumerate(disks):
        change.device.key = -100 - number
    vm = site.create(devices=[*map(added, kinds), *disks])
    wait(vm.PowerOnVM_Task())
    present = vm.config.hardware.device
    for kind in kinds:
        assert any(type(found) is type(kind) for found in present), kind
    keys = {found.key for found in present}
    assert len(keys) == len(present)
    assert all(found.controllerKey in keys for found in present if found.controllerKey)
    nics = _devices(vm, vim.vm.device.VirtualEthernetCard)
    assert nics[2].macAddress == "00:50:56:12:34:56"
    assert len({nic.macAddress for nic in nics}) == 3


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"guestId": "noSuchGuest"}, vmodl.fault.InvalidArgument),
        ({"memoryMB": 33}, vmodl.fault.InvalidArgument),
        ({"numCPUs": 3, "numCoresPerSocket": 2}, vmodl.fault.InvalidArgument),
        ({"nestedHVEnabled": True}, vmodl.fault.NotSupported),
        (
            {"extraConfig": [vim.option.OptionValue(key="scsi0:0.fileName", value="/etc/passwd")]},
            vmodl.fault.InvalidArgument,
        ),
        ({"extraConfig": [vim.option.OptionValue(key="a", value="x\nnvram = y")]}, vmodl.fault.InvalidArgument),
    ],
)
def test_settings_no_vm_can_have_are_refused(site: Site, settings: dict[str, Any], fault: type[Exception]) -> None:
    with pytest.raises(fault):
        site.create(**settings)


def test_a_change_made_from_an_old_version_is_refused(site: Site) -> None:
    vm = site.create()
    version = vm.config.changeVersion
    _reconfigure(vm, annotation="first", changeVersion=version)
    with pytest.raises(vim.fault.ConcurrentAccess):
        _reconfigure(vm, annotation="second", changeVersion=version)
    assert vm.config.annotation == "first"


def test_a_forgotten_vm_is_registered_from_its_files(site: Site) -> None:
    vm = site.create("wanderer")
    path, uuid = vm.config.files.vmPathName, vm.config.instanceUuid
    with pytest.raises(vim.fault.AlreadyExists):
        wait(site.datacenter.vmFolder.RegisterVM_Task(path, None, False, site.cluster.resourcePool, site.hosts[0]))
    vm.UnregisterVM()
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = vm.name
    assert (site.agents[0].datastore / "wanderer" / "wanderer.vmx").exists()
    again = wait(site.datacenter.vmFolder.RegisterVM_Task(path, "back", False, site.cluster.resourcePool, None))
    assert (again.name, again.config.instanceUuid) == ("back", uuid)
    wait(again.PowerOnVM_Task())


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("[{0}] nowhere/nowhere.vmx", vim.fault.FileNotFound),
        ("[{0}] ../../../etc/passwd.vmx", vim.fault.InvalidDatastorePath),
        ("[no such datastore] a/a.vmx", vim.fault.InvalidDatastorePath),
        ("a/a.vmx", vim.fault.InvalidDatastorePath),
    ],
)
def test_files_that_are_not_there_can_not_be_registered(site: Site, path: str, fault: type[Exception]) -> None:
    where = path.format(site.datastore(0).name)
    with pytest.raises(fault):
        wait(site.datacenter.vmFolder.RegisterVM_Task(where, None, False, site.cluster.resourcePool, site.hosts[0]))


def test_a_template_does_not_run_until_it_is_a_vm_again(site: Site) -> None:
    vm = site.create()
    vm.MarkAsTemplate()
    assert vm.config.template
    assert vm.resourcePool is None
    with pytest.raises(vim.fault.InvalidState):
        wait(vm.PowerOnVM_Task())
    vm.MarkAsVirtualMachine(site.cluster.resourcePool, None)
    assert vm.resourcePool == site.cluster.resourcePool
    wait(vm.PowerOnVM_Task())


def test_the_browser_finds_a_vms_files_and_folders_come_and_go(site: Site) -> None:
    site.create("findable")
    datastore, files = site.datastore(0), site.vcenter.content.fileManager
    spec = vim.host.DatastoreBrowser.SearchSpec(matchPattern=["*.vmx"])
    found = wait(datastore.browser.SearchDatastore_Task(f"[{datastore.name}] findable", spec))
    assert [file.path for file in found.file] == ["findable.vmx"]
    files.MakeDirectory(f"[{datastore.name}] a/b", site.datacenter, True)
    assert (site.agents[0].datastore / "a" / "b").is_dir()
    with pytest.raises(vim.fault.FileAlreadyExists):
        files.MakeDirectory(f"[{datastore.name}] a/b", site.datacenter, True)
    wait(files.DeleteDatastoreFile_Task(f"[{datastore.name}] a", site.datacenter))
    assert not (site.agents[0].datastore / "a").exists()
    with pytest.raises(vim.fault.FileNotFound):
        wait(files.DeleteDatastoreFile_Task(f"[{datastore.name}] a", site.datacenter))
