"""A real OVN central, a reconciler over it, and a snapshot that tests change."""

import asyncio
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from landbridge.nsx.ovn.central import Central
from landbridge.nsx.ovn.northbound import Northbound
from landbridge.nsx.ovn.reconcile import Reconciler
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.snapshot import Machine, Realized, Snapshot, Vif

DEADLINE = 30.0  # seconds


def vif(number: int, segment: str, *addresses: str) -> Vif:
    mac = f"00:50:56:00:{number >> 8:02x}:{number & 255:02x}"
    return Vif(f"vif-{number}", f"vm-{number}", 4000, mac, segment, addresses)


def machine(number: int, segment: str, *addresses: str, **fields: Any) -> Machine:
    """A VM with one NIC on a segment."""
    settings = {"name": f"vm{number}", "host": "esx01", "powered_on": True, **fields}
    return Machine(id=f"vm-{number}", vifs=(vif(number, segment, *addresses),), **settings)


class Tree:
    """The snapshot's source: `put` and `drop` make a newer one."""

    def __init__(self) -> None:
        self.snapshot = Snapshot(0, {})
        self._changed = asyncio.Condition()

    async def newer(self, sequence: int) -> Snapshot:
        async with self._changed:
            await self._changed.wait_for(lambda: self.snapshot.sequence > sequence)
            return self.snapshot

    async def put(
        self,
        *intents: Intent,
        machines: Iterable[Machine] = (),
        moves: dict[str, tuple[str, str]] | None = None,
        drop: Iterable[str] = (),
    ) -> int:
        known = {path: intent for path, intent in self.snapshot.intents.items() if path not in set(drop)}
        known |= {intent.path: intent for intent in intents}
        here = {**self.snapshot.machines, **{one.id: one for one in machines}}
        async with self._changed:
            self.snapshot = replace(
                self.snapshot,
                sequence=self.snapshot.sequence + 1,
                intents=known,
                machines=here,
                moves=self.snapshot.moves if moves is None else moves,
            )
            self._changed.notify_all()
        return self.snapshot.sequence

    async def clear(self) -> int:
        self.snapshot = Snapshot(self.snapshot.sequence, {})
        return await self.put()


class Site:
    """Central, tree and reconciler."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.central = Central(run_dir=directory / "run", state_dir=self.state)
        self.tree = Tree()
        self.reconciler = Reconciler(Northbound(self.central.northbound), self.tree.newer)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.central.start()
        self.go_on()

    async def stop(self) -> None:
        await self.pause()
        await self.central.stop()

    def go_on(self) -> None:
        """Reconcile from here on."""
        self._task = asyncio.create_task(self.reconciler.run())

    async def pause(self) -> None:
        """Reconcile no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def put(self, *intents: Intent, **more: Any) -> None:
        """Change the tree and wait until ovn-northd has followed."""
        await self.settled(await self.tree.put(*intents, **more))

    async def settled(self, sequence: int | None = None) -> None:
        number = self.tree.snapshot.sequence if sequence is None else sequence
        await asyncio.wait_for(self.reconciler.settled(number), DEADLINE)

    def realized(self, path: str) -> list[Realized]:
        return self.reconciler.realized(path)

    async def nbctl(self, *arguments: str) -> str:
        return await run("ovn-nbctl", f"--db=unix:{self.central.northbound}", "--timeout=10", *arguments)

    async def sbctl(self, *arguments: str) -> str:
        return await run("ovn-sbctl", f"--db=unix:{self.central.southbound}", "--timeout=10", *arguments)

    async def rows(self, table: str, *columns: str) -> list[list[Any]]:
        answer = json.loads(await self.nbctl("--format=json", f"--columns={','.join(columns)}", "list", table))
        return sorted(answer["data"], key=str)

    async def trace(self, switch: str, flow: str, *options: str) -> str:
        """What OVN's own simulation of its flows does with a packet: the parts that say so."""
        remote = f"--db=unix:{self.central.southbound}"
        return await run("ovn-trace", remote, *options, switch, flow)


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "OVN_RUNDIR": "/nonexistent"},
    )
    output, _ = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert process.returncode == 0, f"{command}: {output.decode()}"
    return output.decode()


async def until(condition: Any, what: str) -> None:
    """Poll an asynchronous condition to its truth."""
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE
    while not await condition():
        assert loop.time() < end, f"not within {DEADLINE:.0f} s: {what}"
        await asyncio.sleep(0.05)
