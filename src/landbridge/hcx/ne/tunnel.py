"""The WireGuard tunnel to the other appliance: the kernel's where it has one, else a wireguard-go that outlives us."""

import asyncio
import base64
import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from landbridge.hcx.ne.commands import CommandError, links, run
from landbridge.hcx.ne.config import NeConfig
from landbridge.hcx.ne.model import Peer
from landbridge.pki.authority import write_private

# wireguard-go puts its control socket there, whatever namespace it runs in.
_SOCKETS = Path("/var/run/wireguard")
_START_TIMEOUT = 15.0  # seconds; it takes 0.05 s on an idle machine
_STOP_TIMEOUT = 5.0
_KEEPALIVE = 10  # seconds; keeps a firewall's way in open while our own echoes rest
_POLL = 0.02


@dataclass(frozen=True)
class Transfer:
    """`handshake` is in seconds since the epoch, None before the first."""

    received: int = 0
    sent: int = 0
    handshake: float | None = None


class Tunnel:
    """One WireGuard interface with one peer."""

    def __init__(self, config: NeConfig) -> None:
        self._port = config.uplink.port
        self._key_file = config.state_dir / "wireguard.key"
        self._log_file = config.state_dir / "wireguard.log"
        # The name also names the socket, which all namespaces of a machine share.
        self.interface = f"lbne{hashlib.sha256(str(config.state_dir.resolve()).encode()).hexdigest()[:8]}"
        self._child: subprocess.Popen[bytes] | None = None

    # -- the key --------------------------------------------------------------------------------------------

    def public_key(self) -> str:
        """Our public key, base64; the pair is made when it is asked for first."""
        if not self._key_file.exists():
            write_private(self._key_file, base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()) + b"\n")
        private = X25519PrivateKey.from_private_bytes(base64.b64decode(self._key_file.read_bytes()))
        return base64.b64encode(private.public_key().public_bytes_raw()).decode()

    # -- the interface --------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether the interface is there; wireguard-go's goes with its process."""
        try:
            socket.if_nametoindex(self.interface)
        except OSError:
            return False
        return True

    async def ensure(self, peer: Peer, mtu: int) -> None:
        """Have the interface, with this peer and no other."""
        self.public_key()
        if not self.exists:
            await self._create()
        device = self.interface
        for key in (await run("wg", "show", device, "peers")).split():
            if key != peer.public_key:
                await run("wg", "set", device, "peer", key, "remove")
        await run(
            *("wg", "set", device, "listen-port", str(self._port), "private-key", str(self._key_file)),
            *("peer", peer.public_key, "endpoint", f"{peer.address}:{peer.port}"),
            *("allowed-ips", f"{peer.peer_tunnel_address}/32", "persistent-keepalive", str(_KEEPALIVE)),
        )
        await links(
            f"address flush dev {device}",
            f"address add {peer.tunnel_address} peer {peer.peer_tunnel_address}/32 dev {device}",
            f"link set dev {device} mtu {mtu} up",
        )

    async def set_mtu(self, mtu: int) -> None:
        """The largest IP packet in the tunnel."""
        await links(f"link set dev {self.interface} mtu {mtu}")

    async def remove(self) -> None:
        """End the tunnel; the key stays."""
        pid = self._pid()
        if pid is not None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                if await self._gone(_STOP_TIMEOUT):
                    break
            self._reap()
        elif self.exists:
            await links(f"link delete dev {self.interface}")

    async def transfer(self) -> Transfer:
        """What the peer's traffic amounts to. Not `dump`, which shows the private key."""
        if not self.exists:
            return Transfer()
        amount = (await run("wg", "show", self.interface, "transfer")).split()
        handshake = (await run("wg", "show", self.interface, "latest-handshakes")).split()
        if len(amount) < 3 or len(handshake) < 2:
            return Transfer()
        return Transfer(int(amount[1]), int(amount[2]), float(handshake[1]) or None)

    # -- inside ---------------------------------------------------------------------------------------------

    async def _create(self) -> None:
        try:
            await links(f"link add dev {self.interface} type wireguard")
        except CommandError:
            await self._start_wireguard_go()
        # Now, at its first MTU: below 1,280 bytes the interface has no IPv6 to set anything of.
        await links(f"link set dev {self.interface} addrgenmode none")

    async def _start_wireguard_go(self) -> None:
        pid = self._pid()
        if pid is not None:  # its interface is gone: it is on its way out
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._reap()
        (_SOCKETS / f"{self.interface}.sock").unlink(missing_ok=True)
        self._child = self._spawn()
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            with contextlib.suppress(CommandError):
                if "listening port" in await run("wg", "show", self.interface):
                    return
            if self._child.poll() is not None or time.monotonic() > deadline:
                tail = self._log_file.read_text(errors="replace").strip().splitlines()[-1:]
                raise CommandError(f"wireguard-go does not come up: {''.join(tail) or 'it said nothing'}")
            await asyncio.sleep(_POLL)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log_file.open("ab") as log:
            # A session of its own, and not asyncio's child: it is meant to outlive us. It needs few descriptors.
            return subprocess.Popen(
                ["prlimit", "--nofile=1024:1024", "wireguard-go", "-f", self.interface],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _pid(self) -> int | None:
        """Our wireguard-go, by its command line, which names the interface: nothing is written down to go stale."""
        wanted = [b"wireguard-go", b"-f", self.interface.encode(), b""]
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (directory / "cmdline").read_bytes().split(b"\0") == wanted:
                    return int(directory.name)
        return None

    async def _gone(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while self._pid() is not None:
            if time.monotonic() > deadline:
                return False
            self._reap()
            await asyncio.sleep(_POLL)
        return True

    def _reap(self) -> None:
        if self._child is not None:
            self._child.poll()
