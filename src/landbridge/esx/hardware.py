"""VMware virtual hardware as QEMU devices: a VM's configuration in, QEMU's arguments out. Pure functions, no I/O.

Every device sits at an address that follows from its key alone, so the PCI layout is the same whether a device was
there at power-on or plugged in later, and the same on both ends of a live migration. Arguments are JSON, which QMP's
`device_add` and `blockdev-add` take too. Node names: `disk-<key>-<n>` for the n-th qcow2 layer of a disk (0 is the
base), `file-<key>-<n>` for its file. Device ids: `disk-<key>`, `nic-<key>`, `cdrom-<key>`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from landbridge.esx.faults import Fault
from landbridge.esx.model import (
    Cdrom,
    Controller,
    ControllerType,
    Disk,
    Firmware,
    Nic,
    NicType,
    SerialPort,
    VmConfig,
)
from landbridge.esx.process import QemuProcess

Arguments = dict[str, Any]

NIC_KEYS = range(4000, 4010)
OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")

_SCSI = {ControllerType.PVSCSI, ControllerType.LSI_LOGIC, ControllerType.LSI_LOGIC_SAS}
_DRIVERS = {
    ControllerType.PVSCSI: "pvscsi",
    ControllerType.LSI_LOGIC: "lsi53c895a",
    ControllerType.LSI_LOGIC_SAS: "mptsas1068",
    ControllerType.AHCI: "ich9-ahci",
    ControllerType.NVME: "nvme",
}
# Units a controller has, as QEMU's models have them. VMware's LSI models take 15; unit 7 is a SCSI controller's own.
_UNITS = {
    ControllerType.PVSCSI: range(64),
    ControllerType.LSI_LOGIC: range(7),
    ControllerType.LSI_LOGIC_SAS: range(7),
    ControllerType.AHCI: range(6),
    ControllerType.NVME: range(15),
    ControllerType.IDE: range(2),
}
_SCSI_OWN_UNIT = 7
# Slots of PCI bus 0. On q35 slots 0x10 and 0x11 hold a root port for each NIC, on i440fx the NICs themselves are
# at 0x10 to 0x19.
_SVGA_SLOT, _TOOLS_SLOT, _IDE_SLOT, _NIC_SLOT = 0x1, 0x2, 0xF, 0x10
_I440FX_SVGA_SLOT = 0x1A  # i440fx has its chipset in slot 1
_CONTROLLER_SLOT = {"scsi": 0x3, "ahci": 0x7, "nvme": 0xB}
_BUSES = {"scsi": 4, "ahci": 4, "nvme": 4, "ide": 2}


@dataclass
class MachineFiles:
    """What a VM's configuration names, found on this host.

    `chains`: by disk key, the images from the base to the top. `taps`: by NIC key; a NIC without one is unplugged.
    """

    chains: dict[int, list[Path]] = field(default_factory=dict)
    isos: dict[int, Path] = field(default_factory=dict)
    serials: dict[int, Path] = field(default_factory=dict)
    taps: dict[int, str] = field(default_factory=dict)
    nvram: Path | None = None


def check(config: VmConfig) -> None:
    """Fault `InvalidDeviceSpec` or `InvalidVmConfig` if the hardware can not be built."""
    keys = [device.key for device in _devices(config)]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise Fault("InvalidDeviceSpec", f"device keys {sorted(twice)} are used more than once")
    controllers = {controller.key: controller for controller in config.controllers}
    _check_controllers(config.controllers)
    taken: set[tuple[int, int]] = set()
    for device in _units(config):
        controller = controllers.get(device.controller)
        if controller is None:
            raise _wrong(device.key, f"controller {device.controller} does not exist")
        _check_unit(controller, device)
        if (device.controller, device.unit) in taken:
            raise _wrong(device.key, f"unit {device.unit} of controller {device.controller} is taken")
        taken.add((device.controller, device.unit))
    for disk in config.disks:
        if disk.capacity % 512:
            raise _wrong(disk.key, f"its capacity of {disk.capacity} bytes is no multiple of 512")
    for nic in config.nics:
        if nic.key not in NIC_KEYS:
            raise _wrong(nic.key, f"keys of NICs are {NIC_KEYS.start} to {NIC_KEYS.stop - 1}")
    if config.cpus % config.cores_per_socket:
        raise Fault(
            "InvalidVmConfig", f"{config.cpus} CPUs can not be {config.cores_per_socket} to a socket: not a divisor"
        )


def _devices(config: VmConfig) -> list[Controller | Disk | Cdrom | Nic | SerialPort]:
    return [*config.controllers, *config.disks, *config.cdroms, *config.nics, *config.serial_ports]


def _units(config: VmConfig) -> list[Disk | Cdrom]:
    return [*config.disks, *config.cdroms]


def _check_controllers(controllers: Sequence[Controller]) -> None:
    taken: set[tuple[str, int]] = set()
    for controller in controllers:
        family = _family(controller)
        if controller.bus >= _BUSES[family]:
            raise _wrong(controller.key, f"there is no {family} bus {controller.bus}")
        if (family, controller.bus) in taken:
            raise _wrong(controller.key, f"{family} bus {controller.bus} is taken")
        taken.add((family, controller.bus))


def _check_unit(controller: Controller, device: Disk | Cdrom) -> None:
    units = _UNITS[controller.type]
    own = controller.type in _SCSI and device.unit == _SCSI_OWN_UNIT
    if device.unit not in units or own:
        raise _wrong(device.key, f"a {controller.type} controller has no unit {device.unit} for it")
    if isinstance(device, Cdrom) and controller.type is ControllerType.NVME:
        raise _wrong(device.key, "NVMe has no CD-ROM")


def _wrong(key: int, why: str) -> Fault:
    return Fault("InvalidDeviceSpec", f"device {key}: {why}", key=str(key))


def _family(controller: Controller) -> str:
    if controller.type in _SCSI:
        return "scsi"
    return controller.type.value


def is_q35(config: VmConfig) -> bool:
    """Whether the chipset is Q35 (PCI Express) or else i440fx (PCI)."""
    return "q35" in config.machine


def hot_pluggable(config: VmConfig, controller: int) -> bool:
    """Whether disks can come and go on a controller while the VM runs: on SCSI they can, as QEMU models it."""
    return _controller(config, controller).type in _SCSI


def _controller(config: VmConfig, key: int) -> Controller:
    return next(controller for controller in config.controllers if controller.key == key)


# ------------------------------------------------------------------------------------------------ the command line


def command_line(
    config: VmConfig, files: MachineFiles, process: QemuProcess, accelerator: str, *, incoming: bool = False
) -> list[str]:
    """QEMU's command line. The VM is built and stands still: `cont` starts it (`incoming`: the stream does)."""
    command = [
        "qemu-system-x86_64",
        *("-name", f"guest={_comma(config.name)},debug-threads=on"),
        *("-S", "-nodefaults", "-no-user-config", "-display", "none"),
        # No new processes, no privileges: what breaks out of the guest finds little to work with.
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-machine", _machine(config, accelerator, files.nvram)),
        *("-cpu", config.cpu_model),
        *("-m", f"size={_memory_kib(config, accelerator)}k"),
        *("-smp", _processors(config)),
        *("-rtc", "base=utc"),
        *_smbios(config),
        *process.sockets(),
        *("-vnc", f"unix:{_comma(str(process.vnc))}"),
    ]
    if files.nvram is not None:
        command += _firmware(files.nvram)
    command += _platform(config, process)
    command += _storage(config, files)
    for nic in config.nics:
        command += ["-netdev", json.dumps(nic_backend(nic, files.taps.get(nic.key)))]
        command += ["-device", json.dumps(nic_device(config, nic))]
    for port in config.serial_ports:
        command += ["-chardev", f"file,id=serial-{port.key},path={_comma(str(files.serials[port.key]))},append=on"]
        command += ["-device", json.dumps({"driver": "isa-serial", "chardev": f"serial-{port.key}"})]
    if incoming:
        command += ["-incoming", "defer"]
        # QEMU's own record of whether the guest ever ran here, for an agent that was not there to see it.
        command += ["-D", str(process.run_states), "-trace", "runstate_set"]
    return command


