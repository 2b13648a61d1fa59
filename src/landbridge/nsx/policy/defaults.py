"""What is there from the start, as a VMware user expects it."""

import uuid
from collections.abc import Iterator
from typing import Any

from landbridge.nsx.policy.config import PolicyConfig
from landbridge.nsx.policy.contents import Draft
from landbridge.nsx.policy.model import fabric, profiles, security
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.model.values import HIGHEST_NUMBER
from landbridge.nsx.policy.tree import parent_of, place_of

_POINT = "/infra/sites/default/enforcement-points/default"
# NSX's own ids of the transport zones that each installation has.
OVERLAY_ZONE = f"{_POINT}/transport-zones/1b3a2f36-bfd1-443e-a0f6-4de01abc963e"
VLAN_ZONE = f"{_POINT}/transport-zones/a95c914d-748d-497c-94ab-10d4647daeba"
EDGE_CLUSTERS = f"{_POINT}/edge-clusters"
_DEFAULT_RULE_NUMBER = 2
_SECTION = "/infra/domains/default/security-policies/default-layer3-section"

_TCP = {
    "SSH": "22",
    "Telnet": "23",
    "SMTP": "25",
    "DNS-TCP": "53",
    "HTTP": "80",
    "Kerberos-TCP": "88",
    "POP3": "110",
    "IMAP": "143",
    "LDAP": "389",
    "HTTPS": "443",
    "SMB": "445",
    "SMTP_TLS": "587",
    "LDAP-over-SSL": "636",
    "IMAP_SSL": "993",
    "MS-SQL-S": "1433",
    "Oracle": "1521",
    "NFS-TCP": "2049",
    "MySQL": "3306",
    "RDP": "3389",
    "PostgreSQL": "5432",
    "VNC": "5900",
    "WINRM-HTTP": "5985",
    "WINRM-HTTPS": "5986",
    "Redis": "6379",
    "HTTP-8080": "8080",
    "MongoDB": "27017",
}
_UDP = {
    "DNS-UDP": "53",
    "DHCP-Server": "67",
    "DHCP-Client": "68",
    "TFTP": "69",
    "NTP": "123",
    "SNMP-Receive": "161",
    "SNMP-Send": "162",
    "Syslog-Server-UDP": "514",
}


def ensure(draft: Draft, config: PolicyConfig) -> None:
    """Make what is missing, and edges as the configuration has them; what people may change stays as it is."""
    wanted = dict(_objects(config))
    for path, intent in wanted.items():
        place = place_of(path)
        assert place is not None, path
        current = draft.intents.get(path)
        if current is None or (current.display_name != intent.display_name and place.access.name == "READ"):
            stamped = draft.stamped(intent, current, path, parent_of(place, path))
            draft.put(stamped.model_copy(update={"system_owned": not path.endswith("/exclude-list")}))
    used = {path for intent in draft.intents.values() for path in intent.referred()}
    for edge in list(draft.of(fabric.PolicyEdgeNode)):
        if edge.path not in wanted and edge.path not in used:
            draft.delete(edge.path)


def _objects(config: PolicyConfig) -> Iterator[tuple[str, Intent]]:
    yield "/infra/domains/default", fabric.Domain()
    yield "/infra/sites/default", fabric.Site()
    yield _POINT, fabric.EnforcementPoint()
    yield OVERLAY_ZONE, _zone(OVERLAY_ZONE, "nsx-overlay-transportzone", "OVERLAY_STANDARD")
    yield VLAN_ZONE, _zone(VLAN_ZONE, "nsx-vlan-transportzone", "VLAN_BACKED")
    yield from _edges(config)
    yield "/infra/spoofguard-profiles/default-spoofguard-profile", profiles.SpoofGuardProfile()
    yield "/infra/mac-discovery-profiles/default-mac-discovery-profile", profiles.MacDiscoveryProfile()
    yield "/infra/ip-discovery-profiles/default-ip-discovery-profile", profiles.IPDiscoveryProfile()
    yield "/infra/segment-security-profiles/default-segment-security-profile", profiles.SegmentSecurityProfile()
    yield "/infra/settings/firewall/security/exclude-list", security.PolicyExcludeList()
    yield (
        _SECTION,
        security.SecurityPolicy(
            display_name="Default Layer3 Section",
            category="Application",
            sequence_number=HIGHEST_NUMBER,
            is_default=True,
        ),
    )
    yield (
        f"{_SECTION}/rules/default-layer3-rule",
        security.Rule(
            display_name="Default Layer3 Rule",
            action="ALLOW",
            sequence_number=HIGHEST_NUMBER,
            rule_id=_DEFAULT_RULE_NUMBER,
            is_default=True,
        ),
    )
    yield from _services()


def _zone(path: str, name: str, sort: Any) -> Intent:
    return fabric.PolicyTransportZone(display_name=name, tz_type=sort, is_default=True, nsx_id=path.rsplit("/", 1)[-1])


def _edges(config: PolicyConfig) -> Iterator[tuple[str, Intent]]:
    cluster = f"{EDGE_CLUSTERS}/{config.edge_cluster}"
    yield cluster, fabric.PolicyEdgeCluster(nsx_id=str(uuid.uuid5(uuid.NAMESPACE_URL, cluster)))
    for number, edge in enumerate(config.edges):
        path = f"{cluster}/edge-nodes/{edge.name}"
        identity = str(uuid.uuid5(uuid.NAMESPACE_URL, path))
        yield path, fabric.PolicyEdgeNode(nsx_id=identity, member_index=number)


def _services() -> Iterator[tuple[str, Intent]]:
    for protocol, table in (("TCP", _TCP), ("UDP", _UDP)):
        for name, port in table.items():
            fields = {"l4_protocol": protocol, "destination_ports": [port]}
            yield _service(name, {"resource_type": "L4PortSetServiceEntry", **fields})
    yield _service(
        "DNS",
        {"resource_type": "L4PortSetServiceEntry", "id": "DNS-TCP", "l4_protocol": "TCP", "destination_ports": ["53"]},
        {"resource_type": "L4PortSetServiceEntry", "id": "DNS-UDP", "l4_protocol": "UDP", "destination_ports": ["53"]},
    )
    yield _service("ICMP-ALL", {"resource_type": "ICMPTypeServiceEntry", "protocol": "ICMPv4"}, name="ICMP ALL")
    for name, number in (("ICMP_Echo_Request", 8), ("ICMP_Echo_Reply", 0)):
        yield _service(name, {"resource_type": "ICMPTypeServiceEntry", "protocol": "ICMPv4", "icmp_type": number})
    yield _service("ICMPv6-ALL", {"resource_type": "ICMPTypeServiceEntry", "protocol": "ICMPv6"})


def _service(key: str, *entries: dict[str, Any], name: str = "") -> tuple[str, Intent]:
    path = f"/infra/services/{key}"
    stamped = []
    for entry in entries:
        own = entry.get("id", key)
        ours = {"path": f"{path}/service-entries/{own}", "parent_path": path, "relative_path": own}
        identity = str(uuid.uuid5(uuid.NAMESPACE_URL, ours["path"]))
        stamped.append(entry | ours | {"id": own, "display_name": own, "unique_id": identity, "_system_owned": True})
    fields = {"display_name": name or key, "service_entries": stamped, "is_default": True}
    return path, security.Service.model_validate(fields)
