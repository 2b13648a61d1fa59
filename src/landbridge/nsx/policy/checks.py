"""What must hold when a request is through: references, children, loops, and what `addresses` looks at."""

from collections.abc import Iterable, Iterator

from landbridge.nsx.policy import faults
from landbridge.nsx.policy.addresses import check_addresses
from landbridge.nsx.policy.contents import Draft
from landbridge.nsx.policy.model import dhcp, fabric, gateways, nat, profiles, security, segments
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.model.values import address_or_range
from landbridge.nsx.policy.tree import ROOT, place_of

_GATEWAYS = (gateways.Tier0, gateways.Tier1)
_INTERFACES = (gateways.Tier0Interface, gateways.Tier1Interface)
_MEMBERS = (security.Group, segments.Segment, segments.SegmentPort)
# Of which types the objects are that a field refers to.
_TYPES: dict[str, tuple[type[Intent], ...]] = {
    "connectivity_path": _GATEWAYS,
    "transport_zone_path": (fabric.PolicyTransportZone,),
    "dhcp_config_path": (dhcp.DhcpServerConfig,),
    "dhcp_config_paths": (dhcp.DhcpServerConfig,),
    "tier0_path": (gateways.Tier0,),
    "edge_cluster_path": (fabric.PolicyEdgeCluster,),
    "preferred_edge_paths": (fabric.PolicyEdgeNode,),
    "edge_path": (fabric.PolicyEdgeNode,),
    "segment_path": (segments.Segment,),
    "segment_security_profile_path": (profiles.SegmentSecurityProfile,),
    "spoofguard_profile_path": (profiles.SpoofGuardProfile,),
    "mac_discovery_profile_path": (profiles.MacDiscoveryProfile,),
    "ip_discovery_profile_path": (profiles.IPDiscoveryProfile,),
    "source_groups": (security.Group,),
    "destination_groups": (security.Group,),
    "services": (security.Service,),
    "service": (security.Service,),
    "nested_service_path": (security.Service,),
    "default_forwarder_zone_path": (nat.PolicyDnsForwarderZone,),
    "conditional_forwarder_zone_paths": (nat.PolicyDnsForwarderZone,),
    "members": _MEMBERS,
    "scope": (*_GATEWAYS, *_INTERFACES, security.Group, segments.Segment, segments.SegmentPort),
    "expression": _MEMBERS,
}
_LITERALS = {"source_groups", "destination_groups"}  # may hold addresses
_ANY = {"source_groups", "destination_groups", "services", "scope"}  # may hold ANY


def check(draft: Draft) -> None:
    """Fault for the first thing that is wrong with what the request made."""
    _nothing_left_behind(draft)
    for intent in draft.touched.values():
        _check_references(draft, intent)
    _check_loops(draft)
    check_addresses(draft)


def _nothing_left_behind(draft: Draft) -> None:
    """Nobody may refer to what is gone, and nothing may live below it."""
    if not draft.gone:
        return
    users: dict[str, set[str]] = {}
    for intent in draft.intents.values():
        for path in intent.referred():
            if path in draft.gone:
                users.setdefault(path, set()).add(intent.path)
        if intent.parent_path in draft.gone:
            users.setdefault(intent.parent_path, set()).add(intent.path)
    for path, found in sorted(users.items()):
        # If the user was made or changed by this very request, it is the one that is wrong.
        if not found <= draft.touched.keys():
            raise faults.in_use(path, found)
    for path, found in users.items():
        raise faults.bad_path(path, f"{min(found)} needs it and it does not exist any more")


def _references(intent: Intent) -> Iterator[tuple[str, str]]:
    """Field and value of each reference, literals included."""
    for name in intent.references:
        value = getattr(intent, name)
        for one in [value] if isinstance(value, str) else value or ():
            yield name, one
    if isinstance(intent, security.Group):
        for path in intent.referred():
            yield "expression", path
    if isinstance(intent, security.Service):
        for entry in intent.service_entries:
            yield from _references(entry)


def _check_references(draft: Draft, intent: Intent) -> None:
    if intent.parent_path not in ("", ROOT) and intent.parent_path not in draft.intents:
        raise faults.bad_path(intent.parent_path, f"{intent.path} lives below it and it does not exist")
    for name, value in _references(intent):
        if not value:
            continue
        if value.upper() == "ANY" and name in _ANY:
            if isinstance(getattr(intent, name), list) and len(getattr(intent, name)) > 1:
                raise faults.invalid(f"{name}: {intent.path} has ANY, which stands alone, among others")
            continue
        if not value.startswith("/"):
            _check_literal(intent, name, value)
            continue
        target = draft.intents.get(value)
        if target is None:
            why = "does not exist" if place_of(value) else "is no path of this API"
            raise faults.bad_path(value, f"{name} of {intent.path} refers to it and it {why}")
        if not isinstance(target, _TYPES.get(name, (Intent,))):
            raise faults.bad_path(value, f"{name} of {intent.path} can not be a {target.kind}")


def _check_literal(intent: Intent, name: str, value: str) -> None:
    if name not in _LITERALS:
        raise faults.invalid(f"{name}: {value!r} in {intent.path} is no path")
    try:
        address_or_range(value)
    except ValueError:
        raise faults.invalid(f"{name}: {value!r} in {intent.path} is neither a path nor an address") from None


def _check_loops(draft: Draft) -> None:
    for kind in (security.Group, security.Service):
        for intent in draft.touched.values():
            if isinstance(intent, kind) and (loop := _loop(draft, intent, kind)):
                raise faults.invalid(f"{kind.kind} {intent.path} contains itself: {' -> '.join(loop)}")


def _loop(draft: Draft, start: Intent, kind: type[Intent]) -> list[str]:
    """A way from `start` over references back to it; empty if there is none."""
    seen: set[str] = set()
    open_ways: list[tuple[str, ...]] = [(start.path,)]
    while open_ways:
        way = open_ways.pop()
        for path in _next(draft, way[-1], kind):
            if path == start.path:
                return [*way, path]
            if path not in seen:
                seen.add(path)
                open_ways.append((*way, path))
    return []


def _next(draft: Draft, path: str, kind: type[Intent]) -> Iterable[str]:
    intent = draft.get(path, kind)
    return (one for one in intent.referred() if draft.get(one, kind)) if intent else ()
