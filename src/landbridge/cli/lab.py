"""`landbridge lab`: two whole sites on this machine, up, down, and shown at work."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from landbridge.fleet.machine import MachineError
from landbridge.hcx.client import HcxError, HcxUnreachable, MigrationStatus
from landbridge.lab.build import Lab, LabError
from landbridge.lab.debian import ImageError
from landbridge.lab.demo import Evidence, carry, fresh_guest
from landbridge.lab.topology import Topology, TopologyError

_MIB = 1 << 20
_KNOWN = (LabError, MachineError, ImageError, TopologyError, HcxError, HcxUnreachable)

_prefix = click.option(
    "--prefix", default="lb", show_default=True, help="Begins the name of everything the lab makes: for a second lab."
)


@click.group()
def lab() -> None:
    """Two sites on this machine: hosts, vCenters, HCX managers and appliances in namespaces of their own."""


def _topology_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--hosts", type=int, default=2, show_default=True, help="Hosts per site."),
        click.option("--wan-mbit", type=int, default=1000, show_default=True, help="Rate of the WAN; 0 is no limit."),
        click.option("--onprem-network", default="10.10.0.0/22", show_default=True),
        click.option("--cloud-network", default="10.20.0.0/22", show_default=True),
        _prefix,
    ):
        command = option(command)
    return command


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end; what is known to go wrong comes out as one message."""
    if os.geteuid() != 0:
        work.close()
        raise click.ClickException("the lab needs root: namespaces, bridges and switches. Use sudo, or `make demo`")
    # A plain `su` on Debian leaves root without the directories that nft, sysctl and Open vSwitch are in.
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
    try:
        return asyncio.run(work)
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, _KNOWN):
            raise click.ClickException(str(first)) from group
        raise first from group
    except _KNOWN as error:
        raise click.ClickException(str(error)) from error


def _found_or_new(
    prefix: str, hosts: int, wan_mbit: int, onprem_network: str, cloud_network: str, console: Console
) -> Lab:
    """The lab that is up as it is; a new one as the options say."""
    try:
        wanted = Topology(prefix, hosts, wan_mbit, (onprem_network, cloud_network))
        there = Lab.load(prefix)
    except TopologyError as error:
        raise click.ClickException(str(error)) from error
    except LabError:
        return Lab(wanted)
    if there.topology != wanted:
        console.print("[yellow]A lab with other options is up and stays as it is; `landbridge lab down` removes it.")
    return there


@lab.command()
@_topology_options
def up(**options: Any) -> None:
    """Build both sites, start everything, pair them. Safe to run again: what is there stays."""
    console = Console(stderr=True, highlight=False)
    _run(_found_or_new(**options, console=console).up(console.print))
    console.print("Both sites are up. `landbridge lab status` shows them, `landbridge lab demo` moves a VM.")


@lab.command()
@_prefix
def down(prefix: str) -> None:
    """Remove every process, namespace, bridge and file the lab made."""
    try:
        there = Lab.load(prefix)
    except LabError:
        # Half built, or its description is gone: what it made is known by the prefix.
        there = Lab(Topology(prefix))
    _run(there.down())
    click.echo("The lab is gone.", err=True)


@lab.command()
@click.option("--json", "json_output", is_flag=True, help="Print JSON, for scripts.")
@_prefix
def status(prefix: str, json_output: bool) -> None:
    """Show what runs, where the APIs are, and where their passwords are."""
    try:
        there = Lab.load(prefix).status()
    except LabError as error:
        if json_output:
            click.echo(json.dumps({"sites": {}, "running": False, "processes": []}))
        raise click.ClickException(str(error)) from error
    if json_output:
        click.echo(json.dumps(there, indent=2))
        return
    for each in there["processes"]:
        state = f"pid {each['pid']}" if each["running"] else "DOES NOT RUN"
        click.echo(f"{each['site']:8}{each['machine']:9}{each['address']:13}{state:14}{each['log']}")
    click.echo(_logins(there))


def _logins(there: dict[str, Any]) -> str:
    """The APIs, one a line; lines for copying, which a table would cut."""
    lines = []
    for name, site in there["sites"].items():
        for product, label in (("vcenter", "vSphere"), ("nsx", "NSX"), ("hcx", "HCX")):
            login = site.get(product)
            if login is None:
                continue  # only the private cloud has NSX
            where = f"{login['url']}  user {login['user']}, password in {login['password_file']}"
            lines.append(f"{name:8}{label:9}{where}")
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------- demo


