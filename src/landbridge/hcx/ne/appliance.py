"""The appliance: its record on disk, the tunnel, the extended networks, and the watch over all of it."""

import asyncio
import collections
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import Field

from landbridge.esx.model import Model
from landbridge.esx.switch import SwitchError
from landbridge.hcx.ne.beacon import sender
from landbridge.hcx.ne.commands import CommandError
from landbridge.hcx.ne.config import NeConfig
from landbridge.hcx.ne.echo import Pinger
from landbridge.hcx.ne.local import LocalSide
from landbridge.hcx.ne.model import (
    SMALLEST_PATH,
    VXLAN_OVERHEAD,
    WIREGUARD_OVERHEAD,
    Alarm,
    Extension,
    Forwarding,
    NeError,
    Peer,
    Status,
    TunnelStatus,
)
from landbridge.hcx.ne.network import Network
from landbridge.hcx.ne.path import find_path_mtu
from landbridge.hcx.ne.tunnel import Tunnel

_BEAT = 0.5  # seconds between beacons, and between echoes through the tunnel
_DUPLICATES = 2.0  # seconds between looks for duplicate addresses
_PATH = 10.0  # seconds between looks at the path MTU
_ECHO_TIMEOUT = 2.0
_ECHO_SIZE = 84  # bytes, as ping's
_ECHOES = 40  # the loss is of so many
_DOWN = 3.0  # seconds without an echo until the tunnel counts as down
_UNKNOWN_PATH = 1500  # what a path that answers no probe is taken for
_log = logging.getLogger(__name__)


class Record(Model):
    """What the appliance was told; it outlives its machine's reboot."""

    peer: Peer | None = None
    networks: dict[str, Extension] = Field(default={})


