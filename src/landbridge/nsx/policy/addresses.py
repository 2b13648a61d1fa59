"""Addresses that fit together: subnets of gateways that route to each other, DHCP, static bindings, NAT."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network

from landbridge.nsx.policy import faults
from landbridge.nsx.policy.contents import Draft
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.model.dhcp import DhcpV4StaticBindingConfig
from landbridge.nsx.policy.model.fabric import PolicyTransportZone
from landbridge.nsx.policy.model.gateways import Advertisement, Tier0, Tier0Interface, Tier1, Tier1Interface
from landbridge.nsx.policy.model.nat import NatAction, PolicyNatRule
from landbridge.nsx.policy.model.security import ConjunctionOperator, Group
from landbridge.nsx.policy.model.segments import Segment, SegmentPort, SegmentSubnet

_Interface = IPv4Interface | IPv6Interface
_HIGHEST_VLAN = 4094


def check_addresses(draft: Draft) -> None:
    """Fault for the first thing that does not fit, in what the request touched and what depends on that."""
    touched = draft.touched.values()
    segments = {path for intent in touched if (path := _segment_of(draft, intent))}
    if any(isinstance(intent, Tier0 | Tier1) for intent in touched):
        changed = {intent.path for intent in touched}
        segments |= {segment.path for segment in draft.of(Segment) if segment.connectivity_path in changed}
    for path in segments:
        segment = draft.intents[path]
        if isinstance(segment, Segment):
            _check_segment(draft, segment)
    if segments or any(isinstance(i, Tier0 | Tier1 | Tier0Interface | Tier1Interface) for i in touched):
        _check_overlaps(draft)
    for intent in touched:
        if isinstance(intent, PolicyNatRule):
            _check_nat(intent)
        if isinstance(intent, Group):
            _check_expression(intent)
    if any(isinstance(intent, SegmentPort) for intent in touched):
        _check_attachments(draft)


def _segment_of(draft: Draft, intent: Intent) -> str:
    if isinstance(intent, Segment):
        return intent.path
    return intent.parent_path if draft.get(intent.parent_path, Segment) else ""


def _check_segment(draft: Draft, segment: Segment) -> None:
    _check_zone(draft, segment)
    versions = [ip_interface(s.gateway_address).version for s in segment.subnets if s.gateway_address]
    if len(set(versions)) != len(versions):
        raise faults.invalid(f"subnets: {segment.path} may have one IPv4 and one IPv6 subnet")
    for subnet in segment.subnets:
        _check_subnet(draft, segment, subnet)
    _check_bindings(draft, segment)


def _check_zone(draft: Draft, segment: Segment) -> None:
    zone = draft.get(segment.transport_zone_path, PolicyTransportZone)
    vlan = zone is not None and zone.tz_type == "VLAN_BACKED"
    if vlan and not segment.vlan_ids:
        raise faults.invalid(f"vlan_ids: {segment.path} is in a VLAN transport zone and needs one")
    if segment.vlan_ids and not vlan:
        raise faults.invalid(f"vlan_ids: {segment.path} has some and is not in a VLAN transport zone")
    if vlan and segment.connectivity_path:
        raise faults.invalid(f"connectivity_path: a VLAN segment ({segment.path}) is joined by gateway interfaces only")
    for word in segment.vlan_ids:
        ends = word.split("-")
        if not all(end.isdecimal() and int(end) <= _HIGHEST_VLAN for end in ends) or len(ends) > 2:
            raise faults.invalid(f"vlan_ids: {word!r} of {segment.path} is neither a VLAN from 0 to 4094 nor a range")


def _check_gateway_address(where: str, interface: _Interface) -> None:
    network = interface.network
    if interface.ip.is_multicast or interface.ip.is_loopback or interface.ip.is_unspecified:
        raise faults.invalid(f"{where}: {interface} is no address for an interface")
    # A /31 and a /32 have no addresses of their own for network and broadcast.
    if network.num_addresses > 2 and interface.ip == network.network_address and network.version == 4:
        raise faults.invalid(f"{where}: {interface} is the subnet's own address, not an interface's")
    if network.num_addresses > 2 and interface.ip == network.broadcast_address and network.version == 4:
        raise faults.invalid(f"{where}: {interface} is the subnet's broadcast address")


def _span(text: str) -> tuple[int, int]:
    """First and last address of `10.0.0.5`, `10.0.0.0/28`, `10.0.0.5-10.0.0.9`."""
    if "/" in text:
        network = ip_network(text, strict=False)
        return int(network.network_address), int(network.broadcast_address)
    first, _, last = text.partition("-")
    return int(ip_address(first)), int(ip_address(last or first))


def _check_subnet(draft: Draft, segment: Segment, subnet: SegmentSubnet) -> None:
    where = f"subnets of {segment.path}"
    if subnet.gateway_address is None:
        if subnet.dhcp_ranges or subnet.dhcp_config:
            raise faults.invalid(f"{where}: DHCP needs a gateway_address, which says what the subnet is")
        return
    gateway = ip_interface(subnet.gateway_address)
    _check_gateway_address(f"gateway_address in {where}", gateway)
    if subnet.dhcp_config is None and not subnet.dhcp_ranges:
        return
    if not _serving(draft, segment):
        raise faults.invalid(
            f"dhcp_config_path: {where} ask for DHCP, and neither the segment nor its gateway names a DHCP server"
        )
    first, last = int(gateway.network.network_address), int(gateway.network.broadcast_address)
    taken = {int(gateway.ip): "the gateway"}
    if subnet.dhcp_config and subnet.dhcp_config.server_address:
        server = ip_interface(subnet.dhcp_config.server_address)
        _check_gateway_address(f"server_address in {where}", server)
        if server.network != gateway.network or server.ip == gateway.ip:
            raise faults.invalid(f"server_address: {server} in {where} is not another address of {gateway.network}")
        taken[int(server.ip)] = "the DHCP server"
    end = -1
    for low, high in sorted(_span(text) for text in subnet.dhcp_ranges):
        name = f"{ip_address(low)}-{ip_address(high)}"
        if not (first <= low and high <= last):
            raise faults.invalid(f"dhcp_ranges: {name} in {where} is not inside {gateway.network}")
        if low <= end:
            raise faults.invalid(f"dhcp_ranges: {name} in {where} overlaps another range")
        for address, what in taken.items():
            if low <= address <= high:
                raise faults.invalid(f"dhcp_ranges: {name} in {where} holds the address of {what}")
        end = high


def _serving(draft: Draft, segment: Segment) -> bool:
    gateway = draft.intents.get(segment.connectivity_path)
    return bool(segment.dhcp_config_path or (isinstance(gateway, Tier0 | Tier1) and gateway.dhcp_config_paths))


def _check_bindings(draft: Draft, segment: Segment) -> None:
    networks = [ip_interface(subnet.gateway_address) for subnet in segment.subnets if subnet.gateway_address]
    seen: dict[str, str] = {}
    for binding in draft.below(segment.path, DhcpV4StaticBindingConfig):
        own = next((one for one in networks if binding.ip_address in one.network), None)
        if own is None:
            raise faults.invalid(f"ip_address: {binding.ip_address} of {binding.path} is in no subnet of its segment")
        if own.ip == binding.ip_address:
            raise faults.invalid(f"ip_address: {binding.ip_address} of {binding.path} is the gateway's")
        if not _serving(draft, segment):
            raise faults.invalid(f"dhcp_config_path: {segment.path} has static bindings and no DHCP server")
        for value in (str(binding.ip_address), binding.mac_address):
            if value in seen:
                raise faults.invalid(f"{value} of {binding.path} is in {seen[value]} already")
            seen[value] = binding.path


@dataclass(frozen=True)
class _Subnet:
    interface: _Interface
    owner: str
    gateway: str

    @property
    def bounds(self) -> tuple[int, int, int]:
        network = self.interface.network
        return network.version, int(network.network_address), int(network.broadcast_address)


def _subnets(draft: Draft) -> Iterator[_Subnet]:
    for segment in draft.of(Segment):
        if segment.connectivity_path and segment.advanced_config.connectivity == "ON":
            for subnet in segment.subnets:
                if subnet.gateway_address:
                    yield _Subnet(ip_interface(subnet.gateway_address), segment.path, segment.connectivity_path)
    interfaces: list[Tier0Interface | Tier1Interface] = [*draft.of(Tier0Interface), *draft.of(Tier1Interface)]
    for interface in interfaces:
        gateway = interface.path.split("/locale-services/")[0]
        for addresses in interface.subnets:
            for address in addresses.ip_addresses:
                yield _Subnet(ip_interface(f"{address}/{addresses.prefix_len}"), interface.path, gateway)


def _advertises(tier1: Tier1) -> bool:
    connected = Advertisement.CONNECTED
    return connected in tier1.route_advertisement_types or any(
        rule.action == "PERMIT" and connected in rule.route_advertisement_types
        for rule in tier1.route_advertisement_rules
    )


def _check_overlaps(draft: Draft) -> None:
    """Subnets of one gateway must differ, and those that gateways of one tier-0 tell each other."""
    domains: dict[str, list[_Subnet]] = {}
    for subnet in _subnets(draft):
        domains.setdefault(subnet.gateway, []).append(subnet)
        tier1 = draft.get(subnet.gateway, Tier1)
        if tier1 is not None and tier1.tier0_path and _advertises(tier1):
            domains.setdefault(tier1.tier0_path, []).append(subnet)
    for subnets in domains.values():
        _check_distinct(subnets)


def _check_distinct(subnets: Iterable[_Subnet]) -> None:
    last: _Subnet | None = None
    for subnet in sorted(subnets, key=lambda one: one.bounds):
        if last is not None and subnet.bounds[0] == last.bounds[0] and subnet.bounds[1] <= last.bounds[2]:
            # Interfaces of several edges share the uplink's network.
            same = "/interfaces/" in subnet.owner and "/interfaces/" in last.owner and subnet.bounds == last.bounds
            if not same or subnet.interface.ip == last.interface.ip:
                raise faults.Fault(
                    400,
                    faults.OVERLAP,
                    f"Subnet {subnet.interface.network} of {subnet.owner} overlaps {last.interface.network} of "
                    f"{last.owner}: their gateways route to each other.",
                )
        if last is None or subnet.bounds[0] != last.bounds[0] or subnet.bounds[2] > last.bounds[2]:
            last = subnet


_NAT_NEEDS = {
    NatAction.SNAT: ("translated_network",),
    NatAction.DNAT: ("destination_network", "translated_network"),
    NatAction.REFLEXIVE: ("source_network", "translated_network"),
    NatAction.NO_SNAT: ("source_network",),
    NatAction.NO_DNAT: ("destination_network",),
}
_NAT_REFUSES = {
    NatAction.REFLEXIVE: ("destination_network", "translated_ports", "service"),
    NatAction.NO_SNAT: ("translated_network", "translated_ports"),
    NatAction.NO_DNAT: ("translated_network", "translated_ports"),
    NatAction.SNAT: ("translated_ports",),
}


def _check_nat(rule: PolicyNatRule) -> None:
    for name in _NAT_NEEDS[rule.action]:
        if not getattr(rule, name):
            raise faults.invalid(f"{name}: {rule.path} is {rule.action} and needs it")
    for name in _NAT_REFUSES.get(rule.action, ()):
        if getattr(rule, name):
            raise faults.invalid(f"{name}: {rule.path} is {rule.action} and can not have it")
    if rule.parent_path.rsplit("/", 1)[-1] != "USER":
        raise faults.read_only(rule.parent_path)


def _check_expression(group: Group) -> None:
    for number, part in enumerate(group.expression):
        if isinstance(part, ConjunctionOperator) != bool(number % 2):
            raise faults.invalid(f"expression: {group.path} needs a conjunction operator between each two expressions")
    if group.expression and not len(group.expression) % 2:
        raise faults.invalid(f"expression: {group.path} ends with a conjunction operator")


def _check_attachments(draft: Draft) -> None:
    seen: dict[str, str] = {}
    for port in draft.of(SegmentPort):
        if port.attachment and port.attachment.id:
            if port.attachment.id in seen:
                raise faults.invalid(
                    f"attachment: {port.attachment.id} of {port.path} is attached to {seen[port.attachment.id]} already"
                )
            seen[port.attachment.id] = port.path
