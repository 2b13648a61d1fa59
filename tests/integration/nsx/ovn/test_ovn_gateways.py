"""Gateways, routes and NAT: the rows, and what OVN's own simulation does with packets on them."""

import re
from ipaddress import ip_address
from typing import Any

from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.model.fabric import PolicyEdgeNode, PolicyTransportZone
from landbridge.nsx.policy.model.gateways import (
    Advertisement,
    InterfaceSubnet,
    LocaleServices,
    RouteAdvertisementRule,
    RouterNexthop,
    StaticRoutes,
    Tier0,
    Tier0Interface,
    Tier1,
)
from landbridge.nsx.policy.model.nat import NatAction, PolicyNatRule
from landbridge.nsx.policy.model.security import L4PortSetServiceEntry, Service
from landbridge.nsx.policy.model.segments import (
    PortAddressBinding,
    PortAttachment,
    Segment,
    SegmentAdvancedConfig,
    SegmentPort,
    SegmentSubnet,
)
from landbridge.nsx.snapshot import RealizationState
from tests.integration.nsx.ovn.central import Site, machine

T0, T1, T2 = "/infra/tier-0s/t0", "/infra/tier-1s/one", "/infra/tier-1s/two"
WEB, DB, UPLINK = "/infra/segments/web", "/infra/segments/db", "/infra/segments/uplink"
CLUSTER = "/infra/sites/default/enforcement-points/default/edge-clusters/c"
VLANS = "/infra/sites/default/enforcement-points/default/transport-zones/vlan"
CONNECTED = [Advertisement.CONNECTED]


def provider() -> list[Intent]:
    """A tier-0 with two edges, an uplink on each, and a default route."""
    services = f"{T0}/locale-services/default"
    uplinks = [
        Tier0Interface(
            path=f"{services}/interfaces/up{number}",
            parent_path=services,
            segment_path=UPLINK,
            subnets=[InterfaceSubnet(ip_addresses=[ip_address(f"10.20.3.{number}")], prefix_len=24)],
            edge_path=f"{CLUSTER}/edge-nodes/{number}",
        )
        for number in (11, 12)
    ]
    edges = [
        PolicyEdgeNode(
            path=f"{CLUSTER}/edge-nodes/{number}",
            parent_path=CLUSTER,
            display_name=f"edge{number}",
            member_index=number,
        )
        for number in (11, 12)
    ]
    return [
        PolicyTransportZone(path=VLANS, tz_type="VLAN_BACKED"),
        Segment(path=UPLINK, transport_zone_path=VLANS, vlan_ids=["7"]),
        Tier0(path=T0),
        LocaleServices(path=services, parent_path=T0, edge_cluster_path=CLUSTER),
        StaticRoutes(
            path=f"{T0}/static-routes/default",
            parent_path=T0,
            network="0.0.0.0/0",
            next_hops=[RouterNexthop(ip_address=ip_address("10.20.3.1"))],
        ),
        *edges,
        *uplinks,
    ]


def tenant(path: str, segment: str, gateway: str, **fields: Any) -> list[Intent]:
    return [
        Tier1(path=path, tier0_path=T0, **{"route_advertisement_types": CONNECTED, **fields}),
        LocaleServices(path=f"{path}/locale-services/default", parent_path=path, edge_cluster_path=CLUSTER),
        Segment(path=segment, connectivity_path=path, subnets=[SegmentSubnet(gateway_address=gateway)]),
    ]


def bound(number: int, segment: str, address: str) -> SegmentPort:
    return SegmentPort(
        path=f"{segment}/ports/p{number}",
        parent_path=segment,
        attachment=PortAttachment(id=f"vif-{number}"),
        address_bindings=[PortAddressBinding(ip_address=address)],
    )


async def two_tenants(site: Site, **fields: Any) -> None:
    await site.put(
        *provider(),
        *tenant(T1, WEB, "10.1.0.1/24", **fields),
        *tenant(T2, DB, "10.2.0.1/24"),
        bound(1, WEB, "10.1.0.10"),
        bound(2, DB, "10.2.0.10"),
        machines=[machine(1, WEB), machine(2, DB)],
    )


async def packet(site: Site, to: str, more: str = "icmp4.type == 8", options: tuple[str, ...] = ("--minimal",)) -> str:
    """What becomes of a packet of vif-1 to an address beyond its gateway."""
    (mac,) = [row[1] for row in await site.rows("Logical_Router_Port", "name", "mac") if row[0] == f"{WEB}:gateway"]
    return await site.trace(
        WEB,
        f'inport == "vif-1" && eth.src == 00:50:56:00:00:01 && eth.dst == {mac} && ip4.src == 10.1.0.10'
        f" && ip4.dst == {to} && ip.ttl == 64 && {more}",
        *options,
    )


