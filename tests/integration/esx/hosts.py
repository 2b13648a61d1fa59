"""Real host agents on loopback addresses, for tests: started, killed, started again, and cleaned up after."""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landbridge.esx.client import HostClient, HostUnreachable
from landbridge.esx.model import (
    Controller,
    ControllerType,
    CreateVm,
    Disk,
    HostInfo,
    Nic,
    PowerOperation,
    PowerState,
    VmConfig,
    VmState,
)
from landbridge.esx.process import lock_holder
from landbridge.pki import Authority, PeerName
from landbridge.relay.admin import Admin, AdminError

SITE = "onprem"
MIB = 1 << 20
_UP = 30.0  # seconds an agent may take to answer on a busy machine
_numbers = itertools.count(1)


def loopback() -> str:
    """An address of 127/8 that no other test run uses."""
    return f"127.{os.getpid() >> 8 & 0x7F | 0x80}.{os.getpid() & 0xFF}.{next(_numbers)}"


def vm_config(name: str, **changes: Any) -> VmConfig:
    """A small VM: one pvscsi disk of 64 MiB, one vmxnet3."""
    settings: dict[str, Any] = {
        "name": name,
        "instance_uuid": str(uuid.uuid4()),
        "uuid": str(uuid.uuid4()),
        "memory_mib": 32,
        "controllers": [Controller(key=1000, type=ControllerType.PVSCSI, bus=0)],
        "disks": [Disk(key=2000, controller=1000, unit=0, capacity=64 * MIB)],
        "nics": [Nic(key=4000)],
    }
    return VmConfig(**settings | changes)


@dataclass(frozen=True)
class Place:
    """Where an agent runs: its address, what puts a command into its network namespace, its uplink and TEP there."""

    address: str
    prefix: tuple[str, ...] = ()
    uplink: str | None = None
    tep: str = ""
    tep_address: str = ""


class TestHost:
    """One agent with its directories. `datastore` is the path of `datastore1`."""

    __test__ = False

    def __init__(
        self, name: str, directory: Path, run_dir: Path, authority: Authority, place: Place | None = None
    ) -> None:
        self.name = name
        self.place = place or Place(loopback())
        self.address = self.place.address
        self.state = directory / name / "state"
        self.run = run_dir / name
        self.datastore = directory / name / "datastore1"
        self.log = directory / f"{name}.log"
        self._config = directory / f"{name}.toml"
        self._process: asyncio.subprocess.Process | None = None
        names = [name, f"*.vmotion.{name}"]
        self.identity = authority.issue(
            directory / name / "pki", PeerName(SITE, "esx", name), dns=names, addresses=[self.address]
        )
        vcenter = authority.issue(directory / "vcenter", PeerName(SITE, "vcenter", "vcenter"), addresses=["127.0.0.1"])
        self.client = HostClient(self.address, 443, vcenter)
        switch = f'[switch]\nuplink = "{self.place.uplink}"\n' if self.place.uplink else ""
        if self.place.tep:
            switch += f'tep = "{self.place.tep}"\ntep_address = "{self.place.tep_address}"\n'
        self._config.write_text(
            f'name = "{name}"\nsite = "{SITE}"\nstate_dir = "{self.state}"\nrun_dir = "{self.run}"\n'
            f'pki_dir = "{self.identity.directory}"\n'
            f'[management]\naddress = "{self.address}"\n[vmotion]\naddress = "{self.address}"\n'
            f'[[datastores]]\nname = "datastore1"\npath = "{self.datastore}"\n{switch}'
        )

    async def start(self, dies: str = "") -> HostInfo:
        """Start the agent, or one that dies at a point (as `vmotion/dying_agent.py` takes it); wait for its answer."""
        dying = str(Path(__file__).parent / "vmotion" / "dying_agent.py")
        program = [dying, *dies.split()] if dies else ["-m", "landbridge.esx"]
        with self.log.open("ab") as log:
            # A process group of its own, so that a test can kill all of it.
            self._process = await asyncio.create_subprocess_exec(
                *(*self.place.prefix, sys.executable, *program, "--config", str(self._config)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        deadline = asyncio.get_running_loop().time() + _UP
        while True:
            try:
                return await self.client.host()
            except HostUnreachable as error:
                late = asyncio.get_running_loop().time() > deadline
                if late or self._process.returncode is not None:
                    raise AssertionError(f"{error}\n{self.log.read_text()[-2000:]}") from error
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """SIGKILL for the agent and its whole process group."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def restart(self) -> HostInfo:
        """Kill the agent and start it again."""
        await self.kill()
        return await self.start()

    @property
    def agent_pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def qemu_pid(self, vm: VmState) -> int | None:
        """The process of a VM's QEMU, by the lock it holds."""
        return lock_holder(self.run / vm.config.instance_uuid / "pid")

    async def create(self, name: str, **changes: Any) -> VmState:
        """A VM of `vm_config` on this host."""
        return await self.client.create_vm(CreateVm(config=vm_config(name, **changes), datastore="datastore1"))

    async def create_running(self, name: str, **changes: Any) -> VmState:
        """A running VM of `vm_config` on this host."""
        state = await self.create(name, **changes)
        return await self.client.power(state.config.instance_uuid, PowerOperation.ON)

    async def wait_for(self, vm: VmState, met: Callable[[VmState], bool], timeout: float = 30.0) -> VmState:
        """The VM's state as soon as `met` says so."""
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            state = await self.client.vm(vm.config.instance_uuid)
            if met(state):
                return state
            assert asyncio.get_running_loop().time() < deadline, f"not reached: {state}"
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """End the agent, every QEMU it left, and its switch."""
        if self._process is not None and self._process.returncode is None:
            await self.kill()
        await self.client.close()
        for pid_file in self.run.glob("*/pid"):
            if (pid := lock_holder(pid_file)) is not None:
                os.kill(pid, signal.SIGKILL)
                await asyncio.to_thread(_wait_for_end, pid_file)
        # The agent is dead: it starts none of them again.
        for pid_file in (self.run / "switch").glob("*.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(pid_file.read_text()), signal.SIGKILL)
        with contextlib.suppress(AdminError):  # an agent that never came up has no relay
            os.kill(await Admin(self.run / "relay" / "admin").pid(), signal.SIGKILL)


def _wait_for_end(pid_file: Path) -> None:
    deadline = time.monotonic() + _UP
    while lock_holder(pid_file) is not None and time.monotonic() < deadline:
        time.sleep(0.01)


@contextlib.asynccontextmanager
async def running_hosts(directory: Path, *names: str, place: Place | None = None) -> AsyncIterator[list[TestHost]]:
    """Started agents of one site (at `place`, if there is one). Sockets lie in a short directory of their own."""
    run_dir = Path(tempfile.mkdtemp(prefix="lbt", dir="/tmp"))
    authority = Authority.create(directory / "ca", "test site")
    hosts = [TestHost(name, directory, run_dir, authority, place) for name in names]
    try:
        for host in hosts:
            await host.start()
        yield hosts
    finally:
        for host in hosts:
            await host.close()
        shutil.rmtree(run_dir, ignore_errors=True)


def tool(*command: str | Path) -> str:
    """Run a command-line tool of QEMU's and return what it prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def exists(path: str) -> bool:
    """Whether a file is there (of /proc, or a small one: it blocks for no time worth speaking of)."""
    return Path(path).exists()


def read(path: str) -> bytes:
    """The content of a small file."""
    return Path(path).read_bytes()


def powered_on(state: VmState) -> bool:
    return state.power_state is PowerState.ON


def powered_off(state: VmState) -> bool:
    return state.power_state is PowerState.OFF
