"""The manager's HTTPS server: JSON in and out always, errors included, and who may call what."""

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.typedefs import Middleware
from pydantic import BaseModel, ValidationError

from landbridge.esx.client import HostError, HostUnreachable
from landbridge.hcx.faults import ApiFault, envelope
from landbridge.hcx.mesh import MeshError
from landbridge.hcx.pairing import Pairing
from landbridge.hcx.peer import Peer, PeerUnreachable
from landbridge.hcx.sessions import Sessions
from landbridge.relay import RelayError
from landbridge.vmodl.client import VCenterUnreachable

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=BaseModel)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_BODY_LIMIT = 4 << 20  # bytes
API = "/hybridity/api"
SESSION = web.RequestKey("session", str)
PEER = web.RequestKey("peer", Peer)

# Without a session: the login itself, and whether the manager lives.
_OPEN = {("POST", f"{API}/sessions"), ("GET", "/healthz")}
# A service account reaches these and nothing else.
_PEER_PREFIXES = (f"{API}/interconnect/peers/", f"{API}/interconnect/halves/", f"{API}/service/inventory/")


def application(sessions: Sessions, pairing: Pairing, routes: list[web.RouteDef]) -> web.Application:
    """The application with all routes; what no route takes is a 404 in JSON."""
    made = web.Application(middlewares=[_json_errors, _authentication(sessions, pairing)], client_max_size=_BODY_LIMIT)
    made.add_routes(routes)
    made.router.add_route("*", "/{rest:.*}", _unknown)
    return made


async def _unknown(request: web.Request) -> web.StreamResponse:
    raise ApiFault(404, "Not found", f"there is no {request.method} {request.path}")


def _authentication(sessions: Sessions, pairing: Pairing) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
        if (request.method, request.path) in _OPEN:
            return await handler(request)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Bearer":
            peer = await pairing.knows(token.strip())
            if peer is None:
                raise ApiFault(401, "Unauthorized", "no site pairing has this token: pair the sites again")
            if not request.path.startswith(_PEER_PREFIXES):
                raise ApiFault(403, "Forbidden", "a paired manager may not do this")
            request[PEER] = peer
            request[SESSION] = f"service account of {peer.name}"
        else:
            session = sessions.session(request.headers.get("x-hm-authorization", ""))
            request[SESSION] = session.user
        return await handler(request)

    return middleware


@web.middleware
async def _json_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Exception as error:
        fault = _as_fault(error)
        if fault.status == 500:
            _log.exception("%s %s", request.method, request.path)
        return web.json_response(fault.body(), status=fault.status)


def _as_fault(error: Exception) -> ApiFault:
    match error:
        case ApiFault():
            return error
        case ValidationError():
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            return ApiFault(400, "Invalid request", f"{where or 'body'}: {first['msg']}")
        case web.HTTPException():
            return ApiFault(error.status, error.reason, error.text or error.reason)
        case VCenterUnreachable():
            return ApiFault(503, "vCenter unavailable", str(error))
        case PeerUnreachable():
            return ApiFault(502, "Remote site unavailable", str(error))
        case HostUnreachable():
            return ApiFault(503, "Interconnect appliance unavailable", str(error))
        case HostError() | MeshError() | RelayError():
            return ApiFault(500 if isinstance(error, RelayError) else 409, "Interconnect failure", str(error))
        case _:
            return ApiFault(500, "Internal error", f"{type(error).__name__}: {error}")


def caller_peer(request: web.Request) -> Peer:
    """The paired manager that calls; ApiFault 403 if a person does."""
    if PEER not in request:
        raise ApiFault(403, "Forbidden", "only the paired manager may do this")
    return request[PEER]


async def body(request: web.Request) -> dict[str, Any]:
    """The request's JSON object (an empty body is an empty one); ApiFault 400 if it is none."""
    content = await request.read()
    if not content.strip():
        return {}
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ApiFault(400, "Malformed JSON", f"the body is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ApiFault(400, "Malformed JSON", "the body must be a JSON object")
    return parsed


async def shaped(request: web.Request, shape: type[_M]) -> _M:
    return shape.model_validate(await body(request))


def data(content: Any) -> web.Response:
    """An answer in HCX's frame."""
    return web.json_response(envelope(content))


def plain(content: Any) -> web.Response:
    """An answer that HCX gives without the frame."""
    return web.json_response(content)
