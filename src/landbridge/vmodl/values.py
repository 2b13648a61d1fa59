"""pyVmomi values as XML text on their own, for storing them: what `to_text` wrote, `from_text` reads."""

import io
from typing import Any
from xml.parsers.expat import ParserCreate

from pyVmomi import SoapAdapter
from pyVmomi.VmomiSupport import Object, newestVersions

# What is stored is in the newest version this pyVmomi knows, so that no field is lost.
_NEWEST = newestVersions.Get("vim")


def to_text(value: Any, name: str, kind: type) -> str:
    """A data object as one XML element called `name`; `kind` is the declared type. TypeError if it is incomplete."""
    writer = io.StringIO()
    serializer = SoapAdapter.SoapSerializer(writer, _NEWEST, SoapAdapter.SOAP_NSMAP.copy())
    serializer.outermostAttrs = "".join(
        f' xmlns:{prefix}="{namespace}"' for namespace, prefix in SoapAdapter.SOAP_NSMAP.items()
    )
    serializer.Serialize(value, Object(name=name, type=kind, version=_NEWEST, flags=0))
    return writer.getvalue()


def from_text(text: str, kind: type) -> Any:
    """The value `to_text` wrote. Only for text of our own store: it does not defend itself as a request parser does."""
    parser = ParserCreate(namespace_separator=SoapAdapter.NS_SEP)
    parser.buffer_text = True
    deserializer = SoapAdapter.SoapDeserializer(None)
    deserializer.Deserialize(parser, kind)
    parser.Parse(text, True)
    return deserializer.GetResult()
