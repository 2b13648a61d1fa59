"""A running VM carried from on-premises to the cloud, as its clients and both vCenters see it."""

import asyncio

import pytest

from tests.e2e.stage import Stage

pytestmark = pytest.mark.timeout(300)


async def test_a_guest_under_load_is_carried_to_the_cloud_and_only_the_place_has_changed(stage: Stage) -> None:
    await stage.bring("onprem")
    before = await asyncio.to_thread(stage.identity, "onprem")
    checksum, uptime = await stage.guest.ask("checksum"), await stage.guest.ask("status")
    assert stage.directory("onprem").exists()

    async with stage.watched():
        status = await stage.ended(await stage.start("onprem"))

    assert status.state == "MIGRATED", status
    assert status.warnings == []
    assert status.silence_ms is not None
    assert status.disk_done >= int(uptime["data_mib"]) << 20
    # `at` counts processes, asks both vCenters, and looks for files, moves and streams that are left.
    assert await stage.at() == "cloud"
    assert await stage.guest.where() == {"cloud": "poweredOn"}
    assert not stage.directory("onprem").exists()
    assert stage.directory("cloud").exists()
    assert await asyncio.to_thread(stage.identity, "cloud") == before
    assert await stage.guest.ask("checksum") == checksum
