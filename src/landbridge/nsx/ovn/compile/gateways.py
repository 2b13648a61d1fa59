"""Tier-0 and tier-1 gateways: a router each, with a port for each segment, uplink and service interface.

Between a tier-1 and its tier-0 is a switch of their own, with a /30 out of the tier-0's transit subnets. Which one is
written down with the row and stays, whatever other gateways come and go. Of a /31 OVN takes the second address for its
broadcast, and drops what comes from there: a tier-1's own answers.

A port with gateway chassis is where the edges work: a tier-0's ports on VLANs, and both ends of a tier-1's transit
while it has NAT rules. Both, as the tier-0 is on each host: what it sends down must come to the edge before the tier-1
sees it. All have their edges in the same order, so that what passes two of them needs no second hop.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, ip_network

from landbridge.nsx.ovn.compile.addresses import interface_of
from landbridge.nsx.ovn.compile.context import Context, Gateway, Interface, Leg, mac_of
from landbridge.nsx.ovn.rows import Ref
from landbridge.nsx.policy.model.fabric import PolicyEdgeNode
from landbridge.nsx.policy.model.gateways import LocaleServices, Tier0, Tier0Interface, Tier1, Tier1Interface
from landbridge.nsx.policy.model.nat import PolicyNatRule
from landbridge.nsx.policy.model.segments import Segment

_TOP_PRIORITY = 100  # of gateway chassis
_TRANSIT_LENGTH = 30  # of the prefix between a tier-1 and its tier-0
_ACTIVE_ACTIVE = "OVN has one active edge a port: it runs as ACTIVE_STANDBY, which is what ha_mode should say"


def compile_gateways(context: Context) -> None:
    tier0s = {tier0.path: tier0 for tier0 in context.of(Tier0)}
    natted = {rule.path.split("/nat/")[0] for rule in context.of(PolicyNatRule) if rule.enabled}
    for tier0 in tier0s.values():
        gateway = _router(context, tier0.path, 0)
        error = _ACTIVE_ACTIVE if tier0.ha_mode == "ACTIVE_ACTIVE" else ""
        context.wanted.claim(tier0.path, "RealizedLogicalRouter", gateway.ref, error=error)
        _interfaces(context, gateway)
    transit = _allocate(context, tier0s)
    for tier1 in context.of(Tier1):
        gateway = _router(context, tier1.path, 1)
        rows = [gateway.ref]
        error = ""
        if tier1.tier0_path in tier0s:
            network = transit.get(tier1.path)
            if network is None:
                error = f"the transit subnets of {tier1.tier0_path} are used up: give it larger ones"
            else:
                external = tier1.path in natted
                rows += _join(context, gateway, context.gateways[tier1.tier0_path], network, external=external)
        context.wanted.claim(tier1.path, "RealizedLogicalRouter", *rows, error=error)
        _interfaces(context, gateway)
    _segments(context)


def _router(context: Context, path: str, tier: int) -> Gateway:
    ref = context.wanted.add("Logical_Router", path, name=path)
    gateway = Gateway(path, ref, tier, _edges(context, path))
    context.gateways[path] = gateway
    for services in context.below(path, LocaleServices):
        context.wanted.claim(services.path, "RealizedLogicalRouter", ref)
    return gateway


def _edges(context: Context, path: str) -> list[str]:
    """The chassis of the gateway's edges. An edge node's chassis is what it is called."""
    for services in context.below(path, LocaleServices):
        nodes = sorted(context.below(services.edge_cluster_path, PolicyEdgeNode), key=lambda node: node.member_index)
        first = {edge: place for place, edge in enumerate(services.preferred_edge_paths)}
        nodes.sort(key=lambda node: first.get(node.path, len(first)))
        return list(dict.fromkeys(_chassis(node) for node in nodes))
    return []


def _chassis(node: PolicyEdgeNode) -> str:
    return node.display_name or node.id


def _allocate(context: Context, tier0s: dict[str, Tier0]) -> dict[str, IPv4Network]:
    """A network for each tier-1. Those that were chosen before stay; new ones get the lowest that are free."""
    chosen: dict[str, IPv4Network] = {}
    taken: dict[str, set[IPv4Network]] = {}
    waiting = []
    for tier1 in context.of(Tier1):
        tier0 = tier0s.get(tier1.tier0_path)
        if tier0 is None:
            continue
        network = _chosen(context.present.choices.get(_uplink(tier1.path), ""))
        of_tier0 = taken.setdefault(tier0.path, set())
        usable = network is not None and any(network.subnet_of(subnet) for subnet in _subnets(tier0))
        if network is None or not usable or network in of_tier0:
            waiting.append((tier1.path, tier0))
        else:
            chosen[tier1.path] = network
            of_tier0.add(network)
    free = {path: _free(tier0, taken.get(path, set())) for path, tier0 in tier0s.items()}
    for path, tier0 in waiting:
        network = next(free[tier0.path], None)
        if network is not None:
            chosen[path] = network
    return chosen


def _chosen(text: str) -> IPv4Network | None:
    """What the row says was chosen for it, if nobody scribbled there."""
    try:
        network = IPv4Network(text)
    except ValueError:
        return None
    return network if network.prefixlen == _TRANSIT_LENGTH else None


def _subnets(tier0: Tier0) -> list[IPv4Network]:
    networks = (ip_network(subnet) for subnet in tier0.transit_subnets)
    return [
        network for network in networks if isinstance(network, IPv4Network) and network.prefixlen <= _TRANSIT_LENGTH
    ]


def _free(tier0: Tier0, taken: set[IPv4Network]) -> Iterator[IPv4Network]:
    return (
        network
        for subnet in _subnets(tier0)
        for network in subnet.subnets(new_prefix=_TRANSIT_LENGTH)
        if network not in taken
    )


def _uplink(tier1: str) -> str:
    return f"{tier1}#uplink"


def _join(context: Context, tier1: Gateway, tier0: Gateway, network: IPv4Network, *, external: bool) -> list[Ref]:
    """The switch between the two, and their ports on it."""
    switch = context.wanted.add("Logical_Switch", f"{tier1.path}#transit", name=f"{tier1.path}:transit")
    tier1.parent, tier1.above, tier1.below = tier0.path, network[1], network[2]
    if external and not tier1.edges:
        external = False  # each of the rules says what is missing
    up = _leg(
        context,
        tier1,
        switch,
        _uplink(tier1.path),
        [interface_of(f"{tier1.below}/{_TRANSIT_LENGTH}")],
        edges=tier1.edges if external else [],
        choice=str(network),
    )
    down = _leg(
        context,
        tier0,
        switch,
        f"{tier1.path}#downlink",
        [interface_of(f"{tier1.above}/{_TRANSIT_LENGTH}")],
        edges=tier1.edges if external else [],
        translates=False,
    )
    return [switch, up, down]


def _leg(
    context: Context,
    gateway: Gateway,
    switch: Ref,
    key: str,
    networks: list[Interface],
    *,
    edges: Iterable[str] = (),
    interfaces: tuple[str, ...] = (),
    translates: bool = True,
    enabled: bool = True,
    mtu: int | None = None,
    choice: str = "",
) -> Ref:
    """A port of the router and its other end on the switch."""
    wanted, name = context.wanted, key.replace("#", ":")
    chassis = [
        wanted.add(
            "Gateway_Chassis",
            f"{key}#{edge}",
            name=f"{name}:{edge}",
            chassis_name=edge,
            priority=_TOP_PRIORITY - place,
        )
        for place, edge in enumerate(edges)
    ]
    port = wanted.add(
        "Logical_Router_Port",
        key,
        choice,
        name=name,
        mac=mac_of(key),
        networks=frozenset(str(network) for network in networks),
        gateway_chassis=frozenset(chassis),
        enabled=frozenset(() if enabled else {False}),
        options={"gateway_mtu": str(mtu)} if mtu else {},
    )
    other = wanted.add(
        "Logical_Switch_Port",
        f"{key}#switch",
        name=f"{name}:switch",
        type="router",
        addresses=frozenset({"router"}),
        # Where edges answer for addresses, they also say so to the network when they take over.
        options={"router-port": name, **({"nat-addresses": "router"} if chassis else {})},
    )
    wanted.join(gateway.ref, "ports", port)
    wanted.join(switch, "ports", other)
    gateway.legs.append(Leg(port, name, networks, bool(chassis), bool(chassis) and translates, interfaces))
    return port


def _segments(context: Context) -> None:
    """The gateways' ports on segments that are connected to them."""
    for segment in context.of(Segment):
        gateway, switch = context.gateways.get(segment.connectivity_path), context.switches.get(segment.path)
        addresses = [interface_of(subnet.gateway_address) for subnet in segment.subnets if subnet.gateway_address]
        connected = segment.advanced_config.connectivity == "ON"
        if gateway is not None and switch is not None and addresses and connected:
            port = _leg(context, gateway, switch, f"{segment.path}#gateway", addresses)
            context.wanted.claim(segment.path, "RealizedLogicalRouterPort", port)


