"""Two sites for all tests of this directory; who pairs them unpairs them."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from landbridge.hcx.client import HcxClient
from tests.integration.hcx.sites import Pair


@pytest.fixture(scope="session")
async def sites() -> AsyncIterator[Pair]:
    """Two unpaired sites without hosts."""
    pair = Pair()
    try:
        await pair.start()
        yield pair
    finally:
        pair.stop()


@pytest.fixture
async def connector(sites: Pair) -> AsyncIterator[HcxClient]:
    """A session at the connector."""
    async with await sites.logged_in() as client:
        yield client


@pytest.fixture
async def paired(sites: Pair, connector: HcxClient) -> AsyncIterator[HcxClient]:
    """A session at the connector of paired sites."""
    await connector.pair(sites.cloud.hcx_url, "admin", sites.cloud.password, accept_certificate=True)
    try:
        yield connector
    finally:
        for pairing in await connector.pairings():
            await connector.unpair(pairing["endpointId"])


@pytest.fixture(scope="session")
async def with_hosts(sites: Pair) -> Pair:
    """The sites with a host each."""
    for site in (sites.onprem, sites.cloud):
        site.start("esx")
    for site in (sites.onprem, sites.cloud):
        await site.until("esx", site.esx_address)
        await asyncio.to_thread(site.add_host)
    return sites


@pytest.fixture
async def hosts(with_hosts: Pair) -> AsyncIterator[Pair]:
    """The sites with a host each, and without VMs afterwards."""
    yield with_hosts
    for site in (with_hosts.onprem, with_hosts.cloud):
        await asyncio.to_thread(site.destroy_vms)
