"""Services as OVN's matches."""

from collections.abc import Iterable

from landbridge.nsx.ovn.compile.context import Context
from landbridge.nsx.policy.model.security import (
    ICMPTypeServiceEntry,
    IPProtocolServiceEntry,
    L4PortSetServiceEntry,
    NestedServiceServiceEntry,
    Service,
    ServiceEntry,
)


class Services:
    """Matches of services by path, each made once."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._matches: dict[str, tuple[str, ...]] = {}

    def match(self, paths: Iterable[str], entries: Iterable[ServiceEntry]) -> str:
        """What packets of any of these services match; empty if there is nothing in them."""
        parts: list[str] = []
        for path in paths:
            parts += self._service(path, ())
        parts += self._entries(entries, ())
        unique = list(dict.fromkeys(parts))
        return unique[0] if len(unique) == 1 else f"({' || '.join(unique)})" if unique else ""

    def _service(self, path: str, above: tuple[str, ...]) -> tuple[str, ...]:
        service = self._context.get(path, Service)
        if service is None or path in above:
            return ()
        if path not in self._matches:
            self._matches[path] = tuple(self._entries(service.service_entries, (*above, path)))
        return self._matches[path]

    def _entries(self, entries: Iterable[ServiceEntry], above: tuple[str, ...]) -> Iterable[str]:
        for entry in entries:
            match entry:
                case L4PortSetServiceEntry():
                    protocol = entry.l4_protocol.lower()
                    parts = [protocol]
                    parts += _ports(f"{protocol}.src", entry.source_ports)
                    parts += _ports(f"{protocol}.dst", entry.destination_ports)
                    yield _all(parts)
                case ICMPTypeServiceEntry():
                    protocol = "icmp4" if entry.protocol == "ICMPv4" else "icmp6"
                    parts = [protocol]
                    parts += [f"{protocol}.type == {entry.icmp_type}"] if entry.icmp_type is not None else []
                    parts += [f"{protocol}.code == {entry.icmp_code}"] if entry.icmp_code is not None else []
                    yield _all(parts)
                case IPProtocolServiceEntry():
                    yield f"ip.proto == {entry.protocol_number}"
                case NestedServiceServiceEntry():
                    yield from self._service(entry.nested_service_path, above)


def _ports(field: str, texts: Iterable[str]) -> list[str]:
    single, parts = [], []
    for text in texts:
        first, dash, last = text.partition("-")
        if dash:
            parts.append(f"({field} >= {int(first)} && {field} <= {int(last)})")
        else:
            single.append(str(int(first)))
    if single:
        parts.append(f"{field} == {{{', '.join(single)}}}")
    return [parts[0] if len(parts) == 1 else f"({' || '.join(parts)})"] if parts else []


def _all(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({' && '.join(parts)})"