def _interfaces(context: Context, gateway: Gateway) -> None:
    """Uplinks and service interfaces. Those of one gateway on one segment are one port, which any edge can have."""
    by_segment: dict[str, list[Tier0Interface | Tier1Interface]] = {}
    for services in context.below(gateway.path, LocaleServices):
        for interface in context.below(services.path, Tier0Interface):
            by_segment.setdefault(interface.segment_path, []).append(interface)
        for service in context.below(services.path, Tier1Interface):
            by_segment.setdefault(service.segment_path, []).append(service)
    for segment, interfaces in by_segment.items():
        error = _interface_problem(context, gateway, segment, interfaces)
        rows = []
        if not error:
            rows = [_interface(context, gateway, segment, interfaces)]
        for one in interfaces:
            context.wanted.claim(one.path, "RealizedLogicalRouterPort", *rows, error=error)


def _interface(
    context: Context, gateway: Gateway, segment: str, interfaces: list[Tier0Interface | Tier1Interface]
) -> Ref:
    named = [_chassis_at(context, one.edge_path) for one in interfaces if isinstance(one, Tier0Interface)]
    edges = list(dict.fromkeys([edge for edge in gateway.edges if edge in named] + gateway.edges))
    networks = {
        interface_of(f"{address}/{subnet.prefix_len}")
        for one in interfaces
        for subnet in one.subnets
        for address in subnet.ip_addresses
    }
    mtu = min(one.mtu for one in interfaces)
    return _leg(
        context,
        gateway,
        context.switches[segment],
        f"{gateway.path}#{segment}",
        sorted(networks, key=str),
        edges=edges if segment in context.vlan_switches else [],
        interfaces=tuple(one.path for one in interfaces),
        enabled=any(one.admin_state == "UP" for one in interfaces),
        mtu=mtu if mtu < _NORMAL_MTU else None,
    )


_NORMAL_MTU = 1500


def _chassis_at(context: Context, edge_path: str) -> str:
    node = context.get(edge_path, PolicyEdgeNode)
    return _chassis(node) if node else ""


def _interface_problem(
    context: Context, gateway: Gateway, segment: str, interfaces: list[Tier0Interface | Tier1Interface]
) -> str:
    if segment not in context.switches:
        return f"{segment} is not realised"
    vlan = segment in context.vlan_switches
    uplink = any(isinstance(one, Tier0Interface) and one.type == "EXTERNAL" for one in interfaces)
    if uplink and not vlan:
        return f"an uplink must be on a VLAN segment, which {segment} is not"
    if vlan and not gateway.edges:
        return f"{gateway.path} has no edges: give its locale-services an edge cluster"
    return ""
