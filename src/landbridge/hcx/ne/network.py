"""One extended network: bridge, leg, VXLAN device, rules, beacon; and whether frames may pass."""

import asyncio
import json
import logging
import socket
from contextlib import suppress
from pathlib import Path

from landbridge.hcx.ne.beacon import Beacon, Sender
from landbridge.hcx.ne.commands import CommandError, links, run
from landbridge.hcx.ne.local import LocalSide
from landbridge.hcx.ne.model import Counters, Extension, Forwarding, NetworkStatus, Peer
from landbridge.hcx.ne.rules import Dropped, Rules

_VXLAN_PORT = 4789
_LISTEN = 1.5  # seconds: three beacons of the other end
_HOLD = 5.0  # seconds without a beacon until a loop is believed to be gone
_SURE = 6.0  # seconds an address comes from both sides until it is no VM on its way
_log = logging.getLogger(__name__)


class Network:
    """The data plane of one extension. Everything is in the kernel and found there again."""

    def __init__(self, name: str, extension: Extension, own: Sender, local: LocalSide) -> None:
        self.name = name
        self.extension = extension
        self.state = Forwarding.LISTENING
        self.mtu = extension.mtu
        # The last beacon heard that makes us give way, and the last that made somebody else.
        self.loop_with: Sender | None = None
        self.duplicates: dict[str, float] = {}
        self._own = own
        self._local = local
        vni = extension.vni
        self._bridge, self._vxlan, self._leg, self._port = (f"{kind}{vni}" for kind in ("nb", "nx", "nl", "np"))
        self.rules = Rules(vni, self._leg, self._vxlan)
        self._beacon: Beacon | None = None
        self._since = 0.0
        self._last_heard = float("-inf")
        self._last_yielded = float("-inf")
        self._lock = asyncio.Lock()

    # -- devices --------------------------------------------------------------------------------------------

    @property
    def whole(self) -> bool:
        """Whether all devices exist."""
        try:
            for device in (self._bridge, self._vxlan, self._leg, self._port):
                socket.if_nametoindex(device)
        except OSError:
            return False
        return True

    async def ensure(self, peer: Peer, mtu: int) -> None:
        """Have the network as it should be. `mtu`: the largest IP packet that passes the tunnel whole."""
        async with self._lock:
            self.mtu = min(mtu, self.extension.mtu)
            # The rules first: with the gate shut there is no loop, however the devices come up.
            was_forwarding = await self.rules.forwarding() and self.whole
            await self.rules.install(forwarding=bool(was_forwarding), mtu=self.mtu)
            if not self.whole:
                await self._build()
            await self._lead(peer)
            await self._local.attach(self._port, self.name, self.extension)
            self._open_beacon()
            if was_forwarding:
                self.state = Forwarding.FORWARDING
            elif self.state == Forwarding.FORWARDING or not self._since:
                self.state = Forwarding.LISTENING
                self._since = _now()

    async def _build(self) -> None:
        """The bridge and the leg; what is left of a former one goes."""
        await self._remove_devices()
        size = f"mtu {self.extension.mtu}"
        quiet = "addrgenmode none"  # no IPv6 chatter of our own into the network
        await links(
            f"link add {self._bridge} type bridge stp_state 0 mcast_snooping 0",
            f"link add {self._leg} type veth peer name {self._port}",
            *(f"link set {device} {quiet}" for device in (self._bridge, self._leg, self._port)),
            *(f"link set {device} {size}" for device in (self._leg, self._port)),
            f"link set {self._leg} master {self._bridge} up",
            f"link set {self._port} up",
        )
        # Packet sockets, as Open vSwitch's in userspace, else see checksums left unfinished and segments put together.
        await run("ethtool", "-K", self._leg, "tx", "off", "gro", "off")
        await run("ethtool", "-K", self._port, "tx", "off", "gro", "off")

    async def _lead(self, peer: Peer) -> None:
        """A VXLAN device to this peer, on the bridge."""
        if await self._leads_to(peer):
            return
        with suppress(CommandError):
            await links(f"link delete {self._vxlan}")
        await links(
            # No learning: there is one peer, and what comes from it never goes back to it.
            f"link add {self._vxlan} type vxlan id {self.extension.vni} dstport {_VXLAN_PORT} nolearning "
            f"local {peer.tunnel_address} remote {peer.peer_tunnel_address}",
            f"link set {self._vxlan} addrgenmode none",
            f"link set {self._vxlan} mtu {self.extension.mtu} master {self._bridge} up",
        )
        await run("ethtool", "-K", self._vxlan, "gro", "off", "tx", "off")
        await links(f"link set {self._bridge} mtu {self.extension.mtu} up")

    async def _leads_to(self, peer: Peer) -> bool:
        try:
            found = json.loads(await run("ip", "-d", "-j", "link", "show", "dev", self._vxlan))[0]
        except CommandError:
            return False
        data = found["linkinfo"]["info_data"]
        ends = (data.get("local"), data.get("remote"))
        return ends == (str(peer.tunnel_address), str(peer.peer_tunnel_address)) and found.get("master") == self._bridge

    def _open_beacon(self) -> None:
        # The leg may be another one by this name than it was.
        self.close()
        self._beacon = Beacon(self._leg, self._own, self._hear)

    def close(self) -> None:
        """Stop listening; frames flow on."""
        if self._beacon is not None:
            self._beacon.close()
            self._beacon = None

    async def remove(self) -> None:
        """Take everything away. All may be gone already."""
        async with self._lock:
            self.close()
            await self._local.detach(self._port, self.name)
            await self._remove_devices()
            await self.rules.remove()

    async def _remove_devices(self) -> None:
        for device in (self._vxlan, self._leg, self._bridge):
            with suppress(CommandError):
                await links(f"link delete {device}")

    # -- loops ----------------------------------------------------------------------------------------------

    def _hear(self, other: Sender) -> None:
        """A beacon on the local side. Of two that hear each other one gives way; who hears itself does."""
        self.loop_with, self._last_heard = other, _now()
        if (other.vni, other.appliance) <= (self._own.vni, self._own.appliance):
            self._last_yielded = self._last_heard

    async def beat(self) -> None:
        """Send a beacon, and open or shut the gate; to be called twice a second."""
        if self._beacon is not None:
            self._beacon.send()
        now = _now()
        if now - self._last_heard > _HOLD:
            self.loop_with = None
        if now - self._last_yielded < _HOLD:
            wanted = Forwarding.BLOCKED
        elif self.state == Forwarding.LISTENING and now - self._since < _LISTEN:
            wanted = Forwarding.LISTENING
        else:
            wanted = Forwarding.FORWARDING
        if wanted == self.state:
            return
        async with self._lock:
            await self.rules.set_gate(wanted)
            _log.warning("network %s (%s): %s, was %s", self.name, self.extension.place, wanted, self.state)
            self.state = wanted

    # -- addresses ------------------------------------------------------------------------------------------

    async def look_for_duplicates(self) -> None:
        """Note addresses that have been coming from both sides for a while."""
        now = _now()
        self.duplicates = {mac: self.duplicates.get(mac, now) for mac in await self.rules.flapping()}

    def duplicate_macs(self) -> list[str]:
        now = _now()
        return sorted(mac for mac, since in self.duplicates.items() if now - since >= _SURE)

    async def forget(self, macs: list[str]) -> None:
        """Drop what the bridge learnt of these addresses."""
        for device in (self._leg, self._vxlan):
            commands = "".join(f"fdb del {mac} dev {device} master\n" for mac in macs)
            # -force: an address that was not learnt is no error.
            with suppress(CommandError):
                await run("bridge", "-force", "-batch", "-", content=commands)

    # -- state ----------------------------------------------------------------------------------------------

    async def status(self) -> NetworkStatus:
        try:
            dropped = await self.rules.dropped()
        except CommandError:
            dropped = Dropped()
        return NetworkStatus(
            id=self.name,
            extension=self.extension,
            state=self.state,
            effective_mtu=self.mtu,
            local=_counters(self._leg),
            remote=_counters(self._vxlan),
            storm_dropped=dropped.storm,
            control_dropped=dropped.control,
            duplicate_macs=self.duplicate_macs(),
        )


def _now() -> float:
    return asyncio.get_running_loop().time()


def _counters(interface: str) -> Counters:
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, values = line.partition(":")
        if name.strip() == interface:
            number = [int(value) for value in values.split()]
            return Counters(
                received_bytes=number[0], received_packets=number[1], sent_bytes=number[8], sent_packets=number[9]
            )
    return Counters()
