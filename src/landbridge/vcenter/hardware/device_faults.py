"""The faults a wrong device change is answered with: each names the change by its place in the request."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError
from pyVmomi import vim, vmodl


def invalid_device(index: int, message: str, device_property: str | None = None) -> vim.fault.InvalidDeviceSpec:
    """A device change that asks for what can not be; `index` is its place in `deviceChange`."""
    path = f"virtualDeviceSpec.device.{device_property}" if device_property else None
    return vim.fault.InvalidDeviceSpec(
        deviceIndex=index, property=path, msg=f"Invalid configuration for device '{index}': {message}."
    )


def invalid_backing(index: int, message: str) -> vim.fault.InvalidDeviceBacking:
    """A device change whose backing does not exist or is of a kind that is not served."""
    return vim.fault.InvalidDeviceBacking(
        deviceIndex=index,
        property="virtualDeviceSpec.device.backing",
        msg=f"Incompatible device backing specified for device '{index}': {message}.",
    )


def invalid_argument(property_path: str, message: str) -> vmodl.fault.InvalidArgument:
    """A value no VM can have: `property_path` says which, as in `configSpec.memoryMB`."""
    return vmodl.fault.InvalidArgument(
        invalidProperty=property_path, msg=f"A specified parameter was not correct: {property_path}: {message}."
    )


def not_supported(what: str) -> vmodl.fault.NotSupported:
    """Something of the vSphere API that is not served here."""
    return vmodl.fault.NotSupported(msg=f"{what} is not supported.")


@contextmanager
def validated(index: int) -> Iterator[None]:
    """Turn a device that fails the model's checks into the fault for the change at `index`."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise invalid_device(index, f"{where}: {first['msg']}") from error
