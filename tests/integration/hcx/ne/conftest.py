"""A pair of appliances for all tests of this directory, with two networks extended."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from landbridge.hcx.ne.model import Extension, Forwarding
from tests.integration.hcx.ne.stage import Stage

RED_VNI, BLUE_VNI = 5001, 5002


async def extend_networks(stage: Stage) -> None:
    """Red and Blue, as `stage` says."""
    for site, red, blue in ((stage.a, 100, 200), (stage.b, 300, 0)):
        await site.client.extend("red", Extension(vlan=red, vni=RED_VNI))
        await site.client.extend("blue", Extension(vlan=blue, vni=BLUE_VNI))
    for site in stage.sites:
        await site.until(lambda status: all(n.state == Forwarding.FORWARDING for n in status.networks))
        await site.until(lambda status: status.tunnel is not None and status.tunnel.up)


async def withdraw_networks(stage: Stage) -> None:
    """No network and no tunnel."""
    for site in stage.sites:
        for network in (await site.client.status()).networks:
            await site.client.withdraw(network.id)
        await site.client.remove_peer()


@pytest.fixture(scope="session")
async def stage() -> AsyncIterator[Stage]:
    """Red is VLAN 100 at site a and 300 at b; Blue is 200 at a and untagged at b."""
    made = Stage()
    try:
        await made.build()
        await made.pair()
        await extend_networks(made)
        yield made
    finally:
        await made.remove()


@dataclass(frozen=True)
class Guests:
    """Namespaces of guests with MTU 1500: two on each network, one a site."""

    red_a: str  # 10.50.0.1
    red_b: str  # 10.50.0.2
    blue_a: str  # 10.50.0.3
    blue_b: str  # 10.50.0.4


@pytest.fixture(scope="session")
async def guests(stage: Stage) -> Guests:
    return Guests(
        red_a=await stage.a.guest("ra", "10.50.0.1", "red"),
        red_b=await stage.b.guest("rb", "10.50.0.2", "red"),
        blue_a=await stage.a.guest("ba", "10.50.0.3", "blue"),
        blue_b=await stage.b.guest("bb", "10.50.0.4", "blue"),
    )
