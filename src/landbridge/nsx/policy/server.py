"""The HTTPS server of the Policy API: `application` puts it together.

JSON in and out, errors in NSX's form, and who may call what. Everything below `/policy/api/v1/infra` that the table in
`tree` knows is served by one handler; the rest has routes of its own (`routes_*`).
"""

import hmac
import logging
from collections.abc import Awaitable, Callable

import sqlalchemy as sa
from aiohttp import web
from aiohttp.typedefs import Middleware

from landbridge.nsx.policy import faults
from landbridge.nsx.policy.config import PolicyConfig
from landbridge.nsx.policy.http import CALLER, answer_fault
from landbridge.nsx.policy.machines import Fabric, Machines
from landbridge.nsx.policy.realization import Realization
from landbridge.nsx.policy.routes_fabric import fabric_routes
from landbridge.nsx.policy.routes_node import SESSION_COOKIE, node_routes
from landbridge.nsx.policy.routes_policy import policy_routes
from landbridge.nsx.policy.service import PolicyService
from landbridge.nsx.policy.sessions import Caller, Role, Sessions
from landbridge.nsx.policy.store import Store

_log = logging.getLogger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_BODY_LIMIT = 32 << 20  # bytes: hierarchical requests carry whole configurations
_READS = ("GET", "HEAD", "OPTIONS")
# Without credentials: the login itself, and whether the manager lives.
_OPEN = {("POST", "/api/session/create"), ("GET", "/healthz")}


async def application(config: PolicyConfig, store: Store, realization: Realization, fabric: Fabric) -> web.Application:
    """The aiohttp application of `/policy/api/v1`, `/api/v1` and `/api/session`, ready to be run behind TLS.

    `store` is the caller's to close, after the application. Passwords are read from the files that `config` names, and
    the system's own objects made, before this returns. `realization` and `fabric` are asked on the event loop and must
    answer from memory. Who makes the snapshot waits for changes with `store.newer()` and takes VMs' tags from
    `Contents.machine_tags`.
    """
    service = PolicyService(store, fabric)
    sessions = Sessions(store, config)
    await sessions.prepare()
    await service.prepare(config)
    made = web.Application(middlewares=[_errors, _authentication(sessions)], client_max_size=_BODY_LIMIT)
    made.add_routes(node_routes(config, sessions, store))
    made.add_routes(fabric_routes(Machines(store, fabric)))
    made.add_routes(policy_routes(service, realization))
    made.router.add_route("*", "/{rest:.*}", _unknown)
    return made


async def _unknown(request: web.Request) -> web.StreamResponse:
    raise faults.unknown(request.path)


def _authentication(sessions: Sessions) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
        if (request.method, request.path) in _OPEN:
            return await handler(request)
        caller = await _caller(sessions, request)
        if caller.role is not Role.ADMIN and request.method not in _READS and request.path != "/api/session/destroy":
            raise faults.not_authorized(caller.user)
        request[CALLER] = caller
        return await handler(request)

    return middleware


async def _caller(sessions: Sessions, request: web.Request) -> Caller:
    # Nobody's browser sends this header by itself: the server never asks for it.
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        return await sessions.basic(credentials.strip(), request.remote or "")
    session = sessions.session(request.cookies.get(SESSION_COOKIE, ""))
    token = request.headers.get("X-XSRF-TOKEN", "")
    if request.method not in _READS and not hmac.compare_digest(token.encode(), session.token.encode()):
        raise faults.bad_token()
    return Caller(session.user, session.role)


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Exception as error:
        fault = _as_fault(error)
        if fault.status >= 500:
            _log.exception("%s %s", request.method, request.path)
        return answer_fault(fault)


def _as_fault(error: Exception) -> faults.Fault:
    match error:
        case faults.Fault():
            return error
        case web.HTTPException():
            return faults.Fault(error.status, error.status, error.text or error.reason)
        case sa.exc.OperationalError() | sa.exc.InterfaceError() | sa.exc.TimeoutError():
            return faults.Fault(503, 503, "The manager's database can not be reached at the moment: try again.")
        case _:
            return faults.Fault(500, 500, f"Internal error: {type(error).__name__}")