@lab.command()
@click.option("--json", "json_output", is_flag=True, help="Print the evidence as JSON, for scripts.")
@_topology_options
def demo(json_output: bool, **options: Any) -> None:
    """Carry a running VM from the on-premises site to the private cloud, live, and show what happened."""
    console = Console(stderr=True, highlight=False)
    there = _found_or_new(**options, console=console)
    evidence: Evidence = _run(_demo(there, console))
    if json_output:
        click.echo(json.dumps(_as_json(evidence), indent=2))
    else:
        _show(there, evidence)
    if evidence.faults:
        raise click.ClickException("; ".join(evidence.faults))


async def _demo(there: Lab, console: Console) -> Evidence:
    began = time.monotonic()

    def report(text: str) -> None:
        console.print(f"{time.monotonic() - began:5.1f} s  {text}", soft_wrap=True)

    await there.up(console.print)
    guest = await fresh_guest(there, report=report)
    columns = (TextColumn("{task.description:20}"), BarColumn(30), TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        disk = bars.add_task("disk", total=None, note="", visible=False)
        memory = bars.add_task("memory", total=None, note="", visible=False)

        def follow(status: MigrationStatus) -> None:
            left = f", {status.seconds_left:.0f} s left" if status.seconds_left else ""
            note = f"{status.disk_done / _MIB:.0f} of {status.disk_total / _MIB:.0f} MiB"
            rate = f", {status.rate / _MIB:.0f} MiB/s{left}" if status.rate else ""
            bars.update(
                disk,
                description=f"disk ({status.phase})",
                completed=status.disk_done,
                total=status.disk_total or None,
                note=note + rate,
                visible=True,
            )
            dirty = f", dirtied {status.dirty_rate / _MIB:.0f} MiB/s" if status.dirty_rate else ""
            bars.update(
                memory,
                completed=status.memory_done,
                total=status.memory_total or None,
                note=f"{status.memory_done / _MIB:.0f} MiB{dirty}",
                visible=True,
            )

        return await carry(there, guest, report=report, follow=follow)


def _show(there: Lab, evidence: Evidence) -> None:
    findings, migration = evidence.findings, evidence.migration
    table = Table("What", "Result", title=f"{migration.vm}: moved live from on-premises to the cloud")
    measured = f"{migration.silence_ms:.0f} ms" if migration.silence_ms is not None else "unknown"
    rows = (
        ("guest silence, seen by a client probing every 5 ms", f"{findings.silence_ms:.0f} ms"),
        ("guest pause, as QEMU measured it", measured),
        ("total time", f"{evidence.seconds:.1f} s"),
        ("disk moved", f"{migration.disk_done / _MIB:.0f} MiB"),
        ("memory moved", f"{migration.memory_done / _MIB:.0f} MiB"),
        ("counter on disk before, after", f"{evidence.counter_before:,}, {evidence.counter_after:,}"),
        ("counter: steps back; records missing on disk", f"{_steps_back(evidence)}; {evidence.records_broken}"),
        ("probes answered", f"{findings.answered:,} of {findings.sent:,}"),
        ("disk checksum inside the guest", "equal" if _intact(evidence) else "DIFFERENT"),
        ("TCP connection", _connection(evidence)),
    )
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(table if console.is_terminal else _plain(rows), soft_wrap=True)
    click.echo(_logins(there.status()))
    landbridge = "sudo .venv/bin/landbridge" if "SUDO_USER" in os.environ else ".venv/bin/landbridge"
    click.echo(
        "Both sites stay up. Go on with:\n"
        f"  {landbridge} vm --site cloud list\n"
        f"  {landbridge} hcx migrate demo --back\n"
        "  make down"
    )


def _plain(rows: Sequence[tuple[str, str]]) -> str:
    """The table's rows for a file or a pipe, where nobody knows the width."""
    return "\n".join(f"{what:52}{result}" for what, result in rows)


def _steps_back(evidence: Evidence) -> int:
    return evidence.findings.udp.backwards + evidence.findings.tcp.backwards


def _intact(evidence: Evidence) -> bool:
    return evidence.checksum_expected == evidence.checksum_before == evidence.checksum_after


def _connection(evidence: Evidence) -> str:
    findings = evidence.findings
    if findings.tcp_same_connection:
        return f"the same one throughout, {findings.tcp_lines:,} lines"
    return f"BROKEN: {findings.tcp_error or 'no more lines'}"


def _as_json(evidence: Evidence) -> dict[str, Any]:
    findings, migration = evidence.findings, evidence.migration
    return {
        "silence_ms": findings.silence_ms,
        "pause_ms": migration.silence_ms,
        "seconds": evidence.seconds,
        "disk_bytes": migration.disk_done,
        "memory_bytes": migration.memory_done,
        "counter_before": evidence.counter_before,
        "counter_after": evidence.counter_after,
        "counter_steps_back": _steps_back(evidence),
        "records_missing": evidence.records_broken,
        "checksum_equal": _intact(evidence),
        "tcp_same_connection": findings.tcp_same_connection,
        "faults": evidence.faults,
    }
