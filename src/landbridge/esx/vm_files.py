"""From a VM's VMX file to the files it names, and back."""

import logging
import shutil
from pathlib import Path

from landbridge.esx.faults import Fault
from landbridge.esx.hardware import OVMF_VARS, MachineFiles
from landbridge.esx.host import Host
from landbridge.esx.model import VmConfig
from landbridge.esx.vmx import VmxFile
from landbridge.vsan import image
from landbridge.vsan.faults import StorageFault

_log = logging.getLogger(__name__)


def read_vmx(host: Host, vmx: Path) -> VmxFile:
    """Read a VMX file, its file names turned into datastore paths."""
    home = host.datastores.path_of(vmx.parent)

    def to_path(name: str) -> str:
        if name.startswith("/"):
            return host.datastores.path_of(host.datastores.from_volume_path(name))
        path = _inside(home, name)
        host.datastores.file(path)  # refused if it leads out; what is shown is what is meant
        return path

    def capacity(path: str) -> int | None:
        try:
            return image.read_header(host.datastores.file(path)).capacity
        except StorageFault:
            return None

    try:
        return VmxFile.read(vmx, to_path, capacity)
    except StorageFault as error:
        raise Fault("InvalidVmConfig", f"{vmx.name}: {error}") from error


def write_vmx(host: Host, vmx: Path, file: VmxFile) -> None:
    """Write a VMX file, files beside it named without their directory."""
    home = vmx.parent.resolve()

    def from_path(path: str) -> str:
        target = host.datastores.file(path)
        return str(target.relative_to(home)) if target.is_relative_to(home) else host.datastores.volume_path(target)

    file.write(vmx, from_path)


def beside(host: Host, vmx: Path, name: str) -> Path:
    """The file called `name` in the directory of a VMX file; StorageFault if the name leads out of the datastore."""
    return host.datastores.file(_inside(host.datastores.path_of(vmx.parent), name))


def _inside(directory: str, name: str) -> str:
    return f"{directory}{' ' if directory.endswith(']') else '/'}{name}"


def machine_files(host: Host, vmx: Path, config: VmConfig) -> MachineFiles:
    """Find what a configuration names; StorageFault if it is not there or not allowed.

    A missing ISO image is an empty drive, as in vSphere. The EFI variables are the caller's to add.
    """
    datastores = host.datastores
    files = MachineFiles(chains={disk.key: datastores.chain(datastores.file(disk.path)) for disk in config.disks})
    for one in config.cdroms:
        if one.iso and one.connected:
            iso = datastores.file(one.iso)
            if iso.is_file():
                files.isos[one.key] = iso
            else:
                _log.warning("VM %s: %s is not there, its CD-ROM %d starts empty", config.name, one.iso, one.key)
    for port in config.serial_ports:
        files.serials[port.key] = datastores.file(port.file) if port.file else beside(host, vmx, "serial.log")
    return files


def efi_variables(path: Path) -> Path:
    """The file of a VM's EFI variables, made from the firmware's template when there is none yet."""
    if not path.exists():
        shutil.copyfile(OVMF_VARS, path)
    return path
