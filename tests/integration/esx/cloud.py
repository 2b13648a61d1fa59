"""Transport nodes for tests: host agents in network namespaces with a management, a tunnel and a VLAN network between
them, and the OVN central they are chassis of."""

import asyncio
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from landbridge.esx.client import HostClient
from landbridge.esx.model import OverlayConfig
from landbridge.esx.vmotion_journal import boot_id
from landbridge.pki import Authority, Identity, PeerName

from .hosts import SITE, Place, TestHost

_TEP_MTU = 9000
_SCHEMAS = Path("/usr/share/ovn")
_UP = 30.0


def run(*command: str | Path, **environment: str) -> str:
    """Run a command and return what it prints; what it complains of is in the failure."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=30, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Central:
    """Northbound and southbound database and ovn-northd, in a namespace; the southbound one listens with TLS."""

    def __init__(self, directory: Path, namespace: str, address: str, identity: Identity) -> None:
        self.directory = directory
        self.southbound = f"ssl:{address}:6642"
        self._address = address
        self._namespace = namespace
        self._identity = identity

    def start(self) -> None:
        places = ("RUNDIR", "LOGDIR", "DBDIR", "SYSCONFDIR")
        environment = {f"{kind}_{place}": str(self.directory) for kind in ("OVS", "OVN") for place in places}
        common = ("-vconsole:off", "-vfile:warn", "--detach", "--no-chdir")
        tls = (
            f"--remote=pssl:6642:{self._address}",
            f"--private-key={self._identity.key}",
            f"--certificate={self._identity.certificate}",
            f"--ca-cert={self._identity.ca}",
        )
        for name, remotes in (("nb", ()), ("sb", tls)):
            database = self.directory / f"{name}.db"
            run("ovsdb-tool", "create", database, _SCHEMAS / f"ovn-{name}.ovsschema")
            self._daemon(environment, "ovsdb-server", name, str(database), self._socket(name), *remotes, *common)
        databases = (f"--ovnnb-db=unix:{self.directory}/nb.sock", f"--ovnsb-db=unix:{self.directory}/sb.sock")
        self._daemon(environment, "ovn-northd", "northd", *databases, *common)

    def _socket(self, name: str) -> str:
        return f"--remote=punix:{self.directory}/{name}.sock"

    def _daemon(self, environment: dict[str, str], program: str, name: str, *arguments: str) -> None:
        files = [f"--pidfile={self.directory}/{name}.pid", f"--unixctl={self.directory}/{name}.ctl"]
        files += [f"--log-file={self.directory}/{name}.log"]
        run("ip", "netns", "exec", self._namespace, program, *arguments, *files, **environment)

    def nbctl(self, *arguments: str) -> str:
        """A command on the northbound database; returns when all chassis have done what it asks."""
        return run("ovn-nbctl", f"--db=unix:{self.directory}/nb.sock", "--timeout=20", *arguments)

    def sbctl(self, *arguments: str) -> str:
        return run("ovn-sbctl", f"--db=unix:{self.directory}/sb.sock", "--timeout=20", *arguments)

    def log(self) -> str:
        """What the southbound database complains of."""
        return (self.directory / "sb.log").read_text()


class Cloud:
    """Three transport nodes on one OVN. `endpoint` plugs a namespace into one of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.prefix = f"lbt{os.getpid()}o"
        self.authority = Authority.create(directory / "ca", "site onprem")
        number = os.getpid()
        self._network = f"198.19.{number >> 4 & 0xFF}.{{}}"
        self._first = (number & 0xF) * 16
        self._namespaces: list[str] = []
        self._macs = 0
        self.hosts: list[TestHost] = []
        self.managers: list[HostClient] = []
        self.central = self._central()

    def address(self, number: int) -> str:
        """An address of the management network; 1 is this machine's own."""
        return self._network.format(self._first + number)

    def namespace(self, name: str) -> str:
        full = f"{self.prefix}{name}"
        run("ip", "netns", "add", full)
        self._namespaces.append(full)
        run("ip", "-n", full, "link", "set", "lo", "up")
        return full

    def leg(self, space: str, interface: str, bridge: str, mtu: int = 1500) -> None:
        """An interface in a namespace that ends on a bridge of the fabric."""
        outer = f"{space.removeprefix(self.prefix)}{interface}"
        link = f"link add {outer} mtu {mtu} type veth peer name {interface} mtu {mtu} netns {space}"
        run("ip", "-n", f"{self.prefix}f", *link.split())
        run("ip", "-n", f"{self.prefix}f", "link", "set", outer, "master", bridge, "up")
        run("ip", "-n", space, "link", "set", interface, "up")

    def _central(self) -> Central:
        fabric, central = self.namespace("f"), self.namespace("c")
        for bridge, mtu in (("mgmt", 1500), ("tep", _TEP_MTU), ("trunk", 1500)):
            run("ip", "-n", fabric, "link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
            run("ip", "-n", fabric, "link", "set", bridge, "mtu", str(mtu), "up")
        run("ip", "link", "add", f"{self.prefix}m", "type", "veth", "peer", "name", "root", "netns", fabric)
        run("ip", "-n", fabric, "link", "set", "root", "master", "mgmt", "up")
        run("ip", "address", "add", f"{self.address(1)}/28", "dev", f"{self.prefix}m")
        run("ip", "link", "set", f"{self.prefix}m", "up")
        self.leg(central, "mgmt", "mgmt")
        run("ip", "-n", central, "address", "add", f"{self.address(2)}/28", "dev", "mgmt")
        directory = self.directory / "ovn"
        directory.mkdir()
        identity = self.authority.issue(
            self.directory / "nsx", PeerName(SITE, "nsx", "nsx"), addresses=[self.address(2)]
        )
        return Central(directory, central, self.address(2), identity)

    def host_namespace(self, number: int) -> str:
        """A namespace with the three legs of a host."""
        space = self.namespace(str(number))
        self.leg(space, "mgmt", "mgmt")
        run("ip", "-n", space, "address", "add", f"{self.address(2 + number)}/28", "dev", "mgmt")
        self.leg(space, "tep0", "tep", _TEP_MTU)
        self.leg(space, "uplink0", "trunk")
        return space

    async def start(self) -> None:
        self.central.start()
        for number in (1, 2, 3):
            space = self.host_namespace(number)
            place = Place(
                self.address(2 + number), ("ip", "netns", "exec", space), "uplink0", "tep0", f"10.66.0.{number}/24"
            )
            host = TestHost(f"esx{number:02}.onprem", self.directory, self.directory, self.authority, place)
            host.state.mkdir(parents=True)
            # Known not to be needed here: the probe for KVM takes its time.
            known = {"boot_id": boot_id(), "accelerator": "tcg"}
            (host.state / "accelerator.json").write_text(json.dumps(known))
            self.hosts.append(host)
            self.managers.append(HostClient(host.address, 443, Identity(self.directory / "nsx")))
        await asyncio.gather(*(host.start() for host in self.hosts))
        for manager in self.managers:
            await manager.configure_overlay(OverlayConfig(southbound=[self.central.southbound]))
        for manager in self.managers:
            await self.connected(manager)

    async def connected(self, manager: HostClient) -> None:
        async with asyncio.timeout(_UP):
            while not (await manager.overlay()).connected:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    # -- endpoints --------------------------------------------------------------------------------------------

    def ovs(self, host: int, *arguments: str) -> str:
        """A command to the Open vSwitch of a host, 1 to 3."""
        return run("ovs-vsctl", f"--db=unix:{self.hosts[host - 1].run}/switch/db.sock", "--timeout=20", *arguments)

    def mac(self) -> str:
        self._macs += 1
        return f"02:00:00:00:0a:{self._macs:02x}"

    def endpoint(self, name: str, host: int, address: str, *columns: str, bridge: str = "br-int") -> str:
        """A namespace with `address`, plugged into a host. On br-int its VIF is called as itself."""
        space, inside = self.namespace(name), f"{self.prefix}{host}"
        link = f"link add {name} type veth peer name eth0 netns {space}"
        run("ip", "-n", inside, *link.split())
        run("ip", "-n", inside, "link", "set", name, "up")
        mac = self.mac()
        run("ip", "-n", space, "link", "set", "eth0", "address", mac)
        run("ip", "-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", space, "link", "set", "eth0", "up")
        run("ip", "netns", "exec", space, "ethtool", "-K", "eth0", "tx", "off")
        vif = ["--", "set", "interface", name, f"external_ids:iface-id={name}"] if bridge == "br-int" else []
        self.ovs(host, "add-port", bridge, name, *columns, *vif)
        return mac

    def on_segment(self, segment: str, name: str, host: int, address: str) -> None:
        """An endpoint on a logical switch."""
        mac = self.endpoint(name, host, address)
        self.central.nbctl("lsp-add", segment, name, "--", "lsp-set-addresses", name, f"{mac} {address}")

    async def reaches(self, name: str, address: str, *options: str, within: float = 10.0) -> bool:
        """Whether an answer comes before the deadline; asked again five times a second."""
        ping = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", f"{self.prefix}{name}", "ping", "-q", "-c1", "-i0.2", f"-w{max(1, int(within))}"),
            *(*options, address),
            stdout=asyncio.subprocess.DEVNULL,
        )
        return await ping.wait() == 0

    @contextlib.asynccontextmanager
    async def pinging(self, name: str, address: str) -> AsyncIterator["Pings"]:
        """Pings from an endpoint, a hundred a second, until the end of the block."""
        found = Pings()
        process = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", f"{self.prefix}{name}", "ping", "-n", "-D", "-i0.01", address),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        reading = asyncio.create_task(found.read(process.stdout))
        try:
            await asyncio.wait_for(found.first.wait(), 20)
            yield found
            await asyncio.sleep(0.3)
        finally:
            process.send_signal(signal.SIGINT)
            await asyncio.wait_for(process.wait(), 10)
            await reading

    # -- the end ----------------------------------------------------------------------------------------------

    async def remove(self) -> None:
        for manager in self.managers:
            await manager.close()
        for host in self.hosts:
            await host.close()
        pids = [*self.directory.glob("*/switch/*.pid"), *self.directory.glob("ovn/*.pid")]
        for pid_file in pids:
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(pid_file.read_text()), signal.SIGKILL)
        for name in reversed(self._namespaces):
            run("ip", "netns", "delete", name)
        with contextlib.suppress(AssertionError):  # it went with its other end
            run("ip", "link", "delete", f"{self.prefix}m")


