"""VMs carried between two real sites: real QEMU, real vCenters, through both interconnects."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from landbridge.hcx.client import HcxClient, HcxError, MigrationStatus
from tests.integration.hcx.sites import Pair


def _holds(disk: Path, pattern: int) -> bool:
    command = ["qemu-io", "-r", "-f", "qcow2", "-c", f"read -P {pattern} 0 32M", str(disk)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "ops" in result.stdout, result.stderr
    return "verification failed" not in result.stdout


async def finished_migration(client: HcxClient, migration: str) -> MigrationStatus:
    """The final status."""
    async with asyncio.timeout(120):
        async for status in client.follow(migration, 0.1):
            last = status
    return last


async def nothing_left(sites: Pair) -> None:
    """Neither appliance knows of a VM or a move."""
    for site in (sites.onprem, sites.cloud):
        assert not list((site.state / "ix" / "moves").glob("*"))
        assert not [host for _, host in site.vms().values() if host == site.ix_address]


async def test_a_running_vm_is_carried_to_the_cloud_and_back(hosts: Pair, paired: HcxClient) -> None:
    onprem, cloud = hosts.onprem, hosts.cloud
    vm = await asyncio.to_thread(onprem.create_vm, "live01", on=True)
    [before] = onprem.qemus()
    status = await finished_migration(paired, await paired.start(await paired.spec(vm, networks={})))
    assert status.state == "MIGRATED", status
    assert status.warnings == []
    assert status.memory_done > 0
    assert status.silence_ms is not None
    assert "live01" not in onprem.vms()
    assert cloud.vms()["live01"] == ("poweredOn", cloud.esx_address)
    assert before not in onprem.qemus()
    assert len(cloud.qemus()) == 1
    await nothing_left(hosts)
    [there] = [item for item in await paired.inventory("virtualmachines", remote=True) if item["name"] == "live01"]
    back = await finished_migration(paired, await paired.start(await paired.spec(there["id"], networks={}, back=True)))
    assert back.state == "MIGRATED", back
    assert onprem.vms()["live01"] == ("poweredOn", onprem.esx_address)
    assert cloud.qemus() == set()
    await nothing_left(hosts)


async def test_a_powered_off_vm_is_carried_with_its_disk(hosts: Pair, paired: HcxClient) -> None:
    vm = await asyncio.to_thread(hosts.onprem.create_vm, "cold01", on=False, data=32 << 20)
    status = await finished_migration(paired, await paired.start(await paired.spec(vm, networks={}, kind="Cold")))
    assert status.state == "MIGRATED", status
    assert hosts.cloud.vms()["cold01"] == ("poweredOff", hosts.cloud.esx_address)
    assert await asyncio.to_thread(_holds, hosts.cloud.disk("cold01"), 0x5A)
    assert not hosts.onprem.disk("cold01").exists()
    await nothing_left(hosts)


async def test_what_is_in_the_way_is_found_before_anything_is_touched(hosts: Pair, paired: HcxClient) -> None:
    vm = await asyncio.to_thread(hosts.onprem.create_vm, "still01", on=False)
    spec = await paired.spec(vm, networks={})
    [error] = await paired.validate(spec)
    assert "still01" in error
    with pytest.raises(HcxError) as caught:
        await paired.start(spec)
    assert caught.value.error == "Validation failed"
    await asyncio.to_thread(hosts.cloud.create_vm, "still01", on=False)
    [error] = await paired.validate(await paired.spec(vm, networks={}, kind="Cold"))
    assert "of this name" in error
    bad = await paired.spec(vm, networks={}, kind="Cold", datastore="datastore-999")
    assert "datastore-999" in (await paired.validate(bad))[0]
    assert await paired.validate(await paired.spec("vm-999999", networks={}))
    await nothing_left(hosts)
