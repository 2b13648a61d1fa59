"""One lab with one running guest for all end-to-end tests; a test begins with the guest at either site."""

from collections.abc import AsyncIterator

import pytest

from landbridge.lab.build import Lab
from landbridge.lab.guest import GuestVm
from landbridge.lab.topology import Topology
from tests.e2e.stage import Stage

TOPOLOGY = Topology(prefix="lbw", hosts=1, networks=("10.70.0.0/22", "10.80.0.0/22"))


@pytest.fixture(scope="session")
async def lab() -> AsyncIterator[Lab]:
    """Two paired sites with a host each. What a killed run left of them is removed first."""
    lab = Lab(TOPOLOGY)
    await lab.down()
    try:
        await lab.up(print)
        yield lab
    finally:
        await lab.down()


@pytest.fixture
async def stage(lab: Lab) -> Stage:
    """The lab with its guest running; one that an earlier test lost is made anew."""
    stage = Stage(lab, GuestVm(lab, "traveller"))
    if await stage.disorder():
        await stage.guest.destroy()
        await stage.guest.create()
        await stage.guest.power_on()
    await stage.guest.wait_ready()
    return stage
