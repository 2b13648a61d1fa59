"""Site pairing: two managers that know each other, two appliances with certificates of an authority of the pair.

The connector starts it and does it again after a crash: every step may be repeated. The cloud manager makes the
pair's authority and signs what the appliances ask; keys stay where they were made. What the connector keeps is the
token of a service account, not the password somebody typed.
"""

import asyncio
import contextlib
import hmac
import logging
import secrets
import shutil
import uuid
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from landbridge.esx.client import HostError, HostUnreachable
from landbridge.esx.model import Endpoint
from landbridge.hcx import trust
from landbridge.hcx.config import ManagerConfig, Role
from landbridge.hcx.faults import ApiFault
from landbridge.hcx.ix.client import IxClient
from landbridge.hcx.ix.model import WanIdentity
from landbridge.hcx.jobs import Job, Jobs, Report
from landbridge.hcx.mesh import Mesh
from landbridge.hcx.peer import Peer, PeerClient, PeerUnreachable
from landbridge.hcx.sessions import digest
from landbridge.hcx.store import Document, Store
from landbridge.pki import Authority, PeerName
from landbridge.pki.authority import write_private

_log = logging.getLogger(__name__)


class _Self(Document):
    """This manager's own endpoint id, made at the first start."""

    kind: ClassVar[str] = "self"
    endpoint: str


class Introduction(BaseModel):
    """What a connector says about itself, and the cloud manager answers about itself (then with a token)."""

    endpoint: str
    name: str
    site: str
    username: str = ""
    token: str = ""
    vcenter: dict[str, str] = {}


class CertificateRequest(BaseModel):
    """The connector's appliance: its name, its request (PEM), its address on the WAN."""

    ix: str
    request: str
    uplink: Endpoint


class CertificateAnswer(BaseModel):
    """The pair's certificate for it, the pair's authority (both PEM), and the cloud's appliance on the WAN."""

    certificate: str
    authority: str
    uplink: Endpoint
    mesh_id: str


