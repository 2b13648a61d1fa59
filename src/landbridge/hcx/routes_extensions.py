"""Network extensions: `l2Extensions` for clients, and the cloud's half for the connector."""

from typing import Any

from aiohttp import web
from pydantic import ValidationError

from landbridge.hcx.config import Role
from landbridge.hcx.extensions import Half, NeIntroduction, Wanted
from landbridge.hcx.faults import ApiFault
from landbridge.hcx.manager import Manager
from landbridge.hcx.server import API, SESSION, body, caller_peer, data, plain, shaped


def routes(manager: Manager) -> list[web.RouteDef]:
    handlers = _Handlers(manager)
    return [
        web.get(f"{API}/l2Extensions", handlers.extensions),
        web.post(f"{API}/l2Extensions", handlers.extend),
        web.delete(f"{API}/l2Extensions/{{stretch}}", handlers.unextend),
        web.put(f"{API}/interconnect/peers/{{endpoint}}/ne", handlers.meet),
        web.put(f"{API}/interconnect/peers/{{endpoint}}/extensions/{{stretch}}", handlers.extend_half),
        web.delete(f"{API}/interconnect/peers/{{endpoint}}/extensions/{{stretch}}", handlers.end_half),
    ]


class _Handlers:
    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._extensions = manager.extensions

    async def extensions(self, _request: web.Request) -> web.Response:
        return plain({"items": [extension.shape() for extension in await self._extensions.all()]})

    async def extend(self, request: web.Request) -> web.Response:
        extension, job = await self._extensions.begin(_wanted(await body(request)), request[SESSION])
        return plain({"id": job.id, "jobId": job.id, "stretchId": extension.id})

    async def unextend(self, request: web.Request) -> web.Response:
        asked = {**request.query, **await body(request)}
        connect = str(asked.get("connectToLocalRouter", "false")).lower() == "true"
        job = await self._extensions.end(request.match_info["stretch"], request[SESSION], connect=connect)
        return plain({"id": job.id, "jobId": job.id})

    # ------------------------------------------------------------------------------- between the managers

    async def meet(self, request: web.Request) -> web.Response:
        self._check(request)
        ours = await self._extensions.meet(await shaped(request, NeIntroduction))
        return data(ours.model_dump(mode="json"))

    async def extend_half(self, request: web.Request) -> web.Response:
        self._check(request)
        done = await self._extensions.extend_half(request.match_info["stretch"], await shaped(request, Half))
        return data(done.model_dump())

    async def end_half(self, request: web.Request) -> web.Response:
        self._check(request)
        connect = request.query.get("connect") == "true"
        await self._extensions.end_half(request.match_info["stretch"], connect=connect)
        return data({})

    def _check(self, request: web.Request) -> None:
        if caller_peer(request).id != request.match_info["endpoint"]:
            raise ApiFault(403, "Forbidden", "this service account is another pairing's")
        if self._manager.config.role is not Role.CLOUD:
            raise ApiFault(400, "Wrong role", "only a cloud manager does this")


def _wanted(asked: dict[str, Any]) -> Wanted:
    """HCX's body: `gateway` and `netmask` apart, networks as objects, features we have not got refused."""
    features = asked.get("features") or {}
    for feature in ("mobilityOptimizedNetworking", "egressOptimization"):
        if isinstance(features, dict) and features.get(feature):
            raise ApiFault(400, "Not supported", f"{feature} is not supported: the gateway stays on premises")
    networks = []
    for side in ("sourceNetwork", "destinationNetwork"):
        network = asked.get(side)
        if not isinstance(network, dict) or not isinstance(network.get("networkId"), str):
            raise ApiFault(400, "Invalid request", f"`{side}.networkId` is needed: a distributed port group's")
        networks.append(network["networkId"])
    gateway = asked.get("gateway") or None
    if gateway is not None and "/" not in str(gateway):
        gateway = f"{gateway}/{asked.get('netmask') or 32}"
    try:
        return Wanted(source=networks[0], destination=networks[1], gateway=gateway)
    except ValidationError as error:
        raise ApiFault(400, "Invalid request", f"`gateway` and `netmask`: {error.errors()[0]['msg']}") from error
