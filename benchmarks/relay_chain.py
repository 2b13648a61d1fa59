"""What the way between two sites costs a byte: the relays alone, fed and drained over UNIX sockets.

    .venv/bin/python benchmarks/relay_chain.py [--mib 1500] [--runs 3] [--json]

*socket*: one UNIX socket, the physical limit. *site*: one host's relay to another's, as inside a site. *sites*: from
host to host of two sites, past two appliances. Processor seconds are those of the HAProxys; ratios are to *site*.
"""

import asyncio
import json
import os
import shutil
import socket
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import click

from landbridge.pki import Authority, PeerName
from landbridge.relay import Relay, Side
from landbridge.relay.admin import Admin

_CHUNK = 1 << 20
_TICKS = os.sysconf("SC_CLK_TCK")
_NET = "127.0.88"


@dataclass
class Way:
    """A way into a UNIX socket at `entry` that ends at `end`, and the HAProxys on it."""

    entry: Path
    end: Path
    processes: list[int]


@dataclass
class Cost:
    """MiB a second, and processor seconds of the relays a GiB."""

    rate: float
    processor: float


async def ways(root: Path, relays: list[Relay]) -> dict[str, Way]:
    """Lay the three ways; what was started is put into `relays`."""
    here, there = (Authority.create(root / name, f"site {name}") for name in ("here", "there"))

    async def relay(name: str, number: int, authority: Authority, sides: dict[str, dict[str, bool]]) -> Relay:
        built = []
        for place, (side, options) in enumerate(sides.items()):
            identity = authority.issue(
                root / f"{name}-{side}", PeerName("bench", "esx", name), dns=[f"*.{side}.{name}"]
            )
            built.append(Side(side, f"{_NET}.{number}", 8000 + place, identity, f"{side}.{name}", **options))
        made = Relay(root / name, built)
        await made.start()
        relays.append(made)
        return made

    host: dict[str, dict[str, bool]] = {"site": {}, "remote": {"foreign": True}}
    appliance = {"site": {"passes": True}, "wan": {"passes": True}}
    source, near = await relay("a", 1, here, host), await relay("i", 2, here, appliance)
    far, target = await relay("j", 3, there, appliance), await relay("b", 4, there, host)
    neighbour = await relay("c", 5, here, host)
    processes = {made: await Admin(root / name / "admin").pid() for name, made in zip("aijbc", relays, strict=True)}

    inside = Way(
        await source.dial("site", neighbour.endpoint("site", "bytes")),
        await neighbour.expose("site", "bytes"),
        [processes[source], processes[neighbour]],
    )
    end = await target.expose("remote", "bytes", (root / "here" / "ca.pem").read_text())
    passed = await far.forward("wan", "site", target.endpoint("remote", "bytes"))
    entry = await source.dial("remote", await near.forward("site", "wan", passed))
    between = Way(entry, end, [processes[made] for made in (source, near, far, target)])
    return {"socket": Way(root / "plain", root / "plain", []), "site": inside, "sites": between}


def measure(way: Way, mib: int) -> Cost:
    """Send that many MiB the way, and wait until the last byte is out at its end."""
    way.end.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as sender:
        listener.bind(str(way.end))
        listener.listen()
        received = [0]

        def drain() -> None:
            connection, _ = listener.accept()
            buffer = bytearray(_CHUNK)
            with connection:
                while count := connection.recv_into(buffer):
                    received[0] += count

        draining = threading.Thread(target=drain)
        draining.start()
        sender.connect(str(way.entry))
        chunk = os.urandom(_CHUNK)
        used, began = sum(map(_processor, way.processes)), time.perf_counter()
        for _ in range(mib):
            sender.sendall(chunk)
        sender.shutdown(socket.SHUT_WR)
        draining.join()
        took = time.perf_counter() - began
    if received[0] != mib * _CHUNK:
        raise RuntimeError(f"{received[0]} bytes of {mib * _CHUNK} arrived")
    used = sum(map(_processor, way.processes)) - used
    return Cost(mib / took, used / mib * 1024)


def _processor(pid: int) -> float:
    # The name, in parentheses, may hold anything: fields are counted from behind it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


async def run(mib: int, runs: int) -> dict[str, Cost]:
    """Medians of each way, alternating."""
    root = Path(tempfile.mkdtemp(prefix="lbc", dir="/tmp"))  # UNIX sockets need short paths
    relays: list[Relay] = []
    try:
        laid = await ways(root, relays)
        found: dict[str, list[Cost]] = {name: [] for name in laid}
        for _ in range(runs):
            for name, way in laid.items():
                found[name].append(await asyncio.to_thread(measure, way, mib))
    finally:
        for relay in relays:
            await relay.stop()
        shutil.rmtree(root)
    return {
        name: Cost(statistics.median(c.rate for c in costs), statistics.median(c.processor for c in costs))
        for name, costs in found.items()
    }


@click.command()
@click.option("--mib", default=1500, show_default=True, help="MiB sent each time.")
@click.option("--runs", default=3, show_default=True, help="Rounds; results are medians.")
@click.option("--json", "json_output", is_flag=True, help="Print JSON.")
def main(mib: int, runs: int, json_output: bool) -> None:
    """Measure what the relays cost."""
    costs = asyncio.run(run(mib, runs))
    site = costs["site"]
    if json_output:
        found = {name: {"mib_per_s": cost.rate, "processor_s_per_gib": cost.processor} for name, cost in costs.items()}
        click.echo(json.dumps({**found, "ratio_processor": costs["sites"].processor / site.processor}, indent=1))
        return
    for name, cost in costs.items():
        click.echo(
            f"{name:8} {cost.rate:6.0f} MiB/s ({cost.rate / site.rate:4.2f})"
            f"  {cost.processor:5.2f} processor s/GiB ({cost.processor / site.processor:4.2f})"
        )


if __name__ == "__main__":
    main()
