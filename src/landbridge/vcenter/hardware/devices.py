"""A VM's configuration as the vSphere API's virtual devices, with the devices every VMware VM has beside.

Keys, labels and summaries are those vSphere gives: clients find devices by all three.
"""

from collections.abc import Callable

from pyVmomi import vim

from landbridge.esx.model import Cdrom, Controller, ControllerType, Disk, Nic, NicType, SerialPort, VmConfig, vif_id
from landbridge.vcenter.hardware.networks import Networks, nic_backing

_device = vim.vm.device

CONTROLLER_TYPES: dict[ControllerType, type] = {
    ControllerType.PVSCSI: _device.ParaVirtualSCSIController,
    ControllerType.LSI_LOGIC: _device.VirtualLsiLogicController,
    ControllerType.LSI_LOGIC_SAS: _device.VirtualLsiLogicSASController,
    ControllerType.AHCI: _device.VirtualAHCIController,
    ControllerType.NVME: _device.VirtualNVMEController,
    ControllerType.IDE: _device.VirtualIDEController,
}
SCSI_TYPES = frozenset({ControllerType.PVSCSI, ControllerType.LSI_LOGIC, ControllerType.LSI_LOGIC_SAS})
NIC_TYPES: dict[NicType, type] = {
    NicType.VMXNET3: _device.VirtualVmxnet3,
    NicType.E1000: _device.VirtualE1000,
    NicType.E1000E: _device.VirtualE1000e,
}
# The first key of each kind of device; vSphere counts on from there.
FIRST_KEY = {
    ControllerType.IDE: 200,
    ControllerType.AHCI: 15000,
    ControllerType.NVME: 31000,
    ControllerType.PVSCSI: 1000,
    ControllerType.LSI_LOGIC: 1000,
    ControllerType.LSI_LOGIC_SAS: 1000,
}
DISK_KEYS, NIC_KEYS, SERIAL_KEYS = 2000, 4000, 9000
# An ATAPI drive on IDE is 3000 and up, on AHCI 16000 and up.
IDE_CDROM_KEYS, AHCI_CDROM_KEYS = 3000, 16000
_IDE0, _IDE1, _PCI, _PS2, _SIO = 200, 201, 100, 300, 400
_CONTROLLER_LABELS = {
    ControllerType.PVSCSI: ("SCSI controller", "VMware paravirtual SCSI"),
    ControllerType.LSI_LOGIC: ("SCSI controller", "LSI Logic"),
    ControllerType.LSI_LOGIC_SAS: ("SCSI controller", "LSI Logic SAS"),
    ControllerType.AHCI: ("SATA controller", "AHCI"),
    ControllerType.NVME: ("NVME controller", "NVME"),
    ControllerType.IDE: ("IDE", "IDE"),
}
# Where vSphere puts controllers and NICs among the PCI controller's units.
_PCI_UNIT = {ControllerType.AHCI: 23, ControllerType.NVME: 29}


def virtual_devices(
    config: VmConfig, networks: Networks, datastore: Callable[[str], vim.Datastore | None], *, running: bool
) -> list[vim.vm.device.VirtualDevice]:
    """All devices of a VM, in vSphere's order. `datastore` finds the datastore a path like `[ds1] a/a.vmdk` names."""
    on_controller = _children(config)
    devices = _chipset(on_controller)
    devices += [_controller(c, on_controller) for c in config.controllers if c.type is not ControllerType.IDE]
    devices += [_cdrom(c, index, running, datastore) for index, c in enumerate(config.cdroms, 1)]
    devices += [_disk(d, index, datastore) for index, d in enumerate(config.disks, 1)]
    devices += [_nic(config, n, index, networks, running) for index, n in enumerate(config.nics, 1)]
    devices += [_serial(s, index, running, datastore) for index, s in enumerate(config.serial_ports, 1)]
    return devices


def datastore_of(path: str) -> str:
    """The datastore's name in a datastore path: `ds1` of `[ds1] web/web.vmdk`; empty if there is none."""
    return path[1 : path.index("]")] if path.startswith("[") and "]" in path else ""


def _children(config: VmConfig) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    drives: list[Disk | Cdrom] = [*config.cdroms, *config.disks]
    for device in drives:
        children.setdefault(device.controller, []).append(device.key)
    for controller in config.controllers:
        if controller.type is not ControllerType.IDE:
            children.setdefault(_PCI, []).append(controller.key)
    for nic in config.nics:
        children.setdefault(_PCI, []).append(nic.key)
    for port in config.serial_ports:
        children.setdefault(_SIO, []).append(port.key)
    return children


def _described(label: str, summary: str | None = None) -> vim.Description:
    return vim.Description(label=label, summary=label if summary is None else summary)


