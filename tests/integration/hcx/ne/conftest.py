"""A pair of appliances for all tests of this directory, with two networks extended."""

from collections.abc import AsyncIterator

import pytest

from landbridge.hcx.ne.model import Extension, Forwarding
from tests.integration.hcx.ne.stage import Stage

RED_VNI, BLUE_VNI = 5001, 5002


@pytest.fixture(scope="session")
async def stage() -> AsyncIterator[Stage]:
    """Red is VLAN 100 at site a and 300 at b; Blue is 200 at a and untagged at b."""
    made = Stage()
    try:
        await made.build()
        await made.pair()
        for site, red, blue in ((made.a, 100, 200), (made.b, 300, 0)):
            await site.client.extend("red", Extension(vlan=red, vni=RED_VNI))
            await site.client.extend("blue", Extension(vlan=blue, vni=BLUE_VNI))
        for site in made.sites:
            await site.until(lambda status: all(n.state == Forwarding.FORWARDING for n in status.networks))
            await site.until(lambda status: status.tunnel is not None and status.tunnel.up)
        yield made
    finally:
        await made.remove()
