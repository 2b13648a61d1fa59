"""Pair the connector with the cloud manager, as an administrator does, through HCX's REST API."""

from typing import TYPE_CHECKING

from landbridge.hcx.client import HcxClient

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
