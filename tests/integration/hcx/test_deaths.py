"""Managers and vCenters killed -9 at each single step of a migration, between its work and the record that it is done.

Whoever dies is started again, as after any crash. Then the VM is at the target or, where that can not be, at the source
with a reason told; it runs once, no write of its guest is lost, and nothing else is left at either site.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.integration.hcx.crossing import Crossing
from tests.integration.hcx.mortal import Mortals
from tests.integration.hcx.sites import Pair

_STEPS = (
    "collect_vm_details",
    "start_source_relocation",
    "await_source_request",
    "start_target_relocation",
    "join_streams",
    "carry",
    "leave_source",
    "clean_up",
)
MakeCrossing = Callable[..., Awaitable[Crossing]]


@pytest.fixture(scope="module")
async def mortal(with_hosts: Pair) -> AsyncIterator[Pair]:
    """The sites, with managers and vCenters that can be made to die at a point."""
    mortals = Mortals()
    for site in (with_hosts.onprem, with_hosts.cloud):
        site.mortals = mortals
        for part in ("vcenter", "hcx"):
            site.kill(part)
        await site.again("vcenter", "hcx")
    try:
        yield with_hosts
    finally:
        mortals.close()
        for site in (with_hosts.onprem, with_hosts.cloud):
            site.mortals = None


@pytest.fixture(scope="module")
async def specs(mortal: Pair) -> AsyncIterator[dict[bool, dict[str, Any]]]:
    """What to ask for, to the cloud (False) and back (True), of sites that are paired for this module."""
    async with await mortal.logged_in() as client:
        await client.pair(mortal.cloud.hcx_url, "admin", mortal.cloud.password, accept_certificate=True)
        found = {back: await client.spec("", networks={}, back=back) for back in (False, True)}
    yield found
    async with await mortal.logged_in() as client:
        for pairing in await client.pairings():
            await client.unpair(pairing["endpointId"])


@pytest.fixture
async def crossing(mortal: Pair, hosts: Pair, specs: dict[bool, dict[str, Any]]) -> AsyncIterator[MakeCrossing]:
    """Makes a VM that counts on its disk, about to be carried to the other site."""

    async def make(*, back: bool = False) -> Crossing:
        made = Crossing(mortal, specs, back=back)
        await made.prepare()
        return made

    yield make
    for site in (mortal.onprem, mortal.cloud):
        for part in ("hcx", "vcenter"):
            site.fate(part).clear()
            if part not in site.processes or site.processes[part].poll() is not None:
                await site.again(part)


@pytest.mark.parametrize(
    "point",
    [
        "launch:begun",
        "launch:done",
        *(f"{step}:{instant}" for step in _STEPS for instant in ("begun", "done")),
        "conclude:called",
        "conclude:done",
    ],
)
async def test_a_connector_killed_at_any_step_brings_the_vm_to_the_target(crossing: MakeCrossing, point: str) -> None:
    vm = await crossing()
    vm.sites.onprem.fate("hcx").set(f"kill {point}")
    await vm.start()
    await vm.dies(vm.sites.onprem, "hcx")
    await vm.moved(await vm.ended())
