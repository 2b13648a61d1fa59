"""SOAP responses out: results and faults as envelopes, by pyVmomi's serializer or from ready text of the writer."""

import copy
import io
import re
from typing import Any

from pyVmomi import SoapAdapter, vmodl
from pyVmomi.VmomiSupport import (
    BASE_VERSION,
    Array,
    GetCompatibleType,
    GetVmodlType,
    GetWsdlName,
    ManagedObject,
    Object,
)

from landbridge.vmodl.requests import Method
from landbridge.vmodl.versions import CURRENT, NAMESPACE

_START = f"{SoapAdapter.XML_HEADER}\n{SoapAdapter.SOAP_START}"
# Characters XML 1.0 has no place for; a guest's host name may hold them.
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class Raw:
    """A result that is XML text already: what is between `<XResponse>` and `</XResponse>`."""

    def __init__(self, text: str) -> None:
        self.text = text


def result(method: Method, value: Any, version: str) -> bytes:
    """The response of a method in `version`. TypeError if a required field of the result is missing."""
    if isinstance(value, Raw):
        content = value.text  # made by the writer, which lets no illegal character through
    elif value is None:
        content = ""
    else:
        declared = method.info.result
        if declared is object:
            value = typed(value)
        field = Object(name="returnval", type=declared, version=BASE_VERSION, flags=method.info.resultFlags)
        content = legal(serialize(value, field, version))
    name = method.wsdl_name
    return _envelope(f'<{name}Response xmlns="{NAMESPACE}">{content}</{name}Response>')


def fault(error: vmodl.MethodFault, version: str = CURRENT) -> bytes:
    """The SOAP fault of a MethodFault: its text is the faultstring, its fields are in the detail."""
    kind = GetCompatibleType(type(error), version)
    name = GetWsdlName(kind) + "Fault"
    writer = io.StringIO()
    serializer = _serializer(writer, version)
    bare = copy.copy(error)
    # vCenter sends the text in the faultstring only.
    bare.msg = None
    serializer.SerializeFaultDetail(bare, Object(name=name, type=object, version=BASE_VERSION, flags=0))
    detail = writer.getvalue().replace(f"<{name}", f'<{name} xmlns="{NAMESPACE}"', 1)
    text = legal(SoapAdapter.XmlEscape(error.msg or GetWsdlName(kind)))
    tag = SoapAdapter.SOAP_FAULT_TAG
    return _envelope(
        f"<{tag}><faultcode>ServerFaultCode</faultcode><faultstring>{text}</faultstring>"
        f"<detail>{legal(detail)}</detail></{tag}>"
    )


def serialize(value: Any, field: Any, version: str) -> str:
    """A value by pyVmomi's serializer, as the element(s) of `field`, inside of a response."""
    writer = io.StringIO()
    _serializer(writer, version).Serialize(value, field)
    return writer.getvalue()


def typed(value: Any) -> Any:
    """A list as the typed array that xsd:anyType needs; other values as they are."""
    if not isinstance(value, list) or isinstance(value, Array):
        return value
    kind = type(value[0]) if value else str
    if issubclass(kind, ManagedObject):
        return ManagedObject.Array(value)
    return GetVmodlType(f"{kind.__name__}[]")(value)


def legal(text: str) -> str:
    """Text with what XML can not carry replaced."""
    return _ILLEGAL.sub("\ufffd", text) if _ILLEGAL.search(text) else text


class _Serializer(SoapAdapter.SoapSerializer):  # type: ignore[misc]
    """pyVmomi's, but a reference in xsd:anyType is a ManagedObjectReference, as the WSDL and other clients have it."""

    def _QName(self, kind: type, namespace: str) -> tuple[str, str]:  # noqa: N802 - pyVmomi's name
        attribute, name = super()._QName(kind, namespace)
        return attribute, f"{name}Reference" if kind is ManagedObject else name


def _serializer(writer: io.StringIO, version: str) -> Any:
    namespaces = {**SoapAdapter.SOAP_NSMAP, NAMESPACE: ""}
    serializer = _Serializer(writer, version, namespaces)
    serializer.outermostAttrs = ""
    return serializer


def _envelope(body: str) -> bytes:
    return f"{_START}{body}{SoapAdapter.SOAP_END}".encode()
