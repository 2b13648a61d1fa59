"""A client's `vim.vm.ConfigSpec` as the configuration it leads to, for a new VM and for one that is.

What the spec asks for and is not served answers NotSupported by name; nothing asked for is silently left out.
"""

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pyVmomi import vim
from pyVmomi.VmomiSupport import DataObject

from landbridge.esx.model import Firmware, VmConfig
from landbridge.vcenter.hardware import guest_os
from landbridge.vcenter.hardware.device_changes import DeviceChanges
from landbridge.vcenter.hardware.device_faults import invalid_argument, not_supported
from landbridge.vcenter.hardware.networks import Networks

# What `Spec.apply` turns into the configuration. `files` is the caller's, who knows datastores.
_SERVED = frozenset(
    {
        *("name", "version", "uuid", "instanceUuid", "guestId", "alternateGuestName", "annotation", "firmware"),
        *("numCPUs", "numCoresPerSocket", "memoryMB", "cpuAllocation", "memoryAllocation"),
        *("deviceChange", "extraConfig", "changeVersion", "files", "flags", "bootOptions"),
        *("dynamicType", "dynamicProperty"),
    }
)
# Keys of the VMX file that are the configuration itself: they change through their own fields only.
_OWN_KEYS = re.compile(
    r"^(scsi|sata|nvme|ide|ethernet|serial|floppy|usb|pcibridge)\d|^(displayname|memsize|numvcpus|guestos|annotation|firmware|"
    r"nvram|virtualhw\.|uuid\.|vc\.uuid|cpuid\.|landbridge\.|\.encoding|config\.version)",
    re.IGNORECASE,
)
_EXTRA_KEY = re.compile(r"^[A-Za-z0-9_.:\-/]{1,128}$")


@dataclass(frozen=True)
class Change:
    """What a spec leads to: the whole new configuration, and what happens to files of disks (by disk key)."""

    config: VmConfig
    existing_disks: list[int]
    destroy_disks: list[int]


def new_vm(
    spec: vim.vm.ConfigSpec, name: str, networks: Networks, mac_taken: Callable[[str], bool], home: str
) -> Change:
    """The configuration of a VM to be created as `spec` says; `home` is the datastore of its directory.

    Raises InvalidArgument, InvalidDeviceSpec, InvalidDeviceBacking or NotSupported.
    """
    try:
        config = VmConfig(name=name, instance_uuid=str(uuid.uuid4()), uuid=str(uuid.uuid4()), memory_mib=1024)
    except ValidationError as error:
        raise invalid_argument("configSpec.name", str(error.errors()[0]["msg"])) from error
    return changed(config, spec, networks, mac_taken, home)


def changed(
    before: VmConfig,
    spec: vim.vm.ConfigSpec,
    networks: Networks,
    mac_taken: Callable[[str], bool],
    home: str,
    *,
    running: bool = False,
) -> Change:
    """The configuration that `spec` makes of `before`, which stays as it is. Raises as `new_vm` does.

    `running`: the VM runs, so that a device's `connected` says something.
    """
    refuse_unserved(spec, _SERVED, "configSpec")
    config = before.model_copy(deep=True)
    changes = DeviceChanges(config, networks, mac_taken, home, running)
    changes.apply(spec.deviceChange or [])
    values = _scalars(before, spec)
    try:
        config = VmConfig.model_validate({**config.model_dump(), **values})
    except ValidationError as error:
        first = error.errors()[0]
        raise invalid_argument(f"configSpec.{first['loc'][0]}", str(first["msg"])) from error
    if config.cpus % config.cores_per_socket:
        raise invalid_argument(
            "configSpec.numCoresPerSocket",
            f"{config.cpus} CPUs do not divide into sockets of {config.cores_per_socket}",
        )
    return Change(config, changes.existing_disks, changes.destroy_disks)


