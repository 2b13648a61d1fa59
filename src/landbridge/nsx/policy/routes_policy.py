"""`/policy/api/v1`: the tree, what became of it, and search."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from landbridge.nsx.policy import faults, realization
from landbridge.nsx.policy.http import CALLER, body
from landbridge.nsx.policy.service import Page, PolicyService, paged
from landbridge.nsx.policy.tree import ROOT, collection_of, is_empty_collection

API = "/policy/api/v1"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def policy_routes(service: PolicyService, source: realization.Realization) -> list[web.RouteDef]:
    """Routes of the tree; `/infra/realized-state/...` before the tree's own."""

    async def query(request: web.Request) -> web.Response:
        found = await service.search(request.query.get("query", ""), Page.from_query(request.query))
        return web.json_response(found)

    async def status(request: web.Request) -> web.Response:
        contents = await service.store.contents()
        return web.json_response(realization.status(contents, source, _intent_path(request)))

    async def entities(request: web.Request) -> web.Response:
        contents = await service.store.contents()
        found = realization.entities(contents, source, _intent_path(request))
        return web.json_response(paged(found, Page.from_query(request.query)))

    async def entity(request: web.Request) -> web.Response:
        contents = await service.store.contents()
        found = realization.entities(contents, source, _intent_path(request))
        if not found:
            raise faults.missing(_intent_path(request))
        return web.json_response(found[0])

    async def refresh(request: web.Request) -> web.Response:
        # The realising side looks by itself at each change; there is nothing to hurry.
        realization.entities(await service.store.contents(), source, _intent_path(request))
        return web.Response()

    state = f"{API}/infra/realized-state"
    return [
        web.get(f"{API}/search", query),
        web.get(f"{API}/search/query", query),
        web.get(f"{API}/search/dsl", query),
        web.get(f"{state}/status", status),
        web.get(f"{state}/realized-entities", entities),
        web.get(f"{state}/realized-entity", entity),
        web.post(f"{state}/realized-entity", refresh),
        *_tree_routes(service),
    ]


def _tree_routes(service: PolicyService) -> list[web.RouteDef]:
    async def get(request: web.Request) -> web.Response:
        path = _path(request)
        if path == ROOT and {"filter", "base_path"} & request.query.keys():
            kinds, base = request.query.get("filter", ""), request.query.get("base_path", "")
            return web.json_response(await service.whole(kinds, base))
        if collection_of(path) or is_empty_collection(path):
            return web.json_response(await service.list(path, Page.from_query(request.query)))
        return web.json_response(await service.get(path))

    async def put(request: web.Request) -> web.Response:
        return web.json_response(await service.put(_path(request), await body(request), request[CALLER].user))

    async def patch(request: web.Request) -> web.Response:
        await service.patch(_path(request), await body(request), request[CALLER].user)
        return web.Response()

    async def delete(request: web.Request) -> web.Response:
        await service.delete(_path(request), request[CALLER].user)
        return web.Response()

    verbs: dict[str, _Handler] = {"GET": get, "PUT": put, "PATCH": patch, "DELETE": delete}

    async def tree(request: web.Request) -> web.StreamResponse:
        handler = verbs.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            action: Any = request.query.get("action", "")
            raise faults.Fault(
                405, 405, f"{request.method} {action} is not supported at {request.path}".replace("  ", " ")
            )
        return await handler(request)

    return [web.route("*", f"{API}/infra", tree), web.route("*", f"{API}/infra/{{rest:.*}}", tree)]


def _path(request: web.Request) -> str:
    return request.path.removeprefix(API).rstrip("/")


def _intent_path(request: web.Request) -> str:
    path = request.query.get("intent_path", "")
    if not path:
        raise faults.invalid("intent_path: the request must name an object")
    return path
