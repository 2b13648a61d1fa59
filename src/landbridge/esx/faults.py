"""What the host answers when it does not do what it was asked: vSphere's faults, by name."""

from landbridge.esx.model import ApiError
from landbridge.esx.switch import SwitchError, UnknownPortGroup
from landbridge.vsan.faults import StorageFault

_NOT_FOUND = {"ManagedObjectNotFound", "FileNotFound"}
_CONFLICT = {
    "InvalidPowerState",
    "InvalidState",
    "ConcurrentAccess",
    "DuplicateName",
    "AlreadyExists",
    "FileAlreadyExists",
    "FileLocked",
    "ResourceInUse",
    "TaskInProgress",
    "ToolsUnavailable",
}
_BAD_REQUEST = {
    "InvalidArgument",
    "InvalidRequest",
    "InvalidName",
    "InvalidDatastorePath",
    "InvalidDeviceBacking",
    "InvalidDeviceSpec",
    "InvalidVmConfig",
    "InvalidDiskFormat",
}
_STATUS = {"NotSupported": 501, "NoDiskSpace": 507, "InsufficientResourcesFault": 507}


class Fault(Exception):  # noqa: N818 - vSphere's word for it
    """A refused or failed operation: `type` is the vSphere fault's name, the message is for people."""

    def __init__(self, type: str, message: str, **details: str) -> None:  # noqa: A002 - the API's field name
        super().__init__(message)
        self.type = type
        self.message = message
        self.details = details

    @property
    def error(self) -> ApiError:
        """The fault as the API sends it."""
        return ApiError(type=self.type, message=self.message, details=self.details)

    @property
    def status(self) -> int:
        """The HTTP status the fault is answered with."""
        if self.type in _NOT_FOUND:
            return 404
        if self.type in _CONFLICT:
            return 409
        if self.type in _BAD_REQUEST:
            return 400
        return _STATUS.get(self.type, 500)


def as_fault(error: BaseException) -> Fault:
    """Any error as a fault; what nobody foresaw is a SystemError."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, StorageFault):
        return Fault(error.type, str(error))
    if isinstance(error, UnknownPortGroup):
        return Fault("InvalidDeviceBacking", str(error))
    if isinstance(error, SwitchError):
        return Fault("HostConfigFault", str(error))
    if isinstance(error, TimeoutError):
        return Fault("Timedout", str(error) or "the operation took too long")
    return Fault("SystemError", f"{type(error).__name__}: {error}")