def _chipset(children: dict[int, list[int]]) -> list[vim.vm.device.VirtualDevice]:
    """What every VMware VM has, whatever its configuration says."""
    video = _device.VirtualVideoCard(
        key=500,
        deviceInfo=_described("Video card", "Video card"),
        controllerKey=_PCI,
        unitNumber=0,
        videoRamSizeInKB=16384,
        numDisplays=1,
        useAutoDetect=False,
        enable3DSupport=False,
    )
    return [
        _device.VirtualIDEController(
            key=_IDE0, deviceInfo=_described("IDE 0"), busNumber=0, device=children.get(_IDE0, [])
        ),
        _device.VirtualIDEController(
            key=_IDE1, deviceInfo=_described("IDE 1"), busNumber=1, device=children.get(_IDE1, [])
        ),
        _device.VirtualPS2Controller(
            key=_PS2, deviceInfo=_described("PS2 controller 0"), busNumber=0, device=[600, 700]
        ),
        _device.VirtualPCIController(
            key=_PCI, deviceInfo=_described("PCI controller 0"), busNumber=0, device=[500, *children.get(_PCI, [])]
        ),
        _device.VirtualSIOController(
            key=_SIO, deviceInfo=_described("SIO controller 0"), busNumber=0, device=children.get(_SIO, [])
        ),
        _device.VirtualKeyboard(key=600, deviceInfo=_described("Keyboard"), controllerKey=_PS2, unitNumber=0),
        _device.VirtualPointingDevice(
            key=700,
            deviceInfo=_described("Pointing device", "Pointing device; Device"),
            backing=_device.VirtualPointingDevice.DeviceBackingInfo(
                deviceName="", useAutoDetect=False, hostPointingDevice="autodetect"
            ),
            controllerKey=_PS2,
            unitNumber=1,
        ),
        video,
    ]


def _controller(controller: Controller, children: dict[int, list[int]]) -> vim.vm.device.VirtualController:
    label, summary = _CONTROLLER_LABELS[controller.type]
    device: vim.vm.device.VirtualController = CONTROLLER_TYPES[controller.type](
        key=controller.key,
        deviceInfo=_described(f"{label} {controller.bus}", summary),
        controllerKey=_PCI,
        unitNumber=_PCI_UNIT.get(controller.type, 2) + controller.bus,
        busNumber=controller.bus,
        device=children.get(controller.key, []),
    )
    if controller.type in SCSI_TYPES:
        device.hotAddRemove = True
        device.sharedBus = "noSharing"
        device.scsiCtlrUnitNumber = 7
    return device


def _connect(connected: bool, start: bool, running: bool) -> vim.vm.device.VirtualDevice.ConnectInfo:
    return _device.VirtualDevice.ConnectInfo(
        startConnected=start,
        allowGuestControl=True,
        connected=connected and running,
        status="ok" if connected and running else "untried",
    )


def _disk(disk: Disk, index: int, datastore: Callable[[str], vim.Datastore | None]) -> vim.vm.device.VirtualDisk:
    kib = disk.capacity // 1024
    backing = _device.VirtualDisk.FlatVer2BackingInfo(
        fileName=disk.path,
        datastore=datastore(disk.path),
        diskMode="persistent",
        split=False,
        writeThrough=False,
        thinProvisioned=disk.thin,
        eagerlyScrub=None if disk.thin else False,
        uuid=disk.uuid,
        digestEnabled=False,
        sharing="sharingNone",
    )
    return _device.VirtualDisk(
        key=disk.key,
        deviceInfo=_described(f"Hard disk {index}", f"{kib:,} KB"),
        backing=backing,
        controllerKey=disk.controller,
        unitNumber=disk.unit,
        capacityInKB=kib,
        capacityInBytes=disk.capacity,
    )


def _cdrom(
    cdrom: Cdrom, index: int, running: bool, datastore: Callable[[str], vim.Datastore | None]
) -> vim.vm.device.VirtualCdrom:
    if cdrom.iso:
        summary = f"ISO {cdrom.iso}"
        backing = _device.VirtualCdrom.IsoBackingInfo(fileName=cdrom.iso, datastore=datastore(cdrom.iso))
    else:
        # What vSphere shows for "client device": a drive without a medium of the datacenter's.
        summary = "Remote device"
        backing = _device.VirtualCdrom.RemotePassthroughBackingInfo(deviceName="", useAutoDetect=False, exclusive=False)
    return _device.VirtualCdrom(
        key=cdrom.key,
        deviceInfo=_described(f"CD/DVD drive {index}", summary),
        backing=backing,
        connectable=_connect(cdrom.connected and bool(cdrom.iso), cdrom.connected, running),
        controllerKey=cdrom.controller,
        unitNumber=cdrom.unit,
    )


def _nic(
    config: VmConfig, nic: Nic, index: int, networks: Networks, running: bool
) -> vim.vm.device.VirtualEthernetCard:
    group = networks.by_key(nic.network) if nic.network else None
    device: vim.vm.device.VirtualEthernetCard = NIC_TYPES[nic.type](
        key=nic.key,
        deviceInfo=_described(f"Network adapter {index}", group.name if group else nic.network or "none"),
        backing=nic_backing(nic.network, networks),
        connectable=_connect(nic.connected and nic.network is not None, nic.start_connected, running),
        controllerKey=_PCI,
        unitNumber=7 + (nic.key - NIC_KEYS if nic.key >= NIC_KEYS else index),
        addressType="assigned",
        macAddress=nic.mac,
        wakeOnLanEnabled=True,
        externalId=vif_id(config.instance_uuid, nic.key) if group is not None and group.segment else None,
    )
    return device


def _serial(
    port: SerialPort, index: int, running: bool, datastore: Callable[[str], vim.Datastore | None]
) -> vim.vm.device.VirtualSerialPort:
    return _device.VirtualSerialPort(
        key=port.key,
        deviceInfo=_described(f"Serial port {index}", f"File {port.file}"),
        backing=_device.VirtualSerialPort.FileBackingInfo(fileName=port.file, datastore=datastore(port.file)),
        connectable=_connect(connected=True, start=True, running=running),
        controllerKey=_SIO,
        unitNumber=index - 1,
        yieldOnPoll=True,
    )