async def test_tenants_reach_each_other_through_the_provider_and_all_is_realised(site: Site) -> None:
    await two_tenants(site)
    assert 'output("vif-2")' in await packet(site, "10.2.0.10")
    for path in (
        T0,
        T1,
        T2,
        WEB,
        UPLINK,
        f"{T0}/static-routes/default",
        f"{T0}/locale-services/default/interfaces/up11",
    ):
        assert {realized.state for realized in site.realized(path)} == {RealizationState.REALIZED}, path


async def test_gateways_answer_at_their_ends_of_the_transit_and_pass_each_others_answers_on(site: Site) -> None:
    await two_tenants(site)
    await site.put(bound(9, UPLINK, "10.20.3.1"), machines=[machine(9, UPLINK)])
    networks = {row[0]: row[1] for row in await site.rows("Logical_Router_Port", "name", "networks")}
    above, below = (networks[f"{T1}:{end}"].split("/")[0] for end in ("downlink", "uplink"))
    assert 'output("vif-1")' in await packet(site, above)
    macs = {row[0]: row[1] for row in await site.rows("Logical_Router_Port", "name", "mac")}
    exceeded = (
        f'inport == "{T1}:uplink:switch" && eth.src == {macs[f"{T1}:uplink"]} && eth.dst == {macs[f"{T1}:downlink"]}'
        f" && ip4.src == {below} && ip4.dst == 10.20.3.1 && ip.ttl == 64 && icmp4.type == 11"
    )
    assert 'output("vif-9")' in await site.trace(f"{T1}:transit", exceeded, "--minimal")


async def test_what_is_not_advertised_is_not_reached(site: Site) -> None:
    await site.put(*provider(), *tenant(T1, WEB, "10.1.0.1/24"), *tenant(T2, DB, "10.2.0.1/24", **_DENY))
    await site.put(bound(1, WEB, "10.1.0.10"), bound(2, DB, "10.2.0.10"), machines=[machine(1, WEB), machine(2, DB)])
    assert 'output("vif-2")' not in await packet(site, "10.2.0.10")


_DENY = {
    "route_advertisement_rules": [RouteAdvertisementRule(name="no", action="DENY", subnets=["10.0.0.0/8"])],
}


async def test_a_segment_taken_off_its_gateway_keeps_its_switch_and_loses_the_port(site: Site) -> None:
    await two_tenants(site)
    off = Segment(
        path=WEB,
        connectivity_path=T1,
        subnets=[SegmentSubnet(gateway_address="10.1.0.1/24")],
        advanced_config=SegmentAdvancedConfig(connectivity="OFF"),
    )
    before = await site.rows("Logical_Switch", "_uuid")
    await site.put(off)
    assert await site.rows("Logical_Switch", "_uuid") == before
    assert f"{WEB}:gateway" not in [row[0] for row in await site.rows("Logical_Router_Port", "name")]


async def test_transit_addresses_stay_when_other_gateways_come_and_go(site: Site) -> None:
    async def transits() -> dict[str, str]:
        rows = await site.rows("Logical_Router_Port", "name", "networks")
        return {name: networks for name, networks in rows if name.endswith(":uplink")}

    await two_tenants(site)
    before = await transits()
    await site.put(*tenant("/infra/tier-1s/a-new-first", "/infra/segments/n", "10.3.0.1/24"))
    after = await transits()
    assert {name: after[name] for name in before} == before
    await site.put(drop=[T1])
    await site.put(*tenant("/infra/tier-1s/z-last", "/infra/segments/z", "10.4.0.1/24"))
    last = await transits()
    assert last[f"{T2}:uplink"] == before[f"{T2}:uplink"]
    assert last["/infra/tier-1s/z-last:uplink"] == before[f"{T1}:uplink"], "a free one is used again"


async def test_uplinks_have_the_edges_in_order_and_both_addresses(site: Site) -> None:
    await two_tenants(site)
    chassis = await site.rows("Gateway_Chassis", "chassis_name", "priority")
    assert chassis == [["edge11", 100], ["edge12", 99]]
    (networks,) = [
        row[1] for row in await site.rows("Logical_Router_Port", "name", "networks") if row[0] == f"{T0}:{UPLINK}"
    ]
    assert networks == ["set", ["10.20.3.11/24", "10.20.3.12/24"]]


async def test_a_next_hop_that_is_nowhere_is_said(site: Site) -> None:
    await two_tenants(site)
    route = StaticRoutes(
        path=f"{T1}/static-routes/r",
        parent_path=T1,
        network="10.9.0.0/16",
        next_hops=[RouterNexthop(ip_address=ip_address("10.77.0.1"))],
    )
    await site.put(route)
    (realized,) = site.realized(route.path)
    assert realized.state is RealizationState.ERROR
    assert "10.77.0.1" in realized.error


def translated(action: str, address: str, trace: str) -> bool:
    return re.search(rf"{action}\w*\({re.escape(address)}\)", trace) is not None


def nat(gateway: str, number: int, action: NatAction, **fields: Any) -> PolicyNatRule:
    section = f"{gateway}/nat/USER"
    path = f"{section}/nat-rules/r{number}"
    return PolicyNatRule(path=path, parent_path=section, sequence_number=number, action=action, **fields)


