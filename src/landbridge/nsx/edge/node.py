"""The edge's daemon: its switch, and the part of the host agent's API that a transport node has."""

import logging
import ssl
import tomllib
from ipaddress import IPv4Interface
from pathlib import Path

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from landbridge.esx.model import OverlayConfig
from landbridge.esx.overlay import Overlay, TransportNode
from landbridge.esx.switch import Switch
from landbridge.esx.web import body, errors_as_faults, reply
from landbridge.pki import Identity
from landbridge.pki.http import allow_roles

_log = logging.getLogger(__name__)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Address(_Section):
    address: str
    port: int = 443


class SwitchConfig(_Section):
    """`uplink` leads to the physical network that VLAN segments are of; `tep` is the interface for tunnels."""

    uplink: str
    tep: str
    tep_address: IPv4Interface


class EdgeConfig(_Section):
    """What `python -m landbridge.nsx.edge --config FILE` reads."""

    name: str
    site: str
    state_dir: Path
    run_dir: Path
    pki_dir: Path
    management: Address
    switch: SwitchConfig

    @classmethod
    def load(cls, path: Path) -> "EdgeConfig":
        """Read a configuration file; ValueError says what is wrong in it."""
        return cls.model_validate(tomllib.loads(path.read_text()))


class EdgeNode:
    """One edge. Its engines go on when it ends, and are found again."""

    def __init__(self, config: EdgeConfig) -> None:
        self._config = config
        self._identity = Identity(config.pki_dir)
        node = TransportNode(config.name, self._identity, config.switch.tep, config.switch.tep_address)
        self._switch = Switch(
            run_dir=config.run_dir / "switch", state_dir=config.state_dir, uplink=config.switch.uplink, node=node
        )
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """The switch first, then the API."""
        self._config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._switch.start()
        app = web.Application(middlewares=[errors_as_faults, allow_roles(self._config.site, "nsx")])
        app.add_routes(
            [
                web.get("/v1/overlay", self._status),
                web.put("/v1/overlay", self._configure),
                web.delete("/v1/overlay", self._remove),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        where = self._config.management
        tls: ssl.SSLContext = self._identity.server_context(require_client=True)
        await web.TCPSite(self._runner, where.address, where.port, ssl_context=tls).start()
        _log.info("edge %s listens on %s:%s", self._config.name, where.address, where.port)

    async def stop(self) -> None:
        """Stop listening; frames flow on."""
        if self._runner is not None:
            await self._runner.cleanup()
        await self._switch.close()

    @property
    def _overlay(self) -> Overlay:
        assert self._switch.overlay is not None  # it was made with a transport node
        return self._switch.overlay

    async def _status(self, _: web.Request) -> web.Response:
        return reply(await self._overlay.status())

    async def _configure(self, request: web.Request) -> web.Response:
        await self._overlay.configure(await body(request, OverlayConfig))
        return reply(await self._overlay.status())

    async def _remove(self, _: web.Request) -> web.Response:
        await self._overlay.remove()
        return reply(None)
