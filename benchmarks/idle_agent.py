"""What a host agent costs when nothing happens: processor time and memory with 10 running VMs.

    .venv/bin/python -m benchmarks.idle_agent [--vms 10] [--seconds 60] [--json]

The VMs are small ones without a system; their QEMUs' own use does not count, the agent's does, with somebody following
its events as vCenter does. Limits: 1% of a core, 120 MiB.
"""

import asyncio
import json
import os
import tempfile
from pathlib import Path

import click
from tests.integration.esx.hosts import TestHost, running_hosts

_TICKS = os.sysconf("SC_CLK_TCK")
_SETTLE = 10.0  # seconds until the last power-on's work is over


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _resident_mib(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def _follow(host: TestHost) -> None:
    since = 0
    while True:
        heard = await host.client.events(since, 20)
        since = max([since, *(event.seq for event in heard.events)])


async def measure(vms: int, seconds: float) -> dict[str, float]:
    """Percent of a core over `seconds`, and MiB."""
    with tempfile.TemporaryDirectory() as work:
        async with running_hosts(Path(work), "bench") as (host,):
            for number in range(vms):
                await host.create_running(f"idle{number:02}")
            following = asyncio.create_task(_follow(host))
            await asyncio.sleep(_SETTLE)
            before = _cpu_seconds(host.agent_pid)
            await asyncio.sleep(seconds)
            used = _cpu_seconds(host.agent_pid) - before
            memory = _resident_mib(host.agent_pid)
            following.cancel()
    return {"vms": vms, "cpu_percent_of_core": 100 * used / seconds, "resident_mib": memory}


@click.command()
@click.option("--vms", default=10, show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="How long to look.")
@click.option("--json", "json_output", is_flag=True, help="Print JSON.")
def main(vms: int, seconds: float, json_output: bool) -> None:
    """Measure an idle agent."""
    found = asyncio.run(measure(vms, seconds))
    if json_output:
        click.echo(json.dumps(found))
    else:
        click.echo(f"{vms} VMs: {found['cpu_percent_of_core']:.2f}% of a core, {found['resident_mib']:.0f} MiB")


if __name__ == "__main__":
    main()
