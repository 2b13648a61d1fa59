"""A lab and the guest that travels in it: where it is, how to send it on, and whether anything is out of order."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyVmomi import vim

from landbridge.hcx.client import HcxClient, HcxError, HcxUnreachable, MigrationStatus
from landbridge.lab.build import Lab
from landbridge.lab.guest import GuestVm
from landbridge.lab.inventory import PORT_GROUP, vsphere
from landbridge.lab.network import Network
from landbridge.lab.probe import Findings
from landbridge.lab.topology import Node
from landbridge.relay.admin import Admin, AdminError

SITES = ("onprem", "cloud")
_PATIENCE = 200.0  # seconds for anything to happen, on a machine that may be busy with other tests
_POLL = 0.1
_PART = 8 << 20  # bytes
_PROBE_STREAM = "probe."  # the appliances measure their tunnel over it, paired as they are


def other(site: str) -> str:
    """The site that `site` is paired with."""
    return SITES[1 - SITES.index(site)]


async def until(what: str, happened: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something has happened; AssertionError says what did not."""
    try:
        async with asyncio.timeout(_PATIENCE):
            while not await happened():  # noqa: ASYNC110
                await asyncio.sleep(_POLL)
    except TimeoutError:
        raise AssertionError(f"not within {_PATIENCE:.0f} s: {what}") from None


