"""The appliance's API: HTTPS with mutual TLS, for the HCX manager of its site and the NSX manager of its overlay."""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, TypeAdapter

from landbridge.esx.model import OverlayConfig
from landbridge.esx.switch import SwitchError
from landbridge.hcx.appliance_faults import fault_answers
from landbridge.hcx.ne.appliance import Appliance
from landbridge.hcx.ne.commands import CommandError
from landbridge.hcx.ne.config import NeConfig
from landbridge.hcx.ne.model import Extension, Flush, Key, NeError, NetworkId, Peer
from landbridge.pki import Identity
from landbridge.pki.http import allow_roles, caller

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=BaseModel)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_NETWORK_ID: TypeAdapter[str] = TypeAdapter(NetworkId)


class Server:
    """The routes over one appliance."""

    def __init__(self, config: NeConfig, appliance: Appliance) -> None:
        self._config = config
        self._appliance = appliance
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        roles = allow_roles(self._config.site, "hcx", "nsx")
        application = web.Application(middlewares=[roles, fault_answers(_known), _own_routes])
        application.add_routes(
            [
                web.get("/v1/status", self._status),
                web.get("/v1/key", self._key),
                web.put("/v1/peer", self._set_peer),
                web.delete("/v1/peer", self._remove_peer),
                web.put("/v1/networks/{network}", self._extend),
                web.delete("/v1/networks/{network}", self._withdraw),
                web.post("/v1/flush", self._flush),
                web.get("/v1/overlay", self._overlay),
                web.put("/v1/overlay", self._join_overlay),
                web.delete("/v1/overlay", self._leave_overlay),
                web.route("*", "/{rest:.*}", _unsupported),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        where = self._config.management
        tls = Identity(self._config.pki_dir).server_context(require_client=True)
        await web.TCPSite(self._runner, where.address, where.port, ssl_context=tls).start()
        _log.info("network extension appliance %s listens on %s:%s", self._config.name, where.address, where.port)

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _status(self, _request: web.Request) -> web.Response:
        return _answer(await self._appliance.status())

    async def _key(self, _request: web.Request) -> web.Response:
        return _answer(Key(public_key=self._appliance.public_key()))

    async def _set_peer(self, request: web.Request) -> web.Response:
        await self._appliance.set_peer(await _body(request, Peer))
        return web.Response(status=204)

    async def _remove_peer(self, _request: web.Request) -> web.Response:
        await self._appliance.remove_peer()
        return web.Response(status=204)

    async def _extend(self, request: web.Request) -> web.Response:
        await self._appliance.extend(_network(request), await _body(request, Extension))
        return web.Response(status=204)

    async def _withdraw(self, request: web.Request) -> web.Response:
        await self._appliance.withdraw(_network(request))
        return web.Response(status=204)

    async def _flush(self, request: web.Request) -> web.Response:
        await self._appliance.flush((await _body(request, Flush)).macs)
        return web.Response(status=204)

    async def _overlay(self, _request: web.Request) -> web.Response:
        return _answer(await self._appliance.local.overlay.status())

    async def _join_overlay(self, request: web.Request) -> web.Response:
        return _answer(await self._appliance.local.join_overlay(await _body(request, OverlayConfig)))

    async def _leave_overlay(self, _request: web.Request) -> web.Response:
        await self._appliance.local.overlay.remove()
        return web.Response(status=204)


async def _unsupported(request: web.Request) -> web.Response:
    raise NeError("NotSupported", f"a network extension appliance does not do {request.method} {request.path}", 501)


@web.middleware
async def _own_routes(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """The NSX manager sets up transport nodes, this one as it does hosts; all else is the HCX manager's."""
    role = "nsx" if request.path == "/v1/overlay" else "hcx"
    if caller(request).role != role:
        raise NeError("NoPermission", f"{request.path} is for the {role.upper()} manager", 403)
    return await handler(request)


def _known(error: Exception) -> tuple[int, str, str] | None:
    match error:
        case NeError():
            return error.status, error.type, str(error)
        case CommandError() | SwitchError() | OSError():
            return 500, "SystemError", str(error)
    return None


def _network(request: web.Request) -> str:
    return _NETWORK_ID.validate_python(request.match_info["network"])


async def _body(request: web.Request, shape: type[_M]) -> _M:
    return shape.model_validate_json(await request.read())


def _answer(model: BaseModel) -> web.Response:
    return web.json_response(text=model.model_dump_json())
