"""What the property collector answers, written as text straight from the inventory (see vmodl.writer for why)."""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

from pyVmomi import vmodl
from pyVmomi.VmomiSupport import DataObject, ManagedObject

from landbridge.vcenter.authorization import refuse_unless
from landbridge.vcenter.calls import Call
from landbridge.vcenter.managed import Managed
from landbridge.vcenter.paths import evaluate
from landbridge.vcenter.selection import Selected
from landbridge.vmodl.responses import Raw
from landbridge.vmodl.writer import Out, ValueWriter, escape, reference, writer_for

log = logging.getLogger(__name__)
_TURN = 0.02  # seconds one answer may keep the event loop
# What anybody may read before the login.
_PUBLIC = ("ServiceInstance", "SessionManager", "propertyCollector")


def authorize(call: Call, selected: Iterable[Selected]) -> None:
    """NotAuthenticated before the login, but for the objects a login needs."""
    if call.session is not None:
        return
    for each in selected:
        if each.managed.moid not in _PUBLIC:
            refuse_unless(None, "System.View", each.managed)


def fetch(call: Call, managed: Managed, path: str) -> Raw | None:
    """The answer to pyVmomi's `managed_object.attribute`: one value."""
    authorize(call, [Selected(managed, (path,))])
    value = evaluate(call, managed, path)
    if value is None:
        return None
    out: Out = []
    writer_for(call.version).any(out, "returnval", value)
    return Raw("".join(out))


async def object_contents(call: Call, selected: Sequence[Selected], tag: str) -> str:
    """ObjectContent elements called `tag`.

    The first reading of a large inventory builds a second's worth of values: others get their turn in between.
    """
    writer = writer_for(call.version)
    out: Out = []
    turn = time.monotonic()
    for each in selected:
        if time.monotonic() - turn > _TURN:
            await asyncio.sleep(0)
            turn = time.monotonic()
        managed = each.managed
        out.append(f"<{tag}>{reference('obj', managed.ref)}")
        missing: Out = []
        for path in each.paths:
            try:
                value = evaluate(call, managed, path)
                if value is not None:
                    out.append(_property(call.version, writer, managed, path, value))
            except vmodl.query.InvalidProperty:
                raise
            except Exception as error:
                missing.append(missing_property(call, path, managed, error))
        out.extend(missing)
        out.append(f"</{tag}>")
    return "".join(out)


def _property(version: str, writer: ValueWriter, managed: Managed, path: str, value: Any) -> str:
    """A DynamicProperty element. The text of data objects is kept: values are never changed in place, so the same
    value is the same text."""
    known = managed.written.get((version, path))
    if known is not None and known[0] is value:
        return known[1]
    out: Out = [f"<propSet><name>{escape(path)}</name>"]
    writer.any(out, "val", value)
    out.append("</propSet>")
    text = "".join(out)
    if isinstance(value, DataObject):
        managed.written[version, path] = (value, text)
    return text


def missing_property(call: Call, path: str, managed: Managed, error: Exception) -> str:
    """A MissingProperty element for a value that can not be had: one bad value must not hide all others."""
    log.error("property %s of %r can not be read", path, managed, exc_info=error)
    fault = vmodl.fault.SystemError(reason=f"property {path}: {error}", msg=f"The property {path} is damaged.")
    out: Out = []
    missing = vmodl.query.PropertyCollector.MissingProperty(path=path, fault=fault)
    writer_for(call.version).data(out, "missingSet", missing)
    return "".join(out)


def change(call: Call, path: str, operation: str, value: Any) -> str:
    """A PropertyChange element."""
    out: Out = [f"<changeSet><name>{escape(path)}</name><op>{operation}</op>"]
    if value is not None:
        writer_for(call.version).any(out, "val", value)
    out.append("</changeSet>")
    return "".join(out)


def object_update(kind: str, ref: ManagedObject, changes: str, missing: str) -> str:
    """An ObjectUpdate element: `enter`, `modify` or `leave`."""
    return f"<objectSet><kind>{kind}</kind>{reference('obj', ref)}{changes}{missing}</objectSet>"