def _memory_kib(config: VmConfig, accelerator: str) -> int:
    """The guest's memory. Under tcg it is 8 KiB more than asked for, or a live move would corrupt it.

    QEMU before 9.0 reads the dirty bitmap of memory whose size is a multiple of 256 KiB word by word, and then forgets
    to make tcg notice the next write to those pages: they are not sent again. Any other size goes page by page, which
    is right. Of 18 moves of a 256 MiB guest 4 ended in a crash; with 8 KiB more, none. Both ends of a move need the
    same size, whatever their versions. With kvm the kernel keeps the bitmap.
    """
    return config.memory_mib * 1024 + (8 if accelerator == "tcg" else 0)


def _comma(value: str) -> str:
    return value.replace(",", ",,")


def _machine(config: VmConfig, accelerator: str, nvram: Path | None) -> str:
    options = [config.machine, f"accel={accelerator}", "usb=off", "dump-guest-core=off", "vmport=on"]
    # A migration stream then ends with the byte that completes it: if QEMU could not send all, the target can not run.
    options.append("suppress-vmdesc=on")
    if is_q35(config):
        options.append("sata=off")
    if nvram is not None:
        options += ["pflash0=pflash-code", "pflash1=pflash-nvram"]
    return ",".join(options)


def _processors(config: VmConfig) -> str:
    sockets = config.cpus // config.cores_per_socket
    return f"cpus={config.cpus},sockets={sockets},cores={config.cores_per_socket},threads=1"


