"""A VM's hardware between the host's configuration and the vSphere API's, both ways."""

from typing import Any

import pytest
from pyVmomi import vim, vmodl

from landbridge.esx.model import (
    Cdrom,
    Controller,
    ControllerType,
    Disk,
    GuestState,
    Nic,
    NicType,
    PowerState,
    SerialPort,
    Snapshot,
    VmConfig,
    VmState,
)
from landbridge.vcenter.hardware import config_info, guest_os
from landbridge.vcenter.hardware.devices import virtual_devices
from landbridge.vcenter.hardware.networks import PortGroupView, network_key, nic_backing
from landbridge.vcenter.hardware.spec import Change, changed, new_vm

_device = vim.vm.device
_UUID = "11111111-2222-3333-4444-555555555555"
_MIB = 1 << 20


class Networks:
    """Two port groups on one switch."""

    groups = (PortGroupView("dvportgroup-7", "Red", "50 01"), PortGroupView("dvportgroup-8", "Blue", "50 01"))

    def by_key(self, key: str) -> PortGroupView | None:
        return next((group for group in self.groups if group.key == key), None)

    def by_name(self, name: str) -> PortGroupView | None:
        return next((group for group in self.groups if group.name == name), None)


def _config(**changes: Any) -> VmConfig:
    settings: dict[str, Any] = {
        "name": "web",
        "instance_uuid": _UUID,
        "uuid": _UUID,
        "memory_mib": 256,
        "controllers": [Controller(key=1000, type=ControllerType.PVSCSI, bus=0)],
        "disks": [Disk(key=2000, controller=1000, unit=0, path="[ds] web/web.vmdk", capacity=64 * _MIB)],
        "nics": [Nic(key=4000, mac="00:50:56:80:00:01", network="dvportgroup-7")],
    }
    return VmConfig(**settings | changes)


def _devices(config: VmConfig, *, running: bool = True) -> list[Any]:
    datastore = vim.Datastore("datastore-1", None)
    return virtual_devices(config, Networks(), lambda _: datastore, running=running)


def _change(config: VmConfig, *device_changes: Any, running: bool = False, **settings: Any) -> Change:
    spec = vim.vm.ConfigSpec(deviceChange=list(device_changes), **settings)
    return changed(config, spec, Networks(), lambda _: False, "ds", running=running)


def _spec(operation: str, device: Any, file: str | None = None) -> Any:
    return _device.VirtualDeviceSpec(operation=operation, fileOperation=file, device=device)


def _disk(path: str = "", *, controller: int = 1000, unit: int | None = None, kib: int = 1024) -> Any:
    backing = _device.VirtualDisk.FlatVer2BackingInfo(fileName=path, diskMode="persistent", thinProvisioned=True)
    return _device.VirtualDisk(key=-9, controllerKey=controller, unitNumber=unit, capacityInKB=kib, backing=backing)


# -- what clients read --------------------------------------------------------------------------------------


def test_every_vm_has_the_devices_every_vmware_vm_has() -> None:
    keys = [device.key for device in _devices(_config())]
    assert keys == [200, 201, 300, 100, 400, 600, 700, 500, 1000, 2000, 4000]


def test_devices_say_what_they_are_and_where() -> None:
    devices = {device.key: device for device in _devices(_config())}
    assert devices[2000].deviceInfo.label == "Hard disk 1"
    assert devices[2000].deviceInfo.summary == "65,536 KB"
    assert devices[2000].backing.fileName == "[ds] web/web.vmdk"
    assert devices[2000].backing.thinProvisioned
    assert list(devices[1000].device) == [2000]
    assert devices[1000].deviceInfo.label == "SCSI controller 0"
    assert devices[4000].deviceInfo.label == "Network adapter 1"
    assert devices[4000].deviceInfo.summary == "Red"
    assert devices[4000].backing.port.portgroupKey == "dvportgroup-7"
    assert {1000, 4000} <= set(devices[100].device)


def test_a_stopped_vms_adapters_are_not_connected_but_will_be() -> None:
    (nic,) = [d for d in _devices(_config(), running=False) if d.key == 4000]
    assert not nic.connectable.connected
    assert nic.connectable.startConnected


