"""How a VM's files are called and where they lie: `<datastore>/<name>/<name>.vmx`, `<name>.vmdk`, `<name>_1.vmdk`.

Names are vSphere's, so that people and scripts find what they expect; disks are qcow2 whatever their suffix says.
"""

import re
import secrets
import unicodedata
import uuid
from pathlib import Path

from landbridge.esx.capabilities import Capabilities
from landbridge.esx.faults import Fault
from landbridge.esx.hardware import check
from landbridge.esx.model import Disk, Nic, VmConfig
from landbridge.esx.vmx import is_own_key
from landbridge.vsan.local import Datastores, LocalDatastore

_NAME_BYTES = 200  # a file name has 255; the rest is for suffixes of disks and snapshots
_ATTEMPTS = 10_000


def check_name(name: str) -> None:
    """Fault `InvalidName` for a VM name with control characters, or of white space only."""
    if not name.strip() or any(unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs") for character in name):
        raise Fault("InvalidName", f"VM name {name!r} is empty or has control characters in it", name=ascii(name))


def directory_name(name: str) -> str:
    """The name of the directory of a VM: what a path can not have is written as vSphere writes it (`%2f`)."""
    safe = name.replace("/", "%2f").replace("\\", "%5c")
    while len(safe.encode()) > _NAME_BYTES:
        safe = safe[:-1]
    safe = safe.strip()
    return f"_{safe[1:]}" if safe.startswith(".") else safe


def make_home(datastore: LocalDatastore, name: str) -> Path:
    """Make a directory for a VM of this name, `name_1` where `name` is taken; returns the path of the VMX to be."""
    check_name(name)
    stem = directory_name(name)
    for number in range(_ATTEMPTS):
        home = datastore.resolve(f"{stem}_{number}" if number else stem)
        try:
            home.mkdir()
        except FileExistsError:
            continue
        return home / f"{stem}.vmx"
    raise Fault("DuplicateName", f"datastore {datastore.name} has {_ATTEMPTS} directories called {stem!r}", name=name)


def make_directory_on(datastore: LocalDatastore, name: str) -> Path:
    """A directory for disks of a VM that do not lie in its home."""
    return make_home(datastore, name).parent


def new_disk_file(directory: Path, stem: str, taken: set[Path]) -> Path:
    """The next free of `<stem>.vmdk`, `<stem>_1.vmdk`, ... in a directory; `taken` are spoken for, though not there."""
    for number in range(_ATTEMPTS):
        path = directory / (f"{stem}_{number}.vmdk" if number else f"{stem}.vmdk")
        if path not in taken and not path.exists():
            taken.add(path)
            return path
    raise Fault("FileAlreadyExists", f"{directory.name} has {_ATTEMPTS} disks")


def settle(config: VmConfig, capabilities: Capabilities) -> VmConfig:
    """A requested configuration with all that it leaves open decided: versions pinned, MAC addresses and UUIDs given.

    Fault if it can not be built here.
    """
    check_name(config.name)
    check(config)
    foreign = [key for key in config.extra_config if is_own_key(key) or "=" in key or not key.isprintable()]
    if foreign:
        raise Fault(
            "InvalidArgument", f"extraConfig keys {foreign} are hardware's own or malformed: change the hardware"
        )
    model = config.cpu_model or capabilities.default_cpu
    capabilities.require_cpu(model)
    macs = {nic.mac for nic in config.nics if nic.mac}
    return config.model_copy(
        update={
            "machine": capabilities.machine(config.machine),
            "cpu_model": model,
            "controllers": sorted(config.controllers, key=lambda one: one.key),
            "disks": sorted((_with_uuid(disk) for disk in config.disks), key=lambda one: one.key),
            "cdroms": sorted(config.cdroms, key=lambda one: one.key),
            "nics": sorted((_with_mac(nic, macs) for nic in config.nics), key=lambda one: one.key),
        }
    )


def _with_uuid(disk: Disk) -> Disk:
    return disk if disk.uuid else disk.model_copy(update={"uuid": str(uuid.uuid4())})


def _with_mac(nic: Nic, taken: set[str]) -> Nic:
    """VMware's range for addresses that a host, not a vCenter, gives is 00:0c:29."""
    while nic.mac is None:
        digits = secrets.token_hex(3)
        mac = f"00:0c:29:{digits[:2]}:{digits[2:4]}:{digits[4:]}"
        if mac not in taken:
            taken.add(mac)
            return nic.model_copy(update={"mac": mac})
    return nic


def own_files(datastores: Datastores, vmx: Path, config: VmConfig) -> set[Path]:
    """The files that belong to a VM: what lies in its home under its name, and its disks where they are."""
    stem = re.escape(vmx.stem)
    pattern = re.compile(
        rf"\.?{stem}(\.vmx|\.vmx\.new|\.nvram|\.vmsd|\.vmss|(_\d+)?(-\d{{6}})?\.vmdk|-Snapshot\d+\.\w+)"
        r"|vmware(-\d+)?\.log|serial\.log"
    )
    found = {path.resolve() for path in vmx.parent.iterdir() if pattern.fullmatch(path.name)}
    for disk in config.disks:
        top = datastores.file(disk.path)
        # A layer in another directory is somebody else's (a template's).
        found |= {layer for layer in _chain(datastores, top) if layer.parent == top.parent}
    return found


def _chain(datastores: Datastores, top: Path) -> list[Path]:
    try:
        return datastores.chain(top)
    except Exception:
        return [top] if top.exists() else []
