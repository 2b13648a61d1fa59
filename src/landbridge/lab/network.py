"""The lab's wires: bridges, edges, the WAN and its firewalls, each in a network namespace.

Per site a `fabric` (one bridge for each network) and an `edge` (routes between the site's networks, filters the
WAN). Only three conversations cross the WAN: the interconnect appliances on TCP 4500, those of the network extension on
UDP 4500, and the connector's manager to the cloud's on TCP 443; an edge rejects all else. This machine's own interface
in a site leads into that site alone.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from landbridge.esx.model import PortGroup
from landbridge.esx.switch import Switch
from landbridge.fleet.machine import MachineError
from landbridge.fleet.netns import NamespaceMachine, run
from landbridge.lab.topology import Node, Site, Topology, wan_address

_VM_TRUNK = "vmtrunk"  # the bridge that joins the hosts' uplinks; it carries tagged frames
_OVERLAY_MTU = 9000  # frames of tunnels are larger than what they carry
_QUEUE = "burst 1mb latency 50ms"
# The userspace switch reads frames from packet sockets; with the usual 208 KiB it loses many in a burst.
_RECEIVE_BUFFER = Path("/proc/sys/net/core/rmem_default")
_RECEIVE_BYTES = 4 << 20


class Network:
    """The wires of one lab. `build` may be called again; `remove` takes away whatever there is."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._settings = topology.state_dir / "machine.json"

    def machine(self, *names: str) -> NamespaceMachine:
        """The namespace of a node (`onprem`, `esx01`), an edge (`onprem`, `edge`), the `client`, the `wan`."""
        return NamespaceMachine(self._topology.namespace(*names), self._topology.run_dir / "-".join(names))

    def node(self, node: Node) -> NamespaceMachine:
        return self.machine(node.site, node.name)

    # -- building ---------------------------------------------------------------------------------------------

    async def build(self) -> None:
        self._enlarge_receive_buffers()
        await self._build_wan()
        async with asyncio.TaskGroup() as group:
            for site in self._topology.sites:
                group.create_task(self._build_site(site))
        await self._build_client()

    async def _build_wan(self) -> None:
        wan = self.machine("wan")
        await wan.create()
        await _bridges(wan, ["wan"])

    async def _build_site(self, site: Site) -> None:
        fabric, edge = self.machine(site.name, "fabric"), self.machine(site.name, "edge")
        await fabric.create()
        await edge.create()
        await _bridges(fabric, [*site.networks, _VM_TRUNK])
        await fabric.links(f"link set tep mtu {_OVERLAY_MTU}")
        await self._build_edge(site, edge, fabric)
        for node in site.nodes:
            await self._build_node(site, node, fabric)
        await self._open_visitor(site, edge)

    async def _build_edge(self, site: Site, edge: NamespaceMachine, fabric: NamespaceMachine) -> None:
        wan = self.machine("wan")
        for network in _routed(site):
            await _wire(edge, network, fabric, f"edge.{network}", bridge=network)
        await _wire(edge, "wan", wan, site.name, bridge="wan")
        here, there = wan_address(self._topology, site), wan_address(self._topology, self._topology.peer(site))
        gateways = [site.gateway(network) for network in _routed(site)]
        await edge.links(
            *(f"addr replace {leg.interface} dev {leg.network}" for leg in gateways),
            f"addr replace {here} dev wan",
            f"route replace {self._topology.peer(site).network} via {there.ip}",
        )
        if site.has_nsx:
            # The tier-0 is behind a userspace switch: see landbridge.esx.switch.
            await edge.execute("ethtool", "-K", "t0", "tx", "off")
            await edge.links(f"route replace {self._topology.segments} via {site.tier0.address}")
        await self.limit_wan(site)
        await self._filter(site, edge)
        await edge.set_kernel_parameters({"net.ipv4.ip_forward": "1"})

    async def limit_wan(self, site: Site) -> None:
        """The WAN's rate into and out of a site; 0 is none."""
        rate = self._topology.wan_mbit
        for machine, interface in ((self.machine("wan"), site.name), (self.machine(site.name, "edge"), "wan")):
            if rate:
                command = f"tc qdisc replace dev {interface} root tbf rate {rate}mbit {_QUEUE}"
                await machine.execute(*command.split())

    async def _filter(self, site: Site, edge: NamespaceMachine) -> None:
        peer = self._topology.peer(site)
        connector, cloud = (site, peer) if site.role == "connector" else (peer, site)
        rules = self._topology.run_dir / f"{site.name}-edge.nft"
        rules.parent.mkdir(parents=True, exist_ok=True)
        ours, theirs = site.ix.leg("uplink").address, peer.ix.leg("uplink").address
        our_ne, their_ne = site.ne.leg("uplink").address, peer.ne.leg("uplink").address
        rules.write_text(
            f"""flush ruleset
table ip edge {{
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname != {{ "wan", "lab" }} oifname != {{ "wan", "lab" }} accept
        iifname "lab" oifname != "wan" ip saddr {site.visitor.address} accept
        ip saddr {{ {ours}, {theirs} }} ip daddr {{ {ours}, {theirs} }} tcp dport 4500 accept
        ip saddr {{ {our_ne}, {their_ne} }} ip daddr {{ {our_ne}, {their_ne} }} udp dport 4500 accept
        ip saddr {connector.hcx.management} ip daddr {cloud.hcx.management} tcp dport 443 accept
        meta l4proto tcp reject with tcp reset
        reject with icmp admin-prohibited
    }}
}}
"""
        )
        await edge.execute("nft", "-f", str(rules))

    async def _build_node(self, site: Site, node: Node, fabric: NamespaceMachine) -> None:
        machine = self.node(node)
        await machine.create()
        for leg in node.legs:
            await _wire(machine, leg.network, fabric, f"{node.name}.{leg.network}", bridge=leg.network)
        if node.role == "esx":
            await _wire(machine, "uplink0", fabric, f"{node.name}.up", bridge=_VM_TRUNK)
        if node.role == "ne" and node.tep is None:
            await _wire(machine, "trunk0", fabric, f"{node.name}.trunk", bridge=_VM_TRUNK)
        if node.role == "edge":
            await _wire(machine, "uplink0", fabric, f"{node.name}.up", bridge="t0")
        if node.tep is not None:
            await _wire(machine, "tep0", fabric, f"{node.name}.tep", bridge="tep", mtu=_OVERLAY_MTU)
        first = node.legs[0]
        await machine.links(
            *(f"addr replace {leg.interface} dev {leg.network}" for leg in node.legs),
            f"route replace {site.network} via {site.gateway(first.network).address}",
            *self._routes_out(site, node),
        )

    def _routes_out(self, site: Site, node: Node) -> list[str]:
        """The one address across the WAN that a machine may know, if any; hosts and vCenters know none."""
        peer = self._topology.peer(site)
        if node.role in ("ix", "ne"):
            there = peer.ix if node.role == "ix" else peer.ne
            return [f"route replace {there.leg('uplink').address} via {site.gateway('uplink').address}"]
        if node.role == "hcx":
            return [f"route replace {peer.hcx.management} via {site.gateway('mgmt').address}"]
        return []

    async def _open_visitor(self, site: Site, edge: NamespaceMachine) -> None:
        """This machine's own way into the site."""
        name = self._topology.namespace(site.name)
        if not await _has_interface(edge, "lab"):
            await run(*f"ip link add {name} type veth peer name lab netns {edge.name}".split())
        await edge.links(f"addr replace {site.gateway('lab').interface} dev lab", "link set lab up")
        await run(*f"ip addr replace {site.visitor.interface} dev {name}".split())
        await run(*f"ip link set {name} up".split())
        gateway = site.gateway("lab").address
        await run(*f"ip route replace {site.network} via {gateway} src {site.visitor.address}".split())

    async def _build_client(self) -> None:
        """A machine on the VM network: its own switch, as every host has, and an interface plugged into it."""
        client = self.machine("client")
        await client.create()
        await _wire(client, "uplink0", self.machine(self._topology.sites[0].name, "fabric"), "client", bridge=_VM_TRUNK)
        if not await _has_interface(client, "eth0"):
            await client.links("link add eth0 type veth peer name port0")
        # See landbridge.esx.switch: a sender into the userspace switch computes its checksums itself.
        await client.execute("ethtool", "-K", "eth0", "tx", "off")
        await client.links("link set port0 up", "link set eth0 up", f"addr replace {self._topology.client} dev eth0")
        group = PortGroup(key="vm-network", name="VM Network", vlan=self._topology.vlan)
        switch = Switch(
            run_dir=client.directory / "switch",
            state_dir=self._topology.state_dir / "client",
            uplink="uplink0",
            namespace=client.name,
        )
        await switch.start()
        await switch.set_port_groups([group])
        await switch.plug("port0", group.key, "")
        await switch.close()

    async def cut_wan(self, *, cut: bool) -> None:
        """Take the WAN away, or give it back."""
        state = "down" if cut else "up"
        await self.machine("wan").links(*(f"link set {site.name} {state}" for site in self._topology.sites))

    # -- removing ---------------------------------------------------------------------------------------------

    async def remove(self) -> None:
        """End every process in the lab's namespaces and remove them, their interfaces, and what we set here."""
        async with asyncio.TaskGroup() as group:
            for machine in self.machines():
                group.create_task(machine.remove())
        for site in self._topology.sites:
            name = self._topology.namespace(site.name)
            # It went with its peer in the edge, unless the edge was never there.
            with contextlib.suppress(MachineError):
                await run("ip", "link", "delete", name)
        self._restore_receive_buffers()

    def machines(self) -> Iterable[NamespaceMachine]:
        """Every namespace with the lab's prefix, whatever the topology was when it was made."""
        start = f"{self._topology.prefix}-"
        known = Path("/run/netns")
        names = sorted(path.name for path in known.iterdir() if path.name.startswith(start)) if known.exists() else []
        return [self.machine(name.removeprefix(start)) for name in names]

    def _enlarge_receive_buffers(self) -> None:
        if not os.access(_RECEIVE_BUFFER, os.W_OK):
            return  # a container: the setting is its machine's
        before = int(_RECEIVE_BUFFER.read_text())
        if before < _RECEIVE_BYTES:
            self._settings.parent.mkdir(parents=True, exist_ok=True)
            self._settings.write_text(json.dumps({"rmem_default": before}))
            _RECEIVE_BUFFER.write_text(str(_RECEIVE_BYTES))

    def _restore_receive_buffers(self) -> None:
        if self._settings.exists():
            _RECEIVE_BUFFER.write_text(str(json.loads(self._settings.read_text())["rmem_default"]))
            self._settings.unlink()


async def _bridges(machine: NamespaceMachine, names: Iterable[str]) -> None:
    for name in names:
        if not await _has_interface(machine, name):
            await machine.links(f"link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
        await machine.links(f"link set {name} up")


async def _has_interface(machine: NamespaceMachine, interface: str) -> bool:
    """Whether the machine has an interface of this name."""
    try:
        await machine.execute("ip", "link", "show", "dev", interface)
    except MachineError:
        return False
    return True


def _routed(site: Site) -> list[str]:
    """Networks that the site's edge has an address on. Tunnel endpoints talk to each other alone."""
    absent = {"lab", "tep"} if site.has_nsx else {"lab", "tep", "t0"}
    return [network for network in site.networks if network not in absent]


async def _wire(
    near: NamespaceMachine, interface: str, far: NamespaceMachine, port: str, *, bridge: str, mtu: int = 1500
) -> None:
    """A cable: `interface` of `near` to `port` on a bridge of `far`. One that is there stays."""
    if not await _has_interface(near, interface):
        await near.links(f"link add {interface} mtu {mtu} type veth peer name {port} mtu {mtu} netns {far.name}")
    await near.links(f"link set {interface} up")
    await far.links(f"link set {port} master {bridge} up")
