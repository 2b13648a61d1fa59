"""Real packets through gateways, NAT and firewall: three chassis in namespaces, of which the third is the edge."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import Any

import pytest

from landbridge.nsx.ovn.northbound import Northbound
from landbridge.nsx.ovn.reconcile import Reconciler
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.model.fabric import PolicyEdgeNode, PolicyTransportZone
from landbridge.nsx.policy.model.gateways import (
    Advertisement,
    InterfaceSubnet,
    LocaleServices,
    RouterNexthop,
    StaticRoutes,
    Tier0,
    Tier0Interface,
    Tier1,
)
from landbridge.nsx.policy.model.nat import NatAction, PolicyNatRule
from landbridge.nsx.policy.model.security import L4PortSetServiceEntry, Rule, SecurityPolicy, Service
from landbridge.nsx.policy.model.segments import PortAddressBinding, PortAttachment, Segment, SegmentPort, SegmentSubnet
from landbridge.nsx.snapshot import Machine, Vif
from tests.integration.esx.cloud import Cloud, run, running_cloud
from tests.integration.nsx.ovn.central import DEADLINE, Tree

T0, WEB, DB, UPLINK = "/infra/tier-0s/t0", "/infra/segments/web", "/infra/segments/db", "/infra/segments/uplink"
TIER1S = {WEB: "/infra/tier-1s/web", DB: "/infra/tier-1s/db"}
CLUSTER = "/infra/sites/default/enforcement-points/default/edge-clusters/c"
ZONE = "/infra/sites/default/enforcement-points/default/transport-zones/vlan"
OUTSIDE, NAT_OF_TIER1 = "10.20.3.1", "172.30.0.5"
SEEN = "import socket;s=socket.create_server(('',7));c,a=s.accept();print(a[0],flush=True)"


def provider() -> list[Intent]:
    services = f"{T0}/locale-services/default"
    return [
        PolicyTransportZone(path=ZONE, tz_type="VLAN_BACKED"),
        Segment(path=UPLINK, transport_zone_path=ZONE, vlan_ids=["0"]),
        PolicyEdgeNode(path=f"{CLUSTER}/edge-nodes/e", parent_path=CLUSTER, display_name="esx03.onprem"),
        Tier0(path=T0),
        LocaleServices(path=services, parent_path=T0, edge_cluster_path=CLUSTER),
        Tier0Interface(
            path=f"{services}/interfaces/up",
            parent_path=services,
            segment_path=UPLINK,
            subnets=[InterfaceSubnet(ip_addresses=[ip_address("10.20.3.11")], prefix_len=24)],
        ),
        StaticRoutes(
            path=f"{T0}/static-routes/default",
            parent_path=T0,
            network="0.0.0.0/0",
            next_hops=[RouterNexthop(ip_address=ip_address(OUTSIDE))],
        ),
    ]


def tenant(segment: str, gateway: str) -> list[Intent]:
    path = TIER1S[segment]
    advertised = [Advertisement.CONNECTED, Advertisement.NAT]
    return [
        Tier1(path=path, tier0_path=T0, route_advertisement_types=advertised),
        LocaleServices(path=f"{path}/locale-services/default", parent_path=path, edge_cluster_path=CLUSTER),
        Segment(path=segment, connectivity_path=path, subnets=[SegmentSubnet(gateway_address=gateway)]),
    ]


class Net:
    """The cloud with a reconciler over its northbound database."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.tree = Tree()
        self.reconciler = Reconciler(Northbound(cloud.directory / "ovn" / "nb.sock"), self.tree.newer)

    async def put(self, *intents: Intent, machines: tuple[Machine, ...] = (), drop: tuple[str, ...] = ()) -> None:
        """Change the tree and wait until all chassis have done it."""
        sequence = await self.tree.put(*intents, machines=machines, drop=drop)
        await asyncio.wait_for(self.reconciler.settled(sequence), DEADLINE)
        await asyncio.to_thread(self.cloud.central.nbctl, "--wait=hv", "sync")

    async def endpoint(self, name: str, host: int, segment: str, address: str) -> None:
        """A VM's NIC, and its bound address."""
        mac = self.cloud.endpoint(name, host, address)
        space = f"{self.cloud.prefix}{name}"
        run("ip", "-n", space, "route", "add", "default", "via", f"{address.rsplit('.', 1)[0]}.1")
        port = SegmentPort(
            path=f"{segment}/ports/{name}",
            parent_path=segment,
            attachment=PortAttachment(id=name),
            address_bindings=[PortAddressBinding(ip_address=address)],
        )
        vif = Vif(name, name, 4000, mac, segment)
        await self.put(port, machines=(Machine(name, name, f"esx{host:02}.onprem", powered_on=True, vifs=(vif,)),))

    async def seen_from(self, name: str, server: str, address: str) -> str:
        """Connect to port 7 of an address, where `server` listens: what it sees as the other end."""
        listener = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", f"{self.cloud.prefix}{server}", "python3", "-c", SEEN),
            stdout=asyncio.subprocess.PIPE,
        )
        assert listener.stdout is not None
        try:
            end = asyncio.get_running_loop().time() + DEADLINE
            while asyncio.get_running_loop().time() < end:
                connect = await asyncio.create_subprocess_exec(
                    *("ip", "netns", "exec", f"{self.cloud.prefix}{name}", "python3", "-c"),
                    f"import socket;socket.create_connection(('{address}',7),2)",
                    stderr=asyncio.subprocess.DEVNULL,
                )
                if await connect.wait() == 0:
                    return (await asyncio.wait_for(listener.stdout.readline(), 5)).decode().strip()
            return "nothing"
        finally:
            with contextlib.suppress(ProcessLookupError):
                listener.kill()
            await listener.wait()


