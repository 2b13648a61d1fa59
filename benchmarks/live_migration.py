"""A live migration with its disk: bare QEMU, landbridge's whole stack, and libvirt; the same guest, alternating.

    .venv/bin/python -m benchmarks.live_migration [--runs 5] [--json]

Each round boots the guest anew, lets it settle, and moves it once under each of the three: (a) two QEMUs over QMP on
loopback, (b) an HCX vMotion from site to site through both vCenters, both managers and both interconnects, (c)
`virsh migrate --live --copy-storage-all` between two libvirtd in namespaces, if libvirt is installed. Total is the time
from asking until the guest runs at the target and the source is gone; silence is the longest time a client on the
guest's network went without an answer. Results are medians; ratios are to (a).
"""

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from benchmarks.bare_qmp import BarePair
from benchmarks.libvirt_pair import LibvirtPair
from benchmarks.rig import network, wait_ready, watched
from landbridge.hcx.client import HcxClient
from landbridge.lab.build import Lab
from landbridge.lab.guest import GuestVm
from landbridge.lab.image import GuestSettings
from landbridge.lab.inventory import PORT_GROUP
from landbridge.lab.topology import Topology

_SETTLE = 3.0  # seconds after the guest's first answer, for its services to have started
_POLL = 0.5  # seconds between questions how a migration goes
_MACHINE, _CPU = "pc-q35-7.2", "qemu64"


@dataclass
class Result:
    """One move: seconds in all, milliseconds of silence, and the TCP connection's fate."""

    total: float
    silence_ms: float
    connection_kept: bool


async def bare(directory: Path, dirty: int) -> Result:
    namespace = "lbbare"
    with network(namespace, ["source", "target"]):
        pair = BarePair(directory / "bare", namespace, ("source", "target"), _MACHINE, _CPU)
        try:
            await pair.boot(dirty)
            await wait_ready(namespace)
            await asyncio.sleep(_SETTLE)
            async with watched(namespace) as found:
                total = await pair.migrate()
        finally:
            await pair.close()
    return Result(total, found[0].silence_ms, found[0].tcp_same_connection)


async def landbridge(lab: Lab, dirty: int) -> Result:
    guest = GuestVm(lab, name="bench")
    await guest.create(settings=GuestSettings(dirty_mib=32, dirty_mib_per_s=dirty))
    try:
        await guest.power_on()
        await guest.wait_ready()
        await asyncio.sleep(_SETTLE)
        login = lab.login("onprem", "hcx")
        async with HcxClient(login.url, login.ca) as hcx:
            await hcx.login(login.user, login.password)
            networks = await _network_map(hcx)
            spec = await hcx.spec(await guest.reference("onprem"), networks=networks)
            async with guest.watched() as found:
                # The manager's clock is this machine's: to ask often would take the processor from what is measured.
                began = time.time()
                migration = await hcx.start(spec)
                while not (status := (await hcx.query(migration))[0]).final:  # noqa: ASYNC110 - a REST API is polled
                    await asyncio.sleep(_POLL)
        if status.state != "MIGRATED" or status.ended is None:
            raise RuntimeError(f"the migration ended as {status.state}: {status.error}")
        total = status.ended - began
    finally:
        await guest.destroy()
    return Result(total, found[0].silence_ms, found[0].tcp_same_connection)


async def _network_map(hcx: HcxClient) -> dict[str, str]:
    found = [await hcx.inventory("networks", remote=remote) for remote in (False, True)]
    ours, theirs = (next(item for item in items if item["name"] == PORT_GROUP) for items in found)
    return {ours["entity_id"]: theirs["entity_id"]}


async def libvirt(directory: Path, dirty: int) -> Result:
    pair = LibvirtPair(directory / "libvirt", "lbvirt")
    try:
        await asyncio.to_thread(pair.start)
        await asyncio.to_thread(pair.boot, dirty)
        await wait_ready(pair.namespace("a"))
        await asyncio.sleep(_SETTLE)
        async with watched(pair.namespace("a")) as found:
            total = await asyncio.to_thread(pair.migrate)
    finally:
        await asyncio.to_thread(pair.close)
        shutil.rmtree(directory / "libvirt", ignore_errors=True)
    return Result(total, found[0].silence_ms, found[0].tcp_same_connection)


async def measure(runs: int, dirty: int) -> dict[str, list[Result]]:
    """`runs` rounds of every peer; a lab of its own, one host a site, is built and removed."""
    lab = Lab(Topology(prefix="lbm", hosts=1, wan_mbit=0, networks=("10.30.0.0/22", "10.40.0.0/22")))
    results: dict[str, list[Result]] = {"bare": [], "landbridge": []}
    with tempfile.TemporaryDirectory(prefix="lbm") as work:
        directory = Path(work)
        peers: dict[str, Callable[[], Awaitable[Result]]] = {
            "bare": lambda: bare(directory, dirty),
            "landbridge": lambda: landbridge(lab, dirty),
        }
        if shutil.which("libvirtd") and shutil.which("virsh"):
            peers["libvirt"] = lambda: libvirt(directory, dirty)
            results["libvirt"] = []
        try:
            await lab.up(lambda text: print(text, file=sys.stderr))
            for number in range(runs):
                for name, move in peers.items():
                    result = await move()
                    results[name].append(result)
                    print(f"round {number + 1} {name}: {result}", file=sys.stderr)
        finally:
            await lab.down()
    return results


def summary(results: dict[str, list[Result]]) -> dict[str, object]:
    """Medians, and ratios to bare QEMU."""
    medians = {
        name: (statistics.median(r.total for r in runs), statistics.median(r.silence_ms for r in runs))
        for name, runs in results.items()
    }
    total, silence = medians["bare"]
    summed: dict[str, object] = {
        "ratio_total": medians["landbridge"][0] / total,
        "ratio_silence": medians["landbridge"][1] / silence,
        "runs": {name: [asdict(run) for run in runs] for name, runs in results.items()},
    }
    for name, (seconds, milliseconds) in medians.items():
        summed[f"{name}_total"], summed[f"{name}_silence_ms"] = seconds, milliseconds
    if "libvirt" in medians:
        summed["ratio_total_libvirt"] = medians["libvirt"][0] / total
        summed["ratio_silence_libvirt"] = medians["libvirt"][1] / silence
    return summed


@click.command()
@click.option("--runs", default=5, show_default=True, help="Rounds; results are medians.")
@click.option("--dirty", default=10, show_default=True, help="MiB of memory the guest rewrites a second.")
@click.option("--json", "json_output", is_flag=True, help="Print JSON.")
def main(runs: int, dirty: int, json_output: bool) -> None:
    """Measure live migrations side by side."""
    results = asyncio.run(measure(runs, dirty))
    summed = summary(results)
    if json_output:
        click.echo(json.dumps(summed, indent=1))
        return
    total, silence = float(str(summed["bare_total"])), float(str(summed["bare_silence_ms"]))
    click.echo(f"{'median of ' + str(runs):14} {'total':>9} {'ratio':>6} {'silence':>10} {'ratio':>6}")
    for name in results:
        seconds, milliseconds = float(str(summed[f"{name}_total"])), float(str(summed[f"{name}_silence_ms"]))
        click.echo(
            f"{name:14} {seconds:7.2f} s {seconds / total:6.2f} {milliseconds:7.0f} ms {milliseconds / silence:6.2f}"
        )


if __name__ == "__main__":
    main()
