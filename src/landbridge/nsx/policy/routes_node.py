"""Sessions, and the manager itself: version, health, who the caller is."""

import uuid

from aiohttp import web

from landbridge.nsx.policy import faults
from landbridge.nsx.policy.config import PolicyConfig
from landbridge.nsx.policy.http import CALLER
from landbridge.nsx.policy.sessions import Role, Sessions
from landbridge.nsx.policy.store import Store

SESSION_COOKIE = "JSESSIONID"


def node_routes(config: PolicyConfig, sessions: Sessions, store: Store) -> list[web.RouteDef]:
    """Routes that concern the manager as such."""

    async def create(request: web.Request) -> web.Response:
        form = await request.post()
        user, password = form.get("j_username"), form.get("j_password")
        if not isinstance(user, str) or not isinstance(password, str):
            raise faults.bad_credentials()
        key, session = await sessions.login(user, password, request.remote or "")
        # Written by hand: clients look for the name at the header's very beginning, and for a semicolon after the id.
        cookie = f"{SESSION_COOKIE}={key}; Path=/; Secure; HttpOnly; SameSite=Lax"
        return web.Response(headers={"Set-Cookie": cookie, "X-XSRF-TOKEN": session.token})

    async def destroy(request: web.Request) -> web.Response:
        sessions.logout(request.cookies.get(SESSION_COOKIE, ""))
        return web.Response()

    async def node(_request: web.Request) -> web.Response:
        identity = str(uuid.uuid5(uuid.NAMESPACE_DNS, config.host_name))
        about = {"hostname": config.host_name, "node_uuid": identity, "external_id": identity, "kernel_version": ""}
        return web.json_response(about | _version(config))

    async def version(_request: web.Request) -> web.Response:
        return web.json_response(_version(config))

    async def health(_request: web.Request) -> web.Response:
        await store.contents()  # the manager is as healthy as its database
        return web.json_response({"healthy": True, "components_health": "MANAGER:UP, POLICY:UP, SEARCH:UP"})

    async def alive(_request: web.Request) -> web.Response:
        return web.json_response({"healthy": True})

    async def user_info(request: web.Request) -> web.Response:
        caller = request[CALLER]
        permission = "crud" if caller.role is Role.ADMIN else "read"
        roles = [{"role": caller.role.value, "permissions": [permission]}]
        return web.json_response({"user_name": caller.user, "roles": roles})

    return [
        web.post("/api/session/create", create),
        web.post("/api/session/destroy", destroy),
        web.get("/api/session/destroy", destroy),
        web.get("/api/v1/node", node),
        web.get("/api/v1/node/version", version),
        web.get("/api/v1/reverse-proxy/node/health", health),
        web.get("/healthz", alive),
        web.get("/policy/api/v1/aaa/user-info", user_info),
        web.get("/api/v1/aaa/user-info", user_info),
    ]


def _version(config: PolicyConfig) -> dict[str, str]:
    return {"node_version": config.version, "product_version": config.version}