def _scalars(before: VmConfig, spec: vim.vm.ConfigSpec) -> dict[str, Any]:
    given: dict[str, Any] = {
        "annotation": spec.annotation,
        "hardware_version": spec.version,
        "cpus": spec.numCPUs,
        "cores_per_socket": spec.numCoresPerSocket,
        "memory_mib": spec.memoryMB,
        "uuid": spec.uuid.lower() if spec.uuid else None,
        "instance_uuid": spec.instanceUuid.lower() if spec.instanceUuid else None,
    }
    values = {name: value for name, value in given.items() if value is not None}
    if spec.memoryMB is not None and (spec.memoryMB < 4 or spec.memoryMB % 4):
        raise invalid_argument("configSpec.memoryMB", f"{spec.memoryMB} is not a multiple of 4 of at least 4")
    if spec.numCPUs is not None and spec.numCPUs < 1:
        raise invalid_argument("configSpec.numCPUs", f"{spec.numCPUs} is not a number of CPUs")
    if spec.guestId is not None:
        if not guest_os.is_known(spec.guestId):
            raise invalid_argument("configSpec.guestId", f"{spec.guestId!r} is not a guest identifier")
        values["guest_id"] = spec.guestId
    if spec.firmware is not None:
        if spec.firmware not in {item.value for item in Firmware}:
            raise invalid_argument("configSpec.firmware", f"{spec.firmware!r} is neither bios nor efi")
        values["firmware"] = spec.firmware
    extra = _extra_config(before.extra_config, spec)
    if extra != before.extra_config:
        values["extra_config"] = extra
    return values


def _extra_config(before: dict[str, str], spec: vim.vm.ConfigSpec) -> dict[str, str]:
    """Options by key: a new value replaces, an empty one removes."""
    extra = dict(before)
    options = [(option.key, option.value) for option in spec.extraConfig or []]
    if spec.flags is not None and spec.flags.diskUuidEnabled is not None:
        options.append(("disk.EnableUUID", "TRUE" if spec.flags.diskUuidEnabled else "FALSE"))
    for key, value in options:
        text = "" if value is None else str(value)
        if not _EXTRA_KEY.match(key or "") or _OWN_KEYS.match(key):
            raise invalid_argument("configSpec.extraConfig", f"{key!r} can not be set this way")
        if any(ord(letter) < 32 for letter in text):
            raise invalid_argument("configSpec.extraConfig", f"the value of {key!r} has control characters in it")
        if text:
            extra[key] = text
        else:
            extra.pop(key, None)
    return extra


def refuse_unserved(spec: DataObject, served: frozenset[str], path: str) -> None:
    """NotSupported if a data object asks for something beyond the fields in `served`."""
    for info in spec._GetPropertyList():
        if info.name in served:
            continue
        if not _asks_nothing(getattr(spec, info.name)):
            raise not_supported(f"{path}.{info.name}")
    for name in ("cpuAllocation", "memoryAllocation"):
        if name in served and (allocation := getattr(spec, name, None)) is not None:
            _refuse_allocation(allocation, f"{path}.{name}")
    for name in ("flags", "bootOptions"):
        part = getattr(spec, name, None) if name in served else None
        if part is not None:
            refuse_unserved(part, frozenset({"diskUuidEnabled", "dynamicType", "dynamicProperty"}), f"{path}.{name}")


def _refuse_allocation(allocation: vim.ResourceAllocationInfo, path: str) -> None:
    """Shares, reservations and limits are not enforced: only what every VM has anyway passes."""
    shares = allocation.shares
    if allocation.reservation or allocation.limit not in (None, -1) or (shares and shares.level != "normal"):
        raise not_supported(path)


def _asks_nothing(value: Any) -> bool:
    """Whether a value is unset, false, zero or empty all the way down."""
    if isinstance(value, DataObject):
        return all(_asks_nothing(getattr(value, info.name)) for info in value._GetPropertyList())
    if isinstance(value, list):
        return all(_asks_nothing(item) for item in value)
    return not value
