"""Open vSwitch on a host: its processes, which outlive the agent, and the way to give it commands.

    ovs = OpenVSwitch(run_dir=Path("/run/landbridge/esx01/switch"))
    await ovs.start()
    await ovs.vsctl("--may-exist", "add-br", "dvs0")
    ovs.watch()

`ovsdb-server`, `ovs-vswitchd` and what else is given to `keep` run detached in the network namespace of the caller (or
in `namespace`), with their files in `run_dir`, and go on when the agent ends; a new `OpenVSwitch` on the same
directory finds them again. While it watches, it starts what died.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

_log = logging.getLogger(__name__)

_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
_COMMAND_TIMEOUT = 20.0  # seconds; a vsctl waits for vswitchd, which takes up to 2 s on a busy machine
_RESTART_PAUSE = 1.0  # seconds between attempts to start a daemon that does not come up, or not for long
_STOP_TIMEOUT = 5.0  # seconds between SIGTERM and SIGKILL

_Action = Callable[[], Awaitable[None]]


class SwitchError(Exception):
    """The switch could not do what was asked: what, and what Open vSwitch or the kernel said."""


def _kernel_datapath() -> bool:
    """Whether the kernel has (not merely could be built with) its own Open vSwitch datapath."""
    return Path("/sys/module/openvswitch").exists()


class OpenVSwitch:
    """The daemons of one host. Who changes what they do holds `lock`."""

    def __init__(self, *, run_dir: Path, namespace: str | None = None) -> None:
        """`run_dir` holds sockets, so its path must be short."""
        self.run_dir = run_dir
        self.namespace = namespace
        self.lock = asyncio.Lock()
        # `system` is the kernel's datapath, `netdev` the one in userspace; known after `start`.
        self.datapath = "netdev"
        # Awaited, with the lock held, when daemons were started again: what is not in their database is theirs to do.
        self.on_restart: list[_Action] = []
        self._daemons: dict[str, _Action] = {"ovsdb-server": self._start_database, "ovs-vswitchd": self._start_switch}
        self._unsettled = False
        self._watcher: asyncio.Task[None] | None = None
        places = ("RUNDIR", "LOGDIR", "DBDIR", "SYSCONFDIR")
        self._environment = {
            **os.environ,
            **{f"{product}_{place}": str(run_dir) for product in ("OVS", "OVN") for place in places},
        }

    # -- life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the daemons, or find those that run."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        if not _kernel_datapath():
            with contextlib.suppress(SwitchError, FileNotFoundError):
                await self.execute("modprobe", "--quiet", "openvswitch")
        self.datapath = "system" if _kernel_datapath() else "netdev"
        async with self.lock:
            await self._start_daemons()
        self._unsettled = False  # whoever starts us settles everything now

    def watch(self) -> None:
        """Keep the daemons up until `close` or `stop`."""
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._keep_up(), name="switch watcher")

    async def close(self) -> None:
        """Let go of the daemons; frames go on flowing."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None

    async def stop(self) -> None:
        """End the daemons."""
        await self.close()
        async with self.lock:
            for daemon in reversed(self._daemons):
                await self.end(daemon)

    async def keep(self, daemon: str, start: _Action) -> None:
        """Start one more daemon, if it does not run, and keep it up as well. With the lock held."""
        self._daemons[daemon] = start
        if self.pid(daemon) is None:
            await start()
        self._look_again()

    def let_go(self, daemon: str) -> None:
        """Do not start a daemon any more that `keep` named. With the lock held."""
        self._daemons.pop(daemon, None)
        self._look_again()

    def _look_again(self) -> None:
        # Not while it starts something: for that it holds the lock, which our caller has.
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
            self.watch()

    async def _start_daemons(self) -> None:
        for daemon, start in list(self._daemons.items()):
            if self.pid(daemon) is None:
                self._unsettled = True
                await start()

    async def _start_database(self) -> None:
        database = self.run_dir / "conf.db"
        if not database.exists():
            await self.execute("ovsdb-tool", "create", str(database), str(_SCHEMA))
        await self.daemon("ovsdb-server", str(database), f"--remote=punix:{self.socket}", self._unixctl("ovsdb-server"))
        await self.vsctl("--no-wait", "init")

    async def _start_switch(self) -> None:
        userspace = [] if self.datapath == "system" else ["--disable-system"]
        await self.daemon("ovs-vswitchd", f"unix:{self.socket}", *userspace, self._unixctl("ovs-vswitchd"))

    def _unixctl(self, name: str) -> str:
        return f"--unixctl={self.run_dir / name}.ctl"

    async def daemon(self, name: str, *arguments: str) -> None:
        """Start a daemon of Open vSwitch's family, detached."""
        await self.execute(
            name,
            *arguments,
            f"--pidfile={self.run_dir / name}.pid",
            f"--log-file={self.run_dir / name}.log",
            "-vconsole:off",
            "-vfile:warn",
            "--detach",
            "--no-chdir",
        )

    async def _keep_up(self) -> None:
        """Sleep until a daemon dies, start it again, and so on. Nothing is polled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with self.lock:
                    await self._start_daemons()
                    if self._unsettled:
                        for action in self.on_restart:
                            await action()
                        self._unsettled = False
                    pids = [pid for daemon in self._daemons if (pid := self.pid(daemon)) is not None]
            except (SwitchError, OSError) as error:
                _log.error("Open vSwitch does not start: %s", error)
                await asyncio.sleep(_RESTART_PAUSE)
                continue
            since = loop.time()
            await _first_exit(pids)
            _log.warning("Open vSwitch in %s lost a process; starting it again", self.run_dir)
            if loop.time() < since + _RESTART_PAUSE:
                await asyncio.sleep(_RESTART_PAUSE)

    def pid(self, daemon: str) -> int | None:
        """The process of `daemon`, if it is the one of this switch: its command line names our directory."""
        try:
            pid = int((self.run_dir / f"{daemon}.pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if f"--pidfile={self.run_dir / daemon}.pid".encode() in words else None

    async def end(self, daemon: str) -> None:
        """End a daemon: it gets a few seconds for it."""
        pid = self.pid(daemon)
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

    # -- commands -------------------------------------------------------------------------------------------

    @property
    def socket(self) -> Path:
        """Where the database listens."""
        return self.run_dir / "db.sock"

    async def vsctl(self, *arguments: str) -> str:
        """Run `ovs-vsctl` and return what it prints; SwitchError if it fails."""
        limit = f"--timeout={int(_COMMAND_TIMEOUT) - 5}"
        return await self.execute("ovs-vsctl", f"--db=unix:{self.socket}", limit, *arguments)

    async def execute(self, *arguments: str) -> str:
        """Run a command where the switch is and return what it prints; SwitchError if it fails."""
        command = [*(("ip", "netns", "exec", self.namespace) if self.namespace else ()), *arguments]
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(), _COMMAND_TIMEOUT)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise SwitchError(f"{' '.join(command)}: no answer in {_COMMAND_TIMEOUT:.0f} s") from None
        if process.returncode != 0:
            raise SwitchError(f"{' '.join(command)}: {errors.decode(errors='replace').strip() or process.returncode}")
        return output.decode(errors="replace")

    async def has_interface(self, name: str) -> bool:
        """Whether the kernel has an interface of that name where the switch is."""
        try:
            await self.execute("ip", "link", "show", "dev", name)
        except SwitchError:
            return False
        return True


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
