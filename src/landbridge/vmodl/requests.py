"""SOAP requests in: bytes to a method and its arguments, on pyVmomi's type registry.

The bytes are hostile until proven otherwise: no document type, no entities, no processing instructions, bounded
depth; expat does not fetch anything. What is wrong with a request is a MethodFault that says it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from xml.parsers.expat import ExpatError, ParserCreate

from pyVmomi import SoapAdapter, vmodl
from pyVmomi.VmomiSupport import (
    BASE_VERSION,
    F_OPTIONAL,
    DataObject,
    GetWsdlMethod,
    GuessWsdlMethod,
    ManagedObject,
    Object,
    PropertyPath,
)

# vSphere's deepest real requests (selection specs, device specs) stay under 20.
_MAX_DEPTH = 100
_BODY = SoapAdapter.XMLNS_SOAPENV + SoapAdapter.NS_SEP + "Body"
_ENVELOPE = SoapAdapter.XMLNS_SOAPENV + SoapAdapter.NS_SEP + "Envelope"


@dataclass(eq=False)
class Method:
    """One method of the API, and the shape of its requests."""

    wsdl_name: str
    # pyVmomi's description: params, result, resultFlags, privId, isTask
    info: Any
    request: type
    required: tuple[str, ...] = ()


@dataclass
class Request:
    """A parsed request: `this` is the reference it is for, `arguments` has every parameter by its API name."""

    method: Method
    this: ManagedObject
    arguments: dict[str, Any] = field(default_factory=dict)


def parse(body: bytes) -> Request:
    """Parse a SOAP envelope. InvalidRequest says what is wrong; MethodNotFound names an unknown method."""
    try:
        return _Walker(len(body)).parse(body)
    except ExpatError as error:
        raise _invalid(f"The request is not well-formed XML: {error}.") from error
    except vmodl.MethodFault:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, LookupError) as error:
        # What pyVmomi's deserializer raises on unknown fields, types and values.
        raise _invalid(f"The request does not fit the API: {error}.") from error


class _Walker(SoapAdapter.ExpatDeserializerNSHandlers):  # type: ignore[misc]
    """Walks Envelope and Body, and hands the element of the method over to pyVmomi's deserializer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._parser = ParserCreate(namespace_separator=SoapAdapter.NS_SEP)
        self._parser.buffer_text = True
        # The deserializer appends text piece by piece: large pieces keep a huge text from taking quadratic time.
        self._parser.buffer_size = max(8192, min(size, 1 << 22))
        self._path: list[str] = []
        self._method: Method | None = None
        self._deserializer = SoapAdapter.SoapDeserializer(None)

    def parse(self, body: bytes) -> Request:
        parser = self._parser
        SoapAdapter.SetHandlers(parser, SoapAdapter.GetHandlers(self))
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.EntityDeclHandler = _refuse_doctype
        parser.ProcessingInstructionHandler = _refuse_instruction
        parser.Parse(body, True)
        if self._method is None:
            raise _invalid("The request has no SOAP Body with a method in it.")
        return _request(self._method, self._deserializer.GetResult())

    def StartElementHandler(self, tag: str, attr: dict[str, str]) -> None:  # noqa: N802 - expat's name
        self._path.append(tag)
        if len(self._path) == 1 and tag != _ENVELOPE:
            raise _invalid("The document is not a SOAP 1.1 envelope.")
        if len(self._path) > _MAX_DEPTH:
            raise _invalid(f"The request is nested deeper than {_MAX_DEPTH} elements.")
        if len(self._path) != 3 or self._path[1] != _BODY:
            return
        if self._method is not None:
            raise _invalid("The SOAP Body holds more than one method.")
        namespace, _, name = tag.rpartition(SoapAdapter.NS_SEP)
        self._method = find_method(namespace, name)
        self._deserializer = _BoundedDeserializer()
        self._deserializer.Deserialize(self._parser, self._method.request, False, self.nsMap)
        # The element of the method itself becomes the request object.
        self._deserializer.StartElementHandler(tag, attr)
        self._path.pop()

    def EndElementHandler(self, _tag: str) -> None:  # noqa: N802 - expat's name
        self._path.pop()

    def CharacterDataHandler(self, _data: str) -> None:  # noqa: N802 - expat's name
        """Text outside of a method means nothing."""


class _BoundedDeserializer(SoapAdapter.SoapDeserializer):  # type: ignore[misc]
    """pyVmomi's deserializer with a limit of depth."""

    def StartElementHandler(self, tag: str, attr: dict[str, str]) -> None:  # noqa: N802 - expat's name
        if len(self.stack) > _MAX_DEPTH:
            raise _invalid(f"The request is nested deeper than {_MAX_DEPTH} elements.")
        super().StartElementHandler(tag, attr)


def find_method(namespace: str, name: str) -> Method:
    """The method a WSDL name stands for; MethodNotFound if the API has none of that name."""
    try:
        return _find_method(namespace, name)
    except KeyError as error:
        fault = vmodl.fault.MethodNotFound(method=name[:200])
        fault.msg = f"Unable to resolve WSDL method name {name[:200]}"
        raise fault from error


@cache
def _find_method(namespace: str, name: str) -> Method:
    # Not in any WSDL: what pyVmomi calls for every `managed_object.attribute`.
    if name == "Fetch":
        parameter = Object(name="prop", type=PropertyPath, version=BASE_VERSION, flags=0)
        info = Object(
            name="Fetch",
            wsdlName="Fetch",
            version=BASE_VERSION,
            params=(parameter,),
            result=object,
            resultFlags=F_OPTIONAL,
            privId="System.Anonymous",
            isTask=False,
        )
    else:
        try:
            info = GetWsdlMethod(namespace, name).info
        except KeyError:
            # vSAN's clients send urn:vsan for methods that are registered under urn:vim25.
            info = GuessWsdlMethod(name).info
    return Method(name, info, _request_type(name, info), tuple(_required(info)))


def _required(info: Any) -> Iterator[str]:
    for parameter in info.params:
        # An empty array is no element at all on the wire.
        if not parameter.flags & F_OPTIONAL and not issubclass(parameter.type, list):
            yield parameter.name


def _request_type(name: str, info: Any) -> type:
    """A data object class with `_this` and the parameters as fields, for the deserializer to fill."""
    fields = [Object(name="_this", type=ManagedObject, version=BASE_VERSION, flags=F_OPTIONAL)]
    fields += [Object(name=p.name, type=p.type, version=BASE_VERSION, flags=F_OPTIONAL) for p in info.params]
    attributes = {
        "_wsdlName": f"{name}RequestType",
        "_propList": fields,
        "_propInfo": {f.name: f for f in fields},
        "_version": BASE_VERSION,
    }
    return type(f"{name}RequestType", (DataObject,), attributes)


def _request(method: Method, values: Any) -> Request:
    if values is None or values._this is None:
        raise _invalid(f"The request {method.wsdl_name} has no _this.")
    arguments = {parameter.name: getattr(values, parameter.name) for parameter in method.info.params}
    for name in method.required:
        if arguments[name] is None:
            raise _invalid(f"Required parameter {name} of {method.wsdl_name} is missing.")
    return Request(method, values._this, arguments)


def _refuse_doctype(*_arguments: Any) -> None:
    raise _invalid("The request has a document type declaration; those are refused.")


def _refuse_instruction(*_arguments: Any) -> None:
    raise _invalid("The request has a processing instruction; those are refused.")


def _invalid(message: str) -> vmodl.fault.InvalidRequest:
    return vmodl.fault.InvalidRequest(msg=message)