def test_an_ide_drive_is_shown_on_the_controller_every_vm_has() -> None:
    config = _config(
        controllers=[Controller(key=200, type=ControllerType.IDE, bus=0)],
        disks=[],
        cdroms=[Cdrom(key=3000, controller=200, unit=0, iso="[ds] a.iso")],
        serial_ports=[SerialPort(key=9000, file="[ds] web/serial.log")],
    )
    devices = {device.key: device for device in _devices(config)}
    assert [device.key for device in _devices(config)].count(200) == 1
    assert list(devices[200].device) == [3000]
    assert devices[3000].backing.fileName == "[ds] a.iso"
    assert list(devices[400].device) == [9000]


def test_a_network_nobody_knows_is_shown_by_what_it_is_called() -> None:
    backing: Any = nic_backing("elsewhere", Networks())
    assert backing.deviceName == "elsewhere"
    assert nic_backing(None, Networks()) is None


def test_a_vms_address_is_the_first_one_others_can_reach() -> None:
    guest = GuestState(
        tools_running=True,
        hostname="web",
        ip_addresses={"00:50:56:80:00:01": ["fe80::1", "169.254.0.5", "2001:db8::5", "10.1.2.3"]},
    )
    state = VmState(config=_config(), vmx="[ds] web/web.vmx", power_state=PowerState.ON, guest=guest)
    info = config_info.guest_info(state, Networks())
    assert info.ipAddress == "10.1.2.3"
    assert info.guestState == "running"
    assert info.net[0].network == "Red"


def test_snapshots_become_a_tree() -> None:
    def snapshot(number: int, parent: int | None) -> Snapshot:
        return Snapshot(id=number, name=str(number), created=number, parent=parent, power_state=PowerState.OFF)

    snapshots = [snapshot(3, 1), snapshot(1, None), snapshot(2, 1), snapshot(4, 3)]
    (root,) = config_info.snapshot_tree(
        vim.VirtualMachine("vm-1", None), snapshots, lambda number: vim.vm.Snapshot(f"snapshot-{number}", None)
    )
    assert root.name == "1"
    assert [child.name for child in root.childSnapshotList] == ["2", "3"]
    assert root.childSnapshotList[1].childSnapshotList[0].name == "4"


def test_guests_have_names_and_families() -> None:
    assert guest_os.full_name("debian12_64Guest") == "Debian GNU/Linux 12 (64-bit)"
    assert guest_os.family("windows9Server64Guest") == "windowsGuest"
    assert guest_os.is_known("otherLinux64Guest")
    assert not guest_os.is_known("plan9Guest")


# -- what clients ask for -----------------------------------------------------------------------------------


def test_what_a_client_read_and_sends_back_changes_nothing() -> None:
    config = _config()
    edits = [_spec("edit", device) for device in _devices(config) if device.key in (1000, 2000, 4000)]
    assert _change(config, *edits, running=True).config == config
    stopped = [_spec("edit", device) for device in _devices(config, running=False) if device.key in (2000, 4000)]
    assert _change(config, *stopped).config == config


def test_a_new_disk_gets_a_key_a_unit_and_no_path() -> None:
    change = _change(_config(), _spec("add", _disk(), "create"), _spec("add", _disk("[ds] "), "create"))
    first, second = change.config.disks[1:]
    assert [(disk.key, disk.unit, disk.path) for disk in (first, second)] == [(2001, 1, ""), (2002, 2, "")]
    assert change.existing_disks == []


def test_a_disk_may_come_before_the_controller_it_goes_on() -> None:
    controller = _device.VirtualNVMEController(key=-3)
    change = _change(_config(), _spec("add", _disk(controller=-3), "create"), _spec("add", controller))
    assert change.config.controllers[1] == Controller(key=31000, type=ControllerType.NVME, bus=0)
    assert change.config.disks[1].controller == 31000


def test_the_scsi_controllers_own_unit_is_left_free() -> None:
    changes = [_spec("add", _disk(), "create") for _ in range(8)]
    units = [disk.unit for disk in _change(_config(), *changes).config.disks]
    assert units == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_a_removed_disks_key_is_not_given_to_another_in_the_same_request() -> None:
    gone = _device.VirtualDisk(key=2000, capacityInKB=0)
    change = _change(_config(), _spec("remove", gone, "destroy"), _spec("add", _disk(), "create"))
    assert [disk.key for disk in change.config.disks] == [2001]
    assert change.destroy_disks == [2000]


