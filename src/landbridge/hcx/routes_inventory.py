"""Inventory calls: what this site's vCenter holds, and what the other's does, asked of its manager."""

from collections.abc import Callable
from typing import Any

from aiohttp import web

from landbridge.hcx import inventory
from landbridge.hcx.faults import ApiFault
from landbridge.hcx.manager import Manager
from landbridge.hcx.server import API, PEER, body, data

_List = Callable[[Any, dict[str, str], dict[str, Any]], list[dict[str, Any]]]


def _containers(instance: Any, origin: dict[str, str], _filter: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**item, "_origin": origin} for item in inventory.containers(instance)]


def _networks(instance: Any, origin: dict[str, str], _filter: dict[str, Any]) -> list[dict[str, Any]]:
    return inventory.networks(instance, origin)


def _machines(instance: Any, origin: dict[str, str], _filter: dict[str, Any]) -> list[dict[str, Any]]:
    return inventory.virtual_machines(instance, origin)


def _datastores(instance: Any, origin: dict[str, str], chosen: dict[str, Any]) -> list[dict[str, Any]]:
    compute = chosen.get("computeIds") or []
    if not isinstance(compute, list):
        raise ApiFault(400, "Invalid request", "`filter.computeIds` must be a list of ids")
    return [{**item, "_origin": origin} for item in inventory.datastores(instance, compute)]


_LISTS: dict[str, _List] = {
    "vc/list": _containers,
    "networks": _networks,
    "virtualmachines": _machines,
    "vc/datastores/query": _datastores,
}


def routes(manager: Manager) -> list[web.RouteDef]:
    handlers = _Handlers(manager)
    prefix = f"{API}/service/inventory"
    return [
        web.post(f"{prefix}/resourcecontainer/list", handlers.resource_containers),
        web.post(f"{prefix}/cloud/list", handlers.clouds),
        *(web.post(f"{prefix}/{name}", handlers.inventory(name)) for name in _LISTS),
    ]


class _Handlers:
    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def inventory(self, name: str) -> Callable[[web.Request], Any]:
        async def handler(request: web.Request) -> web.Response:
            chosen = _filter(await body(request))
            local, remote = await self._sites(request, chosen)
            items: list[dict[str, Any]] = []
            if local:
                items += await self._manager.vcenter.run(_LISTS[name], self._manager.origin(), chosen)
            if remote:
                items += await self._ask(f"/service/inventory/{name}", chosen)
            return data({"items": items})

        return handler

    async def resource_containers(self, request: web.Request) -> web.Response:
        chosen = _filter(await body(request))
        local, remote = await self._sites(request, chosen)
        items: list[dict[str, Any]] = []
        if local:
            items.append(_resource_container(await self._manager.about(), self._manager.origin()))
        if remote:
            items += await self._ask("/service/inventory/resourcecontainer/list", chosen)
        return data({"items": items})

    async def clouds(self, request: web.Request) -> web.Response:
        # This one call takes its filter without the `cloud` level (terraform-provider-hcx, utils.go).
        chosen = _filter(await body(request))
        local, remote = await self._sites(request, chosen)
        items: list[dict[str, Any]] = []
        if local:
            items.append({**self._manager.origin(), "url": ""})
        peer = await self._manager.pairing.peer()
        if remote and peer is not None:
            items.append({"endpointId": peer.id, "name": peer.name, "endpointType": "VC", "url": peer.url})
        return data({"items": items})

    async def _sites(self, request: web.Request, chosen: dict[str, Any]) -> tuple[bool, bool]:
        """Whether the caller wants this site's and the other's; the paired manager only ever gets this site's."""
        if request.get(PEER) is not None:
            return True, False
        cloud = chosen.get("cloud", chosen)
        if not isinstance(cloud, dict):
            raise ApiFault(400, "Invalid request", "`filter.cloud` must be an object with `local` and `remote`")
        endpoint = cloud.get("endpointId")
        if endpoint:
            return endpoint == self._manager.pairing.endpoint, endpoint != self._manager.pairing.endpoint
        local, remote = bool(cloud.get("local")), bool(cloud.get("remote"))
        return (True, False) if not local and not remote else (local, remote)

    async def _ask(self, path: str, chosen: dict[str, Any]) -> list[dict[str, Any]]:
        await self._manager.pairing.paired()
        remote = await self._manager.pairing.remote()
        answer = await remote.call("POST", path, {"filter": {**chosen, "cloud": {"local": True}}})
        return list(answer["data"]["items"])


def _filter(asked: dict[str, Any]) -> dict[str, Any]:
    chosen = asked.get("filter") or {}
    if not isinstance(chosen, dict):
        raise ApiFault(400, "Invalid request", "`filter` must be an object")
    return chosen


def _resource_container(about: dict[str, str], origin: dict[str, str]) -> dict[str, Any]:
    return {
        **about,
        "resourceId": about["vcuuid"],
        "resourceName": about["name"],
        "resourceType": "VC",
        "vimId": about["vcuuid"],
        "vimServerUuid": about["vcuuid"],
        "url": about["url"],
        "endpoint": {"endpointId": origin["endpointId"], "name": origin["name"], "cloudType": origin["endpointType"]},
        "_origin": origin,
    }