async def test_sources_are_translated_but_for_the_exempted_destinations(site: Site) -> None:
    await two_tenants(site)
    exempt = nat(T0, 1, NatAction.NO_SNAT, source_network="10.1.0.0/28", destination_network="192.0.2.0/24")
    snat = nat(T0, 2, NatAction.SNAT, source_network="10.1.0.0/24", translated_network="10.20.3.20")
    await site.put(exempt, snat)
    assert {one.state for rule in (exempt, snat) for one in site.realized(rule.path)} == {RealizationState.REALIZED}
    rows = await site.rows("NAT", "type", "logical_ip", "external_ip")
    assert rows == [["snat", "10.1.0.0/24", "10.20.3.20"], ["snat", "10.1.0.0/28", "10.20.3.20"]]
    # The next hop is a port that OVN knows, so that the simulation need not stop at an ARP request.
    await site.put(bound(9, UPLINK, "10.20.3.1"), machines=[machine(9, UPLINK)])
    assert translated("ct_snat", "10.20.3.20", await packet(site, "198.51.100.1", options=()))
    assert not translated("ct_snat", "10.20.3.20", await packet(site, "192.0.2.9", options=()))


async def test_destinations_and_ports_are_translated(site: Site) -> None:
    await two_tenants(site)
    service = Service(
        path="/infra/services/http8",
        service_entries=[L4PortSetServiceEntry(l4_protocol="TCP", destination_ports=["8080"])],
    )
    dnat = nat(T0, 1, NatAction.DNAT, destination_network="10.20.3.30", translated_network="10.2.0.10")
    forward = nat(
        T0,
        2,
        NatAction.DNAT,
        destination_network="10.20.3.31",
        translated_network="10.2.0.10",
        service=service.path,
        translated_ports="80",
    )
    reflexive = nat(T0, 3, NatAction.REFLEXIVE, source_network="10.1.0.10", translated_network="10.20.3.40")
    await site.put(service, dnat, forward, reflexive)
    for rule in (dnat, forward, reflexive):
        assert [one.state for one in site.realized(rule.path)] == [RealizationState.REALIZED], rule.path
    outside = 'inport == "/infra/segments/uplink:localnet" && eth.src == 0a:00:00:00:00:01 && ip4.src == 10.20.3.1'
    (mac,) = [r[1] for r in await site.rows("Logical_Router_Port", "name", "mac") if r[0] == f"{T0}:{UPLINK}"]
    start = f"{outside} && eth.dst == {mac} && ip.ttl == 64"
    assert translated(
        "ct_dnat", "10.2.0.10", await site.trace(UPLINK, f"{start} && ip4.dst == 10.20.3.30 && icmp4.type == 8")
    )
    assert translated(
        "ct_dnat", "10.1.0.10", await site.trace(UPLINK, f"{start} && ip4.dst == 10.20.3.40 && icmp4.type == 8")
    )
    flow = f"{start} && ip4.dst == 10.20.3.31 && tcp.dst == 8080 && tcp.flags == 2"
    forwarded = await site.trace(UPLINK, flow, "--ct=new", "--ct=new")
    assert "10.2.0.10:80" in forwarded


async def test_rules_that_ovn_can_not_keep_in_order_or_has_no_edges_for_say_so(site: Site) -> None:
    await two_tenants(site)
    wide = nat(T1, 1, NatAction.SNAT, source_network="10.1.0.0/16", translated_network="10.20.3.20")
    narrow = nat(T1, 2, NatAction.SNAT, source_network="10.1.0.0/24", translated_network="10.20.3.21")
    many = nat(T1, 3, NatAction.SNAT, source_network="10.6.0.0/24", translated_network="10.20.3.0/28")
    lonely = nat("/infra/tier-1s/lonely", 1, NatAction.SNAT, translated_network="10.20.3.22")
    await site.put(wide, narrow, many, lonely, Tier1(path="/infra/tier-1s/lonely"))
    assert site.realized(wide.path)[0].state is RealizationState.REALIZED
    assert "sequence_number" in site.realized(narrow.path)[0].error
    assert "one address" in site.realized(many.path)[0].error
    assert "edge cluster" in site.realized(lonely.path)[0].error


async def test_a_tier_1_translates_at_the_edges_and_advertises_its_outer_address(site: Site) -> None:
    await two_tenants(site, route_advertisement_types=[Advertisement.NAT])
    await site.put(nat(T1, 1, NatAction.SNAT, source_network="10.1.0.0/24", translated_network="172.30.0.5"))
    assert translated("ct_snat", "172.30.0.5", await packet(site, "10.2.0.10", options=()))
    routes = await site.rows("Logical_Router_Static_Route", "ip_prefix", "nexthop")
    assert "172.30.0.5/32" in [row[0] for row in routes]
    assert "10.1.0.0/24" not in [row[0] for row in routes]
