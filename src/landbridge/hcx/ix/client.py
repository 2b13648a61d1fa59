"""How the manager calls its interconnect appliance: the host agent's client, and the appliance's own routes."""

from landbridge.esx.client import HostClient
from landbridge.esx.model import ApiError, Endpoint
from landbridge.hcx.ix.model import (
    Announcement,
    Finish,
    IxInfo,
    Join,
    Move,
    Probe,
    ProbeResult,
    WanIdentity,
    WanRequest,
)


class IxClient(HostClient):
    """Calls to one interconnect appliance, over mutual TLS with the site's authority."""

    async def __aenter__(self) -> "IxClient":
        return self

    async def info(self) -> IxInfo:
        return await self._call("GET", "/ix", IxInfo)

    async def request_wan_identity(self) -> WanRequest:
        """A certificate request for the pair's authority; asked again before it is signed, the same key's."""
        return await self._call("POST", "/ix/wan/request", WanRequest)

    async def install_wan_identity(self, identity: WanIdentity) -> IxInfo:
        """Give the appliance its identity on the WAN; from then on its relay is up."""
        return await self._call("PUT", "/ix/wan", IxInfo, identity)

    async def remove_wan_identity(self) -> IxInfo:
        """End the relay and forget the pair. `ResourceInUse` while a migration goes on."""
        return await self._call("DELETE", "/ix/wan", IxInfo)

    async def probe(self, endpoint: Endpoint) -> ProbeResult:
        """A round trip to the other appliance's probe stream, through both relays."""
        return await self._call("POST", "/ix/probe", ProbeResult, Probe(endpoint=endpoint))

    async def announce(self, migration: str, announcement: Announcement) -> Move:
        return await self._call("PUT", f"/ix/moves/{migration}", Move, announcement)

    async def move(self, migration: str, seen: int = -1, wait: float = 0) -> Move:
        """A move's state; with `wait`, as soon as its `seq` is beyond `seen`. `NotFound` if there is none."""
        return await self._call("GET", f"/ix/moves/{migration}?seen={seen}&wait={wait}", Move, extra_time=wait)

    async def join(self, migration: str, endpoints: dict[str, Endpoint]) -> Move:
        return await self._call("POST", f"/ix/moves/{migration}/join", Move, Join(endpoints=endpoints))

    async def finish(self, migration: str, error: ApiError | None) -> Move:
        return await self._call("POST", f"/ix/moves/{migration}/finish", Move, Finish(error=error))

    async def forget(self, migration: str) -> None:
        """Drop a move and its streams; one nobody knows is no error."""
        await self._call("DELETE", f"/ix/moves/{migration}", None)
