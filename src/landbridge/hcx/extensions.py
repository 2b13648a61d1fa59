"""Network extensions: a network of the site on premises and one of the cloud made one layer 2 by the appliances.

The connector starts an extension and ends it, and goes on with either after a crash: every step may be repeated. The
cloud manager does its half when asked. The gateway stays on premises.
"""

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, ClassVar

from pydantic import BaseModel, Field
from pyVmomi import vim

from landbridge.esx.client import HostError, HostUnreachable
from landbridge.hcx.config import ManagerConfig, NeAddress, Role
from landbridge.hcx.faults import ApiFault
from landbridge.hcx.jobs import Job, Jobs, Report
from landbridge.hcx.ne import model as ne
from landbridge.hcx.ne.client import NeClient
from landbridge.hcx.pairing import Pairing
from landbridge.hcx.peer import PeerUnreachable
from landbridge.hcx.segments import Segments
from landbridge.hcx.store import Document, Store
from landbridge.vmodl.client import VCenter, collect

# Within the tunnel, where nobody else is.
_CONNECTOR, _CLOUD = IPv4Address("169.254.100.1"), IPv4Address("169.254.100.2")
_FIRST_VNI = 5000
_MTU = 1500
_APPLIANCE_TIMEOUT = 120.0


class State(StrEnum):
    """`operationStatus.state` of HCX's extensions."""

    REALIZING = "REALIZING"
    REALIZED = "REALIZED"
    FAILED = "FAILED"
    REMOVING = "REMOVING"


class NetworkExtension(Document):
    """An extension as its connector keeps it. `source` and `destination` are moRefs of distributed port groups."""

    kind: ClassVar[str] = "extension"
    name: str
    state: State = State.REALIZING
    error: str = ""
    vni: int
    vlan: int
    gateway: str = ""
    source: str
    source_name: str
    destination: str
    # The cloud's segment (its path), if that is what the destination is.
    segment: str = ""
    # The end is to connect the segment's gateway.
    connect: bool = False
    endpoint: str

    def shape(self) -> dict[str, Any]:
        """HCX's form."""
        interface = IPv4Interface(self.gateway) if self.gateway else None
        return {
            "stretchId": self.id,
            "name": self.name,
            "gateway": str(interface.ip) if interface else "",
            "netmask": str(interface.netmask) if interface else "",
            "vlanId": self.vlan,
            "operationStatus": {"state": self.state.value, "error": self.error},
            "sourceNetwork": {"networkId": self.source, "networkName": self.source_name},
            "destinationNetwork": {"networkId": self.destination, "segmentPath": self.segment},
            "destination": {"endpointId": self.endpoint},
            "features": {"mobilityOptimizedNetworking": False, "egressOptimization": False},
        }


class _CloudHalf(Document):
    """An extension into a segment, as its cloud manager keeps it."""

    kind: ClassVar[str] = "extension-half"
    segment: str

    @property
    def vif(self) -> str:
        return str(uuid.uuid5(uuid.UUID(self.id), "network extension appliance"))

    @property
    def port(self) -> str:
        return f"hcx-{self.id}"


class Wanted(BaseModel):
    """What a client asks for, read from HCX's body."""

    source: str
    destination: str
    gateway: IPv4Interface | None = None


class NeIntroduction(BaseModel):
    """An appliance as the other site's is told of it."""

    public_key: ne.PublicKey
    address: IPv4Address
    port: int


class Half(BaseModel):
    """What the cloud's half of an extension needs."""

    network: str
    vni: int
    mtu: int = Field(default=_MTU)


class HalfDone(BaseModel):
    """The segment that the cloud's half is in; empty for a VLAN."""

    segment: str = ""


@dataclass(frozen=True)
class _PortGroup:
    moid: str
    name: str
    vlan: int
    segment: str


_Step = Callable[[NetworkExtension, Report], Awaitable[None]]


