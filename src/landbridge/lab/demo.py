"""Carry a running VM from the on-premises site to the cloud and measure what its guest and its clients noticed.

Only public APIs are used: vCenter's to make the VM, HCX's to move it. The guest is watched from the lab's client.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from landbridge.hcx.client import HcxClient, MigrationStatus
from landbridge.lab.build import Lab, LabError
from landbridge.lab.guest import GuestVm
from landbridge.lab.inventory import PORT_GROUP
from landbridge.lab.probe import Findings

_FOLLOW_INTERVAL = 0.2  # seconds
_SETTLE = 1.0  # seconds of probes before and after the move, to see the guest answer undisturbed

Follow = Callable[[MigrationStatus], None]


@dataclass(frozen=True)
class Evidence:
    """What one move showed."""

    migration: MigrationStatus
    findings: Findings
    seconds: float  # from the request to start the migration until HCX said it was over
    checksum_expected: str
    checksum_before: str
    checksum_after: str
    counter_before: int
    counter_after: int
    records_broken: int  # of the counter's records on the disk, read after the move
    write_errors: int

    @property
    def faults(self) -> list[str]:
        """Everything the guest or its clients lost; empty as it must be."""
        channels = (self.findings.udp, self.findings.tcp)
        checks = (
            (self.migration.state == "MIGRATED", f"the migration is {self.migration.state}: {self.migration.error}"),
            (not any(channel.backwards for channel in channels), "the counter went backwards"),
            (self.counter_after >= self.counter_before, "the counter on the disk went backwards"),
            (self.records_broken == 0, f"{self.records_broken} of the counter's records on disk are missing or torn"),
            (self.write_errors == 0, f"the guest saw {self.write_errors} writes fail"),
            (self.checksum_before == self.checksum_expected, "the disk was not what was uploaded before the move"),
            (self.checksum_after == self.checksum_before, "the disk's content changed on the way"),
            (self.findings.tcp_same_connection, f"the TCP connection broke: {self.findings.tcp_error or 'silent'}"),
        )
        return [text for passed, text in checks if not passed]


async def fresh_guest(lab: Lab, name: str = "demo", *, report: Callable[[str], None], data_mib: int = 200) -> GuestVm:
    """A running guest on-premises. One of that name from before, at either site, is deleted."""
    guest = GuestVm(lab, name)
    report("building the guest's disk (kept for the next time) and uploading it through vCenter")
    await guest.destroy()
    await guest.create(data_mib=data_mib)
    report(f"powering on {name}")
    await guest.power_on()
    await guest.wait_ready()
    report(f"{name} serves at {guest.address}")
    return guest


async def migrate(lab: Lab, guest: GuestVm, *, back: bool = False, follow: Follow | None = None) -> MigrationStatus:
    """Move the guest's VM by HCX vMotion, to the cloud or back; the migration's final status.

    `follow` hears how it goes. LabError if HCX says beforehand that it can not work.
    """
    login = lab.login("onprem", "hcx")
    async with HcxClient(login.url, login.ca) as hcx:
        await hcx.login(login.user, login.password)
        order = await _order(hcx, await guest.reference("cloud" if back else "onprem"), back=back)
        if problems := await hcx.validate(order):
            raise LabError(f"HCX can not move {guest.name}: {'; '.join(problems)}")
        status = None
        async for status in hcx.follow(await hcx.start(order), _FOLLOW_INTERVAL):
            if follow is not None:
                follow(status)
        await hcx.logout()
    if status is None:
        raise LabError(f"HCX forgot the migration of {guest.name}")
    return status


async def _order(hcx: HcxClient, vm: str, *, back: bool) -> dict[str, Any]:
    networks = {
        site: next(
            str(network["entity_id"])
            for network in await hcx.inventory("networks", remote=remote)
            if network["name"] == PORT_GROUP
        )
        for site, remote in (("onprem", False), ("cloud", True))
    }
    mapping = {networks["onprem"]: networks["cloud"]}
    if back:
        mapping = {networks["cloud"]: networks["onprem"]}
    return await hcx.spec(vm, networks=mapping, back=back)


async def carry(lab: Lab, guest: GuestVm, *, report: Callable[[str], None], follow: Follow | None = None) -> Evidence:
    """Move the running guest to the cloud, watched, with the disk's checksum taken inside before and after."""
    expected = await guest.expected_checksum()
    report("taking the checksum of the disk inside the guest")
    before = await guest.ask("checksum")
    counter = int((await guest.ask("verify"))["last"])
    report("moving it to the cloud, a client probing every 5 ms")
    async with guest.watched() as found:
        await asyncio.sleep(_SETTLE)
        began = time.monotonic()
        migration = await migrate(lab, guest, follow=follow)
        seconds = time.monotonic() - began
        await asyncio.sleep(_SETTLE)
    report("taking the checksum again")
    after, records, status = [await guest.ask(command) for command in ("checksum", "verify", "status")]
    return Evidence(
        migration=migration,
        findings=found[0],
        seconds=seconds,
        checksum_expected=expected,
        checksum_before=str(before["checksum"]),
        checksum_after=str(after["checksum"]),
        counter_before=counter,
        counter_after=int(records["last"]),
        records_broken=int(records["broken"]),
        write_errors=int(status["write_errors"]),
    )