def test_an_existing_file_is_used_as_it_is() -> None:
    change = _change(_config(), _spec("add", _disk("[ds] other/other.vmdk", kib=0)))
    assert change.existing_disks == [2001]
    assert change.config.disks[1].path == "[ds] other/other.vmdk"


@pytest.mark.parametrize(("kib", "in_bytes"), [(131072, 64 * _MIB), (65536, 128 * _MIB), (131072, 128 * _MIB)])
def test_of_a_disks_two_capacities_the_changed_one_counts(kib: int, in_bytes: int) -> None:
    (disk,) = [device for device in _devices(_config()) if device.key == 2000]
    disk.capacityInKB, disk.capacityInBytes = kib, in_bytes
    assert _change(_config(), _spec("edit", disk)).config.disks[0].capacity == 128 * _MIB


def _network_edit(**backing: Any) -> Any:
    (nic,) = [device for device in _devices(_config()) if device.key == 4000]
    card = _device.VirtualEthernetCard
    if "portgroup" in backing:
        port = vim.dvs.PortConnection(switchUuid="50 01", portgroupKey=backing["portgroup"])
        nic.backing = card.DistributedVirtualPortBackingInfo(port=port)
    else:
        nic.backing = card.NetworkBackingInfo(deviceName=backing["name"])
    return _spec("edit", nic)


def test_an_adapter_goes_to_another_network_by_key_or_by_name() -> None:
    by_key = _change(_config(), _network_edit(portgroup="dvportgroup-8"))
    by_name = _change(_config(), _network_edit(name="Blue"))
    assert by_key.config.nics[0].network == by_name.config.nics[0].network == "dvportgroup-8"
    assert by_key.config.nics[0].mac == "00:50:56:80:00:01"


def test_a_network_that_is_not_there_is_an_invalid_backing() -> None:
    for edit in (_network_edit(portgroup="dvportgroup-99"), _network_edit(name="Green")):
        with pytest.raises(vim.fault.InvalidDeviceBacking):
            _change(_config(), edit)
    with pytest.raises(LookupError):
        network_key(_device.VirtualEthernetCard.OpaqueNetworkBackingInfo(), Networks())


def test_a_new_adapter_gets_an_address_of_vcenters_range_that_is_free() -> None:
    tried: list[str] = []

    def taken(mac: str) -> bool:
        tried.append(mac)
        return len(tried) < 3

    spec = vim.vm.ConfigSpec(deviceChange=[_spec("add", _device.VirtualE1000(key=-1))])
    nic = changed(_config(), spec, Networks(), taken, "ds").config.nics[1]
    assert nic.mac == tried[2]
    assert nic.mac.startswith("00:50:56:")
    assert 0x80 <= int(nic.mac[9:11], 16) <= 0xBF
    assert nic.type is NicType.E1000


@pytest.mark.parametrize(
    "device",
    [
        _device.VirtualVmxnet3(key=-1, macAddress="00:50:56:80:00:01"),
        _device.VirtualVmxnet3(key=-1, macAddress="01:00:5e:00:00:01"),
        _device.VirtualVmxnet3(key=-1, macAddress="nonsense"),
        _device.VirtualSriovEthernetCard(key=-1),
        _device.VirtualVmxnet3Vrdma(key=-1),
        _device.VirtualBusLogicController(key=-1, busNumber=1, sharedBus="noSharing"),
        _device.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing"),
        _device.ParaVirtualSCSIController(key=-1, busNumber=1, sharedBus="physicalSharing"),
        _device.VirtualUSBController(key=-1, busNumber=0),
        _disk(controller=1003),
        _disk(unit=0),
        _disk(unit=7),
        _disk(kib=0),
    ],
)
def test_devices_no_vm_can_have_are_refused_with_their_place(device: Any) -> None:
    fine = _spec("add", _device.VirtualVmxnet3(key=-2))
    file = "create" if isinstance(device, _device.VirtualDisk) else None
    with pytest.raises(vim.fault.InvalidDeviceSpec) as refused:
        _change(_config(), fine, _spec("add", device, file))
    assert refused.value.deviceIndex == 1


