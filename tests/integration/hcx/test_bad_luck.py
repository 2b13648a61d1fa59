"""Migrations that are canceled, and migrations under which things die: exactly one copy runs, nothing is left."""

import asyncio
import os
import signal

import pytest

from landbridge.hcx.client import HcxClient, HcxError
from tests.integration.hcx.sites import Pair
from tests.integration.hcx.test_migrations import finished_migration, nothing_left

_DATA = 400 << 20  # bytes: some seconds of copying


async def _large_vm(sites: Pair, name: str) -> str:
    return await asyncio.to_thread(sites.onprem.create_vm, name, on=True, disk=512 << 20, data=_DATA)


async def _copying(client: HcxClient, migration: str) -> None:
    """Wait until the migration copies the disk."""
    async with asyncio.timeout(60):
        async for status in client.follow(migration, 0.05):
            assert not status.final, status
            if status.phase == "disk":
                return


async def _runs_once(sites: Pair, name: str, qemus: int) -> None:
    """The VM runs at exactly one site, with as many QEMU processes in all as there were, and is known only there."""
    known = [site for site in (sites.onprem, sites.cloud) if name in site.vms()]
    assert len(known) == 1, (sites.onprem.vms(), sites.cloud.vms())
    assert known[0].vms()[name] == ("poweredOn", known[0].esx_address)
    assert len(sites.onprem.qemus() | sites.cloud.qemus()) == qemus
    await nothing_left(sites)


def _running(sites: Pair) -> int:
    return len(sites.onprem.qemus() | sites.cloud.qemus())


async def test_a_cancel_while_it_copies_leaves_the_source_running_and_nothing_at_the_target(
    hosts: Pair, paired: HcxClient
) -> None:
    vm = await _large_vm(hosts, "cancel01")
    before, there = hosts.onprem.qemus(), hosts.cloud.qemus()
    migration = await paired.start(await paired.spec(vm, networks={}))
    await _copying(paired, migration)
    await paired.cancel(migration)
    status = await finished_migration(paired, migration)
    assert status.state == "MIGRATE_CANCELED", status
    assert hosts.onprem.qemus() == before
    assert hosts.onprem.vms()["cancel01"] == ("poweredOn", hosts.onprem.esx_address)
    assert "cancel01" not in hosts.cloud.vms()
    assert hosts.cloud.qemus() == there
    assert not hosts.cloud.disk("cancel01").exists()
    await nothing_left(hosts)
    with pytest.raises(HcxError) as caught:
        await paired.cancel(migration)
    assert caught.value.error == "Not cancellable"
    # Nothing of it is in the way of the next one.
    again = await finished_migration(paired, await paired.start(await paired.spec(vm, networks={})))
    assert again.state == "MIGRATED", again


@pytest.mark.parametrize(
    ("site", "part"), [("onprem", "vcenter"), ("onprem", "ix"), ("cloud", "hcx"), ("cloud", "ix"), ("cloud", "esx")]
)
async def test_a_connector_killed_while_it_waits_for_somebody_brings_it_to_an_end(
    hosts: Pair, paired: HcxClient, site: str, part: str
) -> None:
    name = f"kill-{site}-{part}"
    vm = await asyncio.to_thread(hosts.onprem.create_vm, name, on=True)
    running = _running(hosts)
    waits_for = getattr(hosts, site)
    spec = await paired.spec(vm, networks={})
    migration = await paired.start(spec)
    waits_for.freeze(part)
    try:
        hosts.onprem.kill("hcx")
    finally:
        waits_for.thaw(part)
    hosts.onprem.start("hcx")
    async with await hosts.connector_back() as again:
        status = await finished_migration(again, migration)
        assert status.state in ("MIGRATED", "MIGRATE_FAILED"), status
        await _runs_once(hosts, name, running)
    await paired.login("admin", hosts.onprem.password)


async def test_a_cloud_manager_killed_while_it_copies_changes_nothing(hosts: Pair, paired: HcxClient) -> None:
    vm = await _large_vm(hosts, "cloudless01")
    running = _running(hosts)
    migration = await paired.start(await paired.spec(vm, networks={}))
    await _copying(paired, migration)
    hosts.cloud.kill("hcx")
    hosts.cloud.start("hcx")
    status = await finished_migration(paired, migration)
    assert status.state == "MIGRATED", status
    await _runs_once(hosts, "cloudless01", running)


async def test_a_target_that_dies_while_it_copies_leaves_the_source_running(hosts: Pair, paired: HcxClient) -> None:
    vm = await _large_vm(hosts, "dying01")
    before, there = hosts.onprem.qemus(), hosts.cloud.qemus()
    migration = await paired.start(await paired.spec(vm, networks={}))
    await _copying(paired, migration)
    [receiving] = hosts.cloud.qemus() - there
    os.kill(receiving, signal.SIGKILL)
    status = await finished_migration(paired, migration)
    assert status.state == "MIGRATE_FAILED", status
    assert status.error
    assert hosts.onprem.qemus() == before
    await _runs_once(hosts, "dying01", len(before) + len(there))
