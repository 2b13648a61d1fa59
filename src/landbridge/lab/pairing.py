"""Pair the connector with the cloud manager and extend the VM network, as an administrator does, through HCX's API."""

from typing import TYPE_CHECKING

from landbridge.hcx.client import HcxClient
from landbridge.lab.inventory import PORT_GROUP

if TYPE_CHECKING:
    from landbridge.lab.build import Lab


async def pair_sites(lab: "Lab") -> None:
    """Pair the lab's sites; a pairing that is there stays."""
    onprem, cloud = lab.login("onprem", "hcx"), lab.login("cloud", "hcx")
    async with HcxClient(onprem.url, onprem.ca) as connector:
        await connector.login(onprem.user, onprem.password)
        if not await connector.pairings():
            # The administrator compares a fingerprint; we know which certificate the other manager has.
            await connector.import_certificate(lab.certificate(lab.site("cloud").hcx).read_text())
            await connector.pair(cloud.url, cloud.user, cloud.password)
        await connector.logout()


async def extend_network(lab: "Lab") -> None:
    """Extend the VM network from on premises into the cloud's segment; an extension that is there stays."""
    login = lab.login("onprem", "hcx")
    async with HcxClient(login.url, login.ca) as connector:
        await connector.login(login.user, login.password)
        networks = []
        for remote in (False, True):
            found = await connector.inventory("networks", remote=remote)
            networks.append(next(item["entity_id"] for item in found if item["name"] == PORT_GROUP))
        if not any(one["sourceNetwork"]["networkId"] == networks[0] for one in await connector.extensions()):
            await connector.extend(*networks)
        await connector.logout()
