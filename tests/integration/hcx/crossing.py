"""A VM that counts on its disk while it is carried between two sites whose managers and vCenters die on the way."""

import asyncio
import itertools
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pyVmomi import vim

from landbridge.hcx.client import HcxClient, HcxUnreachable, MigrationStatus
from landbridge.hcx.migrations.source import SourceHalf
from landbridge.hcx.migrations.target import TargetHalf
from landbridge.hcx.store import Store
from landbridge.relay.admin import Admin
from tests.integration.esx.vmotion.conftest import COUNTING_GUEST, qemu_io, raw_content
from tests.integration.hcx.sites import Pair, Site, every

_END = 120.0  # seconds a migration may take
_CLEAN = 30.0  # seconds the last streams and processes may take to go
_POLL = 0.05
_SECTORS = 65536
_numbers = itertools.count(1)


class Crossing:
    """One VM, its migration, and what there must be afterwards."""

    def __init__(self, sites: Pair, specs: dict[bool, dict[str, Any]], *, back: bool) -> None:
        self.sites = sites
        self.source, self.target = (sites.cloud, sites.onprem) if back else (sites.onprem, sites.cloud)
        self.name = f"count{next(_numbers):02}"
        self._spec = specs[back]
        self.migration = ""
        self.counted = 0

    async def prepare(self) -> None:
        """Have the VM count at the source."""
        vm = await asyncio.to_thread(self.source.create_vm, self.name, on=True, prepare=boot_sector)
        self._spec = {**self._spec, "entityDetails": {"entityId": vm}}
        await self.counts(self.source)

    async def counts(self, site: Site) -> None:
        """Return when the guest has written to its disk there, by the file's own clock."""
        file = site.disk(self.name)
        before = file.stat().st_mtime_ns
        await until(lambda: file.stat().st_mtime_ns != before, f"the guest does not write at {site.name}")

    # ------------------------------------------------------------------------------- on its way

    async def start(self) -> None:
        """Start the migration; a connector that dies with the answer on its lips has started it as well."""
        async with await self.sites.logged_in() as client:
            try:
                self.migration = await client.start(self._spec)
            except HcxUnreachable:
                self.migration = ""

    async def dies(self, site: Site, part: str) -> None:
        """Let a part die where its fate says, and start it again."""
        await site.dies(part)
        await site.again(part)

    async def killed(self, site: Site, part: str, point: str) -> MigrationStatus:
        """The end of a migration in which a part was killed at a point and started again."""
        site.fate(part).set(f"kill {point}")
        await self.start()
        await self.dies(site, part)
        return await self.ended()

    async def ended(self) -> MigrationStatus:
        """The migration's end."""
        async with await self.sites.connector_back() as client, asyncio.timeout(_END):
            self.migration = self.migration or await self._mine(client)
            async for status in client.follow(self.migration, _POLL):
                last = status
        return last

    async def _mine(self, client: HcxClient) -> str:
        return next(status.id for status in await client.query() if status.vm == self.name)

    # ------------------------------------------------------------------------------- at its end

    async def moved(self, status: MigrationStatus) -> None:
        """It is migrated, and nothing of it is left anywhere else."""
        assert status.state == "MIGRATED", status
        await self.lives_at(self.target, self.source)

    async def stayed(self, status: MigrationStatus, state: str = "MIGRATE_FAILED") -> None:
        """It did not move, the status says why, nothing of it is left, and the next migration succeeds."""
        assert status.state == state, status
        assert status.error, status
        await self.stays()

    async def stays(self) -> None:
        """It counts at the source, nothing of it is left anywhere else, and the next migration succeeds."""
        await self.lives_at(self.source, self.target, whole=False)
        await self.start()
        await self.moved(await self.ended())

    async def lives_at(self, site: Site, other: Site, *, whole: bool = True) -> None:
        """One copy runs, at `site`, with every write; nothing else is left anywhere."""
        assert len(site.qemus()) == 1
        assert site.vms() == {self.name: ("poweredOn", site.esx_address)}
        await self.counts(site)
        assert other.vms() == {}
        await until_async(self._left, [], "left behind")
        assert other.qemus() == set()
        if whole:
            await asyncio.to_thread(site.power_off, self.name)
            whole_numbers(site.disk(self.name))

    async def _left(self) -> list[str]:
        """What a migration makes and takes away again, where it is still there."""
        left = []
        for site in (self.sites.onprem, self.sites.cloud):
            left += [f"{site.name}: move {file.name}" for file in (site.state / "ix" / "moves").glob("*")]
            streams = [*await open_streams(site.run / "ix" / "relay"), *await open_streams(site.run / "esx" / "relay")]
            left += [f"{site.name}: stream {name}" for name in streams if not name.startswith("probe.")]
            left += [f"{site.name}: {text}" for text in await _records(site)]
            left += [f"{site.name}: {text}" for text in await asyncio.to_thread(_running_tasks, site)]
            if self.name not in site.vms():
                left += [f"{site.name}: file {file}" for file in files(site.state / "datastore1")]
        return left


