"""Managers and vCenters killed -9 at each single step of a migration, between its work and the record that it is done.

Whoever dies is started again, as after any crash. Then the VM is at the target or, where that can not be, at the source
with a reason told; it runs once, no write of its guest is lost, and nothing else is left at either site.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from landbridge.hcx.client import HcxError
from tests.integration.hcx.crossing import Crossing
from tests.integration.hcx.mortal import VCENTER_GIVES_UP, VCENTER_GOES_ON, Mortals
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
# At the target the appliance gets a shadow of the VM, at the source it is taken from there.
_SHADOW = (("cloud", "register_vm"), ("onprem", "unregister_vm"))
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
    status = await vm.killed(vm.sites.onprem, "hcx", point)
    await vm.moved(status)


@pytest.mark.parametrize(
    "point", ["start_source_relocation:done", "start_target_relocation:called", "join_streams:called"]
)
async def test_what_nobody_foresaw_in_a_step_is_told_and_leaves_the_vm_at_its_source(
    crossing: MakeCrossing, point: str
) -> None:
    vm = await crossing()
    vm.sites.onprem.fate("hcx").set(f"fail {point}")
    await vm.start()
    status = await vm.ended()
    assert f"RuntimeError: fate at {point}" in status.error
    await vm.stayed(status)


@pytest.mark.parametrize(
    "point",
    [f"target.{verb}:{instant}" for verb in ("prepare", "state", "forget") for instant in ("begun", "done")]
    + ["asked.target_register", "asked.target_relocate"],
)
async def test_a_cloud_manager_killed_in_any_call_at_the_target_ends_it_there(
    crossing: MakeCrossing, point: str
) -> None:
    vm = await crossing()
    status = await vm.killed(vm.sites.cloud, "hcx", point)
    await vm.moved(status)


@pytest.mark.parametrize(
    "point",
    [
        f"source.{verb}:{instant}"
        for verb in ("begin", "requested", "join", "state", "finish", "forget")
        for instant in ("begun", "done")
    ]
    + ["asked.source_relocate", "asked.source_unregister"],
)
async def test_a_cloud_manager_killed_in_any_call_at_the_source_ends_it_at_the_target(
    crossing: MakeCrossing, point: str
) -> None:
    vm = await crossing(back=True)
    status = await vm.killed(vm.sites.cloud, "hcx", point)
    await vm.moved(status)


@pytest.mark.parametrize("instant", ["begun", "done"])
async def test_a_cloud_manager_killed_while_it_checks_a_vm_is_told_and_nothing_began(
    crossing: MakeCrossing, instant: str
) -> None:
    vm = await crossing()
    vm.sites.cloud.fate("hcx").set(f"kill target.check:{instant}")
    with pytest.raises(HcxError) as caught:
        await vm.start()
    assert caught.value.error == "Remote site unavailable"
    await vm.dies(vm.sites.cloud, "hcx")
    await vm.stays()


@pytest.mark.parametrize(
    ("back", "site", "point"),
    [
        (False, "onprem", "roll_back:begun"),
        (False, "onprem", "roll_back:done"),
        (False, "cloud", "target.abort:begun"),
        (False, "cloud", "target.abort:done"),
        (False, "cloud", "asked.target_unregister"),
        (True, "cloud", "source.cancel:begun"),
        (True, "cloud", "source.cancel:done"),
        (True, "cloud", "source.finish:begun"),
        (True, "cloud", "source.finish:done"),
    ],
)
async def test_a_manager_killed_while_a_canceled_migration_is_taken_back_leaves_the_vm_at_its_source(
    crossing: MakeCrossing, back: bool, site: str, point: str
) -> None:
    vm = await crossing(back=back)
    driver, mortal = vm.sites.onprem.fate("hcx"), vm.sites.site(site).fate("hcx")
    driver.set("hold join_streams:called", *([f"kill {point}"] if site == "onprem" else []))
    if site == "cloud":
        mortal.set(f"kill {point}")
    await vm.start()
    await driver.holds()
    async with await vm.sites.logged_in() as client:
        await client.cancel(vm.migration)
    driver.release()
    await vm.dies(vm.sites.site(site), "hcx")
    await vm.stayed(await vm.ended(), "MIGRATE_CANCELED")


@pytest.mark.parametrize("site", ["onprem", "cloud"])
@pytest.mark.parametrize("point", VCENTER_GOES_ON)
async def test_a_vcenter_killed_at_a_step_of_its_relocation_goes_on_and_the_vm_moves(
    crossing: MakeCrossing, site: str, point: str
) -> None:
    vm = await crossing()
    status = await vm.killed(vm.sites.site(site), "vcenter", point)
    await vm.moved(status)


@pytest.mark.parametrize("site", ["onprem", "cloud"])
@pytest.mark.parametrize("point", VCENTER_GIVES_UP)
async def test_a_vcenter_killed_between_asking_one_host_and_the_other_leaves_the_vm_at_its_source(
    crossing: MakeCrossing, site: str, point: str
) -> None:
    vm = await crossing()
    status = await vm.killed(vm.sites.site(site), "vcenter", point)
    assert "vCenter gave the move up" in status.error, status
    assert "canceled by a user" not in status.error, status
    await vm.stayed(status)


@pytest.mark.parametrize(
    ("site", "point"),
    [(site, f"{verb}:{instant}") for site, verb in _SHADOW for instant in ("begun", "done")]
    + [("cloud", "ended.Folder.registerVm")],
)
async def test_a_vcenter_killed_while_a_shadow_comes_or_goes_is_waited_for(
    crossing: MakeCrossing, site: str, point: str
) -> None:
    vm = await crossing()
    status = await vm.killed(vm.sites.site(site), "vcenter", point)
    await vm.moved(status)


@pytest.mark.parametrize("instant", ["begun", "done"])
async def test_a_target_vcenter_killed_while_the_shadow_of_a_canceled_migration_goes_has_none_afterwards(
    crossing: MakeCrossing, instant: str
) -> None:
    vm = await crossing()
    driver = vm.sites.onprem.fate("hcx")
    driver.set("hold join_streams:called")
    vm.target.fate("vcenter").set(f"kill unregister_vm:{instant}")
    await vm.start()
    await driver.holds()
    async with await vm.sites.logged_in() as client:
        await client.cancel(vm.migration)
    driver.release()
    await vm.dies(vm.target, "vcenter")
    await vm.stayed(await vm.ended(), "MIGRATE_CANCELED")


async def test_a_connector_killed_after_every_step_of_one_migration_brings_the_vm_to_the_target(
    crossing: MakeCrossing,
) -> None:
    vm = await crossing()
    vm.sites.onprem.fate("hcx").set(*(f"kill {step}:done" for step in _STEPS))
    await vm.start()
    for _ in _STEPS:
        await vm.dies(vm.sites.onprem, "hcx")
    await vm.moved(await vm.ended())


async def test_a_source_vcenter_killed_while_the_appliance_keeps_it_waiting_leaves_the_vm_at_its_source(
    crossing: MakeCrossing,
) -> None:
    vm = await crossing()
    driver = vm.sites.onprem.fate("hcx")
    driver.set("hold start_target_relocation:called")
    await vm.start()
    await driver.holds()
    vm.source.kill("vcenter")
    await vm.source.again("vcenter")
    driver.release()
    await vm.stayed(await vm.ended())
