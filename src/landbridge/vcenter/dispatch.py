"""From a parsed request to the method of a managed object: found by name, allowed by role, called by keyword."""

import inspect
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

from pyVmomi import vmodl
from pyVmomi.VmomiSupport import GetVmodlType

from landbridge.vcenter.authorization import refuse_unless
from landbridge.vcenter.calls import Call
from landbridge.vcenter.collecting import fetch
from landbridge.vcenter.managed import Managed, snake_case
from landbridge.vcenter.sessions import SessionObject
from landbridge.vmodl.requests import Method, Request

log = logging.getLogger(__name__)
_ANONYMOUS = "System.Anonymous"
_LOOKING = ("Query", "Retrieve", "Find", "Has", "Read", "Search", "Fetch", "Check", "List", "Get")


async def dispatch(request: Request, call: Call) -> Any:
    """Do what a request asks. Any MethodFault is for the client; whatever else goes wrong is a SystemError."""
    method = request.method
    try:
        return await _dispatch(request, call)
    except vmodl.MethodFault:
        raise
    except Exception as error:
        log.exception("%s on %s failed", method.wsdl_name, request.this._moId)
        fault = vmodl.fault.SystemError(reason=str(error) or type(error).__name__)
        fault.msg = f"A general system error occurred: {error}"
        raise fault from error


async def _dispatch(request: Request, call: Call) -> Any:
    method = request.method
    managed = call.inventory.get(request.this)
    if isinstance(managed, SessionObject) and managed.session is not call.session:
        refuse_unless(call.session, "System.View", managed)
        # Another session's view: nothing there for this one, nor a word that it exists.
        raise vmodl.fault.ManagedObjectNotFound(obj=request.this, msg=f"There is no object {request.this._moId}.")
    if method.wsdl_name == "Fetch":
        return fetch(call, managed, request.arguments["prop"])
    function = _implementation(managed.__class__, method)
    refuse_unless(call.session, required_privilege(managed, method), managed)
    if function is None:
        raise vmodl.fault.NotSupported(msg=f"{method.wsdl_name} of {managed.kind.__name__} is not supported.")
    return await function(managed, call, **_arguments(function, method, request.arguments))


def required_privilege(managed: Managed, method: Method) -> str:
    """The privilege a method needs.

    pyVmomi's registry says it for most. Where it has none, or only System.View for a method that changes things, the
    method counts as a change unless its name says that it looks or the object is the session's own.
    """
    privilege: str | None = method.info.privId
    if privilege == _ANONYMOUS:
        return _ANONYMOUS
    if isinstance(managed, SessionObject):
        return "System.View"
    looking = method.wsdl_name.startswith(_LOOKING)
    if privilege in (None, "", "System.View", "System.Read"):
        if looking or (privilege and not method.info.isTask):
            return privilege or "System.View"
        return f"{managed.kind.__name__.removeprefix('vim.')}.{method.wsdl_name}"
    return str(privilege)


@cache
def _implementation(kind: Any, method: Method) -> Any:
    declared = GetVmodlType(method.info.typeName)
    if not issubclass(kind.kind, declared):
        fault = vmodl.fault.MethodNotFound(method=method.wsdl_name)
        fault.msg = f"A {kind.kind.__name__} has no method {method.wsdl_name}."
        raise fault
    name = snake_case(method.wsdl_name)
    function = getattr(kind, name, None)
    if function is None or hasattr(Managed, name) or not inspect.iscoroutinefunction(function):
        return None
    return function


@cache
def _accepted(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _arguments(function: Callable[..., Any], method: Method, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments by Python's names. One the function does not take must not be given."""
    accepted = _accepted(function)
    arguments = {}
    for name, value in given.items():
        parameter = snake_case(name)
        if parameter in accepted:
            arguments[parameter] = value
        elif value not in (None, [], False):
            raise vmodl.fault.NotSupported(msg=f"{method.wsdl_name} does not support the parameter {name}.")
    return arguments