class Pairing:
    """The site pair of this manager: at most one, as each pair needs an appliance of its own."""

    def __init__(self, config: ManagerConfig, store: Store, jobs: Jobs, ix: IxClient, mesh: Mesh) -> None:
        self._config = config
        self._store = store
        self._jobs = jobs
        self._ix = ix
        self._mesh = mesh
        self._client: PeerClient | None = None
        self._changing = asyncio.Lock()
        self._joining = asyncio.Lock()
        self.endpoint = ""

    async def prepare(self) -> None:
        """Know ourselves, and go on with a pairing that a former process began."""
        known = await self._store.get(_Self, "self")
        if known is None:
            known = _Self(id="self", endpoint=str(uuid.uuid4()))
            await self._store.put(known)
        self.endpoint = known.endpoint
        peer = await self.peer()
        if peer is not None and not peer.ready and self._config.role is Role.CONNECTOR:
            await self._jobs.start("Site pairing", peer.username, lambda report: self._complete(peer, report))

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def peer(self) -> Peer | None:
        peers = await self._store.all(Peer)
        return peers[0] if peers else None

    async def paired(self) -> Peer:
        """The complete pair; ApiFault 409 if there is none."""
        peer = await self.peer()
        if peer is None or not peer.ready:
            raise ApiFault(409, "Not paired", "this site is not paired with another: POST /hybridity/api/cloudConfigs")
        return peer

    async def remote(self) -> PeerClient:
        """Calls to the cloud manager as the pair's service account; ApiFault 409 where there is no way to it."""
        peer = await self.peer()
        if peer is None or not peer.url:
            raise ApiFault(409, "Not reachable", "a cloud manager never calls a connector: ask the connector instead")
        return self._to(peer)

    # ------------------------------------------------------------------------------- at the connector

    async def begin(self, url: str, username: str, password: str) -> Job:
        """Pair with the cloud manager at `url`: its certificate accepted, its login right, the rest a job.

        ApiFault: certificate not trusted, `Login failure`, or paired with another already.
        """
        if self._config.role is not Role.CONNECTOR:
            raise ApiFault(400, "Wrong role", "site pairing starts at the connector: log in there")
        async with self._changing:
            known = await self.peer()
            if known is not None and known.url != url.rstrip("/"):
                raise ApiFault(
                    409, "Already paired", f"this connector is paired with {known.url}: remove that pairing first"
                )
            fingerprint = await trust.pinned(self._store, url)
            client = PeerClient(url, fingerprint)
            try:
                peer = known or await self._introduce(client, url, fingerprint, username, password)
                if known is not None:  # the password counts each time
                    await client.login(username, password)
            except PeerUnreachable as error:
                raise ApiFault(502, "Connection failure", f"the cloud manager does not answer: {error}") from error
            except ApiFault as fault:
                # Status 200, as HCX: its clients read `errors` of an answer they take for good.
                raise ApiFault(200, fault.error, f"{url}: {fault.text}", fault.data) from fault
            finally:
                await client.close()
            return await self._jobs.start("Site pairing", username, lambda report: self._complete(peer, report))

    async def _introduce(self, client: PeerClient, url: str, fingerprint: str, username: str, password: str) -> Peer:
        await client.login(username, password)
        ourselves = Introduction(
            endpoint=self.endpoint, name=self._config.name, site=self._config.site, vcenter=await self._mesh.about()
        )
        answer = await client.call("POST", "/interconnect/peers", ourselves.model_dump())
        them = Introduction.model_validate(answer["data"])
        file = self._token_file(them.endpoint)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(file, them.token.encode())
        peer = Peer(
            id=them.endpoint,
            name=them.name,
            site=them.site,
            url=url.rstrip("/"),
            fingerprint=fingerprint,
            username=username,
            vcenter=them.vcenter,
        )
        await self._store.put(peer)
        return peer

    async def _complete(self, peer: Peer, report: Report) -> None:
        """The certificates of the two appliances, and ours as a host of our vCenter."""
        try:
            async with self._joining:
                known = await self._store.get(Peer, peer.id)
                if known is not None and not known.ready:
                    await self._join(known, report)
        except (ApiFault, HostError, HostUnreachable) as error:
            raise RuntimeError(f"pairing with {peer.name}: {error}") from error

    async def _join(self, peer: Peer, report: Report) -> None:
        request = await self._ix.request_wan_identity()
        info = await self._ix.info()
        await report(20)
        body = CertificateRequest(ix=info.name, request=request.request, uplink=info.uplink)
        answered = await self._to(peer).call(
            "POST", f"/interconnect/peers/{self.endpoint}/certificates", body.model_dump(), extra_time=120
        )
        answer = CertificateAnswer.model_validate(answered["data"])
        await report(60)
        await self._ix.install_wan_identity(WanIdentity(certificate=answer.certificate, authority=answer.authority))
        await report(75)
        await self._mesh.add_host()
        ready = peer.model_copy(update={"ready": True, "uplink": answer.uplink, "mesh_id": answer.mesh_id})
        await self._store.put(ready)

    def _to(self, peer: Peer) -> PeerClient:
        if self._client is None:
            self._client = PeerClient(peer.url, peer.fingerprint, self._token_file(peer.id))
        return self._client

    def _token_file(self, endpoint: str) -> Path:
        return self._config.state_dir / "peers" / f"{endpoint}.token"

    # ------------------------------------------------------------------------------- at the cloud manager

    async def accept(self, them: Introduction, username: str) -> Introduction:
        """Make a service account for a connector; who asks proved to be our administrator."""
        if self._config.role is not Role.CLOUD:
            raise ApiFault(400, "Wrong role", f"{self._config.name} is a connector: pair with a cloud manager")
        async with self._changing:
            known = await self.peer()
            if known is not None and known.id != them.endpoint:
                raise ApiFault(409, "Already paired", f"{self._config.name} is paired with {known.name} already")
            token = secrets.token_urlsafe(32)
            peer = Peer(
                id=them.endpoint,
                name=them.name,
                site=them.site,
                token_digest=digest(token),
                username=username,
                vcenter=them.vcenter,
                ready=known.ready if known else False,
                uplink=known.uplink if known else None,
                mesh_id=known.mesh_id if known else "",
            )
            await self._store.put(peer)
        return Introduction(
            endpoint=self.endpoint,
            name=self._config.name,
            site=self._config.site,
            token=token,
            vcenter=await self._mesh.about(),
        )

    async def knows(self, token: str) -> Peer | None:
        """The connector whose service account a token is of."""
        for peer in await self._store.all(Peer):
            if peer.token_digest and hmac.compare_digest(peer.token_digest, digest(token)):
                return peer
        return None

    async def sign(self, peer: Peer, wanted: CertificateRequest) -> CertificateAnswer:
        """Sign the request of the connector's appliance, and our own appliance's, with the pair's authority."""
        async with self._changing:
            authority = await asyncio.to_thread(Authority.create, self._authority(peer.id), f"pair {peer.name}")
            ours = await self._ix.request_wan_identity()
            info = await self._ix.info()
            root = (authority.directory / "ca.pem").read_text()
            own = _sign(authority, ours.request, self._config.site, info.name)
            await self._ix.install_wan_identity(WanIdentity(certificate=own, authority=root))
            await self._mesh.add_host()
            theirs = _sign(authority, wanted.request, peer.site, wanted.ix)
            mesh_id = peer.mesh_id or f"servicemesh-{uuid.uuid4()}"
            ready = peer.model_copy(update={"ready": True, "uplink": wanted.uplink, "mesh_id": mesh_id})
            await self._store.put(ready)
        return CertificateAnswer(certificate=theirs, authority=root, uplink=info.uplink, mesh_id=mesh_id)

    def _authority(self, endpoint: str) -> Path:
        return self._config.state_dir / "pairs" / endpoint

    # ------------------------------------------------------------------------------- the end of a pair

    async def end(self, endpoint: str, username: str, force: bool) -> Job:
        """Remove the pairing: both appliances leave their vCenters, certificates and token are gone.

        `force` goes on where the other manager does not answer. ApiFault 404 if there is no such pairing.
        """
        peer = await self._store.get(Peer, endpoint)
        if peer is None:
            raise ApiFault(404, "Not found", f"no site pairing with endpoint {endpoint}")
        return await self._jobs.start("Remove site pairing", username, lambda report: self._end(peer, force, report))

    async def _end(self, peer: Peer, force: bool, report: Report) -> None:
        if peer.url:
            try:
                await self._to(peer).call("DELETE", f"/interconnect/peers/{self.endpoint}", extra_time=120)
            except (ApiFault, PeerUnreachable) as error:
                gone = isinstance(error, ApiFault) and error.status in (401, 404)
                if not force and not gone:
                    raise
                _log.warning("removing the pairing with %s: %s", peer.name, error)
        await report(50)
        await self.dissolve(peer)

    async def dissolve(self, peer: Peer) -> None:
        """This site's half of the end."""
        async with self._changing:
            await self._mesh.remove_host()
            with contextlib.suppress(HostUnreachable):  # an appliance that is gone has no identity to forget
                await self._ix.remove_wan_identity()
            await asyncio.to_thread(shutil.rmtree, self._authority(peer.id), ignore_errors=True)
            self._token_file(peer.id).unlink(missing_ok=True)
            await self._store.delete(Peer, peer.id)
            await self.close()
            self._client = None


def _sign(authority: Authority, request: str, site: str, ix: str) -> str:
    who = PeerName(site, "ix", ix)
    return authority.sign(request.encode(), who, dns=[f"*.ix.{ix}"]).decode()
