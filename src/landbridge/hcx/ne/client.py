"""How the HCX manager calls its network extension appliance."""

from landbridge.esx.client import HostClient
from landbridge.hcx.ne.model import Extension, Flush, Key, Peer, Status


class NeClient(HostClient):
    """Calls to one network extension appliance, over mutual TLS with the site's authority.

    Refusals are `HostError`, with the type of `NeError`; an appliance that does not answer is `HostUnreachable`.
    """

    async def __aenter__(self) -> "NeClient":
        return self

    async def status(self) -> Status:
        return await self._call("GET", "/status", Status)

    async def key(self) -> str:
        """The appliance's WireGuard public key."""
        return (await self._call("GET", "/key", Key)).public_key

    async def set_peer(self, peer: Peer) -> None:
        """Have a tunnel to this appliance and to no other."""
        await self._call("PUT", "/peer", None, peer)

    async def remove_peer(self) -> None:
        """End the tunnel. `ResourceInUse` while networks are extended."""
        await self._call("DELETE", "/peer", None)

    async def extend(self, network: str, extension: Extension) -> None:
        """Extend a network. `InvalidState` without a peer or where the path is too small, `ResourceInUse` where its
        place or VNI is another's."""
        await self._call("PUT", f"/networks/{network}", None, extension)

    async def withdraw(self, network: str) -> None:
        """End an extension; one nobody knows is no error."""
        await self._call("DELETE", f"/networks/{network}", None)

    async def flush(self, macs: list[str]) -> None:
        """Have the appliance forget where these MAC addresses are."""
        await self._call("POST", "/flush", None, Flush(macs=macs))
