"""Sessions, site pairing, jobs, the service mesh: what a client calls before it migrates."""

from typing import Any

from aiohttp import web

from landbridge.hcx import trust
from landbridge.hcx.config import Role
from landbridge.hcx.faults import ApiFault
from landbridge.hcx.manager import Manager
from landbridge.hcx.pairing import CertificateRequest, Introduction
from landbridge.hcx.peer import Peer
from landbridge.hcx.server import API, SESSION, body, caller_peer, data, plain, shaped

_SERVICES = ("INTERCONNECT", "VMOTION")


def routes(manager: Manager) -> list[web.RouteDef]:
    handlers = _Handlers(manager)
    return [
        web.get("/healthz", handlers.health),
        web.post(f"{API}/sessions", handlers.login),
        web.delete(f"{API}/sessions", handlers.logout),
        web.get(f"{API}/cloudConfigs", handlers.pairings),
        web.post(f"{API}/cloudConfigs", handlers.pair),
        web.delete(f"{API}/endpointPairing/{{endpoint}}", handlers.unpair),
        web.post(f"{API}/admin/certificates", handlers.trust_certificate),
        web.get(f"{API}/jobs/{{job}}", handlers.job),
        web.get(f"{API}/metainfo/context/interconnect", handlers.context),
        web.get(f"{API}/interconnect/serviceMesh", handlers.meshes),
        web.post(f"{API}/interconnect/peers", handlers.accept_peer),
        web.post(f"{API}/interconnect/peers/{{endpoint}}/certificates", handlers.sign),
        web.delete(f"{API}/interconnect/peers/{{endpoint}}", handlers.dismiss),
    ]


class _Handlers:
    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    async def health(self, _request: web.Request) -> web.Response:
        return plain({"status": "UP"})

    async def login(self, request: web.Request) -> web.Response:
        asked = await body(request)
        user, password = asked.get("username"), asked.get("password")
        if not isinstance(user, str) or not isinstance(password, str):
            raise ApiFault(400, "Invalid request", "`username` and `password` are needed, both strings")
        token = await self._manager.sessions.login(user, password, request.remote or "")
        response = plain({"success": True, "completed": True, "username": user})
        response.headers["x-hm-authorization"] = token
        return response

    async def logout(self, request: web.Request) -> web.Response:
        self._manager.sessions.logout(request.headers.get("x-hm-authorization", ""))
        return data({})

    async def pairings(self, _request: web.Request) -> web.Response:
        peer = await self._manager.pairing.peer()
        return data({"items": [] if peer is None else [_pairing(peer)]})

    async def pair(self, request: web.Request) -> web.Response:
        remote = (await body(request)).get("remote")
        if not isinstance(remote, dict) or not all(
            isinstance(remote.get(key), str) and remote[key] for key in ("url", "username", "password")
        ):
            raise ApiFault(400, "Invalid request", "`remote` needs `url`, `username` and `password`")
        job = await self._manager.pairing.begin(remote["url"], remote["username"], remote["password"])
        return data({"jobId": job.id})

    async def unpair(self, request: web.Request) -> web.Response:
        busy = await self._manager.migrations.active()
        if busy:
            raise ApiFault(409, "Migrations active", f"wait for them or cancel them first: {', '.join(busy)}")
        if extended := await self._manager.extensions.all():
            names = ", ".join(extension.name for extension in extended)
            raise ApiFault(409, "Networks extended", f"end their extensions first: {names}")
        force = request.query.get("force", "false").lower() == "true"
        job = await self._manager.pairing.end(request.match_info["endpoint"], request[SESSION], force)
        return data({"jobId": job.id})

    async def trust_certificate(self, request: web.Request) -> web.Response:
        pem = (await body(request)).get("certificate")
        if not isinstance(pem, str):
            raise ApiFault(400, "Invalid request", "`certificate` is needed, in PEM")
        certificate = trust.parse(pem)
        await self._manager.store.put(certificate)
        return data({"sha256": certificate.id})

    async def job(self, request: web.Request) -> web.Response:
        job = await self._manager.jobs.get(request.match_info["job"])
        if job is None:
            raise ApiFault(404, "Not found", f"no job {request.match_info['job']}")
        return plain(job.shape())

    async def context(self, _request: web.Request) -> web.Response:
        manager = self._manager
        return plain({**manager.origin(), "vcGuid": (await manager.about())["vcuuid"]})

    async def meshes(self, _request: web.Request) -> web.Response:
        peer = await self._manager.pairing.peer()
        if peer is None or not peer.ready:
            return plain({"items": []})
        return plain({"items": [await self._mesh(peer)]})

    async def _mesh(self, peer: Peer) -> dict[str, Any]:
        manager = self._manager
        tunnel = await manager.mesh.tunnel(peer.uplink)
        ours = {"endpointId": manager.pairing.endpoint, "endpointName": manager.config.name}
        theirs = {"endpointId": peer.id, "endpointName": peer.name}
        state = "UP" if tunnel.up else "DOWN"
        return {
            "serviceMeshId": peer.mesh_id,
            "name": f"{manager.config.site}-{peer.site}",
            "state": "REALIZED",
            "services": [{"name": name, "status": state} for name in _SERVICES],
            "computeProfiles": [
                {**side, "computeProfileId": f"default-{side['endpointId']}", "computeProfileName": "default"}
                for side in (ours, theirs)
            ],
            "appliances": [
                {
                    "applianceId": manager.config.ix.name,
                    "applianceType": "HCX-WAN-IX",
                    "tunnel": {
                        "state": state,
                        "remote": peer.uplink.model_dump() if peer.uplink else None,
                        "rttMs": tunnel.rtt_ms,
                        "error": tunnel.error,
                    },
                }
            ],
        }

    # ------------------------------------------------------------------------------- between the managers

    async def accept_peer(self, request: web.Request) -> web.Response:
        them = await shaped(request, Introduction)
        return data((await self._manager.pairing.accept(them, request[SESSION])).model_dump())

    async def sign(self, request: web.Request) -> web.Response:
        peer = self._peer(request)
        wanted = await shaped(request, CertificateRequest)
        return data((await self._manager.pairing.sign(peer, wanted)).model_dump())

    async def dismiss(self, request: web.Request) -> web.Response:
        peer = self._peer(request)
        await self._manager.pairing.dissolve(peer)
        return data({})

    def _peer(self, request: web.Request) -> Peer:
        peer = caller_peer(request)
        if peer.id != request.match_info["endpoint"]:
            raise ApiFault(403, "Forbidden", "this service account is another pairing's")
        if self._manager.config.role is not Role.CLOUD:
            raise ApiFault(400, "Wrong role", "only a cloud manager does this")
        return peer


def _pairing(peer: Peer) -> dict[str, Any]:
    return {
        "endpointId": peer.id,
        "endpointName": peer.name,
        "name": peer.name,
        "url": peer.url,
        "username": peer.username,
        "cloudType": "VC",
        "state": "READY" if peer.ready else "PAIRING",
    }
