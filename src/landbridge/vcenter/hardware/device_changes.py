"""`deviceChange` of a ConfigSpec: devices added, edited and removed, as the new configuration says them.

The changes of one request stand or fall together: they are made on a copy, and a wrong one raises its fault.
"""

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pyVmomi import vim

from landbridge.esx.model import Cdrom, Controller, ControllerType, Disk, Nic, NicType, SerialPort, VmConfig
from landbridge.vcenter.hardware import controllers
from landbridge.vcenter.hardware.device_faults import invalid_backing, invalid_device, not_supported, validated
from landbridge.vcenter.hardware.devices import (
    AHCI_CDROM_KEYS,
    DISK_KEYS,
    IDE_CDROM_KEYS,
    NIC_KEYS,
    NIC_TYPES,
    SCSI_TYPES,
    SERIAL_KEYS,
)
from landbridge.vcenter.hardware.networks import Networks, network_key

_device = vim.vm.device
_MOST_NICS = 10
_MAC = re.compile(r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")
# Devices every VM has once: adding one changes nothing.
_ALWAYS_THERE = (_device.VirtualVideoCard, _device.VirtualKeyboard, _device.VirtualPointingDevice)


def generated_mac(is_taken: Callable[[str], bool]) -> str:
    """A MAC address of VMware's range for vCenter's own (00:50:56:80:00:00 and up) that nobody has."""
    while True:
        tail = random.getrandbits(22)
        mac = f"00:50:56:{0x80 + (tail >> 16):02x}:{(tail >> 8) & 0xFF:02x}:{tail & 0xFF:02x}"
        if not is_taken(mac):
            return mac


@dataclass
class DeviceChanges:
    """The configuration as the changes so far make it, and what becomes of disks' files.

    `apply` raises InvalidDeviceSpec (and its kin), with the index of the change, or NotSupported.
    """

    config: VmConfig
    networks: Networks
    mac_taken: Callable[[str], bool]
    # The datastore of the VM's directory: a disk asked for there is named by the agent.
    home: str = ""
    # Of a VM that is off clients read that nothing is connected; what they mean then is connected at power-on.
    running: bool = False
    existing_disks: list[int] = field(default_factory=list)
    destroy_disks: list[int] = field(default_factory=list)
    # Keys that devices of this request go by until they have their own.
    _renamed: dict[int, int] = field(default_factory=dict)
    # Keys had by devices before: never given again in one request, or two devices would look like one.
    _used: set[int] = field(default_factory=set)

    def apply(self, changes: Iterable[vim.vm.device.VirtualDeviceSpec]) -> None:
        """Make the changes, controllers first: a disk may come before the controller it goes on."""
        self._used = {device.key for device in self._all()}
        numbered = list(enumerate(changes))
        added = [item for item in numbered if _is_added_controller(item[1])]
        for index, change in added + [item for item in numbered if not _is_added_controller(item[1])]:
            self._apply(index, change)

    def _apply(self, index: int, change: vim.vm.device.VirtualDeviceSpec) -> None:
        operation = str(change.operation or "")
        if operation not in {"add", "edit", "remove"}:
            raise invalid_device(index, "no operation is given")
        if change.fileOperation == "replace":
            raise not_supported("Replacing a device's file")
        if operation == "remove":
            self._remove(index, change)
            return
        for vim_type, add, edit in (
            (_device.VirtualDisk, self._add_disk, self._edit_disk),
            (_device.VirtualCdrom, self._add_cdrom, self._edit_cdrom),
            (_device.VirtualEthernetCard, self._add_nic, self._edit_nic),
            (_device.VirtualSerialPort, self._add_serial, self._edit_serial),
            (_device.VirtualController, self._add_controller, self._edit_controller),
        ):
            if isinstance(change.device, vim_type):
                with validated(index):
                    (add if operation == "add" else edit)(index, change)
                return
        if not (operation == "add" and isinstance(change.device, _ALWAYS_THERE)):
            raise invalid_device(index, f"devices of type {type(change.device).__name__} are not supported")

    # -- common -----------------------------------------------------------------------------------------

    def _all(self) -> list[Any]:
        c = self.config
        return [*c.controllers, *c.disks, *c.cdroms, *c.nics, *c.serial_ports]

    def _new_key(self, first: int) -> int:
        key = first
        while key in self._used:
            key += 1
        self._used.add(key)
        return key

    def _find(self, devices: list[Any], key: int, index: int) -> Any:
        found = next((device for device in devices if device.key == key), None)
        if found is None:
            raise invalid_device(index, f"the VM has no such device with key {key}", "key")
        return found

    def _controller(self, key: int | None, index: int) -> Controller | None:
        """The controller a device names, by its key or by the one it has in this request; None if none is named."""
        if not key:
            return None
        key = self._renamed.get(key, key)
        found = next((c for c in self.config.controllers if c.key == key), None)
        found = found or controllers.with_ide(self.config, key)
        if found is None:
            raise invalid_device(index, f"the VM has no controller with key {key}", "controllerKey")
        return found

    def _remove(self, index: int, change: vim.vm.device.VirtualDeviceSpec) -> None:
        key = change.device.key
        kinds: list[list[Any]] = [
            self.config.disks,
            self.config.cdroms,
            self.config.nics,
            self.config.serial_ports,
            self.config.controllers,
        ]
        for devices in kinds:
            for device in list(devices):
                if device.key != key:
                    continue
                if isinstance(device, Disk) and change.fileOperation == "destroy":
                    self.destroy_disks.append(key)
                if isinstance(device, Controller):
                    self._refuse_in_use(device, index)
                devices.remove(device)
                return
        raise invalid_device(index, f"the VM has no device with key {key}", "key")

    def _refuse_in_use(self, controller: Controller, index: int) -> None:
        drives: list[Disk | Cdrom] = [*self.config.disks, *self.config.cdroms]
        users = [drive.key for drive in drives if drive.controller == controller.key]
        if users:
            raise invalid_device(index, f"devices {users} are still on controller {controller.key}", "key")

    # -- controllers ------------------------------------------------------------------------------------

    def _add_controller(self, index: int, change: vim.vm.device.VirtualDeviceSpec) -> None:
        device = change.device
        kind = controllers.controller_type(device)
        if kind is None:
            raise invalid_device(index, f"controllers of type {type(device).__name__} are not supported")
        if getattr(device, "sharedBus", None) not in (None, "noSharing"):
            raise invalid_device(index, "controllers can not share their bus with other VMs", "sharedBus")
        controller = controllers.new_controller(self.config, kind, device.busNumber, index)
        if device.key and device.key not in self._used:
            self._renamed[device.key] = controller.key
        self._used.add(controller.key)
        self.config.controllers.append(controller)

    def _edit_controller(self, index: int, change: vim.vm.device.VirtualDeviceSpec) -> None:
        controller = self._find(self.config.controllers, change.device.key, index)
        if controllers.controller_type(change.device) is not controller.type:
            raise invalid_device(index, "a controller's type can not change: remove it and add another")
        if change.device.busNumber != controller.bus:
            raise invalid_device(index, "a controller's bus can not change", "busNumber")

    # -- disks ------------------------------------------------------------------------------------------

    def _add_disk(self, index: int, change: vim.vm.device.VirtualDeviceSpec) -> None:
        device = change.device
        backing = _flat_backing(device, index)
        capacity = device.capacityInBytes or (device.capacityInKB or 0) * 1024
        creates = change.fileOperation == "create"
        path = backing.fileName or ""
        if creates:
            if capacity <= 0:
                raise invalid_device(index, "a new disk needs a capacity", "capacityInKB")
            path = self._new_disk_path(path)
        elif not path.rstrip().endswith(".vmdk"):
            raise invalid_backing(
                index, f"{path!r} is not the path of a disk; to make one, ask for fileOperation=create"
            )
        controller = self._controller(device.controllerKey, index) or controllers.default_controller(
            self.config, (*SCSI_TYPES, ControllerType.NVME, ControllerType.AHCI, ControllerType.IDE)
        )
        if controller is None:
            raise invalid_device(index, "no controller has room for the disk", "controllerKey")
        disk = Disk(
            key=self._new_key(DISK_KEYS),
            controller=controller.key,
            unit=controllers.place(self.config, controller, device.unitNumber, index),
            path=path,
            # An existing disk has the capacity its file says; what the client sent is no more than a guess.
            capacity=max(512, capacity - capacity % 512),
            thin=bool(backing.thinProvisioned),
            uuid=backing.uuid.lower() if backing.uuid else None,
        )
        if not creates:
            self.existing_disks.append(disk.key)
        self.config.disks.append(disk)

    def _new_disk_path(self, path: str) -> str:
        """Empty for `[home]` and for nothing: the agent names the file. Another datastore or file goes as it is."""
        name = path.strip()
        return "" if name in {"", f"[{self.home}]", "[]"} else path

    def _edit_disk(self, index: int, change: vim.vm.device.VirtualDeviceSpec) -> None:
        device = change.device
        disk: Disk = self._find(self.config.disks, device.key, index)
        if device.backing is not None:
            backing = _flat_backing(device, index)
            if backing.fileName and backing.fileName != disk.path:
                raise invalid_backing(index, "a disk's file can not change: remove the disk and add another")
        capacity = _changed_capacity(disk.capacity, device)
        if capacity < disk.capacity:
            raise invalid_device(
                index, f"a disk can not shrink from {disk.capacity} bytes to {capacity}", "capacityInKB"
            )
        disk.capacity = capacity - capacity % 512
        self._move(disk, device, index)

    def _move(self, drive: Disk | Cdrom, device: vim.vm.device.VirtualDevice, index: int) -> None:
        """Another controller or unit, if the edited device names one."""
        controller = self._controller(device.controllerKey, index)
        if controller is None or (controller.key, device.unitNumber) in (
            (drive.controller, drive.unit),
            (drive.controller, None),
        ):
            return
        drive.unit = controllers.place(self.config, controller, device.unitNumber, index, moving=drive.key)
        drive.controller = controller.key

    # -- CD-ROM drives ----------------------------------------------------------------------------------

    def _add_cdrom(self, index: int, change: vim.vm.device.VirtualDeviceSpec) -> None:
        device = change.device
        controller = self._controller(device.controllerKey, index)
        for key in controllers.IDE_KEYS:
            if controller is None:
                ide = controllers.with_ide(self.config, key)
                controller = ide if ide and controllers.free_unit(self.config, ide) is not None else None
        if controller is None or controller.type not in (ControllerType.IDE, ControllerType.AHCI):
            raise invalid_device(index, "a CD/DVD drive goes on an IDE or SATA controller", "controllerKey")
        first = IDE_CDROM_KEYS if controller.type is ControllerType.IDE else AHCI_CDROM_KEYS
        self.config.cdroms.append(
            Cdrom(
                key=self._new_key(first),
                controller=controller.key,
                unit=controllers.place(self.config, controller, device.unitNumber, index),
                iso=_iso(device, index),
                connected=_wants_connection(device),
            )
        )

    def _edit_cdrom(self, index: int, change: vim.vm.device.VirtualDeviceSpec) -> None:
        cdrom: Cdrom = self._find(self.config.cdroms, change.device.key, index)
        if change.device.backing is not None:
            cdrom.iso = Cdrom(key=0, controller=0, unit=0, iso=_iso(change.device, index)).iso
        if (connect := change.device.connectable) is not None:
            cdrom.connected = bool(connect.connected if self.running else connect.startConnected)
        self._move(cdrom, change.device, index)

    # -- network adapters -------------------------------------------------------------------------------

    def _add_nic(self, index: int, change: vim.vm.device.VirtualDeviceSpec) -> None:
        device = change.device
        if len(self.config.nics) >= _MOST_NICS:
            raise invalid_device(index, f"a VM has at most {_MOST_NICS} network adapters")
        connect = device.connectable
        nic = Nic(
            key=self._new_key(NIC_KEYS),
            type=_nic_type(device, index),
            mac=self._mac(device, index, None),
            network=self._network(device, index),
            connected=_wants_connection(device),
            start_connected=connect.startConnected if connect is not None else True,
        )
        self.config.nics.append(nic)

    def _edit_nic(self, index: int, change: vim.vm.device.VirtualDeviceSpec) -> None:
        device = change.device
        nic: Nic = self._find(self.config.nics, device.key, index)
        if _nic_type(device, index) is not nic.type:
            raise invalid_device(index, "a network adapter's type can not change: remove it and add another")
        if device.backing is not None:
            nic.network = self._network(device, index)
        if device.macAddress or device.addressType == "generated":
            nic.mac = self._mac(device, index, nic.mac)
        if (connect := device.connectable) is not None:
            nic.start_connected = bool(connect.startConnected)
            nic.connected = bool(connect.connected) if self.running else nic.start_connected

    def _network(self, device: vim.vm.device.VirtualEthernetCard, index: int) -> str | None:
        try:
            return network_key(device.backing, self.networks)
        except LookupError as error:
            raise invalid_backing(index, str(error)) from error

    def _mac(self, device: vim.vm.device.VirtualEthernetCard, index: int, before: str | None) -> str:
        """The address asked for, or a new one.

        Only within the VM must it be new: another VM may have it, as in vSphere, for a client may restore a copy.
        """
        asked = (device.macAddress or "").lower().replace("-", ":")
        if not asked:
            return generated_mac(self.mac_taken)
        if asked != before and any(nic.mac == asked for nic in self.config.nics):
            raise invalid_device(index, f"another adapter of the VM has the address {asked}", "macAddress")
        if not _MAC.match(asked) or int(asked[:2], 16) & 1:
            raise invalid_device(index, f"{asked} is not the address of one adapter", "macAddress")
        return asked

    # -- serial ports -----------------------------------------------------------------------------------

    def _add_serial(self, index: int, change: vim.vm.device.VirtualDeviceSpec) -> None:
        key = self._new_key(SERIAL_KEYS)
        self.config.serial_ports.append(SerialPort(key=key, file=_serial_file(change.device, index)))

    def _edit_serial(self, index: int, change: vim.vm.device.VirtualDeviceSpec) -> None:
        port: SerialPort = self._find(self.config.serial_ports, change.device.key, index)
        if change.device.backing is not None:
            port.file = SerialPort(key=port.key, file=_serial_file(change.device, index)).file


def _is_added_controller(change: vim.vm.device.VirtualDeviceSpec) -> bool:
    return change.operation == "add" and isinstance(change.device, _device.VirtualController)


def _flat_backing(device: vim.vm.device.VirtualDisk, index: int) -> vim.vm.device.VirtualDisk.FlatVer2BackingInfo:
    backing = device.backing
    if not isinstance(backing, _device.VirtualDisk.FlatVer2BackingInfo):
        raise invalid_backing(index, f"disks are files of a datastore (FlatVer2), not {type(backing).__name__}")
    if backing.diskMode not in (None, "", "persistent"):
        raise invalid_backing(index, f"disks are persistent; {backing.diskMode} is not supported")
    if backing.sharing not in (None, "", "sharingNone"):
        raise invalid_backing(index, "disks can not be shared between VMs")
    return backing


def _changed_capacity(before: int, device: vim.vm.device.VirtualDisk) -> int:
    """A client that read a disk changes one of its two capacities and sends both: the one that differs counts."""
    in_bytes, in_kib = device.capacityInBytes or 0, (device.capacityInKB or 0) * 1024
    if in_bytes and in_bytes != before:
        return int(in_bytes)
    return int(in_kib) if in_kib and in_kib // 1024 != before // 1024 else before


def _iso(device: vim.vm.device.VirtualCdrom, index: int) -> str | None:
    backing = device.backing
    if isinstance(backing, _device.VirtualCdrom.IsoBackingInfo):
        return backing.fileName or None
    drive = _device.VirtualCdrom
    if backing is None or isinstance(backing, drive.RemotePassthroughBackingInfo | drive.RemoteAtapiBackingInfo):
        return None
    raise invalid_backing(index, "a CD/DVD drive holds an ISO image of a datastore, or nothing")


def _wants_connection(device: vim.vm.device.VirtualDevice) -> bool:
    connect = device.connectable
    return True if connect is None else bool(connect.connected or connect.startConnected)


def _nic_type(device: vim.vm.device.VirtualEthernetCard, index: int) -> NicType:
    # VirtualVmxnet3Vrdma and the like derive from a type that is served and are not it.
    found = next((kind for kind, vim_type in NIC_TYPES.items() if type(device) is vim_type), None)
    if found is None:
        raise invalid_device(index, f"network adapters of type {type(device).__name__} are not supported")
    return found


def _serial_file(device: vim.vm.device.VirtualSerialPort, index: int) -> str:
    backing = device.backing
    if backing is None:
        return ""
    if not isinstance(backing, _device.VirtualSerialPort.FileBackingInfo):
        raise invalid_backing(index, "a serial port writes to a file of a datastore")
    path = str(backing.fileName or "")
    # `[ds]` alone leaves the name to the agent, as it does for a disk.
    return "" if path.strip().endswith("]") else path
