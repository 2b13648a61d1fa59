"""VMX files: a VM's configuration on disk, under VMware's own keys.

What VMware has a key for is written under that key (`scsi0:0.fileName`, `ethernet0.virtualDev`, `uuid.bios`, ...);
what only landbridge knows (machine version, CPU model, device keys that do not follow from the address) stands under
`landbridge.*` or `<device>.landbridge.*`. Every other key is kept as `extra_config`. Reading needs to know a disk's
capacity, which is in the disk: the caller says how to find it.
"""

import os
import re
import uuid
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

from pydantic import ValidationError

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

Keys = dict[str, str]
# A file name in the VMX to the datastore path, and back; a datastore path to the capacity in bytes (None: unreadable).
ToPath = Callable[[str], str]
FromPath = Callable[[str], str]
Capacity = Callable[[str], int | None]

_LINE = re.compile(r'^\s*([^#=\s][^=]*?)\s*=\s*"(.*)"\s*$')
_DEVICE = re.compile(r"^(scsi|sata|nvme|ide|ethernet|serial)(\d+)(?::(\d+))?\.(.+)$", re.IGNORECASE)
_OWN = {
    ".encoding",
    "config.version",
    "virtualhw.version",
    "displayname",
    "annotation",
    "guestos",
    "uuid.bios",
    "vc.uuid",
    "memsize",
    "numvcpus",
    "cpuid.corespersocket",
    "firmware",
    "nvram",
    "checkpoint.vmstate",
}
_OWN_DEVICE = {
    "present",
    "virtualdev",
    "devicetype",
    "filename",
    "clientdevice",
    "startconnected",
    "connected",
    "addresstype",
    "address",
    "generatedaddress",
    "dvs.portgroupid",
    "networkname",
    "filetype",
}
_FAMILY = {
    ControllerType.PVSCSI: "scsi",
    ControllerType.LSI_LOGIC: "scsi",
    ControllerType.LSI_LOGIC_SAS: "scsi",
    ControllerType.AHCI: "sata",
    ControllerType.NVME: "nvme",
    ControllerType.IDE: "ide",
}
_CONTROLLER_KEY = {"scsi": 1000, "sata": 15000, "nvme": 31000, "ide": 200}
_OTHER_LINUX = "otherLinux64Guest"
_UNIT_KEY = {"scsi": (2000, 16), "sata": (16000, 30), "nvme": (32000, 64), "ide": (3000, 10)}