def boot_sector(disk: Path) -> None:
    """Let a VM that starts from this disk count on it."""
    sector = disk.with_name("sector")
    sector.write_bytes(COUNTING_GUEST.ljust(510, b"\0") + b"\x55\xaa")
    qemu_io(disk, f"write -s {sector} 0 512")
    sector.unlink()


def whole_numbers(disk: Path) -> None:
    """Every number the guest wrote, up to the last, is there."""
    content = raw_content(disk)
    numbers: list[int] = [struct.unpack_from("<I", content, (64 + index) * 512)[0] for index in range(_SECTORS)]
    last = max(numbers)
    assert last > 0
    for number in range(max(1, last - _SECTORS + 1), last + 1):
        assert numbers[number % _SECTORS] == number, f"the write of {number} is lost (last {last})"


def files(datastore: Path) -> list[Path]:
    """What a datastore shows."""
    found = [file for file in datastore.rglob("*") if file.is_file()]
    return [file for file in found if not any(part[0] == "." for part in file.relative_to(datastore).parts)]


async def open_streams(relay: Path) -> list[str]:
    """What a relay has open, by the names on its sides and by the slots it dials from."""
    admin = Admin(relay / "admin")
    files = await asyncio.to_thread(lambda: list(relay.glob("*.map")))
    maps = {file.name: await admin.map(file) for file in files}
    dialled = maps.pop("names.map")
    return [*(name for names in maps.values() for name in names), *dialled.values()]


async def _records(site: Site) -> list[str]:
    """Halves that are kept, and workflows that are not over."""
    url = site.database_url.replace("postgresql://", "postgresql+psycopg://", 1)
    store = Store(url or f"sqlite:///{site.state / 'hcx' / 'hcx.sqlite'}")
    try:
        halves = [*await store.all(SourceHalf), *await store.all(TargetHalf)]
        left = [f"{half.kind} {half.id}" for half in halves]
    finally:
        store.close()
    return left + (await asyncio.to_thread(_workflows, url) if url else [])


def _workflows(url: str) -> list[str]:
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            rows = connection.execute(sa.text("select workflow_uuid, status from dbos.workflow_status")).all()
    finally:
        engine.dispose()
    return [f"workflow {row[0]} {row[1]}" for row in rows if row[1] != "SUCCESS"]


def _running_tasks(site: Site) -> list[str]:
    with site.content() as content:
        infos = [task.info for task in content.taskManager.recentTask]
        left = [f"task {info.descriptionId}" for info in infos if info.state in ("running", "queued")]
        hosts = every(content, vim.HostSystem)
        return left + [f"host {host.name} is away" for host in hosts if host.runtime.connectionState != "connected"]


async def until(met: Callable[[], Any], what: str, timeout: float = _CLEAN) -> None:
    """Return as soon as `met` says so."""
    deadline = time.monotonic() + timeout
    while not met():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(_POLL)


async def until_async(look: Callable[[], Awaitable[Any]], wanted: Any, what: str, timeout: float = _CLEAN) -> None:
    """Return as soon as the awaited `look` finds what is wanted."""
    deadline = time.monotonic() + timeout
    while (found := await look()) != wanted:
        assert time.monotonic() < deadline, f"{what}: {found}"
        await asyncio.sleep(_POLL)