def _smbios(config: VmConfig) -> list[str]:
    """SMBIOS as VMware's firmware writes it; guests and their tools look for it to know where they are."""
    digits = config.uuid.replace("-", "")
    pairs = [digits[i : i + 2] for i in range(0, 32, 2)]
    serial = f"VMware-{' '.join(pairs[:8])}-{' '.join(pairs[8:])}"
    efi = config.firmware is Firmware.EFI
    product = "VMware20,,1" if efi else "VMware Virtual Platform"
    vendor, version = ("VMware,, Inc.", "VMW201.00V") if efi else ("Phoenix Technologies LTD", "6.00")
    return [
        *("-uuid", config.uuid),
        *("-smbios", f"type=0,vendor={vendor},version={version}"),
        *("-smbios", f"type=1,manufacturer=VMware,, Inc.,product={product},version=None,serial={serial}"),
        *("-smbios", "type=2,manufacturer=Intel Corporation,product=440BX Desktop Reference Platform"),
        *("-smbios", "type=3,manufacturer=No Enclosure,version=N/A"),
    ]


def _firmware(nvram: Path) -> list[str]:
    code = {"driver": "raw", "node-name": "pflash-code", "read-only": True, "file": _file(OVMF_CODE)}
    variables = {"driver": "raw", "node-name": "pflash-nvram", "file": _file(nvram)}
    return ["-blockdev", json.dumps(code), "-blockdev", json.dumps(variables)]


def _file(path: Path, **more: Any) -> Arguments:
    return {"driver": "file", "filename": str(path), **more}


def _root(config: VmConfig) -> str:
    return "pcie.0" if is_q35(config) else "pci.0"


def _platform(config: VmConfig, process: QemuProcess) -> list[str]:
    """What every VM has: display, the Tools channel, and on q35 a port for each NIC there may ever be."""
    root = _root(config)
    svga = _SVGA_SLOT if is_q35(config) else _I440FX_SVGA_SLOT
    devices: list[Arguments] = [
        {"driver": "vmware-svga", "id": "svga", "bus": root, "addr": hex(svga)},
        {"driver": "virtio-serial-pci", "id": "tools-bus", "bus": root, "addr": hex(_TOOLS_SLOT)},
        {
            "driver": "virtserialport",
            "bus": "tools-bus.0",
            "nr": 1,
            "id": "tools-port",
            "chardev": "tools",
            "name": "org.qemu.guest_agent.0",
        },
    ]
    if is_q35(config):
        devices += [_root_port(number) for number in range(len(NIC_KEYS))]
    command = ["-chardev", f"socket,id=tools,path={_comma(str(process.tools))},server=on,wait=off"]
    for device in devices:
        command += ["-device", json.dumps(device)]
    return command


