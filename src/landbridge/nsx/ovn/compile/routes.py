"""Static routes: those that people made, a tier-1's default route, and what a tier-1 tells its tier-0."""

from collections.abc import Iterator
from ipaddress import IPv6Address, ip_network

from landbridge.nsx.ovn.compile.addresses import Network
from landbridge.nsx.ovn.compile.context import Address, Context, Gateway, Leg, mac_of
from landbridge.nsx.ovn.rows import Ref
from landbridge.nsx.policy.model.gateways import Advertisement, StaticRoutes, Tier1

_DEFAULTS = ("0.0.0.0/0", "::/0")


def compile_routes(context: Context, translated: dict[str, list[Network]]) -> None:
    """`translated` are the gateways' outer addresses."""
    for route in context.of(StaticRoutes):
        gateway = context.gateways.get(route.parent_path or route.path.rsplit("/", 2)[0])
        if gateway is not None:
            _static(context, gateway, route)
    for tier1 in context.of(Tier1):
        gateway = context.gateways[tier1.path]
        if gateway.parent:
            for prefix in _DEFAULTS:
                _transit(context, gateway, gateway, prefix)
            for network in sorted(set(_advertised(context, tier1, gateway, translated)), key=str):
                _transit(context, context.gateways[gateway.parent], gateway, str(network))


def _route(context: Context, gateway: Gateway, key: str, prefix: str, hop: Address, leg: Leg | None) -> Ref:
    route = context.wanted.add(
        "Logical_Router_Static_Route",
        f"{key}#{prefix}#{hop}",
        ip_prefix=prefix,
        nexthop=str(hop),
        output_port=frozenset({leg.name} if leg else ()),
    )
    context.wanted.join(gateway.ref, "static_routes", route)
    return route


def _transit(context: Context, gateway: Gateway, tier1: Gateway, prefix: str) -> None:
    """A route of either end of a transit switch to the other one. IPv6 goes by link-local addresses, which each has."""
    upwards = gateway is tier1
    near, far = f"{tier1.path}#uplink", f"{tier1.path}#downlink"
    if not upwards:
        near, far = far, near
    hop = tier1.above if upwards else tier1.below
    if ":" in prefix:
        hop = _link_local(mac_of(far))
    assert hop is not None
    leg = next(leg for leg in gateway.legs if leg.ref.key == near)
    _route(context, gateway, near, prefix, hop, leg)


def _link_local(mac: str) -> IPv6Address:
    byte = [int(word, 16) for word in mac.split(":")]
    words = [byte[0] ^ 2, byte[1], byte[2], 0xFF, 0xFE, *byte[3:]]
    return IPv6Address(bytes([0xFE, 0x80, *[0] * 6, *words]))


def _static(context: Context, gateway: Gateway, route: StaticRoutes) -> None:
    best = min(hop.admin_distance for hop in route.next_hops)
    error = ""
    found = []
    for hop in route.next_hops:
        if hop.admin_distance != best:
            error = "OVN has no routes that stand in for others: give all next hops the same admin_distance"
            continue
        address = hop.ip_address
        legs = [leg for leg in gateway.legs if not hop.scope or set(leg.interfaces) & set(hop.scope)]
        near = (leg for leg in legs if any(address in network.network for network in leg.networks))
        leg = next(near, None)
        if leg is None:
            error = f"the next hop {address} is in no network of {gateway.path}"
        elif address.version != ip_network(route.network).version:
            error = f"the next hop {address} is not of the kind of {route.network}"
        else:
            found.append((address, leg))
    if error:
        context.wanted.claim(route.path, "RealizedStaticRoute", error=error)
        return
    rows = [_route(context, gateway, route.path, route.network, address, leg) for address, leg in found]
    context.wanted.claim(route.path, "RealizedStaticRoute", *rows)


def _advertised(
    context: Context, tier1: Tier1, gateway: Gateway, translated: dict[str, list[Network]]
) -> Iterator[Network]:
    known: list[tuple[Advertisement, Network]] = []
    for leg in gateway.legs:
        if leg.ref.key != f"{tier1.path}#uplink":
            known += [(Advertisement.CONNECTED, network.network) for network in leg.networks]
    for route in context.below(tier1.path, StaticRoutes):
        if route.network not in _DEFAULTS:
            known.append((Advertisement.STATIC_ROUTES, ip_network(route.network)))
    known += [(Advertisement.NAT, network) for network in translated.get(tier1.path, ())]
    return (network for kind, network in known if _permitted(tier1, kind, network))


def _permitted(tier1: Tier1, kind: Advertisement, network: Network) -> bool:
    """The first rule that is about the route decides, else the tier-1's list of kinds."""
    for rule in tier1.route_advertisement_rules:
        if rule.route_advertisement_types and kind not in rule.route_advertisement_types:
            continue
        subnets = [ip_network(subnet) for subnet in rule.subnets]
        within = (
            network == subnet
            or (rule.prefix_operator == "GE" and network.version == subnet.version and network.subnet_of(subnet))  # type: ignore[arg-type]
            for subnet in subnets
        )
        if not subnets or any(within):
            return rule.action == "PERMIT"
    return kind in tier1.route_advertisement_types