class Pings:
    """What came back of a run of pings."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.sent = 0
        # Answers that came a second time: the guest was at two places, or frames were kept for it too long.
        self.twice = 0
        self._seen: dict[int, float] = {}

    async def read(self, output: asyncio.StreamReader) -> None:
        async for line in output:
            text = line.decode()
            if found := re.match(r"\[([\d.]+)\] .*icmp_seq=(\d+) .*time=", text):
                self.twice += int(found[2]) in self._seen
                self._seen.setdefault(int(found[2]), float(found[1]))
                self.first.set()
            elif found := re.match(r"(\d+) packets transmitted", text):
                self.sent = int(found[1])

    @property
    def lost(self) -> int:
        """Those that never came back, but for the last few, whose answers may have been on their way at the end."""
        return max(0, self.sent - len(self._seen) - 3)

    @property
    def silence(self) -> float:
        """The longest time between two answers, in milliseconds."""
        times = sorted(self._seen.values())
        return 1000 * max((after - before for before, after in itertools.pairwise(times)), default=0.0)


@contextlib.asynccontextmanager
async def running_cloud() -> AsyncIterator[Cloud]:
    """Three hosts that are chassis of one OVN."""
    directory = Path(tempfile.mkdtemp(prefix="lbt", dir="/tmp"))
    cloud = Cloud(directory)
    try:
        await cloud.start()
        yield cloud
    finally:
        await cloud.remove()
        shutil.rmtree(directory, ignore_errors=True)


_TRANSFER = """
import hashlib, socket, sys
if sys.argv[1] == "receive":
    server = socket.create_server(("", 7777))
    print("ready", flush=True)
    peer, digest = server.accept()[0], hashlib.sha256()
    while data := peer.recv(1 << 16):
        digest.update(data)
    print(digest.hexdigest())
else:
    data = b"landbridge" * (int(sys.argv[3]) // 10)
    with socket.create_connection((sys.argv[2], 7777), 10) as peer:
        peer.sendall(data)
    print(hashlib.sha256(data).hexdigest())
"""


async def transfer(cloud: Cloud, sender: str, receiver: str, address: str, size: int) -> tuple[str, str]:
    """Send bytes through one TCP connection: their digest at the sender, and at the receiver."""

    async def start(name: str, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", f"{cloud.prefix}{name}", sys.executable, "-c", _TRANSFER, *arguments),
            stdout=asyncio.subprocess.PIPE,
        )

    there = await start(receiver, "receive")
    assert there.stdout is not None
    await asyncio.wait_for(there.stdout.readline(), 20)
    here = await start(sender, "send", address, str(size))
    sent, _ = await asyncio.wait_for(here.communicate(), 30)
    received, _ = await asyncio.wait_for(there.communicate(), 30)
    return sent.decode().strip(), received.decode().strip()
