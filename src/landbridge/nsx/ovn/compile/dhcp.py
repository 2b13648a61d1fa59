"""DHCP: OVN answers on the segment itself; a VIF without an address of its own gets one of the ranges.

OVN knows no ranges, only a subnet with exceptions, so the exceptions are what is outside of the ranges.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from landbridge.nsx.ovn.compile.addresses import interface_of, networks
from landbridge.nsx.ovn.compile.context import Context, mac_of
from landbridge.nsx.ovn.rows import Ref
from landbridge.nsx.policy.model.dhcp import DhcpServerConfig, DhcpV4Options, DhcpV4StaticBindingConfig
from landbridge.nsx.policy.model.gateways import Tier0, Tier1
from landbridge.nsx.policy.model.segments import Segment, SegmentDhcpV4Config, SegmentSubnet

# What OVN 23.03 can send, by DHCP code: its name, and whether its value is text.
_CODES = {
    2: ("time_offset", False),
    12: ("hostname", True),
    15: ("domain_name", True),
    26: ("mtu", False),
    42: ("ntp_server", False),
    66: ("tftp_server", True),
    67: ("bootfile_name", True),
    119: ("domain_search_list", True),
    150: ("tftp_server_address", False),
    210: ("path_prefix", True),
    252: ("wpad", True),
}


@dataclass
class SegmentDhcp:
    """What the ports of a segment get: `options` with an address out of the ranges, or a static binding by MAC."""

    options: Ref | None = None
    network: IPv4Network | None = None
    dynamic: bool = False
    bindings: dict[str, tuple[Ref, str]] = field(default_factory=dict)  # by MAC: its options and its address
    other_config: dict[str, str] = field(default_factory=dict)


class _Unable(Exception):  # noqa: N818 - a reason, not a failure
    """Why it can not be realised."""


def compile_dhcp(context: Context) -> dict[str, SegmentDhcp]:
    """Options rows, and per segment what its ports need to know."""
    served = {}
    used: dict[str, list[Ref]] = {}
    for segment in context.of(Segment):
        bindings = list(context.below(segment.path, DhcpV4StaticBindingConfig))
        server = _server(context, segment)
        try:
            found = _subnet(segment)
            if server is None or found is None:
                if any(subnet.dhcp_ranges for subnet in segment.subnets):
                    context.wanted.claim(segment.path, "RealizedDhcpServer", error=_NO_SERVER)
                for binding in bindings:
                    context.wanted.claim(binding.path, "RealizedDhcpStaticBinding", error=_NO_SERVER)
                continue
            dhcp = _serve(context, segment, server, found)
        except _Unable as reason:
            context.wanted.claim(segment.path, "RealizedDhcpServer", error=str(reason))
            for binding in bindings:
                context.wanted.claim(binding.path, "RealizedDhcpStaticBinding", error=str(reason))
            continue
        for binding in bindings:
            _bind(context, segment, server, found, dhcp, binding)
        served[segment.path] = dhcp
        if dhcp.options is not None:
            used.setdefault(server.path, []).append(dhcp.options)
            context.wanted.claim(segment.path, "RealizedDhcpServer", dhcp.options)
    for server in context.of(DhcpServerConfig):
        context.wanted.claim(server.path, "RealizedDhcpServer", *used.get(server.path, ()))
    return served


_NO_SERVER = "the segment has no DHCP server: set its dhcp_config_path and an IPv4 gateway address"


def _server(context: Context, segment: Segment) -> DhcpServerConfig | None:
    """The segment's own, else its gateway's."""
    if segment.dhcp_config_path:
        return context.get(segment.dhcp_config_path, DhcpServerConfig)
    gateway = context.get(segment.connectivity_path, Tier1) or context.get(segment.connectivity_path, Tier0)
    for path in gateway.dhcp_config_paths if gateway else ():
        return context.get(path, DhcpServerConfig)
    return None


def _subnet(segment: Segment) -> SegmentSubnet | None:
    """The IPv4 subnet that is served; OVN gives addresses of one subnet a switch."""
    four = [
        subnet
        for subnet in segment.subnets
        if subnet.gateway_address and interface_of(subnet.gateway_address).version == 4
    ]
    ranged = [subnet for subnet in four if subnet.dhcp_ranges]
    if len(ranged) > 1:
        raise _Unable("OVN gives out addresses of one subnet a segment: leave DHCP ranges in one of them")
    return next(iter(ranged or four), None)


def _serve(context: Context, segment: Segment, server: DhcpServerConfig, subnet: SegmentSubnet) -> SegmentDhcp:
    gateway = IPv4Interface(str(subnet.gateway_address))
    config = subnet.dhcp_config or SegmentDhcpV4Config()
    lease = config.lease_time if "lease_time" in config.model_fields_set else server.lease_time
    options = _options(segment, server, subnet, lease, config.options)
    dhcp = SegmentDhcp(network=gateway.network, dynamic=bool(subnet.dhcp_ranges))
    dhcp.options = context.wanted.add(
        "DHCP_Options", f"{segment.path}#dhcp", cidr=str(gateway.network), options=options
    )
    if dhcp.dynamic:
        taken = {gateway.ip, IPv4Address(options["server_id"])}
        taken |= {
            binding.ip_address
            for binding in context.below(segment.path, DhcpV4StaticBindingConfig)
            if isinstance(binding.ip_address, IPv4Address)
        }
        outside = " ".join(_outside(gateway.network, subnet.dhcp_ranges, taken))
        dhcp.other_config = {"subnet": str(gateway.network), **({"exclude_ips": outside} if outside else {})}
    return dhcp


def _options(
    segment: Segment, server: DhcpServerConfig, subnet: SegmentSubnet, lease: int, more: DhcpV4Options | None
) -> dict[str, str]:
    gateway = IPv4Interface(str(subnet.gateway_address))
    config = subnet.dhcp_config or SegmentDhcpV4Config()
    possible = (config.server_address, server.server_address, *server.server_addresses)
    own = next((text for text in possible if text and interface_of(text).version == gateway.version), None)
    options = {
        "server_id": str(interface_of(own).ip) if own else str(gateway.ip),
        "server_mac": mac_of(f"{segment.path}#dhcp"),
        "lease_time": str(lease),
        "router": str(gateway.ip),
    }
    if config.dns_servers:
        options["dns_server"] = _set(str(address) for address in config.dns_servers)
    if segment.domain_name:
        options["domain_name"] = f'"{segment.domain_name}"'
    return options | _extra(more)


def _extra(options: DhcpV4Options | None) -> dict[str, str]:
    if options is None:
        return {}
    extra = {}
    if options.option121 is not None:
        routes = (f"{route.network},{route.next_hop}" for route in options.option121.static_routes)
        extra["classless_static_route"] = _set(routes)
    for option in options.others:
        if option.code not in _CODES:
            can = ", ".join(str(code) for code in sorted(_CODES))
            raise _Unable(f"OVN can not send DHCP option {option.code}; it can send {can}")
        name, text = _CODES[option.code]
        values = ",".join(option.values)
        extra[name] = f'"{values}"' if text else _set(option.values) if len(option.values) > 1 else values
    return extra


def _bind(
    context: Context,
    segment: Segment,
    server: DhcpServerConfig,
    subnet: SegmentSubnet,
    dhcp: SegmentDhcp,
    binding: DhcpV4StaticBindingConfig,
) -> None:
    address = str(binding.ip_address)
    error, options = "", {}
    if dhcp.network is None or binding.ip_address not in dhcp.network:
        error = f"{address} is not in the segment's subnet {dhcp.network}"
    elif binding.mac_address in dhcp.bindings:
        error = f"another binding of the segment has {binding.mac_address} already"
    config = subnet.dhcp_config or SegmentDhcpV4Config()
    try:
        options = _options(segment, server, subnet, binding.lease_time, config.options) | _extra(binding.options)
    except _Unable as reason:
        error = str(reason)
    if error:
        context.wanted.claim(binding.path, "RealizedDhcpStaticBinding", error=error)
        return
    if binding.gateway_address is not None:
        options["router"] = str(binding.gateway_address)
    if binding.host_name:
        options["hostname"] = f'"{binding.host_name}"'
    ref = context.wanted.add("DHCP_Options", binding.path, cidr=str(dhcp.network), options=options)
    dhcp.bindings[binding.mac_address] = (ref, address)
    context.wanted.claim(binding.path, "RealizedDhcpStaticBinding", ref)


def _outside(subnet: IPv4Network, ranges: Iterable[str], taken: set[IPv4Address]) -> list[str]:
    """What of the subnet is not in the ranges, as OVN writes it: `first..last` or one address."""
    inside = sorted((int(net[0]), int(net[-1])) for text in ranges for net in networks(text))
    gaps, low = [], int(subnet[1])
    for first, last in inside:
        if first > low:
            gaps.append((low, first - 1))
        low = max(low, last + 1)
    if low < int(subnet[-1]):
        gaps.append((low, int(subnet[-1]) - 1))
    covered = [address for address in sorted(taken) if not any(first <= int(address) <= last for first, last in gaps)]
    gaps += [(int(address), int(address)) for address in covered if address in subnet]
    return [
        str(IPv4Address(first)) if first == last else f"{IPv4Address(first)}..{IPv4Address(last)}"
        for first, last in sorted(gaps)
    ]


def _set(values: Iterable[str]) -> str:
    return "{" + ", ".join(values) + "}"