def _root_port(number: int) -> Arguments:
    slot, function = _NIC_SLOT + number // 8, number % 8
    port: Arguments = {
        "driver": "pcie-root-port",
        "id": f"nic-port-{number}",
        "bus": "pcie.0",
        "addr": f"{slot:#x}.{function:#x}",
        "chassis": number + 1,
        "port": number,
    }
    if function == 0:
        port["multifunction"] = True
    return port


def _storage(config: VmConfig, files: MachineFiles) -> list[str]:
    command: list[str] = []
    controllers = {controller.key: controller for controller in config.controllers}
    if is_q35(config) and any(one.type is ControllerType.IDE for one in config.controllers):
        # Q35 has no IDE; i440fx has it built in.
        ide = {"driver": "piix4-ide", "id": "piix", "bus": "pcie.0", "addr": hex(_IDE_SLOT)}
        command += ["-device", json.dumps(ide)]
    for controller in controllers.values():
        if controller.type is not ControllerType.IDE:
            command += ["-device", json.dumps(_controller_device(config, controller))]
    for disk in config.disks:
        for node in disk_nodes(disk, files.chains[disk.key]):
            command += ["-blockdev", json.dumps(node)]
        top = f"disk-{disk.key}-{len(files.chains[disk.key]) - 1}"
        command += ["-device", json.dumps(disk_device(config, disk, top))]
    for cdrom in config.cdroms:
        iso = files.isos.get(cdrom.key)
        if iso is not None:
            command += ["-blockdev", json.dumps(cdrom_node(cdrom, iso))]
        command += ["-device", json.dumps(cdrom_device(config, cdrom, inserted=iso is not None))]
    return command


def _controller_device(config: VmConfig, controller: Controller) -> Arguments:
    slot = _CONTROLLER_SLOT[_family(controller)] + controller.bus
    device: Arguments = {
        "driver": _DRIVERS[controller.type],
        "id": f"controller-{controller.key}",
        "bus": _root(config),
        "addr": hex(slot),
    }
    if controller.type is ControllerType.NVME:
        device["serial"] = f"VMware NVME_{controller.bus:04d}"
    return device


# ------------------------------------------------------------------------------------------------ single devices


def disk_nodes(disk: Disk, chain: Sequence[Path]) -> list[Arguments]:
    """`blockdev-add` arguments for a disk's images, base first; only the top is written to."""
    nodes: list[Arguments] = []
    for number, path in enumerate(chain):
        nodes.append(
            disk_node(disk, number, path, backing=number - 1 if number else None, read_only=number < len(chain) - 1)
        )
    return nodes


def disk_node(disk: Disk, number: int, path: Path, *, backing: int | None, read_only: bool = False) -> Arguments:
    """One layer: `disk-<key>-<number>`, over the layer with the number `backing`.

    What a guest trims or fills with zeroes is given back to the datastore, unless the disk is thick.
    """
    # auto-read-only: a layer is opened for writing only when a job (consolidation) asks for it.
    file = _file(path, **{"node-name": f"file-{disk.key}-{number}", "auto-read-only": True})
    node: Arguments = {
        "driver": "qcow2",
        "node-name": f"disk-{disk.key}-{number}",
        "file": file,
        "read-only": read_only,
        "discard": "unmap" if disk.thin else "ignore",
        "detect-zeroes": "unmap" if disk.thin else "off",
        "backing": None if backing is None else f"disk-{disk.key}-{backing}",
    }
    if disk.thin:
        file["discard"] = "unmap"
    return node


