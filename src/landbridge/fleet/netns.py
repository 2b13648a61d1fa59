"""A machine that is a network namespace of this one, with its services as detached processes.

A service leaves `<name>.service` (pid and start time, so that a pid used again by another process is not mistaken for
it) and `<service>.log` in the machine's directory.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from landbridge.esx.commands import CommandError, run_command
from landbridge.fleet.machine import Machine, MachineError, ServiceState

_POLL = 0.05  # seconds, where the kernel can not tell us
_KILL_TIMEOUT = 5.0
_START_TIME_FIELD = 21  # of /proc/PID/stat, counted from 0


class NamespaceMachine(Machine):
    """The namespace `name` (as `ip netns` knows it); services keep their files in `directory`."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory

    @property
    def exists(self) -> bool:
        return Path("/run/netns", self.name).exists()

    async def create(self) -> None:
        """Make the namespace, or keep the one that is there. It speaks IPv4 only, and does not forward."""
        if not self.exists:
            await run("ip", "netns", "add", self.name)
        await self.execute("ip", "link", "set", "lo", "up")
        await self.set_kernel_parameters(
            {"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"}
        )

    async def set_kernel_parameters(self, parameters: Mapping[str, str]) -> None:
        """sysctl settings of this namespace."""
        await self.execute("sysctl", "-q", "-w", *(f"{name}={value}" for name, value in parameters.items()))

    async def links(self, *commands: str) -> None:
        """Run `ip` commands (without the word `ip`) in one go."""
        await run("ip", "-n", self.name, "-batch", "-", content="".join(f"{line}\n" for line in commands))

    async def remove(self) -> None:
        """End every process in the namespace, and the namespace. All may be gone already."""
        if not self.exists:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not await self._signal_all(number):
                break
        await run("ip", "netns", "delete", self.name)

    async def _signal_all(self, number: signal.Signals) -> bool:
        """Signal every process in the namespace and wait for them to go; True if some did not."""
        deadline = asyncio.get_running_loop().time() + _KILL_TIMEOUT
        while pids := [int(pid) for pid in (await run("ip", "netns", "pids", self.name)).split()]:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            await asyncio.sleep(_POLL)
            _reap(pids)
            if asyncio.get_running_loop().time() > deadline:
                return True
        return False

    # -- Machine ----------------------------------------------------------------------------------------------

    async def execute(self, *argv: str, timeout: float = 30) -> str:
        return await run("ip", "netns", "exec", self.name, *argv, timeout=timeout)

    async def start(self, service: str, argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> int:
        pid = self.state(service).pid or await self._orphan(argv)
        self.directory.mkdir(parents=True, exist_ok=True)
        if pid is None:
            pid = self._spawn(service, argv, environment or {})
        self._file(service, "service").write_text(f"{pid} {_start_time(pid)}\n")
        return pid

    def _spawn(self, service: str, argv: Sequence[str], environment: Mapping[str, str]) -> int:
        log = str(self._file(service, "log"))
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        # Not asyncio's or subprocess's: their objects end or warn about a child that is meant to outlive them.
        return os.posix_spawnp(
            "ip",
            ["ip", "netns", "exec", self.name, *argv],
            {**os.environ, **environment},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, append, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )

    async def _orphan(self, argv: Sequence[str]) -> int | None:
        """A process with exactly this command line, of a caller that died before it wrote the pid down."""
        wanted = [word.encode() for word in argv]
        for pid in (await run("ip", "netns", "pids", self.name)).split():
            if _command_line(int(pid)) == wanted:
                return int(pid)
        return None

    async def stop(self, service: str, *, timeout: float = 15) -> None:
        for number, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, _KILL_TIMEOUT)):
            pid = self.state(service).pid
            if pid is None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = asyncio.get_running_loop().time() + patience
            while self.state(service).running and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(_POLL)
        if self.state(service).running:
            raise MachineError(f"{self.name}: {service} did not end, not even by SIGKILL")
        self._file(service, "service").unlink(missing_ok=True)

    def state(self, service: str) -> ServiceState:
        log = self._file(service, "log")
        try:
            pid, started = (int(word) for word in self._file(service, "service").read_text().split())
        except (OSError, ValueError):
            return ServiceState(service, None, log)
        _reap([pid])
        return ServiceState(service, pid if _start_time(pid) == started else None, log)

    def services(self) -> list[ServiceState]:
        """Every service that was started here and not stopped."""
        return [self.state(path.stem) for path in sorted(self.directory.glob("*.service"))]

    def _file(self, service: str, kind: str) -> Path:
        return self.directory / f"{service}.{kind}"


async def run(*argv: str, timeout: float = 30, content: str | None = None) -> str:
    """Run a program on this machine to its end; its standard output, or MachineError with its complaint."""
    try:
        return await run_command(*argv, content=content, timeout=timeout)
    except CommandError as error:
        raise MachineError(f"{error}{' in: ' + content if content else ''}") from error


def _command_line(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return []


def _start_time(pid: int) -> int | None:
    """When the process began, in ticks since boot; None if it is gone or waits only to be reaped."""
    try:
        # The name, in parentheses, may hold anything: fields are counted from behind it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[_START_TIME_FIELD - 2])


def _reap(pids: Sequence[int]) -> None:
    """Collect those that were our children; others have another parent."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
