"""A daemon of OVN's kind: detached, known by its pid file, found again by whoever comes later."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

_STOP_TIMEOUT = 5.0  # seconds between SIGTERM and SIGKILL


class CentralError(Exception):
    """OVN's central part could not do what was asked: what, and what the engine said."""


class Daemon:
    """One program in `run_dir`, where its pid file, control socket and log are."""

    def __init__(self, program: str, name: str, run_dir: Path, namespace: str | None) -> None:
        self.name = name
        self._program = program
        self._run = run_dir
        self._namespace = namespace
        self._pidfile = run_dir / f"{name}.pid"

    def pid(self) -> int | None:
        """The process, if it is this one: its command line names our pid file."""
        try:
            pid = int(self._pidfile.read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if f"--pidfile={self._pidfile}".encode() in words else None

    async def start(self, *arguments: str) -> None:
        """Start it if it does not run. CentralError with what it said."""
        if self.pid() is not None:
            return
        await execute(
            self._program,
            *arguments,
            f"--pidfile={self._pidfile}",
            f"--unixctl={self._run / self.name}.ctl",
            f"--log-file={self._run / self.name}.log",
            "-vconsole:off",
            "-vfile:warn",
            "--detach",
            "--no-chdir",
            run_dir=self._run,
            namespace=self._namespace,
        )

    async def stop(self) -> None:
        """End it: in order, or by force if it does not listen."""
        pid = self.pid()
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            try:
                await asyncio.wait_for(first_exit([pid]), _STOP_TIMEOUT)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                await asyncio.wait_for(first_exit([pid]), _STOP_TIMEOUT)


async def execute(*arguments: str, run_dir: Path, namespace: str | None = None, timeout: float = 20.0) -> str:
    """Run a command of Open vSwitch or OVN to its end; its directories are `run_dir`. CentralError if it fails."""
    command = [*(("ip", "netns", "exec", namespace) if namespace else ()), *arguments]
    directories = {f"{who}_{what}": str(run_dir) for who in ("OVS", "OVN") for what in ("RUNDIR", "LOGDIR", "DBDIR")}
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **directories},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), timeout)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise CentralError(f"{' '.join(command)}: no answer in {timeout:.0f} s") from None
    if process.returncode != 0:
        raise CentralError(f"{' '.join(command)}: {errors.decode(errors='replace').strip() or process.returncode}")
    return output.decode(errors="replace")


async def first_exit(pids: Sequence[int]) -> None:
    """Wait until one of these processes has ended, without polling."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptors = []
    try:
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                return
            descriptors.append(descriptor)
            loop.add_reader(descriptor, ended.set)
        await ended.wait()
    finally:
        for descriptor in descriptors:
            loop.remove_reader(descriptor)
            os.close(descriptor)
