"""The service mesh of a pair: the appliance as a host of the site's vCenter, and the state of the tunnel."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from landbridge.esx.client import HostError, HostUnreachable
from landbridge.esx.model import Endpoint
from landbridge.hcx.config import IxAddress
from landbridge.hcx.inventory import about
from landbridge.hcx.ix.client import IxClient
from landbridge.hcx.ix.model import ProbeResult
from landbridge.vmodl.client import VCenter, collect, fault_text

_TASK_TIMEOUT = 180.0  # seconds; adding a host takes one or two
_PROBE_KEPT = 2.0  # seconds a measurement answers for


class MeshError(Exception):
    """The appliance can not be made part of the site, or taken out; the message says why."""


@dataclass(frozen=True)
class Transit:
    """The appliance in its vCenter: the ids of its host, its resource pool and its datastore, and that one's name."""

    host: str
    pool: str
    datastore: str
    datastore_name: str


class Mesh:
    """This site's half of the mesh."""

    def __init__(self, ix: IxAddress, client: IxClient, vcenter: VCenter) -> None:
        self._ix = ix
        self._client = client
        self._vcenter = vcenter
        self._measured: tuple[float, Endpoint, ProbeResult] | None = None
        self._measuring = asyncio.Lock()
        self._transit: Transit | None = None

    async def about(self) -> dict[str, str]:
        """This site's vCenter, as the other site is told about it."""
        return await self._vcenter.run(about)

    async def transit(self) -> Transit:
        """Where the appliance is in vCenter; MeshError if it is not there."""
        if self._transit is None:
            self._transit = await self._vcenter.run(_transit, self._ix)
        if self._transit is None:
            raise MeshError(
                f"{self._ix.name} is not a host of {self._vcenter.url}: remove the site pairing and pair again"
            )
        return self._transit

    async def add_host(self) -> None:
        """Make the appliance a standalone host; once is enough. It plugs no NIC in, so it joins no switch."""
        self._transit = None
        task = await self._vcenter.run(_add_host, self._ix)
        if task:
            await self._finish(task, f"add {self._ix.name} to {self._vcenter.url}")
        await self.transit()

    async def remove_host(self) -> None:
        """Take the appliance out of vCenter; if it is not there, that is no error."""
        self._transit = None
        for step in (_disconnect, _destroy):
            for task in await self._vcenter.run(step, self._ix):
                await self._finish(task, f"remove {self._ix.name} from {self._vcenter.url}")

    async def tunnel(self, peer: Endpoint | None) -> ProbeResult:
        """Whether bytes go to the other appliance and back, measured now or at most two seconds ago."""
        if peer is None:
            return ProbeResult(up=False, error="the other appliance is not known yet")
        async with self._measuring:
            if self._measured and self._measured[1] == peer and time.monotonic() - self._measured[0] < _PROBE_KEPT:
                return self._measured[2]
            try:
                result = await self._client.probe(peer)
            except (HostError, HostUnreachable) as error:
                result = ProbeResult(up=False, error=f"the appliance of this site: {error}")
            self._measured = (time.monotonic(), peer, result)
            return result

    async def _finish(self, task: str, what: str) -> None:
        try:
            async with asyncio.timeout(_TASK_TIMEOUT):
                info = await self._vcenter.finish(task)
        except TimeoutError as error:
            raise MeshError(f"{what}: not done within {_TASK_TIMEOUT:.0f} s") from error
        if info is None or info.state != "success":
            raise MeshError(f"{what}: {fault_text(info.error if info else None)}")


def _names(ix: IxAddress) -> set[str]:
    return {ix.name, ix.address, f"{ix.address}:{ix.port}"}


def _host(instance: Any, ix: IxAddress) -> Any:
    hosts = collect(instance, vim.HostSystem, ["name"])
    return next((item["obj"] for item in hosts if item.get("name") in _names(ix)), None)


def _transit(instance: Any, ix: IxAddress) -> Transit | None:
    host = _host(instance, ix)
    if host is None or not host.datastore:
        return None
    datastore = host.datastore[0]
    return Transit(host._moId, host.parent.resourcePool._moId, datastore._moId, datastore.name)


def _add_host(instance: Any, ix: IxAddress) -> str:
    """The task that adds the host; empty if it is there."""
    if _host(instance, ix) is not None:
        return ""
    centers = collect(instance, vim.Datacenter, ["hostFolder"])
    if not centers:
        raise MeshError("vCenter has no datacenter to put the interconnect appliance into: create one, pair again")
    where = ix.address if ix.port == 443 else f"{ix.address}:{ix.port}"
    spec = vim.host.ConnectSpec(hostName=where, force=True)
    task = centers[0]["hostFolder"].AddStandaloneHost_Task(spec=spec, addConnected=True)
    return str(task._moId)


def _disconnect(instance: Any, ix: IxAddress) -> list[str]:
    host = _host(instance, ix)
    if host is None or host.runtime.connectionState == "disconnected":
        return []
    return [str(host.DisconnectHost_Task()._moId)]


def _destroy(instance: Any, ix: IxAddress) -> list[str]:
    host = _host(instance, ix)
    if host is None:
        return []
    # A standalone host leaves with its compute resource.
    return [str(host.parent.Destroy_Task()._moId)]
