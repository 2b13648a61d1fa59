"""What host agents answer when something goes wrong, as the vSphere faults it is named after."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import ManagedObject

from landbridge.esx.client import HostError, HostUnreachable
from landbridge.vcenter.managed import Managed

_COMMON = {info.name for info in vmodl.MethodFault._GetPropertyList()}


def fault_of(error: HostError | HostUnreachable, entity: Managed | None = None) -> vmodl.MethodFault:
    """The fault for an agent's error: of the class it names, with the fields its details hold.

    A name the API does not have becomes a SystemError that tells it. `entity` fills references the fault requires.
    """
    if isinstance(error, HostUnreachable):
        return vmodl.fault.HostCommunication(
            msg=f"Unable to communicate with the remote host, since it is disconnected or away: {error}"
        )
    kind = _fault_class(error.type)
    if kind is None:
        return system_error(f"{error.type}: {error.message}")
    fault: vmodl.MethodFault = kind(msg=error.message)
    for info in kind._GetPropertyList():
        if info.name not in _COMMON:
            value = _field(info.type, error.details.get(info.name), bool(info.flags), error, entity)
            if value is not None:
                setattr(fault, info.name, value)
    return fault


def system_error(reason: str) -> vmodl.fault.SystemError:
    """A fault for what has no fault of its own."""
    return vmodl.fault.SystemError(reason=reason, msg=f"A general system error occurred: {reason}")


@contextmanager
def agent_faults(entity: Managed | None = None) -> Iterator[None]:
    """Calls of a host agent in here raise vSphere faults."""
    try:
        yield
    except (HostError, HostUnreachable) as error:
        raise fault_of(error, entity) from error


def _fault_class(name: str) -> Any:
    for namespace in (vim.fault, vmodl.fault):
        try:
            kind = getattr(namespace, name)
        except AttributeError:
            continue
        if isinstance(kind, type) and issubclass(kind, vmodl.MethodFault):
            return kind
    return None


def _field(kind: Any, given: str | None, optional: bool, error: HostError, entity: Managed | None) -> Any:
    """A fault's field: what the agent told, or, where the API insists on one, the best that is known."""
    if given is None and optional:
        return None
    if isinstance(kind, type) and issubclass(kind, ManagedObject):
        return entity.ref if entity is not None and isinstance(entity.ref, kind) else None
    if isinstance(kind, type) and issubclass(kind, Enum | str) and kind is not str:
        return kind(given) if given is not None else None
    if kind is bool:
        return given in ("true", "True", "1")
    if isinstance(kind, type) and issubclass(kind, int):
        return kind(given) if given is not None and given.lstrip("-").isdigit() else kind(0)
    if kind is str:
        return given if given is not None else error.message
    return None
