"""The appliance's relay, with a side in the site and one on the WAN; up once it has an identity of the site pair.

The probe stream ends at an echo here, so that a tunnel's state is measured by bytes that went through both relays.
"""

import asyncio
import contextlib
import logging
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable

from landbridge.esx.model import Endpoint
from landbridge.hcx.config import IxConfig
from landbridge.hcx.ix.model import IxInfo, ProbeResult, WanIdentity
from landbridge.pki import Identity, create_request
from landbridge.relay import Relay, RelayError, Side

SITE = "site"
WAN = "wan"
_PROBE = "probe"
_PROBE_TIMEOUT = 3.0  # seconds
_NONCE = 16  # bytes
_WATCH = 1.0  # seconds between looks whether the relay lives
_log = logging.getLogger(__name__)


class NotPaired(Exception):  # noqa: N818 - a state, not a failure
    """The appliance has no identity on the WAN: its site is not paired."""


class Wan:
    """The relay and the identity it shows to the other site's appliance."""

    def __init__(self, config: IxConfig, reopen: Callable[[], Awaitable[None]] | None = None) -> None:
        """`reopen` is called when a relay that died was started again: it has none of the streams it had."""
        self._config = config
        self._reopen = reopen
        self._watcher: asyncio.Task[None] | None = None
        self._directory = config.state_dir / "wan"
        self._relay: Relay | None = None
        self._echo: asyncio.Server | None = None

    @property
    def relay(self) -> Relay:
        """The relay; NotPaired when there is none."""
        if self._relay is None:
            raise NotPaired(f"{self._config.name} has no identity on the WAN: pair the sites first")
        return self._relay

    def info(self) -> IxInfo:
        uplink = self._config.uplink
        name = f"{_PROBE}.ix.{self._config.name}"
        return IxInfo(
            name=self._config.name,
            site=self._config.site,
            uplink=Endpoint(address=uplink.address, port=uplink.port, name=name),
            paired=self._relay is not None,
        )

    async def start(self) -> None:
        """Find the relay again, or start it; nothing to do while the site is not paired."""
        identity = Identity(self._directory)
        if not identity.bundle.exists():
            return
        config = self._config
        # The hosts' streams pass: their TLS is between the two hosts, whose content the appliance does not see.
        vmotion, uplink = config.vmotion, config.uplink
        site = Side(
            SITE, vmotion.address, vmotion.port, Identity(config.pki_dir), f"vmotion.{config.name}", passes=True
        )
        wan = Side(WAN, uplink.address, uplink.port, identity, f"ix.{config.name}", passes=True)
        config.run_dir.mkdir(parents=True, exist_ok=True)
        relay = Relay(config.run_dir / "relay", [site, wan])
        await relay.start()
        socket = await relay.expose(WAN, _PROBE)
        socket.unlink(missing_ok=True)  # the one a former process of ours listened on
        self._echo = await asyncio.start_unix_server(_echo, socket)
        self._relay = relay
        self._watcher = self._watcher or asyncio.create_task(self._watch(), name="relay watch")

    async def _watch(self) -> None:
        """Start a relay that died again."""
        while True:
            await asyncio.sleep(_WATCH)
            relay = self._relay
            if relay is None or await relay.alive():
                continue
            _log.warning("the relay is gone: it is started again")
            try:
                await self._stop_echo()
                await self.start()
                if self._reopen is not None:
                    await self._reopen()
            except (RelayError, OSError):
                _log.exception("the relay could not be started again")

    async def close(self) -> None:
        """Leave; the relay and its streams go on."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None
        await self._stop_echo()

    async def _stop_echo(self) -> None:
        if self._echo is not None:
            self._echo.close()
            self._echo = None

    def request(self) -> bytes:
        """A certificate request (PEM) whose key stays here."""
        return create_request(self._directory, self._config.name)

    async def install(self, identity: WanIdentity) -> None:
        Identity.install(self._directory, identity.certificate.encode(), identity.authority.encode())
        await self.close()
        self._relay = None
        await self.start()

    async def remove(self) -> None:
        """End the relay and drop the identity."""
        await self.close()
        if self._relay is not None:
            await self._relay.stop()
            self._relay = None
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    async def probe(self, endpoint: Endpoint) -> ProbeResult:
        """Send bytes to the other appliance's echo and time their return."""
        try:
            socket = await self.relay.dial(WAN, endpoint)
            async with asyncio.timeout(_PROBE_TIMEOUT):
                rtt = await _round_trip(str(socket))
        except TimeoutError:
            return ProbeResult(up=False, error=f"no answer from {endpoint.address} within {_PROBE_TIMEOUT:.0f} s")
        except (OSError, EOFError, RelayError, NotPaired) as error:
            return ProbeResult(up=False, error=str(error) or "the connection was closed")
        return ProbeResult(up=True, rtt_ms=rtt * 1000)


async def _round_trip(socket: str) -> float:
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        rtt = 0.0
        for _ in range(2):  # the first one pays for two TLS handshakes
            nonce = secrets.token_bytes(_NONCE)
            begin = time.perf_counter()
            writer.write(nonce)
            await writer.drain()
            if await reader.readexactly(_NONCE) != nonce:
                raise EOFError("who answered did not echo what was sent")
            rtt = time.perf_counter() - begin
        return rtt
    finally:
        writer.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    writer.close()