def test_disks_that_are_not_plain_files_are_refused() -> None:
    raw = _disk()
    raw.backing = _device.VirtualDisk.RawDiskMappingVer1BackingInfo(fileName="x", diskMode="persistent")
    independent = _disk()
    independent.backing.diskMode = "independent_persistent"
    for device in (raw, independent):
        with pytest.raises(vim.fault.InvalidDeviceBacking):
            _change(_config(), _spec("add", device, "create"))


def test_a_controller_in_use_stays_and_one_given_up_by_its_disks_goes() -> None:
    controller = _device.ParaVirtualSCSIController(key=1000, busNumber=0, sharedBus="noSharing")
    with pytest.raises(vim.fault.InvalidDeviceSpec):
        _change(_config(), _spec("remove", controller))
    disk = _device.VirtualDisk(key=2000, capacityInKB=0)
    assert _change(_config(), _spec("remove", disk), _spec("remove", controller)).config.controllers == []


def test_a_change_that_fails_leaves_the_configuration_as_it_was() -> None:
    config = _config()
    copy = config.model_copy(deep=True)
    with pytest.raises(vim.fault.InvalidDeviceSpec):
        _change(config, _spec("add", _disk(), "create"), _spec("remove", _device.VirtualDisk(key=1, capacityInKB=0)))
    assert config == copy


def test_a_cd_is_put_in_and_taken_out() -> None:
    drive = _device.VirtualCdrom
    added = _change(
        _config(),
        _spec("add", drive(key=-1, backing=drive.IsoBackingInfo(fileName="[ds] a.iso"))),
    ).config
    assert added.cdroms == [Cdrom(key=3000, controller=200, unit=0, iso="[ds] a.iso")]
    empty = drive(key=3000, backing=drive.RemotePassthroughBackingInfo(deviceName="", exclusive=False))
    assert _change(added, _spec("edit", empty)).config.cdroms[0].iso is None


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"memoryMB": 6}, vmodl.fault.InvalidArgument),
        ({"numCPUs": 0}, vmodl.fault.InvalidArgument),
        ({"uuid": "not a uuid"}, vmodl.fault.InvalidArgument),
        ({"version": "12"}, vmodl.fault.InvalidArgument),
        ({"firmware": "coreboot"}, vmodl.fault.InvalidArgument),
        ({"cpuAllocation": vim.ResourceAllocationInfo(reservation=100)}, vmodl.fault.NotSupported),
        ({"bootOptions": vim.vm.BootOptions(efiSecureBootEnabled=True)}, vmodl.fault.NotSupported),
        ({"vAppConfig": vim.vApp.VmConfigSpec(eula=["yes"])}, vmodl.fault.NotSupported),
    ],
)
def test_settings_that_are_wrong_or_not_served_are_told_apart(settings: dict[str, Any], fault: type) -> None:
    with pytest.raises(fault):
        _change(_config(), **settings)


def test_settings_that_ask_for_what_is_so_anyway_pass() -> None:
    shares = vim.SharesInfo(shares=1000, level="normal")
    allocation = vim.ResourceAllocationInfo(reservation=0, limit=-1, shares=shares)
    change = _change(
        _config(),
        cpuAllocation=allocation,
        bootOptions=vim.vm.BootOptions(enterBIOSSetup=False),
        memoryHotAddEnabled=False,
        flags=vim.vm.FlagInfo(diskUuidEnabled=True),
    )
    assert change.config.extra_config == {"disk.EnableUUID": "TRUE"}


def test_options_are_replaced_and_removed_by_key() -> None:
    option = vim.option.OptionValue
    config = _config(extra_config={"guestinfo.a": "1", "guestinfo.b": "2"})
    change = _change(config, extraConfig=[option(key="guestinfo.a", value=""), option(key="guestinfo.b", value="3")])
    assert change.config.extra_config == {"guestinfo.b": "3"}


def test_a_new_vm_has_what_it_was_asked_to_have() -> None:
    spec = vim.vm.ConfigSpec(memoryMB=512, numCPUs=2, firmware="efi", guestId="debian12_64Guest")
    config = new_vm(spec, "web", Networks(), lambda _: False, "ds").config
    assert (config.memory_mib, config.cpus, config.firmware, config.guest_id) == (512, 2, "efi", "debian12_64Guest")
    assert config.instance_uuid != config.uuid