class Echoes:
    """The last echoes through the tunnel."""

    def __init__(self) -> None:
        self._times: collections.deque[float | None] = collections.deque(maxlen=_ECHOES)
        self._last = float("-inf")

    def add(self, rtt: float | None) -> None:
        self._times.append(rtt)
        if rtt is not None:
            self._last = time.monotonic()

    @property
    def up(self) -> bool:
        return time.monotonic() - self._last < _DOWN

    @property
    def rtt_ms(self) -> float | None:
        """The median of the last ones."""
        came = sorted(rtt for rtt in self._times if rtt is not None)
        return came[len(came) // 2] * 1000 if came else None

    @property
    def loss(self) -> float | None:
        return sum(rtt is None for rtt in self._times) / len(self._times) if self._times else None


class Appliance:
    """One network extension appliance. Its daemon only tells kernel and engines what to do; frames do not pass it."""

    def __init__(self, config: NeConfig) -> None:
        self._config = config
        self._file = config.state_dir / "appliance.json"
        self._record = Record()
        self._tunnel = Tunnel(config)
        self.local = LocalSide(config)
        self._networks: dict[str, Network] = {}
        self._path_mtu: int | None = None
        self._path_known = asyncio.Event()
        self._look_at_path = asyncio.Event()
        self._pinger: Pinger | None = None
        self._echoes = Echoes()
        self._alarms: dict[tuple[str, str | None, str], float] = {}
        self._lock = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._under_way: set[asyncio.Task[None]] = set()

    # -- life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find what a former process left, or build it from the record; then watch over it."""
        self._config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._config.run_dir.mkdir(parents=True, exist_ok=True)
        if self._file.exists():
            self._record = Record.model_validate_json(self._file.read_bytes())
        self._tunnel.public_key()
        await self.local.start()
        async with self._lock:
            peer = self._record.peer
            if peer is not None:
                await self._tunnel.ensure(peer, self._tunnel_mtu)
                for name, extension in self._record.networks.items():
                    await self._network(name, extension).ensure(peer, self._inner_mtu)
        for interval, action in (
            (_BEAT, self._beat),
            (_BEAT, self._echo),
            (_DUPLICATES, self._look_for_duplicates),
        ):
            self._tasks.append(asyncio.create_task(_repeat(interval, action), name=action.__name__))
        self._tasks.append(asyncio.create_task(self._follow_path(), name="path MTU"))

    async def close(self) -> None:
        """Leave; frames flow on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._close_pinger()
        for network in self._networks.values():
            network.close()
        await self.local.close()

    # -- what the manager asks ------------------------------------------------------------------------------

    def public_key(self) -> str:
        return self._tunnel.public_key()

    async def set_peer(self, peer: Peer) -> None:
        """Have this tunnel and no other; networks that are extended follow."""
        if peer.public_key == self._tunnel.public_key():
            raise NeError("InvalidArgument", "this is the appliance's own key, not its peer's", 400)
        async with self._lock:
            if peer != self._record.peer:
                self._save(Record(peer=peer, networks=self._record.networks))
                self._forget_path()
            await self._tunnel.ensure(peer, self._tunnel_mtu)
            for network in self._networks.values():
                await network.ensure(peer, self._inner_mtu)
        self._look_at_path.set()

    async def remove_peer(self) -> None:
        """End the tunnel. ResourceInUse while networks are extended."""
        async with self._lock:
            if self._record.networks:
                raise NeError("ResourceInUse", f"still extended: {', '.join(sorted(self._record.networks))}")
            self._save(Record())
            self._forget_path()
            await self._tunnel.remove()

    async def extend(self, name: str, extension: Extension) -> None:
        """Extend a network, or see that it is; NeError says why not."""
        self.local.check(extension)
        async with self._lock:
            peer = self._record.peer
            if peer is None:
                raise NeError("InvalidState", "there is no peer yet: set it first")
            self._check_free(name, extension)
        await self._check_path(extension)
        async with self._lock:
            self._check_free(name, extension)
            network = self._network(name, extension)
            self._save(Record(peer=peer, networks={**self._record.networks, name: extension}))
            await network.ensure(peer, self._inner_mtu)

    def _check_free(self, name: str, extension: Extension) -> None:
        for other, taken in self._record.networks.items():
            if other == name:
                if taken != extension:
                    raise NeError("AlreadyExists", f"{name} is extended from {taken.place}, VNI {taken.vni}: end that")
            elif taken.vni == extension.vni:
                raise NeError("ResourceInUse", f"VNI {extension.vni} is {other}'s")
            elif taken.place == extension.place:
                raise NeError("ResourceInUse", f"{extension.place} is extended already, as {other}")

    async def _check_path(self, extension: Extension) -> None:
        """Wait for the first measurement, if the other appliance is there at all."""
        try:
            async with asyncio.timeout(_ECHO_TIMEOUT * 2):
                await self._path_known.wait()
        except TimeoutError:
            return
        if self._path_mtu is not None and self._path_mtu < SMALLEST_PATH:
            raise NeError(
                "InvalidState",
                f"the path to the other appliance carries packets of {self._path_mtu} bytes; {SMALLEST_PATH} are "
                f"needed to extend {extension.place}: raise the MTU of the networks between the uplinks",
            )

    async def withdraw(self, name: str) -> None:
        """End an extension; one nobody knows is no error."""
        async with self._lock:
            network = self._networks.pop(name, None)
            if network is not None:
                await network.remove()
            self._save(
                Record(
                    peer=self._record.peer,
                    networks={key: value for key, value in self._record.networks.items() if key != name},
                )
            )

    async def flush(self, macs: list[str]) -> None:
        """Forget where these addresses are, so that the next frame to them goes everywhere."""
        async with self._lock:
            for network in self._networks.values():
                await network.forget(macs)
            await self.local.forget()

    async def status(self) -> Status:
        transfer = await self._tunnel.transfer()
        peer = self._record.peer
        return Status(
            name=self._config.name,
            site=self._config.site,
            peer=peer,
            tunnel=TunnelStatus(
                up=self._echoes.up,
                handshake_age=max(time.time() - transfer.handshake, 0) if transfer.handshake is not None else None,
                received_bytes=transfer.received,
                sent_bytes=transfer.sent,
                rtt_ms=self._echoes.rtt_ms,
                loss=self._echoes.loss,
            )
            if peer is not None
            else None,
            path_mtu=self._path_mtu,
            networks=[await network.status() for network in list(self._networks.values())],
            alarms=self._current_alarms(),
        )

    # -- inside ---------------------------------------------------------------------------------------------

    def _network(self, name: str, extension: Extension) -> Network:
        known = self._networks.get(name)
        if known is None:
            own = sender(extension.vni, self._tunnel.public_key(), self._config.name)
            known = self._networks[name] = Network(name, extension, own, self.local)
        return known

    def _save(self, record: Record) -> None:
        temporary: Path = self._file.with_suffix(".new")
        temporary.write_text(record.model_dump_json(indent=1))
        temporary.replace(self._file)
        self._record = record

    @property
    def _tunnel_mtu(self) -> int:
        return (self._path_mtu or _UNKNOWN_PATH) - WIREGUARD_OVERHEAD

    @property
    def _inner_mtu(self) -> int:
        return self._tunnel_mtu - VXLAN_OVERHEAD

    def _forget_path(self) -> None:
        self._path_mtu = None
        self._path_known.clear()
        self._echoes = Echoes()
        self._close_pinger()

    def _close_pinger(self) -> None:
        if self._pinger is not None:
            self._pinger.close()
            self._pinger = None

    # -- the watch ------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        """Beacons and gates; what is gone comes back."""
        peer = self._record.peer
        if peer is None:
            return
        if not self._tunnel.exists or not all(network.whole for network in self._networks.values()):
            async with self._lock:
                await self._restore()
        for network in list(self._networks.values()):
            await network.beat()

    async def _restore(self) -> None:
        peer = self._record.peer
        if peer is None:
            return
        if not self._tunnel.exists:
            _log.warning("the tunnel's interface is gone: it is made again")
            await self._tunnel.ensure(peer, self._tunnel_mtu)
            self._close_pinger()
        for network in self._networks.values():
            if not network.whole:
                _log.warning("network %s lost an interface: it is made again", network.name)
                await network.ensure(peer, self._inner_mtu)

    async def _echo(self) -> None:
        peer = self._record.peer
        if peer is None or not self._tunnel.exists:
            return
        if self._pinger is None:
            self._pinger = Pinger(peer.tunnel_address, peer.peer_tunnel_address)
        task = asyncio.create_task(self._one_echo(self._pinger, self._echoes))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _one_echo(self, pinger: Pinger, echoes: Echoes) -> None:
        echoes.add(await pinger.echo(_ECHO_SIZE, _ECHO_TIMEOUT))

    async def _follow_path(self) -> None:
        while True:
            try:
                await self._measure_path()
            except (CommandError, SwitchError, OSError) as error:
                _log.error("path MTU: %s", error)
            self._look_at_path.clear()
            try:
                async with asyncio.timeout(_PATH if self._path_mtu is not None else 1.0):
                    await self._look_at_path.wait()
            except TimeoutError:
                continue

    async def _measure_path(self) -> None:
        peer = self._record.peer
        if peer is None:
            return
        found = await find_path_mtu(self._config.uplink, peer, self._path_mtu)
        if found is None or peer != self._record.peer:  # no answer says nothing about the size
            return
        if found != self._path_mtu:
            _log.info("the path to %s carries packets of %s bytes", peer.address, found)
            async with self._lock:
                self._path_mtu = found
                await self._tunnel.set_mtu(self._tunnel_mtu)
                for network in self._networks.values():
                    await network.ensure(peer, self._inner_mtu)
        self._path_known.set()

    async def _look_for_duplicates(self) -> None:
        for network in list(self._networks.values()):
            await network.look_for_duplicates()
        self._current_alarms()

    def _current_alarms(self) -> list[Alarm]:
        """What is wrong now, each with the time since when it has been."""
        now = set(self._conditions())
        self._alarms = {condition: self._alarms.get(condition, time.time()) for condition in sorted(now, key=str)}
        return [
            Alarm(kind=kind, network=network, message=message, since=since)
            for (kind, network, message), since in self._alarms.items()
        ]

    def _conditions(self) -> list[tuple[str, str | None, str]]:
        peer = self._record.peer
        if peer is None:
            return []
        found: list[tuple[str, str | None, str]] = []
        if not self._echoes.up:
            found.append(("tunnel-down", None, f"nothing comes back from {peer.address} through the tunnel"))
        if self._path_mtu is None:
            assumed = f"a path of {_UNKNOWN_PATH} bytes is assumed"
            found.append(("path-unknown", None, f"{peer.address} answers no ICMP echo on its uplink: {assumed}"))
        elif self._path_mtu < SMALLEST_PATH:
            found.append(("path-too-small", None, f"the path carries {self._path_mtu} bytes, not {SMALLEST_PATH}"))
        for network in self._networks.values():
            place = network.extension.place
            if (other := network.loop_with) is not None:
                here = "blocked here" if network.state == Forwarding.BLOCKED else "left to the other end to block"
                heard = f"a beacon that {other.name} sent for VNI {other.vni} arrived in {place}"
                found.append(("loop", network.name, f"{heard}: the network has another way; {here}"))
            found += [
                ("duplicate-mac", network.name, f"{mac} sends both from {place} here and from {peer.address}'s side")
                for mac in network.duplicate_macs()
            ]
        return found


async def _repeat(interval: float, action: Callable[[], Awaitable[None]]) -> None:
    """Run an action over and over; a failure is written down and the next run tries again."""
    while True:
        try:
            await action()
        except (CommandError, SwitchError, OSError) as error:
            _log.error("%s", error)
        await asyncio.sleep(interval)