@dataclass(frozen=True)
class Stage:
    """The lab and its guest."""

    lab: Lab
    guest: GuestVm

    # -- migrations -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def connector(self) -> AsyncIterator[HcxClient]:
        """A session at the connector."""
        login = self.lab.login("onprem", "hcx")
        async with HcxClient(login.url, login.ca) as hcx:
            await hcx.login(login.user, login.password)
            yield hcx

    async def start(self, source: str) -> str:
        """Start to move the guest from `source` to the other site, as soon as nothing is in the way; the id."""
        async with self.connector() as hcx:
            order = await self._order(hcx, source)

            async def possible() -> bool:
                return not await hcx.validate(order)

            await until(f"the guest can leave {source}", possible)
            return await hcx.start(order)

    async def _order(self, hcx: HcxClient, source: str) -> dict[str, Any]:
        networks = {
            site: next(
                str(network["entity_id"])
                for network in await hcx.inventory("networks", remote=site == "cloud")
                if network["name"] == PORT_GROUP
            )
            for site in SITES
        }
        vm = await self.guest.reference(source)
        return await hcx.spec(vm, networks={networks[source]: networks[other(source)]}, back=source == "cloud")

    async def reached(self, migration: str, arrived: Callable[[MigrationStatus], bool]) -> MigrationStatus:
        """The first status that has `arrived`; a connector that is away is waited for."""
        seen: list[MigrationStatus] = []

        async def look() -> bool:
            try:
                async with self.connector() as hcx:
                    async for status in hcx.follow(migration, 0.02):
                        seen[:] = [status]
                        if arrived(status):
                            return True
                        assert not status.final, status
            except HcxUnreachable:
                pass
            except HcxError as error:
                # 401: the session was the dead connector's.
                if error.status not in (401, 503):
                    raise
            return False

        try:
            await until(f"migration {migration} arrives", look)
        except AssertionError as error:
            raise AssertionError(f"{error}; last seen: {seen}") from error
        return seen[0]

    async def copying(self, migration: str) -> None:
        """Wait until a part of the disk is at the target."""
        await self.reached(migration, lambda status: status.phase == "disk" and status.disk_done > _PART)

    async def ended(self, migration: str) -> MigrationStatus:
        """The migration's final status."""
        return await self.reached(migration, lambda status: status.final)

    async def carry(self) -> str:
        """Move the guest to the other site, where it must arrive; which that is."""
        source = await self.at()
        status = await self.ended(await self.start(source))
        assert status.state == "MIGRATED", status
        assert await self.at() == other(source)
        return other(source)

    async def bring(self, site: str) -> None:
        """Have the guest at `site`."""
        if await self.at() != site:
            await self.carry()

    # -- what must always be so -----------------------------------------------------------------------------------

    async def at(self) -> str:
        """The one site that runs the guest, as soon as all is in order; AssertionError says what is not."""
        found: list[str] = []

        async def orderly() -> bool:
            found[:] = await self.disorder()
            return not found

        try:
            await until("all is in order", orderly)
        except AssertionError as error:
            raise AssertionError(f"{error}: {'; '.join(found)}") from error
        return next(iter(await self.guest.where()))

    async def disorder(self) -> list[str]:
        """All that is not as it must be when no migration is under way: one running copy, nothing left elsewhere."""
        known, running = await self.guest.where(), [node.site for node in self.running()]
        wrong = []
        if list(known.values()) != ["poweredOn"] or running != list(known):
            wrong.append(f"the vCenters know {known}, QEMU runs at {running}")
        for site in SITES:
            if site not in known and self.directory(site).exists():
                wrong.append(f"{self.directory(site)} is left")
            moves = self.lab.topology.state_dir / site / "ix" / "state" / "moves"
            wrong += [f"{file} is left" for file in moves.glob("*")]
            wrong += await self._streams(self.lab.site(site).ix)
        return wrong

    def running(self) -> list[Node]:
        """The hosts with a QEMU of the guest, one entry a process, as the kernel tells."""
        marks = {f"/{node.site}-{node.name}/": node for node in (self.host(site) for site in SITES)}
        ours = str(self.lab.topology.run_dir)
        return [
            node
            for pid in _pids()
            if (words := _command_line(pid)) and "qemu-system" in words[0] and f"guest={self.guest.name}," in words[2]
            for word in words
            for mark, node in marks.items()
            if word.startswith(ours + mark) and word.endswith("/pid")
        ]

    async def _streams(self, node: Node) -> list[str]:
        """What the relay of an appliance has open, but for the tunnel's probe."""
        directory = self.lab.network.node(node).directory / "run" / "relay"
        admin = Admin(directory / "admin")
        try:
            names = [
                name for file in directory.glob("*.map") for item in (await admin.map(file)).items() for name in item
            ]
        except AdminError as error:
            return [f"{node.full_name}: {error}"]
        return [
            f"{node.full_name} has the stream {name} open"
            for name in names
            if "." in name and not name.startswith(_PROBE_STREAM)
        ]

    # -- the guest ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[list[Findings]]:
        """Nothing the guest or its clients have is lost in this context, and no client sees two copies of it."""
        before = int((await self.guest.ask("verify"))["last"])
        async with self.guest.watched() as found:
            yield found
            # Whatever happened, the guest has to answer before the probes end.
            await self.counts(1)
        findings = found[0]
        assert findings.udp.backwards == findings.tcp.backwards == 0, findings
        assert findings.tcp_same_connection, findings
        records, status = await self.guest.ask("verify"), await self.guest.ask("status")
        assert records["broken"] == 0, records
        assert int(records["last"]) >= max(before, findings.udp.last or 0, findings.tcp.last or 0), (records, findings)
        assert status["write_errors"] == 0, status
        assert (await self.guest.ask("checksum"))["checksum"] == await self.guest.expected_checksum()

    async def counts(self, records: int) -> None:
        """Wait until the guest wrote as many records more."""
        begin = int((await self.guest.ask("verify"))["last"])

        async def written() -> bool:
            return int((await self.guest.ask("verify"))["last"]) >= begin + records

        await until(f"the guest writes {records} records", written)

    def directory(self, site: str) -> Path:
        """The VM's directory in the datastore of the site's host."""
        return self.lab.topology.state_dir / site / self.host(site).name / "datastore" / self.guest.name

    def identity(self, site: str) -> dict[str, Any]:
        """What must be the same wherever the VM is, as the site's vCenter tells. Blocks."""
        with vsphere(self.lab.login(site, "vcenter")) as service:
            content = service.content
            view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
            config = next(vm.config for vm in view.view if vm.name == self.guest.name)
            return {
                "uuids": (config.uuid, config.instanceUuid),
                "guest": (config.name, config.guestId, config.version, config.firmware),
                "size": (config.hardware.numCPU, config.hardware.numCoresPerSocket, config.hardware.memoryMB),
                "devices": sorted(_device(device) for device in config.hardware.device),
            }

    # -- misfortune -----------------------------------------------------------------------------------------------

    def host(self, site: str) -> Node:
        return self.lab.site(site).esx[0]

    @asynccontextmanager
    async def slow_wan(self, mbit: int = 100) -> AsyncIterator[None]:
        """A WAN that leaves time to act while the guest is copied."""
        try:
            await self._limit_wan(mbit)
            yield
        finally:
            await self._limit_wan(self.lab.topology.wan_mbit)

    async def _limit_wan(self, mbit: int) -> None:
        network = Network(replace(self.lab.topology, wan_mbit=mbit))
        for site in self.lab.topology.sites:
            await network.limit_wan(site)

    @asynccontextmanager
    async def no_wan(self) -> AsyncIterator[None]:
        """Not a packet between the sites."""
        try:
            await self.lab.network.cut_wan(cut=True)
            yield
        finally:
            await self.lab.network.cut_wan(cut=False)

    def kill(self, node: Node) -> None:
        """Kill a node's daemon."""
        pid = self.lab.network.node(node).state(node.role).pid
        assert pid is not None, node
        os.kill(pid, signal.SIGKILL)

    async def kill_host(self, node: Node) -> None:
        """Kill a host's agent, then its relay and all its VMs."""
        self.kill(node)
        machine = self.lab.network.node(node)
        inside = (await machine.execute("ip", "netns", "pids", machine.name)).split()
        for pid in map(int, inside):
            words = _command_line(pid)
            if words and (words[0] == "haproxy" or "qemu-system" in words[0]):
                os.kill(pid, signal.SIGKILL)

    async def start_again(self, node: Node) -> None:
        """Start a node's daemon that died."""
        await self.lab.start_service(node)
        await self.lab.wait_ready(node)

    async def standing_still(self, source: str) -> None:
        """Wait until the source host wrote down that it paused the guest to switch over."""
        journals = self.lab.topology.state_dir / source / self.host(source).name / "state" / "vmotion"
        [move] = [file for file in journals.glob("out-*.json") if _phase(file) not in ("succeeded", "failed")]
        async with asyncio.timeout(_PATIENCE):
            while _phase(move) not in ("switchover", "in-doubt", "succeeded", "failed"):  # noqa: ASYNC110
                await asyncio.sleep(0.002)


def _device(device: Any) -> tuple[Any, ...]:
    backing = device.backing
    disk = isinstance(device, vim.vm.device.VirtualDisk)
    return (
        device.key,
        type(device).__name__,
        device.controllerKey,
        device.unitNumber,
        getattr(device, "macAddress", None),
        (device.capacityInBytes, backing.uuid, backing.thinProvisioned, backing.diskMode) if disk else None,
    )


def _phase(journal: Path) -> str:
    try:
        return str(json.loads(journal.read_text())["phase"])
    except (OSError, ValueError):
        return ""  # it is being written


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _command_line(pid: int) -> list[str]:
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
    except OSError:
        return []
