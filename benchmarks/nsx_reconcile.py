"""How long the network's realisation takes: a big snapshot from nothing, again without a change, and after one change.

    sudo .venv/bin/python -m benchmarks.nsx_reconcile [--json]

The databases are real. `committed` is the time from a new snapshot to the transaction's end in the northbound database,
`northd` until ovn-northd has written the southbound one too. `cpu` is this process's processor time for it, in which
what else the machine does is not. No host is connected.
"""

import argparse
import asyncio
import gc
import json
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from landbridge.nsx.ovn.central import Central
from landbridge.nsx.ovn.compile import compile_snapshot
from landbridge.nsx.ovn.difference import difference, present
from landbridge.nsx.ovn.northbound import Northbound
from landbridge.nsx.ovn.reconcile import Reconciler
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.model.gateways import Advertisement, Tier0, Tier1
from landbridge.nsx.policy.model.security import (
    Condition,
    Group,
    L4PortSetServiceEntry,
    Rule,
    SecurityPolicy,
    Service,
)
from landbridge.nsx.policy.model.segments import Segment, SegmentSubnet
from landbridge.nsx.snapshot import Machine, Snapshot, Vif

_DEADLINE = 300.0  # seconds
_TIER1S = 20
_GROUPS = 100
_PER_POLICY = 50  # rules
_POLICIES = "/infra/domains/default/security-policies"


def big(segments: int, ports: int, rules: int) -> Snapshot:
    """Tier-1s with segments, VMs spread over them with a tag each, and rules between the groups of these tags."""
    intents: list[Intent] = [Tier0(path="/infra/tier-0s/t0")]
    for number in range(_TIER1S):
        path = f"/infra/tier-1s/t{number:02}"
        connected = [Advertisement.CONNECTED]
        intents.append(Tier1(path=path, tier0_path="/infra/tier-0s/t0", route_advertisement_types=connected))
    paths = [f"/infra/segments/s{number:04}" for number in range(segments)]
    for number, path in enumerate(paths):
        subnet = SegmentSubnet(gateway_address=f"10.{number >> 8}.{number & 255}.1/24")
        intents.append(Segment(path=path, connectivity_path=f"/infra/tier-1s/t{number % _TIER1S:02}", subnets=[subnet]))
    entry = L4PortSetServiceEntry(l4_protocol="TCP", destination_ports=["443", "8000-8010"])
    intents.append(Service(path="/infra/services/s", service_entries=[entry]))
    groups = [f"/infra/domains/default/groups/g{number:03}" for number in range(_GROUPS)]
    for number, path in enumerate(groups):
        condition = Condition(member_type="VirtualMachine", key="Tag", operator="EQUALS", value=f"app|a{number}")
        intents.append(Group(path=path, expression=[condition]))
    for number in range(rules):
        policy = f"{_POLICIES}/p{number // _PER_POLICY:03}"
        if number % _PER_POLICY == 0:
            intents.append(SecurityPolicy(path=policy, sequence_number=number))
        intents.append(
            Rule(
                path=f"{policy}/rules/r{number % _PER_POLICY:02}",
                parent_path=policy,
                sequence_number=number % _PER_POLICY,
                action="ALLOW" if number % 3 else "DROP",
                source_groups=[groups[number % _GROUPS]],
                destination_groups=[groups[(number * 7 + 1) % _GROUPS]],
                services=["/infra/services/s"],
            )
        )
    machines = [machine(number, paths[number % segments]) for number in range(ports)]
    return Snapshot(1, {intent.path: intent for intent in intents}, {one.id: one for one in machines})


def machine(number: int, segment: str) -> Machine:
    mac = f"00:50:56:00:{number >> 8:02x}:{number & 255:02x}"
    place = int(segment[-4:])
    address = f"10.{place >> 8}.{place & 255}.{10 + number // 1000 % 200}"
    vif = Vif(f"vif-{number}", f"vm-{number}", 4000, mac, segment, (address,))
    tags = (("app", f"a{number % _GROUPS}"),)
    return Machine(f"vm-{number}", f"vm{number}", "esx01", powered_on=True, tags=tags, vifs=(vif,))


class Source:
    """Snapshots as the manager gives them."""

    def __init__(self) -> None:
        self._snapshot = Snapshot(0, {})
        self._changed = asyncio.Condition()

    async def newer(self, sequence: int) -> Snapshot:
        async with self._changed:
            await self._changed.wait_for(lambda: self._snapshot.sequence > sequence)
            return self._snapshot

    async def give(self, snapshot: Snapshot) -> None:
        async with self._changed:
            self._snapshot = snapshot
            self._changed.notify_all()


async def measure(directory: Path, segments: int, ports: int, rules: int, runs: int) -> dict[str, Any]:
    central = Central(run_dir=directory / "run", state_dir=directory / "state")
    await central.start()
    source, northbound = Source(), Northbound(central.northbound)
    reconciler = Reconciler(northbound, source.newer)
    task = asyncio.create_task(reconciler.run())

    async def committed(snapshot: Snapshot) -> float:
        begin = time.perf_counter()
        await source.give(snapshot)
        await asyncio.wait_for(reconciler.committed(snapshot.sequence), _DEADLINE)
        return time.perf_counter() - begin

    async def followed(snapshot: Snapshot) -> None:
        await asyncio.wait_for(reconciler.settled(snapshot.sequence), _DEADLINE)

    try:
        snapshot = big(segments, ports, rules)
        begin = time.perf_counter()
        filled = await committed(snapshot)
        await followed(snapshot)
        northd = time.perf_counter() - begin
        unchanged, changed, spent = [], [], []
        for number in range(runs):
            snapshot = replace(snapshot, sequence=snapshot.sequence + 1)
            unchanged.append(await committed(snapshot))
            extra = machine(ports + number, "/infra/segments/s0000")
            machines = {**snapshot.machines, extra.id: extra}
            snapshot = replace(snapshot, sequence=snapshot.sequence + 1, machines=machines)
            before = time.process_time()
            changed.append(await committed(snapshot))
            spent.append(time.process_time() - before)
            await followed(snapshot)
        tables = northbound.tables()
        gc.disable()  # as the reconciler does
        begin = time.perf_counter()
        wanted = compile_snapshot(snapshot, present(tables))
        compiled = time.perf_counter() - begin
        begin = time.perf_counter()
        nothing = difference(wanted.rows, tables)
        compared = time.perf_counter() - begin
        if nothing.operations:
            raise RuntimeError("a second pass would write something")
        return {
            "rows": len(wanted.rows),
            "empty_committed_s": round(filled, 2),
            "empty_northd_s": round(northd, 2),
            "no_change_ms": round(statistics.median(unchanged) * 1000),
            "one_change_committed_ms": round(statistics.median(changed) * 1000),
            "one_change_committed_worst_ms": round(max(changed) * 1000),
            "one_change_cpu_ms": round(statistics.median(spent) * 1000),
            "compile_ms": round(compiled * 1000),
            "compare_ms": round(compared * 1000),
        }
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await central.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=1000)
    parser.add_argument("--ports", type=int, default=5000)
    parser.add_argument("--rules", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="lbbench"))
    try:
        sizes = arguments.segments, arguments.ports, arguments.rules
        result = asyncio.run(measure(directory, *sizes, arguments.runs))
    finally:
        shutil.rmtree(directory)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:30} {value}")


if __name__ == "__main__":
    main()
