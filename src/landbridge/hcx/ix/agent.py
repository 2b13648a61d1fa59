"""The appliance's daemon: the host agent's API for vCenter, the appliance's own for the HCX manager."""

import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, TypeAdapter

from landbridge.esx.model import IncomingVm, OutgoingVm, PortGroup, RegisterVm
from landbridge.hcx.appliance_faults import fault_answers
from landbridge.hcx.config import IxConfig
from landbridge.hcx.ix import host
from landbridge.hcx.ix.events import EventLog, Kind
from landbridge.hcx.ix.model import Announcement, Finish, Join, Probe, WanIdentity, WanRequest
from landbridge.hcx.ix.moves import MoveError, Moves
from landbridge.hcx.ix.wan import NotPaired, Wan
from landbridge.pki import Identity
from landbridge.pki.http import allow_roles, caller
from landbridge.relay import RelayError

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=BaseModel)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_MAX_WAIT = 60.0  # seconds a long poll may last
_PORT_GROUPS = TypeAdapter(list[PortGroup])


class MobilityAgent:
    """One interconnect appliance: its relay, its migrations, its API."""

    def __init__(self, config: IxConfig) -> None:
        self._config = config
        self._events = EventLog()
        self.wan = Wan(config, self._reopen)
        self.moves = Moves(config.state_dir / "moves", self.wan, self._changed)
        self._maintenance = False
        self._port_group_file = config.state_dir / "portgroups.json"
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Find the relay and the migrations of a former process, then listen."""
        self._config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.moves.load()
        await self.wan.start()
        self._runner = web.AppRunner(self._application(), access_log=None)
        await self._runner.setup()
        where = self._config.management
        tls = Identity(self._config.pki_dir).server_context(require_client=True)
        await web.TCPSite(self._runner, where.address, where.port, ssl_context=tls).start()
        _log.info("interconnect appliance %s listens on %s:%s", self._config.name, where.address, where.port)

    async def stop(self) -> None:
        """Stop listening; the relay and its streams go on."""
        if self._runner is not None:
            await self._runner.cleanup()
        await self.wan.close()

    def _application(self) -> web.Application:
        roles = allow_roles(self._config.site, "vcenter", "hcx")
        application = web.Application(middlewares=[roles, fault_answers(_known), _manager_only])
        application.add_routes(
            [
                web.get("/v1/host", self._host),
                web.get("/v1/host/stats", self._host_stats),
                web.put("/v1/host/maintenance", self._set_maintenance),
                web.get("/v1/events", self._follow),
                web.get("/v1/datastores", self._datastores),
                web.get("/v1/datastores/{datastore}/list/{path:.*}", self._files),
                web.get("/v1/portgroups", self._port_groups),
                web.put("/v1/portgroups", self._set_port_groups),
                web.get("/v1/vms", self._vms),
                web.post("/v1/vms/register", self._register),
                web.get("/v1/vms/{vm}", self._vm),
                web.post("/v1/vms/{vm}/unregister", self._unregister),
                web.post("/v1/vmotion/incoming", self._incoming),
                web.post("/v1/vmotion/outgoing", self._outgoing),
                web.get("/v1/vmotion", self._vmotions),
                web.get("/v1/vmotion/{vmotion}", self._vmotion),
                web.delete("/v1/vmotion/{vmotion}", self._abort),
                web.post("/v1/vmotion/{vmotion}/part", self._part),
                web.get("/v1/ix", self._info),
                web.post("/v1/ix/wan/request", self._request_identity),
                web.put("/v1/ix/wan", self._install_identity),
                web.delete("/v1/ix/wan", self._remove_identity),
                web.post("/v1/ix/probe", self._probe),
                web.put("/v1/ix/moves/{migration}", self._announce),
                web.get("/v1/ix/moves/{migration}", self._move),
                web.delete("/v1/ix/moves/{migration}", self._forget),
                web.post("/v1/ix/moves/{migration}/join", self._join),
                web.post("/v1/ix/moves/{migration}/finish", self._finish),
                web.route("*", "/{rest:.*}", _unsupported),
            ]
        )
        return application

    async def _reopen(self) -> None:
        await self.moves.reopen()

    def _changed(self, kind: Kind, vm: str, message: str) -> None:
        self._events.post(kind, vm, message)

    # ------------------------------------------------------------------------------- the host agent's API

    async def _host(self, _request: web.Request) -> web.Response:
        return _answer(host.describe(self._config, self._events.epoch, self._maintenance))

    async def _host_stats(self, _request: web.Request) -> web.Response:
        return _answer(host.stats())

    async def _set_maintenance(self, request: web.Request) -> web.Response:
        wanted = (await _json(request)).get("maintenance")
        if not isinstance(wanted, bool):
            raise MoveError("InvalidArgument", "`maintenance` must be true or false", 400)
        if wanted and self.moves.vms():
            raise MoveError("InvalidState", "a migration is under way: wait for it or cancel it")
        self._maintenance = wanted
        self._events.post("host-changed", None, "maintenance mode" if wanted else "maintenance mode left")
        return await self._host(request)

    async def _follow(self, request: web.Request) -> web.Response:
        return _answer(await self._events.after(int(request.query.get("since", "0")), _wait(request)))

    async def _datastores(self, _request: web.Request) -> web.Response:
        return _answers([host.datastore(self._config.name)])

    async def _files(self, _request: web.Request) -> web.Response:
        return _answers([])

    async def _port_groups(self, _request: web.Request) -> web.Response:
        return _answers(self._read_port_groups())

    async def _set_port_groups(self, request: web.Request) -> web.Response:
        groups = _PORT_GROUPS.validate_json(await request.read())
        self._port_group_file.write_bytes(_PORT_GROUPS.dump_json(groups))
        return web.Response(status=204)

    def _read_port_groups(self) -> list[PortGroup]:
        file: Path = self._port_group_file
        return _PORT_GROUPS.validate_json(file.read_bytes()) if file.exists() else []

    async def _vms(self, _request: web.Request) -> web.Response:
        return _answers(self.moves.vms())

    async def _vm(self, request: web.Request) -> web.Response:
        for state in self.moves.vms():
            if state.config.instance_uuid == request.match_info["vm"]:
                return _answer(state)
        raise MoveError("ManagedObjectNotFound", f"no VM {request.match_info['vm']} here", 404)

    async def _register(self, request: web.Request) -> web.Response:
        return _answer(await self.moves.register((await _body(request, RegisterVm)).vmx))

    async def _unregister(self, request: web.Request) -> web.Response:
        await self.moves.unregister(request.match_info["vm"])
        return web.Response(status=204)

    async def _incoming(self, request: web.Request) -> web.Response:
        return _answer(await self.moves.incoming(await _body(request, IncomingVm)))

    async def _outgoing(self, request: web.Request) -> web.Response:
        return _answer(await self.moves.outgoing(await _body(request, OutgoingVm)))

    async def _vmotions(self, _request: web.Request) -> web.Response:
        return _answers(self.moves.vmotions())

    async def _vmotion(self, request: web.Request) -> web.Response:
        return _answer(await self.moves.vmotion(request.match_info["vmotion"], _seen(request), _wait(request)))

    async def _abort(self, request: web.Request) -> web.Response:
        return _answer(await self.moves.abort(request.match_info["vmotion"]))

    async def _part(self, request: web.Request) -> web.Response:
        self.moves.part(request.match_info["vmotion"])
        return web.Response(status=204)

    # ------------------------------------------------------------------------------- the manager's

    async def _info(self, _request: web.Request) -> web.Response:
        return _answer(self.wan.info())

    async def _request_identity(self, _request: web.Request) -> web.Response:
        return _answer(WanRequest(request=self.wan.request().decode()))

    async def _install_identity(self, request: web.Request) -> web.Response:
        await self.wan.install(await _body(request, WanIdentity))
        return _answer(self.wan.info())

    async def _remove_identity(self, _request: web.Request) -> web.Response:
        if busy := self.moves.busy():
            raise MoveError("ResourceInUse", f"migrations are under way: {', '.join(busy)}")
        await self.wan.remove()
        return _answer(self.wan.info())

    async def _probe(self, request: web.Request) -> web.Response:
        return _answer(await self.wan.probe((await _body(request, Probe)).endpoint))

    async def _announce(self, request: web.Request) -> web.Response:
        announcement = await _body(request, Announcement)
        return _answer(await self.moves.announce(request.match_info["migration"], announcement))

    async def _move(self, request: web.Request) -> web.Response:
        return _answer(await self.moves.read(request.match_info["migration"], _seen(request), _wait(request)))

    async def _join(self, request: web.Request) -> web.Response:
        return _answer(await self.moves.join(request.match_info["migration"], (await _body(request, Join)).endpoints))

    async def _finish(self, request: web.Request) -> web.Response:
        return _answer(await self.moves.finish(request.match_info["migration"], (await _body(request, Finish)).error))

    async def _forget(self, request: web.Request) -> web.Response:
        await self.moves.forget(request.match_info["migration"])
        return web.Response(status=204)


async def _unsupported(request: web.Request) -> web.Response:
    raise MoveError("NotSupported", f"a mobility agent does not do {request.method} {request.path}", 501)


@web.middleware
async def _manager_only(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """The appliance's own routes are the HCX manager's; vCenter has the host agent's."""
    if request.path.startswith("/v1/ix") and caller(request).role != "hcx":
        raise MoveError("NoPermission", "only the HCX manager may do this", 403)
    return await handler(request)


def _known(error: Exception) -> tuple[int, str, str] | None:
    match error:
        case MoveError():
            return error.status, error.type, str(error)
        case NotPaired():
            return 409, "InvalidState", str(error)
        case RelayError():
            return 503, "SystemError", f"the relay: {error}"
    return None


async def _json(request: web.Request) -> dict[str, Any]:
    body = json.loads(await request.read())
    if not isinstance(body, dict):
        raise TypeError("the body must be a JSON object")
    return body


async def _body(request: web.Request, shape: type[_M]) -> _M:
    return shape.model_validate_json(await request.read())


def _answer(model: BaseModel) -> web.Response:
    return web.json_response(text=model.model_dump_json())


def _answers(models: list[Any]) -> web.Response:
    return web.json_response([model.model_dump(mode="json") for model in models])


def _seen(request: web.Request) -> int:
    return int(request.query.get("seen", "-1"))


def _wait(request: web.Request) -> float:
    return min(max(float(request.query.get("wait", "0")), 0.0), _MAX_WAIT)
