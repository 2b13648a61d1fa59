"""Services in a network namespace: started apart, found again, ended, and nobody else's touched."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from landbridge.fleet import MachineError, NamespaceMachine

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[NamespaceMachine]:
    machine = NamespaceMachine(f"lbt{os.getpid()}x", tmp_path)
    await machine.create()
    yield machine
    await machine.remove()


async def up(machine: NamespaceMachine, service: str) -> None:
    """Wait for the service's first word in its log."""
    log = machine.state(service).log
    async with asyncio.timeout(20):
        while not log.exists() or "up" not in log.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_service_runs_in_the_namespace_in_a_session_of_its_own(machine: NamespaceMachine) -> None:
    pid = await machine.start("sleeper", SLEEP)
    await up(machine, "sleeper")
    assert str(pid) in (await machine.execute("ip", "netns", "pids", machine.name)).split()
    assert os.getsid(pid) == pid


async def test_starting_a_service_again_leaves_it_alone(machine: NamespaceMachine) -> None:
    pid = await machine.start("sleeper", SLEEP)
    assert await machine.start("sleeper", SLEEP) == pid
    (machine.directory / "sleeper.service").unlink()
    await up(machine, "sleeper")
    assert await machine.start("sleeper", SLEEP) == pid, "a service whose starter died before writing its pid down"


async def test_a_service_outlives_who_started_it(machine: NamespaceMachine) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path; from landbridge.fleet import NamespaceMachine\n"
        f"asyncio.run(NamespaceMachine({machine.name!r}, Path({str(machine.directory)!r})).start('child', {SLEEP!r}))"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=True, timeout=30)
    assert machine.state("child").running
    await up(machine, "child")


async def test_a_service_that_was_killed_is_seen_and_started_again(machine: NamespaceMachine) -> None:
    pid = await machine.start("sleeper", SLEEP)
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while machine.state("sleeper").running:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await machine.start("sleeper", SLEEP) != pid


async def test_a_service_that_ignores_sigterm_is_ended_by_force(machine: NamespaceMachine) -> None:
    await machine.start("stubborn", STUBBORN)
    await up(machine, "stubborn")
    await machine.stop("stubborn", timeout=0.2)
    assert not machine.state("stubborn").running
    assert machine.services() == []


async def test_a_pid_that_now_belongs_to_another_process_is_not_ours(machine: NamespaceMachine) -> None:
    (machine.directory / "old.service").write_text(f"{os.getpid()} 1\n")
    assert not machine.state("old").running
    await machine.stop("old")


async def test_removing_a_machine_ends_everything_in_it(machine: NamespaceMachine) -> None:
    pid = await machine.start("stubborn", SLEEP)
    await machine.remove()
    await machine.remove()
    assert not machine.exists
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_command_that_fails_says_what_and_why(machine: NamespaceMachine) -> None:
    with pytest.raises(MachineError, match=r"link show dev nothing: .*does not exist"):
        await machine.execute("ip", "link", "show", "dev", "nothing")
    with pytest.raises(MachineError, match="did not end in 0 s"):
        await machine.execute("sleep", "60", timeout=0.1)
