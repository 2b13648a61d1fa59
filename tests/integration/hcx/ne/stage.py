"""Two sites in namespaces, a router for a WAN between them, and a pair of network extension appliances as processes.

guests -- Open vSwitch of the site -- trunk0 [appliance] uplink0 -- router -- uplink0 [appliance] trunk0 -- ...
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from landbridge.esx.client import HostClient, HostUnreachable
from landbridge.esx.model import OverlayConfig, PortGroup
from landbridge.esx.overlay import TransportNode
from landbridge.esx.switch import Switch
from landbridge.hcx.ne.client import NeClient
from landbridge.hcx.ne.config import NeConfig
from landbridge.hcx.ne.model import NetworkStatus, Peer, Status
from landbridge.hcx.ne.tunnel import Tunnel
from landbridge.nsx.ovn.central import Central
from landbridge.pki import Authority, Identity, PeerName

_JUMBO = 9000
_RECEIVE = """
import socket
server = socket.create_server(("", 5001))
server.settimeout(15)
print("ready", flush=True)
connection, _ = server.accept()
connection.settimeout(15)
total = 0
while data := connection.recv(65536):
    total += len(data)
print(total, connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
"""
_SEND = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 5001), timeout=15)
connection.sendall(bytes(int(sys.argv[2])))
"""


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


async def execute(space: str, *command: str, timeout: float = 20) -> str:
    """Standard output of a program in a namespace, whatever its exit status."""
    process = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", space, *command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode(errors="replace")


async def reaches(space: str, address: str, *options: str, within: int = 20) -> bool:
    """Whether one echo comes back before the deadline; ping itself gives up when its kernel finds no neighbour."""
    deadline = asyncio.get_running_loop().time() + within
    while " 1 received" not in (output := await execute(space, "ping", "-c1", "-i0.2", "-w2", *options, address)):
        if asyncio.get_running_loop().time() > deadline:
            print(f"{space} to {address}: {output}")
            for stage in _stages:
                await stage.show()
            return False
    return True


async def silent(space: str, address: str) -> bool:
    """Whether nothing at all comes back from three echoes."""
    output = await execute(space, "ping", "-q", "-c3", "-i0.2", "-W0.7", address)
    return " 0 received" in output


async def transfer(sender: str, receiver: str, address: str, size: int) -> tuple[int, int]:
    """Bytes that arrived over one TCP connection, and the receiver's MSS."""
    server = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", receiver, sys.executable, "-c", _RECEIVE), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        await asyncio.wait_for(server.stdout.readline(), 15)
        await execute(sender, sys.executable, "-c", _SEND, address, str(size), timeout=30)
        output, _ = await asyncio.wait_for(server.communicate(), 20)
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()
    total, mss = output.split()
    return int(total), int(mss)


class Site:
    """One site: its switch, its appliance, its guests."""

    def __init__(self, stage: "Stage", name: str, number: int) -> None:
        self.stage, self.name, self.number = stage, name, number
        self.state = stage.directory / name
        self.run = stage.directory / f"{name}-run"
        self.appliance = stage.namespace(f"{name}-ne")
        self.fabric = stage.namespace(f"{name}-sw")
        self.uplink = f"10.88.{number}.2"
        self.management = f"198.18.{os.getpid() % 250}.{4 * number + 2}"
        self.process: subprocess.Popen[bytes] | None = None
        self.switch = Switch(
            run_dir=stage.directory / f"{name}-ovs",
            state_dir=stage.directory / f"{name}-ovs-state",
            uplink="ne0",
            namespace=self.fabric,
        )
        self.client: NeClient
        # OVN, and a host that is its chassis, where the site has an overlay.
        self.central: Central | None = None
        self.host: Switch | None = None

    async def build(self, groups: list[PortGroup], *, overlay: bool = False) -> None:
        self._wire()
        if overlay:
            await self._build_overlay()
        await self.switch.start()
        await self.switch.set_port_groups(groups)
        self._write_config()
        self.start()
        self.client = NeClient(self.management, 443, Identity(self.state / "hcx"))

    def _wire(self) -> None:
        host = f"{self.management.rpartition('.')[0]}.{4 * self.number + 1}"
        inside = ("ip", "-n", self.appliance)
        outer = f"{self.stage.prefix}m{self.number}"
        run("ip", "link", "add", outer, "type", "veth", "peer", "name", "mgmt0", "netns", self.appliance)
        run("ip", "addr", "add", f"{host}/30", "dev", outer)
        run("ip", "link", "set", outer, "up")
        run(*inside, "addr", "add", f"{self.management}/30", "dev", "mgmt0")
        run(*inside, "link", "set", "mgmt0", "up")
        router, port = self.stage.router, f"site{self.number}"
        run(*inside, "link", "add", "uplink0", "type", "veth", "peer", "name", port, "netns", router)
        run(*inside, "addr", "add", f"{self.uplink}/24", "dev", "uplink0")
        run(*inside, "link", "set", "uplink0", "mtu", str(_JUMBO), "up")
        run("ip", "-n", router, "addr", "add", f"10.88.{self.number}.1/24", "dev", port)
        run("ip", "-n", router, "link", "set", port, "up")
        run(*inside, "route", "add", "10.88.0.0/16", "via", f"10.88.{self.number}.1")
        run(*inside, "link", "add", "trunk0", "type", "veth", "peer", "name", "ne0", "netns", self.fabric)
        run(*inside, "link", "set", "trunk0", "mtu", str(_JUMBO), "up")
        run("ip", "-n", self.fabric, "link", "set", "ne0", "mtu", str(_JUMBO))
        for space, end in ((self.appliance, "trunk0"), (self.fabric, "ne0")):
            run("ip", "netns", "exec", space, "ethtool", "-K", end, "tx", "off", "gro", "off")

    async def _build_overlay(self) -> None:
        """OVN's central part and one host, with the appliance's third leg on the network for tunnels."""
        spaces = {"c": self.stage.namespace(f"{self.name}-c"), "esx": self.stage.namespace(f"{self.name}-esx")}
        fabric = self.stage.namespace(f"{self.name}-tep")
        run("ip", "-n", fabric, "link", "add", "tep", "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", fabric, "link", "set", "tep", "mtu", str(_JUMBO), "up")
        for name, space in (*spaces.items(), ("ne", self.appliance)):
            link = f"link add {name} mtu {_JUMBO} type veth peer name tep0 mtu {_JUMBO} netns {space}"
            run("ip", "-n", fabric, *link.split())
            run("ip", "-n", fabric, "link", "set", name, "master", "tep", "up")
            run("ip", "-n", space, "link", "set", "tep0", "up")
            run("ip", "netns", "exec", space, "ethtool", "-K", "tep0", "tx", "off")
        run("ip", "-n", spaces["c"], "addr", "add", "10.66.0.1/24", "dev", "tep0")
        where = self.stage.directory
        self.central = Central(
            run_dir=where / "ovn",
            state_dir=self.state / "ovn",
            identity=self.issue("nsx", ["10.66.0.1"]),
            listen="10.66.0.1",
            namespace=spaces["c"],
        )
        await self.central.start()
        node = TransportNode(f"esx.{self.name}", self.issue("esx", []), "tep0", IPv4Interface("10.66.0.2/24"))
        self.host = Switch(
            run_dir=where / "esx", state_dir=self.state / "esx-switch", uplink=None, namespace=spaces["esx"], node=node
        )
        await self.host.start()
        assert self.host.overlay is not None
        await self.host.overlay.configure(self.overlay_config())

    def overlay_config(self) -> OverlayConfig:
        """What the NSX manager tells transport nodes."""
        assert self.central is not None
        assert self.central.southbound_remote is not None
        return OverlayConfig(southbound=[self.central.southbound_remote])

    async def nbctl(self, *command: str) -> str:
        """What the NSX manager would write into the northbound database; returns when all chassis have done it."""
        assert self.central is not None
        database = f"--db=unix:{self.central.northbound}"
        return await execute(self.stage.router, "ovn-nbctl", database, "--wait=hv", "--timeout=20", *command)

    async def join_overlay(self) -> None:
        """Make the appliance a chassis, as the NSX manager does."""
        async with HostClient(self.management, 443, Identity(self.state / "nsx")) as nsx:
            await nsx.configure_overlay(self.overlay_config())

    async def segment_guest(self, segment: str, name: str, mac: str, address: str) -> str:
        """A guest on a logical switch, at the host that is the other chassis; its port has its address."""
        assert self.host is not None
        await self.nbctl("lsp-add", segment, name, "--", "lsp-set-addresses", name, f"{mac} {address}")
        guest, inside, tap = self.stage.namespace(name), f"{self.stage.prefix}-{self.name}-esx", f"t{name}"
        run("ip", "-n", guest, "link", "add", "eth0", "address", mac, "type", "veth", "peer", tap, "netns", inside)
        run("ip", "-n", guest, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", guest, "link", "set", "eth0", "up")
        run("ip", "netns", "exec", guest, "ethtool", "-K", "eth0", "tx", "off")
        # OVN knows the port's segment by its VIF; the host only that it is on one.
        group = PortGroup(key=segment, name=segment, segment=segment)
        others = [known for known in self.host.port_groups() if known.key != segment]
        await self.host.set_port_groups([*others, group])
        await self.host.plug(tap, segment, mac, vif=name)
        await self.nbctl("sync")
        return guest

    def issue(self, role: str, addresses: list[str]) -> Identity:
        """A certificate of the site's authority."""
        authority = Authority.create(self.state / "ca", f"site {self.name}")
        who = PeerName(self.name, role, f"{role}.{self.name}")
        return authority.issue(self.state / role, who, dns=[who.name], addresses=addresses)

    def _write_config(self) -> None:
        for role, addresses in (("ne", [self.management]), ("hcx", []), ("vcenter", [])):
            self.issue(role, addresses)
        overlay = '[overlay]\ninterface = "tep0"\naddress = "10.66.0.3/24"\n' if self.central else ""
        (self.state / "ne.toml").write_text(
            f'name = "ne.{self.name}"\nsite = "{self.name}"\nstate_dir = "{self.state / "appliance"}"\n'
            f'run_dir = "{self.run}"\npki_dir = "{self.state / "ne"}"\n[management]\naddress = "{self.management}"\n'
            f'[uplink]\naddress = "{self.uplink}"\ninterface = "uplink0"\n[trunk]\ninterface = "trunk0"\n{overlay}'
        )

    def start(self) -> None:
        argv = [sys.executable, "-m", "landbridge.hcx.ne", "--config", str(self.state / "ne.toml")]
        with (self.state / "ne.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.appliance, *argv], stdout=log, stderr=log, start_new_session=True
            )

    def restart_with(self, config: str) -> None:
        """kill -9 of the daemon, and another one with this configuration."""
        self.kill()
        (self.state / "ne.toml").write_text(config)
        self.start()

    def kill(self) -> None:
        """kill -9 of the daemon."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def clean_up(self) -> None:
        """What a namespace does not take with it: the management interface's other end, wireguard-go's socket."""
        outer = f"{self.stage.prefix}m{self.number}"
        subprocess.run(["ip", "link", "delete", outer], check=False, capture_output=True)
        if (config := self.state / "ne.toml").exists():
            Path(f"/var/run/wireguard/{Tunnel(NeConfig.load(config)).interface}.sock").unlink(missing_ok=True)

    async def until_up(self) -> None:
        """Wait for the API."""
        async with asyncio.timeout(60):
            while True:
                assert self.process is not None
                assert self.process.poll() is None, (self.state / "ne.log").read_text()
                try:
                    await self.client.status()
                except HostUnreachable:
                    await asyncio.sleep(0.1)
                else:
                    return

    async def until(self, condition: Callable[[Status], bool], within: float = 20) -> Status:
        """Wait for a status that fulfils the condition."""
        deadline = asyncio.get_running_loop().time() + within
        while not condition(status := await self.client.status()):
            assert asyncio.get_running_loop().time() < deadline, status.model_dump_json(indent=1)
            await asyncio.sleep(0.1)
        return status

    async def until_network(self, name: str, condition: Callable[[NetworkStatus], bool]) -> NetworkStatus:
        """Wait for a network's status that fulfils the condition."""
        await self.until(lambda status: any(n.id == name and condition(n) for n in status.networks))
        return await self.network(name)

    async def network(self, name: str) -> NetworkStatus:
        return next(network for network in (await self.client.status()).networks if network.id == name)

    async def add_group(self, name: str, vlan: int) -> None:
        """One more port group of the site's switch."""
        group = PortGroup(key=name, name=name, vlan=vlan)
        await self.switch.set_port_groups([*self.switch.port_groups(), group])

    async def guest(self, name: str, address: str, group: str, mtu: int = 1500, mac: str = "") -> str:
        """A namespace with an address, plugged into the site's switch."""
        space = self.stage.namespace(name)
        identity = ("address", mac) if mac else ()
        tap = f"g{name}"
        run("ip", "-n", space, "link", "add", "eth0", *identity, "type", "veth", "peer", tap, "netns", self.fabric)
        run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", space, "link", "set", "eth0", "mtu", str(mtu), "up")
        run("ip", "-n", self.fabric, "link", "set", tap, "mtu", str(mtu))
        run("ip", "netns", "exec", space, "ethtool", "-K", "eth0", "tx", "off")
        await self.switch.plug(tap, group, "02:00:00:00:00:01")
        return space

    async def remove_guest(self, name: str) -> None:
        await self.switch.unplug(f"g{name}")
        self.stage.remove_namespace(name)


_stages: list["Stage"] = []


class Stage:
    """Both sites and what is between them."""

    def __init__(self) -> None:
        self.prefix = f"lbn{os.getpid()}x"
        self.directory = Path(tempfile.mkdtemp(prefix="lbn"))
        self.namespaces: list[str] = []
        self.router = self.namespace("wan")
        _stages.append(self)
        self.a = Site(self, "a", 1)
        self.b = Site(self, "b", 2)

    @property
    def sites(self) -> tuple[Site, Site]:
        return self.a, self.b

    def namespace(self, name: str) -> str:
        full = f"{self.prefix}-{name}"
        run("ip", "netns", "add", full)
        self.namespaces.append(full)
        run("ip", "-n", full, "link", "set", "lo", "up")
        # IPv6 greets its neighbours on every new link; a guest here says only what a test has it say.
        run("ip", "netns", "exec", full, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        return full

    def remove_namespace(self, name: str) -> None:
        full = f"{self.prefix}-{name}"
        run("ip", "netns", "delete", full)
        self.namespaces.remove(full)

    async def build(self) -> None:
        run("ip", "netns", "exec", self.router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        await self.a.build([PortGroup(key="red", name="Red", vlan=100), PortGroup(key="blue", name="Blue", vlan=200)])
        groups = [PortGroup(key="red", name="Red", vlan=300), PortGroup(key="blue", name="Blue", vlan=0)]
        await self.b.build(groups, overlay=True)
        for site in self.sites:
            await site.until_up()

    def set_wan_mtu(self, mtu: int) -> None:
        for site in self.sites:
            run("ip", "-n", self.router, "link", "set", f"site{site.number}", "mtu", str(mtu))

    def cut_wan(self, cut: bool) -> None:
        run("ip", "-n", self.router, "link", "set", "site2", "down" if cut else "up")

    async def show(self) -> None:
        """Print where everybody believes which address to be, for who reads why a test failed."""
        for site in self.sites:
            print((await site.client.status()).model_dump_json(indent=1))
            print(await execute(site.appliance, "bridge", "fdb", "show"))
            print(await execute(site.appliance, "nft", "list", "ruleset"))
            for control in (site.run / "switch", self.directory / f"{site.name}-ovs"):
                daemon = str(control / "ovs-vswitchd.ctl")
                print(control, await execute(self.router, "ovs-appctl", "-t", daemon, "fdb/show", "dvs0"))

    async def pair(self) -> None:
        """Give each appliance the other's key."""
        keys = {site: await site.client.key() for site in self.sites}
        for site, other in ((self.a, self.b), (self.b, self.a)):
            await site.client.set_peer(self.peer(site, other, keys[other]))

    def peer(self, site: Site, other: Site, key: str) -> Peer:
        return Peer(
            public_key=key,
            address=IPv4Address(other.uplink),
            tunnel_address=IPv4Address(f"169.254.88.{site.number}"),
            peer_tunnel_address=IPv4Address(f"169.254.88.{other.number}"),
        )

    async def remove(self) -> None:
        """End everything and show the logs of the appliances, which pytest prints if a test failed."""
        for site in self.sites:
            with contextlib.suppress(AttributeError):
                await site.client.close()
            await site.switch.close()
            if site.host is not None:
                await site.host.close()
            if site.central is not None:
                await site.central.close()
            log = site.state / "ne.log"
            print(f"{log}:\n{log.read_text() if log.exists() else ''}")
        for name in self.namespaces:
            # Again until none is left: a daemon starts engines that die before it.
            while pids := run("ip", "netns", "pids", name).split():
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                for site in self.sites:
                    if site.process is not None:
                        site.process.poll()
                await asyncio.sleep(0.05)
            run("ip", "netns", "delete", name)
        for site in self.sites:
            if site.process is not None:
                site.process.wait(10)
            site.clean_up()
        shutil.rmtree(self.directory)