class VmxFile:
    """A VMX file's lines. `nvram` and `suspend_image` are file names beside it; None where the VM has none."""

    def __init__(self, config: VmConfig, nvram: str | None = None, suspend_image: str | None = None) -> None:
        self.config = config
        self.nvram = nvram
        self.suspend_image = suspend_image

    @classmethod
    def read(cls, path: Path, to_path: ToPath, capacity: Capacity) -> "VmxFile":
        """Read a VMX file. Fault `FileNotFound` or `InvalidVmConfig`, saying what is wrong with it."""
        try:
            keys = parse(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise Fault("FileNotFound", f"{path.name} is not there") from None
        except (OSError, UnicodeDecodeError) as error:
            raise Fault("InvalidVmConfig", f"{path.name} can not be read: {error}") from error
        try:
            config = _read_config(keys, path.stem, to_path, capacity)
            return cls(config, _find(keys, "nvram"), _find(keys, "checkpoint.vmState"))
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise Fault("InvalidVmConfig", f"{path.name}: {where}: {problem['msg']}") from error
        except ValueError as error:
            raise Fault("InvalidVmConfig", f"{path.name}: {error}") from error

    def write(self, path: Path, from_path: FromPath) -> None:
        """Replace the file in one step; after a crash it is the old or the new one."""
        keys = _write_config(self.config, from_path)
        if self.nvram:
            keys["nvram"] = self.nvram
        if self.suspend_image:
            keys["checkpoint.vmState"] = self.suspend_image
        replace_file(path, render(keys).encode())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that after a crash it is whole, old or new."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def parse(text: str) -> Keys:
    """`key = "value"` lines; `|xx` in a value is the character with that code in hexadecimal."""
    keys: Keys = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            keys[match[1]] = re.sub(r"\|([0-9A-Fa-f]{2})", lambda code: chr(int(code[1], 16)), match[2])
    return keys


def render(keys: Keys) -> str:
    """The text of a VMX file."""
    return "".join(f'{key} = "{_quote(value)}"\n' for key, value in keys.items())


def _quote(value: str) -> str:
    # Also what splitlines() would take for the end of a line.
    escaped = re.sub(r'[|"\x00-\x1f\x7f\x85]', lambda code: f"|{ord(code[0]):02X}", value)
    return escaped.replace("\u2028", " ").replace("\u2029", " ")


def is_own_key(key: str) -> bool:
    """Whether a key stands for hardware or identity that `VmConfig` has a field for."""
    lower = key.lower()
    device = _DEVICE.match(lower)
    if device and (device[4] in _OWN_DEVICE or device[4].startswith("landbridge.")):
        return True
    return lower in _OWN or lower.startswith("landbridge.")


# ------------------------------------------------------------------------------------------------------- writing


def _write_config(config: VmConfig, from_path: FromPath) -> Keys:
    keys: Keys = {
        ".encoding": "UTF-8",
        "config.version": "8",
        "virtualHW.version": config.hardware_version.removeprefix("vmx-"),
        "displayName": config.name,
        "guestOS": _short_guest(config.guest_id),
        "uuid.bios": _uuid_bytes(config.uuid),
        "vc.uuid": _uuid_bytes(config.instance_uuid),
        "memSize": str(config.memory_mib),
        "numvcpus": str(config.cpus),
        "cpuid.coresPerSocket": str(config.cores_per_socket),
        "firmware": config.firmware.value,
        "landbridge.machine": config.machine,
        "landbridge.cpuModel": config.cpu_model,
    }
    if config.annotation:
        keys["annotation"] = config.annotation
    if _long_guest(keys["guestOS"]) != config.guest_id:
        keys["landbridge.guestId"] = config.guest_id
    if config.template:
        keys["landbridge.template"] = "TRUE"
    _write_storage(keys, config, from_path)
    for nic in config.nics:
        _write_nic(keys, nic)
    for port in config.serial_ports:
        name = f"serial{port.key - 9000}"
        keys |= {f"{name}.present": "TRUE", f"{name}.fileType": "file"}
        keys[f"{name}.fileName"] = from_path(port.file) if port.file else "serial.log"
    return keys | {key: value for key, value in config.extra_config.items() if not is_own_key(key)}


def _write_storage(keys: Keys, config: VmConfig, from_path: FromPath) -> None:
    controllers = {controller.key: controller for controller in config.controllers}
    for controller in config.controllers:
        family = _FAMILY[controller.type]
        name = f"{family}{controller.bus}"
        keys[f"{name}.present"] = "TRUE"
        if family == "scsi":
            keys[f"{name}.virtualDev"] = controller.type.value
        _write_key(keys, name, controller.key, _CONTROLLER_KEY[family] + controller.bus)
    for disk in config.disks:
        name = _address(keys, controllers[disk.controller], disk)
        keys[f"{name}.deviceType"] = "scsi-hardDisk" if name.startswith("scsi") else "disk"
        keys[f"{name}.fileName"] = from_path(disk.path)
        keys[f"{name}.landbridge.capacity"] = str(disk.capacity)
        if not disk.thin:
            keys[f"{name}.landbridge.thin"] = "FALSE"
        if disk.uuid:
            keys[f"{name}.landbridge.uuid"] = disk.uuid
    for cdrom in config.cdroms:
        name = _address(keys, controllers[cdrom.controller], cdrom)
        keys[f"{name}.deviceType"] = "cdrom-image" if cdrom.iso else "cdrom-raw"
        keys[f"{name}.fileName"] = from_path(cdrom.iso) if cdrom.iso else "emptyBackingString"
        if not cdrom.iso:
            keys[f"{name}.clientDevice"] = "TRUE"
        keys[f"{name}.startConnected"] = _truth(cdrom.connected)


def _address(keys: Keys, controller: Controller, device: Disk | Cdrom) -> str:
    family = _FAMILY[controller.type]
    name = f"{family}{controller.bus}:{device.unit}"
    keys[f"{name}.present"] = "TRUE"
    base, step = _UNIT_KEY[family]
    _write_key(keys, name, device.key, base + controller.bus * step + device.unit)
    return name


def _write_nic(keys: Keys, nic: Nic) -> None:
    name = f"ethernet{nic.key - 4000}"
    keys |= {
        f"{name}.present": "TRUE",
        f"{name}.virtualDev": nic.type.value,
        f"{name}.startConnected": _truth(nic.start_connected),
        f"{name}.connected": _truth(nic.connected),
    }
    if nic.mac:
        keys |= {f"{name}.addressType": "static", f"{name}.address": nic.mac}
    if nic.network:
        keys[f"{name}.dvs.portgroupId"] = nic.network


def _write_key(keys: Keys, name: str, key: int, expected: int) -> None:
    if key != expected:
        keys[f"{name}.landbridge.key"] = str(key)


def _truth(value: bool) -> str:
    return "TRUE" if value else "FALSE"


def _uuid_bytes(value: str) -> str:
    digits = value.replace("-", "")
    pairs = [digits[i : i + 2] for i in range(0, 32, 2)]
    return f"{' '.join(pairs[:8])}-{' '.join(pairs[8:])}"


def _short_guest(guest_id: str) -> str:
    """vSphere's `debian12_64Guest` is `debian12-64` in a VMX file."""
    if guest_id == _OTHER_LINUX:
        return "otherlinux-64"
    return guest_id.removesuffix("Guest").replace("_", "-").lower()


def _long_guest(guest_os: str) -> str:
    if guest_os == "otherlinux-64":
        return _OTHER_LINUX
    return guest_os.replace("-64", "_64") + "Guest"


# ------------------------------------------------------------------------------------------------------- reading


def _find(keys: Keys, key: str) -> str | None:
    """VMware takes keys in any case."""
    lower = key.lower()
    return next((value for name, value in keys.items() if name.lower() == lower), None)


class _Reader:
    """Looks keys up without regard to case."""

    def __init__(self, keys: Keys) -> None:
        self._keys = {name.lower(): value for name, value in keys.items()}

    def get(self, key: str, default: str = "") -> str:
        return self._keys.get(key.lower(), default)

    def truth(self, key: str, default: bool = False) -> bool:
        value = self.get(key)
        return value.upper() == "TRUE" if value else default

    def number(self, key: str, default: int) -> int:
        value = self.get(key)
        try:
            return int(value) if value else default
        except ValueError:
            raise ValueError(f"{key} is {value!r}, not a number") from None

    def present(self, pattern: str) -> list[re.Match[str]]:
        """Devices by name, those that say they are there."""
        names = {key.partition(".")[0] for key in self._keys}
        found = [match for name in sorted(names) if (match := re.fullmatch(pattern, name))]
        return [match for match in found if self.truth(f"{match[0]}.present")]


def _read_config(keys: Keys, stem: str, to_path: ToPath, capacity: Capacity) -> VmConfig:
    vmx = _Reader(keys)
    controllers, disks, cdroms = _read_storage(vmx, to_path, capacity)
    bios = _uuid(vmx.get("uuid.bios")) or str(uuid.uuid4())
    return VmConfig(
        name=vmx.get("displayName", stem),
        instance_uuid=_uuid(vmx.get("vc.uuid")) or str(uuid.uuid4()),
        uuid=bios,
        hardware_version=f"vmx-{vmx.get('virtualHW.version', '20')}",
        guest_id=vmx.get("landbridge.guestId") or _long_guest(vmx.get("guestOS", "otherlinux-64")),
        annotation=vmx.get("annotation"),
        firmware=Firmware(vmx.get("firmware", "bios").lower()),
        machine=vmx.get("landbridge.machine", "q35"),
        cpu_model=vmx.get("landbridge.cpuModel"),
        memory_mib=vmx.number("memSize", 256),
        cpus=vmx.number("numvcpus", 1),
        cores_per_socket=vmx.number("cpuid.coresPerSocket", 1),
        controllers=controllers,
        disks=disks,
        cdroms=cdroms,
        nics=sorted((_read_nic(vmx, match) for match in vmx.present(r"ethernet(\d+)")), key=attrgetter("key")),
        serial_ports=_read_serial_ports(vmx, to_path),
        template=vmx.truth("landbridge.template"),
        extra_config={key: value for key, value in keys.items() if not is_own_key(key)},
    )


def _read_storage(
    vmx: _Reader, to_path: ToPath, capacity: Capacity
) -> tuple[list[Controller], list[Disk], list[Cdrom]]:
    controllers = {match[0]: _read_controller(vmx, match) for match in vmx.present(r"(scsi|sata|nvme|ide)(\d+)")}
    disks: list[Disk] = []
    cdroms: list[Cdrom] = []
    for match in vmx.present(r"(scsi|sata|nvme|ide)(\d+):(\d+)"):
        name, family, bus, unit = match[0], match[1], int(match[2]), int(match[3])
        # IDE controllers are always there in VMware's hardware, and a VMX file does not name them.
        controller = controllers.setdefault(f"{family}{bus}", _read_controller(vmx, match))
        base, step = _UNIT_KEY[family]
        key = vmx.number(f"{name}.landbridge.key", base + bus * step + unit)
        if "cdrom" in vmx.get(f"{name}.deviceType"):
            cdroms.append(_read_cdrom(vmx, name, Cdrom(key=key, controller=controller.key, unit=unit), to_path))
        else:
            path = to_path(vmx.get(f"{name}.fileName"))
            size = capacity(path) or vmx.number(f"{name}.landbridge.capacity", 512)
            disks.append(
                Disk(
                    key=key,
                    controller=controller.key,
                    unit=unit,
                    path=path,
                    capacity=size,
                    thin=vmx.truth(f"{name}.landbridge.thin", True),
                    uuid=vmx.get(f"{name}.landbridge.uuid") or None,
                )
            )
    by_key = attrgetter("key")
    return sorted(controllers.values(), key=by_key), sorted(disks, key=by_key), sorted(cdroms, key=by_key)


def _read_controller(vmx: _Reader, match: re.Match[str]) -> Controller:
    family, bus = match[1], int(match[2])
    key = vmx.number(f"{family}{bus}.landbridge.key", _CONTROLLER_KEY[family] + bus)
    if family == "scsi":
        # VMware's default where the key is missing is the parallel LSI Logic.
        kind = ControllerType(vmx.get(f"scsi{bus}.virtualDev", "lsilogic").lower())
    else:
        kind = {"sata": ControllerType.AHCI, "nvme": ControllerType.NVME, "ide": ControllerType.IDE}[family]
    return Controller(key=key, type=kind, bus=bus)


def _read_cdrom(vmx: _Reader, name: str, cdrom: Cdrom, to_path: ToPath) -> Cdrom:
    iso = vmx.get(f"{name}.fileName") if vmx.get(f"{name}.deviceType") == "cdrom-image" else ""
    return cdrom.model_copy(
        update={"iso": to_path(iso) if iso else None, "connected": vmx.truth(f"{name}.startConnected", True)}
    )


def _read_nic(vmx: _Reader, match: re.Match[str]) -> Nic:
    name = match[0]
    mac = vmx.get(f"{name}.address") or vmx.get(f"{name}.generatedAddress")
    start = vmx.truth(f"{name}.startConnected", True)
    return Nic(
        key=4000 + int(match[1]),
        type=NicType(vmx.get(f"{name}.virtualDev", "e1000").lower()),
        mac=mac.lower() or None,
        network=vmx.get(f"{name}.dvs.portgroupId") or vmx.get(f"{name}.networkName") or None,
        connected=vmx.truth(f"{name}.connected", start),
        start_connected=start,
    )


def _read_serial_ports(vmx: _Reader, to_path: ToPath) -> list[SerialPort]:
    ports = []
    for match in vmx.present(r"serial(\d+)"):
        file = vmx.get(f"{match[0]}.fileName")
        # serial.log beside the VMX file is what the model calls the empty path.
        path = "" if file in ("", "serial.log") else to_path(file)
        ports.append(SerialPort(key=9000 + int(match[1]), file=path))
    return ports


def _uuid(value: str) -> str | None:
    digits = re.sub(r"[^0-9a-fA-F]", "", value).lower()
    return str(uuid.UUID(digits)) if len(digits) == 32 else None
