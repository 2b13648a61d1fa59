"""Daemons of Open vSwitch's and OVN's kind: detached, known by their pid files, found again by whoever comes later.

    daemons = Daemons("Open vSwitch", run_dir, SwitchError)
    daemons.add("ovs-vswitchd", start_it)
    await daemons.start()
    daemons.watch()

They run in the network namespace of the caller (or in `namespace`), with their files in `run_dir`, and go on when the
caller ends. While `Daemons` watches, it starts what died.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from landbridge.esx.commands import CommandError, run_command

_log = logging.getLogger(__name__)

_RESTART_PAUSE = 1.0  # seconds between attempts to start a daemon that does not come up, or not for long
_STOP_TIMEOUT = 5.0  # seconds between SIGTERM and SIGKILL

_Action = Callable[[], Awaitable[None]]


class Daemons:
    """The daemons of one directory, in the order in which they start. Who changes what they do holds `lock`."""

    def __init__(self, what: str, run_dir: Path, error: type[Exception], *, namespace: str | None = None) -> None:
        """`what` they are, for the log; `error` is what a command that fails raises."""
        self.run_dir = run_dir
        self.namespace = namespace
        self.lock = asyncio.Lock()
        # Awaited, with the lock held, when daemons were started again: what is not in their database is theirs to do.
        self.on_restart: list[_Action] = []
        self._what = what
        self._error = error
        self._daemons: dict[str, _Action] = {}
        self._unsettled = False
        self._watcher: asyncio.Task[None] | None = None
        places = ("RUNDIR", "LOGDIR", "DBDIR", "SYSCONFDIR")
        self._environment = {
            **os.environ,
            **{f"{product}_{place}": str(run_dir) for product in ("OVS", "OVN") for place in places},
        }

    def add(self, name: str, start: _Action) -> None:
        """One more daemon; `start` is awaited whenever it does not run."""
        self._daemons[name] = start

    # -- life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the daemons, or find those that run."""
        async with self.lock:
            await self._start()
        self._unsettled = False  # whoever starts us settles everything now

    def watch(self) -> None:
        """Keep the daemons up until `close` or `stop`."""
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._keep_up(), name=f"{self._what} watcher")

    async def close(self) -> None:
        """Let go of the daemons, which go on."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None

    async def stop(self) -> None:
        """End the daemons, the last one first."""
        await self.close()
        async with self.lock:
            for name in reversed(self._daemons):
                await self.end(name)

    async def keep(self, name: str, start: _Action) -> None:
        """Start one more daemon, if it does not run, and keep it up as well. With the lock held."""
        self.add(name, start)
        if self.pid(name) is None:
            await start()
        self._look_again()

    def let_go(self, name: str) -> None:
        """Do not start a daemon any more that `keep` named. With the lock held."""
        self._daemons.pop(name, None)
        self._look_again()

    def _look_again(self) -> None:
        # Not while it starts something: for that it holds the lock, which our caller has.
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
            self.watch()

    async def _start(self) -> None:
        for name, start in list(self._daemons.items()):
            if self.pid(name) is None:
                self._unsettled = True
                await start()

    async def _keep_up(self) -> None:
        """Sleep until a daemon dies, start it again, and so on. Nothing is polled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with self.lock:
                    await self._start()
                    if self._unsettled:
                        for action in self.on_restart:
                            await action()
                        self._unsettled = False
                    pids = self.pids()
            except (self._error, OSError) as error:
                _log.error("%s does not start: %s", self._what, error)
                await asyncio.sleep(_RESTART_PAUSE)
                continue
            since = loop.time()
            # One may have died since it was started: then there is nothing to wait for.
            if None not in pids.values():
                await _first_exit([pid for pid in pids.values() if pid is not None])
            _log.warning("%s in %s lost a process; starting it again", self._what, self.run_dir)
            if loop.time() < since + _RESTART_PAUSE:
                await asyncio.sleep(_RESTART_PAUSE)

    # -- processes ------------------------------------------------------------------------------------------

    async def daemon(self, name: str, *arguments: str, program: str = "") -> None:
        """Start a daemon, detached; `program` if it has another name."""
        await self.execute(
            program or name,
            *arguments,
            f"--pidfile={self._pid_file(name)}",
            f"--log-file={self.run_dir / name}.log",
            "-vconsole:off",
            "-vfile:warn",
            "--detach",
            "--no-chdir",
        )

    def unixctl(self, name: str) -> str:
        """The argument for a daemon that takes the place of its control socket."""
        return f"--unixctl={self.run_dir / name}.ctl"

    def pids(self) -> dict[str, int | None]:
        """The process of each daemon."""
        return {name: self.pid(name) for name in self._daemons}

    def pid(self, name: str) -> int | None:
        """The process of a daemon, if it is the one of this directory: its command line names our pid file."""
        try:
            pid = int(self._pid_file(name).read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if f"--pidfile={self._pid_file(name)}".encode() in words else None

    async def end(self, name: str) -> None:
        """End a daemon: it gets a few seconds for it."""
        pid = self.pid(name)
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            if not await self.ended(pid):
                os.kill(pid, signal.SIGKILL)
                await self.ended(pid)

    async def ended(self, pid: int) -> bool:
        """Whether a process ends within a few seconds."""
        try:
            await asyncio.wait_for(_first_exit([pid]), _STOP_TIMEOUT)
        except TimeoutError:
            return False
        return True

    async def execute(self, *arguments: str) -> str:
        """Run a command where the daemons are and return what it prints; the owner's error if it fails."""
        command = [*(("ip", "netns", "exec", self.namespace) if self.namespace else ()), *arguments]
        try:
            return await run_command(*command, environment=self._environment)
        except CommandError as error:
            raise self._error(str(error)) from error

    def _pid_file(self, name: str) -> Path:
        return self.run_dir / f"{name}.pid"


async def _first_exit(pids: list[int]) -> None:
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