def disk_device(config: VmConfig, disk: Disk, node: str) -> Arguments:
    """`device_add` arguments for a disk whose top node is `node`."""
    controller = _controller(config, disk.controller)
    device: Arguments = {"id": f"disk-{disk.key}", "drive": node, "bootindex": _boot_index(config, disk)}
    serial = disk.uuid.replace("-", "") if disk.uuid else None
    if controller.type in _SCSI:
        device |= _scsi_address(controller, disk.unit) | {
            "driver": "scsi-hd",
            "vendor": "VMware",
            "product": "Virtual disk",
            "ver": "2.0",
        }
        if serial:
            device["serial"] = serial
    elif controller.type is ControllerType.NVME:
        # The namespace id of a disk is its unit, counted from one.
        device |= {"driver": "nvme-ns", "bus": f"controller-{controller.key}", "nsid": disk.unit + 1}
    else:
        device |= _ide_address(config, controller, disk.unit) | {"driver": "ide-hd", "model": "VMware Virtual Disk"}
        if serial:
            device["serial"] = serial[-20:]
    return device


def cdrom_node(cdrom: Cdrom, iso: Path) -> Arguments:
    """`blockdev-add` arguments for an ISO image, `cdrom-<key>`."""
    return {
        "driver": "raw",
        "node-name": f"cdrom-{cdrom.key}",
        "read-only": True,
        "file": _file(iso, **{"node-name": f"cdrom-file-{cdrom.key}", "read-only": True}),
    }


def cdrom_device(config: VmConfig, cdrom: Cdrom, *, inserted: bool) -> Arguments:
    """`device_add` arguments for a CD-ROM drive, with the node `cdrom-<key>` in it if `inserted`."""
    controller = _controller(config, cdrom.controller)
    device: Arguments = {"id": f"cdrom-{cdrom.key}", "bootindex": _boot_index(config, cdrom)}
    if inserted:
        device["drive"] = f"cdrom-{cdrom.key}"
    if controller.type in _SCSI:
        return device | _scsi_address(controller, cdrom.unit) | {"driver": "scsi-cd", "vendor": "NECVMWar"}
    return device | _ide_address(config, controller, cdrom.unit) | {"driver": "ide-cd"}


def _scsi_address(controller: Controller, unit: int) -> Arguments:
    return {"bus": f"controller-{controller.key}.0", "scsi-id": unit, "lun": 0}


def _ide_address(config: VmConfig, controller: Controller, unit: int) -> Arguments:
    if controller.type is ControllerType.AHCI:
        return {"bus": f"controller-{controller.key}.{unit}"}
    bus = f"piix.{controller.bus}" if is_q35(config) else f"ide.{controller.bus}"
    return {"bus": bus, "unit": unit}


def _boot_index(config: VmConfig, device: Disk | Cdrom) -> int:
    """Disks boot before CD-ROMs, as VMware's firmware tries them. The number follows from the address alone, so that a
    device plugged in later has the one it will have after the next power-on."""
    controller = _controller(config, device.controller)
    family = list(_CONTROLLER_SLOT).index(_family(controller)) if _family(controller) in _CONTROLLER_SLOT else 3
    place = family * 256 + controller.bus * 64 + device.unit
    return place + (10_000 if isinstance(device, Cdrom) else 1)


def nic_backend(nic: Nic, tap: str | None) -> Arguments:
    """`netdev_add` arguments, `net-<key>`: a TAP of the switch, or nothing at the other end of the cable."""
    if tap is None:
        return {"type": "hubport", "id": f"net-{nic.key}", "hubid": nic.key}
    # vnet_hdr off: the userspace datapath of Open vSwitch passes on unfinished checksums, which receivers drop.
    return {
        "type": "tap",
        "id": f"net-{nic.key}",
        "ifname": tap,
        "script": "no",
        "downscript": "no",
        "vnet_hdr": False,
    }


def nic_device(config: VmConfig, nic: Nic) -> Arguments:
    """`device_add` arguments for a NIC, with `net-<key>` behind it."""
    number = nic.key - NIC_KEYS.start
    device: Arguments = {
        "driver": {NicType.VMXNET3: "vmxnet3", NicType.E1000: "e1000", NicType.E1000E: "e1000e"}[nic.type],
        "id": f"nic-{nic.key}",
        "netdev": f"net-{nic.key}",
        "mac": nic.mac,
        # A boot ROM is part of the migrated state and differs between versions of its package.
        "romfile": "",
    }
    if is_q35(config):
        return device | {"bus": f"nic-port-{number}", "addr": "0x0"}
    return device | {"bus": "pci.0", "addr": hex(_NIC_SLOT + number)}
