"""A QEMU process that outlives the agent: started in a session of its own, found again through its pid file.

QEMU keeps a lock on its pid file for as long as it lives, and the kernel tells who holds a lock. So whether a VM's
process lives, and which one it is, never rests on a number in a file that may be another process's by now; and a
second QEMU for the same VM refuses to start.
"""

import asyncio
import fcntl
import os
import signal
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from landbridge.esx.faults import Fault

_FLOCK = "hhqqi4x"  # struct flock: type, whence, start, length, pid
_LONGEST_SOCKET = 107  # sun_path of unix(7), without the terminating zero


def lock_holder(path: Path) -> int | None:
    """The process that holds a POSIX lock on `path`, if one does."""
    try:
        with path.open("rb") as file:
            question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, question))
    except FileNotFoundError:
        return None
    return None if kind == fcntl.F_UNLCK else int(pid)


def started_at(pid: int) -> float:
    """When a process was started, in seconds since the epoch (proc(5): field 22 of stat, btime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    return int(boot.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")


class QemuProcess:
    """The process of one VM and its sockets, in `directory` (of the host's run directory)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pid_file = directory / "pid"
        self.qmp = directory / "qmp.sock"
        self.tools = directory / "tools.sock"
        self.vnc = directory / "vnc.sock"
        self.run_states = directory / "run-states.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._pidfd: int | None = None
        self._exited: asyncio.Event = asyncio.Event()
        self._exited.set()
        self.pid: int | None = None

    @property
    def alive(self) -> bool:
        """Whether the process that was started or found still runs."""
        return not self._exited.is_set()

    def sockets(self) -> list[str]:
        """The command-line options that make QEMU keep its pid file and sockets here."""
        return ["-pidfile", str(self.pid_file), "-qmp", f"unix:{self.qmp},server=on,wait=off"]

    def start(self, command: Sequence[str], log: Path) -> None:
        """Start QEMU. What it prints is added to `log`. Fault if a process of this VM lives already."""
        if self.find():
            raise Fault("InvalidState", f"a process of this VM, {self.pid}, is alive already")
        too_long = max((self.qmp, self.tools), key=lambda path: len(str(path)))
        if len(os.fsencode(too_long)) > _LONGEST_SOCKET:
            raise Fault("SystemError", f"{too_long} is too long a path for a socket: set a shorter run_dir")
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for stale in (self.pid_file, self.qmp, self.tools, self.vnc):
            stale.unlink(missing_ok=True)
        with log.open("ab") as output:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            output.write(f"{stamp} start: {' '.join(command)}\n".encode())
            output.flush()
            # A session of its own: signals to the agent's process group or terminal do not reach it.
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self._watch(self._child.pid)

    def find(self) -> bool:
        """Look for the VM's process; True if it lives. Needed once after the agent's start."""
        if self.alive:
            return True
        pid = lock_holder(self.pid_file)
        if pid is None:
            return False
        try:
            self._watch(pid)
        except ProcessLookupError:
            return False
        if lock_holder(self.pid_file) != pid:  # it ended, and its number may be another's, between the two looks
            self._gone()
            return False
        return True

    async def wait(self) -> None:
        """Wait until the process ended (at once if there is none)."""
        await self._exited.wait()

    async def kill(self, timeout: float = 30.0) -> None:
        """Kill the process and return when it is certain that it is dead. TimeoutError if it will not die."""
        if self._pidfd is not None:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                self._gone()
        try:
            async with asyncio.timeout(timeout):
                await self._exited.wait()
        except TimeoutError:
            raise TimeoutError(f"process {self.pid} did not die within {timeout:g} s of SIGKILL") from None

    def forget(self) -> None:
        """Stop watching; the process goes on. For the end of the agent."""
        self._unwatch()

    def exit_text(self, log: Path) -> str:
        """The last line QEMU printed, for an error message."""
        try:
            lines = log.read_bytes()[-4096:].decode(errors="replace").strip().splitlines()
        except OSError:
            return "no output"
        return lines[-1] if lines else "no output"

    def _watch(self, pid: int) -> None:
        # A pidfd becomes readable when its process ends, be it our child or one that we found.
        self._pidfd = os.pidfd_open(pid)
        self.pid = pid
        self._exited.clear()
        asyncio.get_running_loop().add_reader(self._pidfd, self._gone)

    def _unwatch(self) -> None:
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _gone(self) -> None:
        self._unwatch()
        if self._child is not None:
            self._child.poll()  # reaps it
            self._child = None
        self._exited.set()