class Extensions:
    """The extensions of the site pair."""

    def __init__(self, config: ManagerConfig, store: Store, jobs: Jobs, pairing: Pairing, vcenter: VCenter) -> None:
        self._config = config
        self._store = store
        self._jobs = jobs
        self._pairing = pairing
        self._vcenter = vcenter
        self._client: NeClient | None = None
        # One after the other: the last extension that ends takes the tunnel with it.
        self._changing = asyncio.Lock()

    async def prepare(self, client: NeClient | None) -> None:
        """Go on with what a former process began."""
        self._client = client
        for extension in await self.all():
            if extension.state is State.REALIZING:
                await self._run("Network extension", extension, "", self._realize)
            elif extension.state is State.REMOVING:
                await self._run("Remove network extension", extension, "", self._remove)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def all(self) -> list[NetworkExtension]:
        return await self._store.all(NetworkExtension)

    async def appliance_status(self) -> ne.Status:
        """This site's appliance as it says it is."""
        return await self._ne.status()

    # ------------------------------------------------------------------------------- at the connector

    async def begin(self, wanted: Wanted, username: str) -> tuple[NetworkExtension, Job]:
        """Extend a network; the rest is a job. ApiFault says what stands against it."""
        if self._config.role is not Role.CONNECTOR:
            raise ApiFault(400, "Wrong role", "network extensions start at the connector: log in there")
        peer = await self._pairing.paired()
        self._where()
        group = await self._group(wanted.source)
        known = await self.all()
        for other in known:
            if other.source == group.moid:
                raise ApiFault(409, "Already extended", f"{group.name} is extended already: {other.id}")
        taken = {other.vni for other in known}
        extension = NetworkExtension(
            id=str(uuid.uuid4()),
            name=f"L2E_{group.name}-{group.vlan}-{hashlib.sha256(peer.id.encode()).hexdigest()[:8]}",
            vni=next(vni for vni in range(_FIRST_VNI, 1 << 24) if vni not in taken),
            vlan=group.vlan,
            gateway=str(wanted.gateway or ""),
            source=group.moid,
            source_name=group.name,
            destination=wanted.destination,
            endpoint=peer.id,
        )
        await self._store.put(extension)
        return extension, await self._run("Network extension", extension, username, self._realize)

    async def end(self, stretch: str, username: str, *, connect: bool = False) -> Job:
        """End an extension at both sites. `connect`: then the segment's own gateway serves it; the one on premises
        must be off by then."""
        extension = await self._store.get(NetworkExtension, stretch)
        if extension is None:
            raise ApiFault(404, "Not found", f"no network extension {stretch}")
        if connect and not extension.segment:
            raise ApiFault(409, "No gateway", f"{extension.name} does not end in a segment: there is no gateway")
        extension.state, extension.connect = State.REMOVING, connect
        await self._store.put(extension)
        return await self._run("Remove network extension", extension, username, self._remove)

    async def _run(self, name: str, extension: NetworkExtension, username: str, step: _Step) -> Job:
        async def work(report: Report) -> None:
            try:
                async with self._changing:
                    await step(extension, report)
            except (ApiFault, HostError, HostUnreachable, PeerUnreachable) as error:
                if extension.state is State.REALIZING:
                    extension.state = State.FAILED
                extension.error = str(error)
                await self._store.put(extension)
                raise RuntimeError(f"{extension.name}: {error}") from error

        return await self._jobs.start(name, username, work)

    async def _realize(self, extension: NetworkExtension, report: Report) -> None:
        remote = await self._pairing.remote()
        ours = await self._introduce()
        path = f"/interconnect/peers/{self._pairing.endpoint}"
        answered = await remote.call("PUT", f"{path}/ne", ours.model_dump(mode="json"), extra_time=_APPLIANCE_TIMEOUT)
        await self._know(NeIntroduction.model_validate(answered["data"]), _CONNECTOR, _CLOUD)
        await report(40)
        half = Half(network=extension.destination, vni=extension.vni)
        answered = await remote.call(
            "PUT", f"{path}/extensions/{extension.id}", half.model_dump(), extra_time=_APPLIANCE_TIMEOUT
        )
        extension.segment = HalfDone.model_validate(answered["data"]).segment
        await report(70)
        await self._ne.extend(extension.id, ne.Extension(vlan=extension.vlan, vni=extension.vni, mtu=half.mtu))
        extension.state, extension.error = State.REALIZED, ""
        await self._store.put(extension)

    async def _remove(self, extension: NetworkExtension, report: Report) -> None:
        # This side first: what is cut off then is the cloud, and the gateway is here.
        await self._withdraw(extension.id)
        await report(50)
        remote = await self._pairing.remote()
        path = f"/interconnect/peers/{self._pairing.endpoint}/extensions/{extension.id}"
        connect = str(extension.connect).lower()
        await remote.call("DELETE", f"{path}?connect={connect}", extra_time=_APPLIANCE_TIMEOUT)
        await self._store.delete(NetworkExtension, extension.id)

    # ------------------------------------------------------------------------------- at the cloud manager

    async def meet(self, them: NeIntroduction) -> NeIntroduction:
        """Have our appliance know the connector's; the answer is ours."""
        ours = await self._introduce()
        await self._know(them, _CLOUD, _CONNECTOR)
        return ours

    async def extend_half(self, stretch: str, half: Half) -> HalfDone:
        """Our appliance's half of an extension."""
        group = await self._group(half.network)
        if not group.segment:
            await self._ne.extend(stretch, ne.Extension(vlan=group.vlan, vni=half.vni, mtu=half.mtu))
            return HalfDone()
        segments = self._segments()
        if await segments.connected(group.segment):
            raise ApiFault(
                409, "Gateway connected", f"{group.name} has a gateway, and the extended network has one on premises: "
                "set `advanced_config.connectivity` of the segment to OFF"
            )  # fmt: skip
        ours = _CloudHalf(id=stretch, segment=group.segment)
        await self._store.put(ours)
        await segments.add_port(ours.segment, ours.port, ours.vif, f"HCX extension {stretch}")
        await self._ne.extend(stretch, ne.Extension(vif=ours.vif, vni=half.vni, mtu=half.mtu))
        return HalfDone(segment=ours.segment)

    async def end_half(self, stretch: str, *, connect: bool = False) -> None:
        """End our half; `connect`: the segment's gateway serves it from now on."""
        await self._withdraw(stretch)
        ours = await self._store.get(_CloudHalf, stretch)
        if ours is None:
            return
        await self._segments().remove_port(ours.segment, ours.port)
        if connect:
            await self._segments().connect(ours.segment)
        await self._store.delete(_CloudHalf, stretch)

    def _segments(self) -> Segments:
        if self._config.nsx is None:
            raise ApiFault(409, "No NSX", f"{self._config.name} knows no NSX manager: its configuration has no [nsx]")
        return Segments(self._config.nsx)

    # ------------------------------------------------------------------------------- both

    async def _withdraw(self, stretch: str) -> None:
        await self._ne.withdraw(stretch)
        if not (await self._ne.status()).networks:
            await self._ne.remove_peer()

    @property
    def _ne(self) -> NeClient:
        if self._client is None:
            raise ApiFault(409, "No appliance", f"{self._config.name} has no network extension appliance")
        return self._client

    def _where(self) -> NeAddress:
        if self._config.ne is None:
            raise ApiFault(409, "No appliance", f"{self._config.name} has no network extension appliance")
        return self._config.ne

    async def _introduce(self) -> NeIntroduction:
        where = self._where()
        address = IPv4Address(where.uplink_address)
        return NeIntroduction(public_key=await self._ne.key(), address=address, port=where.uplink_port)

    async def _know(self, them: NeIntroduction, here: IPv4Address, there: IPv4Address) -> None:
        peer = ne.Peer(
            public_key=them.public_key,
            address=them.address,
            port=them.port,
            tunnel_address=here,
            peer_tunnel_address=there,
        )
        if (await self._ne.status()).peer != peer:
            await self._ne.set_peer(peer)

    async def _group(self, wanted: str) -> _PortGroup:
        """The VLAN port group of that id or name; ApiFault if it can not be extended."""
        found = await self._vcenter.run(_port_group, wanted)
        if found is None:
            raise ApiFault(404, "Not found", f"no distributed port group {wanted} in {self._config.vcenter.url}")
        if found.segment and self._config.role is Role.CONNECTOR:
            raise ApiFault(400, "Not supported", f"{found.name} is a segment: port groups of a VLAN are extended")
        if found.vlan == 0 and not found.segment:
            raise ApiFault(400, "Not supported", f"{found.name} has no VLAN: only port groups of a VLAN are extended")
        return found


def _port_group(instance: Any, wanted: str) -> _PortGroup | None:
    properties = ["name", "config.defaultPortConfig", "config.uplink", "config.segmentId"]
    for item in collect(instance, vim.dvs.DistributedVirtualPortgroup, properties):
        if wanted in (item["obj"]._moId, item.get("name")) and not item.get("config.uplink"):
            vlan = getattr(item["config.defaultPortConfig"].vlan, "vlanId", 0)
            number = vlan if isinstance(vlan, int) else 0
            return _PortGroup(item["obj"]._moId, item["name"], number, item.get("config.segmentId") or "")
    return None
