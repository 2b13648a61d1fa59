"""The long test: a whole Debian with PostgreSQL under load, moved live to the cloud and back while pgbench runs.

pgbench is the client: it holds its connections for the whole run and gives up on the first that breaks. Afterwards
the database must hold one row of history for every transaction that pgbench was told had been committed.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from landbridge.lab.build import Lab
from landbridge.lab.demo import migrate
from landbridge.lab.guest import GuestVm
from landbridge.lab.soak_image import SOAK_DISK_BYTES, soak_disk, soak_image
from landbridge.lab.topology import Topology

_TOOLS = Path("/usr/lib/postgresql/15/bin")
_SCALE, _CLIENTS, _SECONDS = 10, 4, 240
_BOOT_TIMEOUT = 900.0  # seconds; systemd and PostgreSQL take a minute under software emulation


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    topology = Topology(prefix="lbs", hosts=1, networks=("10.90.0.0/22", "10.94.0.0/22"))
    lab = Lab(topology)
    try:
        await lab.up(print)
        yield lab
    finally:
        await lab.down()


async def client(lab: Lab, *argv: str | Path, timeout: float = 600.0) -> str:
    """Run a command on the VM network; what it printed."""
    return await lab.network.machine("client").execute(*map(str, argv), timeout=timeout)


async def wait_for_database(lab: Lab, address: str) -> None:
    async with asyncio.timeout(_BOOT_TIMEOUT):
        while True:
            try:
                await client(lab, _TOOLS / "psql", "-h", address, "-U", "bench", "-c", "select 1", timeout=30)
            except Exception as error:
                print(f"not yet: {str(error).splitlines()[-1]}")
                await asyncio.sleep(3)
            else:
                return


def slowest_ms(directory: Path) -> float:
    """The longest transaction in pgbench's logs, whose third column is microseconds."""
    lines = [line for log in directory.glob("log.*") for line in log.read_text().splitlines()]
    return max(int(line.split()[2]) for line in lines) / 1000


@pytest.mark.timeout(3600)
async def test_postgresql_moves_there_and_back_under_load_and_loses_nothing(lab: Lab, tmp_path: Path) -> None:
    guest = GuestVm(lab, name="soak", memory_mib=768)
    disk = tmp_path / "soak.qcow2"
    base = await asyncio.to_thread(soak_image)
    await asyncio.to_thread(soak_disk, base, disk, str(lab.topology.vm_address(1)))
    await guest.create_from(disk, SOAK_DISK_BYTES)
    await guest.power_on()
    await wait_for_database(lab, guest.address)
    database = ("-h", guest.address, "-U", "bench")
    await client(lab, _TOOLS / "pgbench", *database, "-i", "-q", "-s", str(_SCALE), "bench")

    load = ("-c", str(_CLIENTS), "-j", "2", "-T", str(_SECONDS), "-P", "10", "--log", f"--log-prefix={tmp_path}/log")
    running = asyncio.create_task(client(lab, _TOOLS / "pgbench", *database, *load, "bench", timeout=_SECONDS + 300))
    try:
        await asyncio.sleep(20)  # the load warms up
        there = await migrate(lab, guest)
        assert not running.done(), "pgbench ended before the VM was moved back: make the run longer"
        back = await migrate(lab, guest, back=True)
        assert not running.done(), "pgbench ended before the VM was back: make the run longer"
        report = await running
    finally:
        running.cancel()
    committed = int(re.findall(r"transactions actually processed: (\d+)", report)[0])
    failed = int(re.findall(r"failed transactions: (\d+)", report)[0])
    query = ("-t", "-A", "-c", "select count(*) from pgbench_history", "bench")
    rows = int(await client(lab, _TOOLS / "psql", *database, *query))
    for name, move in (("to the cloud", there), ("back", back)):
        print(f"{name}: {move.state} in {move.elapsed:.1f} s, the guest paused for {move.silence_ms} ms")
    print(f"{committed} transactions, {failed} failed, {rows} rows of history, slowest {slowest_ms(tmp_path):.0f} ms")
    assert (there.state, back.state) == ("MIGRATED", "MIGRATED")
    assert failed == 0
    assert rows == committed
