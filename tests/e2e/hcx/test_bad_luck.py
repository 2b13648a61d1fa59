"""Migrations to which something happens: afterwards one copy runs, no write is lost, nothing is in the next one's way.

The guest begins where the test before left it. `watched` holds what the guest's clients see all the while.
"""

import asyncio

import pytest

from landbridge.hcx.client import HcxError, MigrationStatus
from landbridge.lab.topology import Node
from tests.e2e.stage import Stage, other

pytestmark = pytest.mark.timeout(300)
_OUTAGE = 5.0  # seconds without a WAN; after 20 s of silence a connection counts as broken


async def settled(stage: Stage, source: str, status: MigrationStatus) -> None:
    """All is in order, the guest is where HCX says, and a migration succeeds: this one, or the next."""
    moved = status.state == "MIGRATED"
    assert moved or status.error, status
    assert await stage.at() == (other(source) if moved else source), status
    if not moved:
        await stage.carry()


async def test_a_cancel_while_it_copies_leaves_the_guest_as_it_was(stage: Stage) -> None:
    source = await stage.at()
    async with stage.watched():
        async with stage.slow_wan():
            migration = await stage.start(source)
            await stage.copying(migration)
            async with stage.connector() as hcx:
                await hcx.cancel(migration)
            status = await stage.ended(migration)
        assert status.state == "MIGRATE_CANCELED", status
        assert await stage.at() == source
        async with stage.connector() as hcx:
            with pytest.raises(HcxError) as refused:
                await hcx.cancel(migration)
        assert refused.value.error == "Not cancellable"
        await settled(stage, source, status)


async def test_a_wan_that_is_gone_for_moments_while_it_copies_only_delays(stage: Stage) -> None:
    source = await stage.at()
    async with stage.watched():
        async with stage.slow_wan():
            migration = await stage.start(source)
            await stage.copying(migration)
            async with stage.no_wan():
                await asyncio.sleep(_OUTAGE)
        status = await stage.ended(migration)
        assert status.state == "MIGRATED", status
        await settled(stage, source, status)


async def test_a_wan_that_stays_away_while_it_copies_leaves_the_guest_at_the_source(stage: Stage) -> None:
    source = await stage.at()
    async with stage.watched():
        async with stage.slow_wan():
            migration = await stage.start(source)
            await stage.copying(migration)
            async with stage.no_wan():
                await stage.reached(migration, lambda status: status.step == "ROLLBACK")
                await stage.counts(100)
        status = await stage.ended(migration)
        assert status.state == "MIGRATE_FAILED", status
        await settled(stage, source, status)


async def test_a_wan_that_goes_at_the_switchover_leaves_one_copy_with_every_write(stage: Stage) -> None:
    source = await stage.at()
    async with stage.watched():
        migration = await stage.start(source)
        await stage.reached(migration, lambda status: status.phase == "memory")
        async with stage.slow_wan(200):
            await stage.standing_still(source)
            async with stage.no_wan():
                # Whether the guest runs meanwhile, and where, is for the hosts to say: there is nothing to wait for.
                await asyncio.sleep(_OUTAGE)
        await settled(stage, source, await stage.ended(migration))


async def test_a_target_host_that_vanishes_while_it_copies_leaves_the_guest_at_the_source(stage: Stage) -> None:
    source = await stage.at()
    target = stage.host(other(source))
    async with stage.watched():
        async with stage.slow_wan():
            migration = await stage.start(source)
            await stage.copying(migration)
            await stage.kill_host(target)
            await stage.counts(100)
            await stage.start_again(target)
        status = await stage.ended(migration)
        assert status.state == "MIGRATE_FAILED", status
        await settled(stage, source, status)


async def killed_while_it_copies(stage: Stage, source: str, node: Node) -> None:
    async with stage.watched():
        async with stage.slow_wan():
            migration = await stage.start(source)
            await stage.copying(migration)
            stage.kill(node)
            await stage.counts(10)
            await stage.start_again(node)
        await settled(stage, source, await stage.ended(migration))


async def test_a_connector_killed_while_it_copies_brings_the_migration_to_an_end(stage: Stage) -> None:
    await killed_while_it_copies(stage, await stage.at(), stage.lab.site("onprem").hcx)


async def test_a_source_vcenter_killed_while_it_copies_does_not_keep_the_migration_from_ending(stage: Stage) -> None:
    source = await stage.at()
    await killed_while_it_copies(stage, source, stage.lab.site(source).vcenter)