@pytest.fixture(scope="module")
async def net() -> AsyncIterator[Net]:
    async with running_cloud() as cloud:
        cloud.central.nbctl("init")
        found = Net(cloud)
        task = asyncio.create_task(found.reconciler.run())
        try:
            await found.put(*provider(), *tenant(WEB, "10.1.0.1/24"), *tenant(DB, "10.2.0.1/24"))
            await found.endpoint("web", 1, WEB, "10.1.0.10")
            await found.endpoint("db", 2, DB, "10.2.0.10")
            cloud.endpoint("out", 2, OUTSIDE, bridge="dvs0")
            for network in ("10.1.0.0/16", "10.2.0.0/16", "172.30.0.0/16"):
                run("ip", "-n", f"{cloud.prefix}out", "route", "add", network, "via", "10.20.3.11")
            yield found
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def nat(gateway: str, action: NatAction, **fields: Any) -> PolicyNatRule:
    section = f"{gateway}/nat/USER"
    return PolicyNatRule(path=f"{section}/nat-rules/r", parent_path=section, action=action, **fields)


async def test_tenants_reach_each_other_and_the_outside_by_their_own_addresses(net: Net) -> None:
    assert await net.cloud.reaches("web", "10.2.0.10")
    assert await net.seen_from("web", "out", OUTSIDE) == "10.1.0.10"
    assert await net.cloud.reaches("out", "10.2.0.10")


async def test_a_tier_0_translates_sources_and_destinations(net: Net) -> None:
    snat = nat(T0, NatAction.SNAT, source_network="10.1.0.0/24", translated_network="10.20.3.20")
    await net.put(snat)
    assert await net.seen_from("web", "out", OUTSIDE) == "10.20.3.20"
    dnat = nat(T0, NatAction.DNAT, destination_network="10.20.3.30", translated_network="10.2.0.10")
    await net.put(dnat)
    assert await net.seen_from("out", "db", "10.20.3.30") == OUTSIDE
    service = Service(
        path="/infra/services/echo", service_entries=[L4PortSetServiceEntry(l4_protocol="TCP", destination_ports=["7"])]
    )
    fields = {"destination_network": "10.20.3.31", "translated_network": "10.2.0.10", "service": service.path}
    await net.put(service, nat(T0, NatAction.DNAT, **fields))
    assert await net.seen_from("out", "db", "10.20.3.31") == OUTSIDE
    await net.put(drop=(dnat.path,))


async def test_a_tier_1_translates_at_the_edge_also_towards_another_tenant(net: Net) -> None:
    rule = nat(TIER1S[WEB], NatAction.SNAT, source_network="10.1.0.0/24", translated_network=NAT_OF_TIER1)
    await net.put(rule, nat(T0, NatAction.SNAT, source_network="10.2.0.0/24", translated_network="10.20.3.21"))
    assert await net.seen_from("web", "out", OUTSIDE) == NAT_OF_TIER1
    assert await net.seen_from("db", "out", OUTSIDE) == "10.20.3.21", "the tier-0 translates beside it"
    assert await net.seen_from("web", "db", "10.2.0.10") == NAT_OF_TIER1
    assert await net.cloud.reaches("db", "10.1.0.10"), "what is not translated is routed as before"
    await net.put(drop=(rule.path,))


async def test_a_rule_cuts_off_what_it_names_and_lets_answers_back(net: Net) -> None:
    path = "/infra/domains/default/security-policies/p"
    rule = Rule(path=f"{path}/rules/r", parent_path=path, action="DROP", destination_groups=["10.2.0.0/24"])
    await net.put(SecurityPolicy(path=path), rule)
    assert not await net.cloud.reaches("web", "10.2.0.10", within=1)
    assert not await net.cloud.reaches("out", "10.2.0.10", within=1)
    await net.put(rule.model_copy(update={"direction": "IN", "source_groups": ["10.1.0.0/24"]}))
    assert not await net.cloud.reaches("web", "10.2.0.10", within=1)
    assert await net.cloud.reaches("out", "10.2.0.10")
    await net.put(drop=(path, rule.path))
    assert await net.cloud.reaches("web", "10.2.0.10")
