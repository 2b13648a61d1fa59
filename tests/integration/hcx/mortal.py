"""Managers and vCenters that die where a test says; see `mortal_program`."""

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

# Steps of a relocation, as `mortal_program` names its points: where vCenter goes on after its death, and where it has
# asked one host and not the other and gives the move up.
VCENTER_GOES_ON = (
    "relocate:begun",  # its task is kept, who asked for it has no answer yet
    "noted.pool",
    "start_outgoing:done",
    "vmotion:done",  # it watches
    "verdict",
    "arrived:done",
    "settle:done",
    "ended.VirtualMachine.relocate",
)
VCENTER_GIVES_UP = ("noted.vmotion", "prepare_incoming:done")

_DEATH = 60.0  # seconds within which a program gets where it is to die


class Mortal:
    """One forked program; what tests do with `subprocess.Popen`, they do with it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)

    def __del__(self) -> None:
        os.close(self._handle)

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

    def poll(self) -> int | None:
        """None while it lives."""
        return 0 if self._ended(0) else None

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended(timeout):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return 0

    def _ended(self, timeout: float | None) -> bool:
        return bool(select.select([self._handle], [], [], timeout)[0])


class Mortals:
    """The process that forks them."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.integration.hcx.mortal_program"]
        root = Path(__file__).parents[3]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=root
        )

    def start(self, program: str, config: Path, log: Path, fate: Path) -> Mortal:
        """`program` with that configuration; `fate` is where its fate will be written."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"program": program, "config": str(config), "log": str(log), "fate": str(fate)}
        print(json.dumps(order), file=self._process.stdin)
        answer = self._process.stdout.readline()
        assert answer, f"the forking process ended: {self._process.poll()}"
        return Mortal(int(answer))

    def close(self) -> None:
        """No more of them; those that live go on."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


class Fate:
    """What will happen to one program, and whether it did."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._held = file.with_suffix(".held")
        self._deaths = file.with_suffix(".deaths")

    def set(self, *events: str) -> None:
        """`kill POINT` and `hold POINT`, in the order in which they will happen."""
        self.clear()
        new = self.file.with_suffix(".next")
        new.write_text("\n".join(events))
        new.rename(self.file)

    def clear(self) -> None:
        self.file.unlink(missing_ok=True)
        self._held.unlink(missing_ok=True)
        self._deaths.unlink(missing_ok=True)

    async def holds(self) -> None:
        """Wait until the program is held."""
        deadline = time.monotonic() + _DEATH
        while not self._held.exists():
            assert time.monotonic() < deadline, f"never came to {self.file.read_text()!r}"
            await asyncio.sleep(0.02)

    def release(self) -> None:
        self._held.unlink()

    async def kills(self, process: Mortal) -> None:
        """Wait until the program has died, and see that it did so where its fate said."""
        try:
            await asyncio.to_thread(process.wait, _DEATH)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"never came to {self.file.read_text()!r}") from None
        assert str(process.pid) in self._deaths.read_text().split(), f"died before {self.file.read_text()!r}"
