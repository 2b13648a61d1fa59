"""Two real host agents, each a process of its own on a loopback address, with a client that is their vCenter."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from landbridge.esx.client import HostClient, HostError, HostUnreachable
from landbridge.esx.model import (
    Controller,
    ControllerType,
    CreateVm,
    Disk,
    Firmware,
    IncomingVm,
    Job,
    JobState,
    Nic,
    OutgoingVm,
    PowerOperation,
    PowerState,
    VmConfig,
    Vmotion,
    VmotionMode,
    VmotionPhase,
    VmState,
)
from landbridge.esx.process import lock_holder
from landbridge.esx.qmp import Qmp
from landbridge.esx.vmotion_journal import boot_id
from landbridge.pki import Authority, Identity, PeerName
from landbridge.relay.admin import Admin, AdminError

MIB = 1 << 20
DISK = 2000
# A boot sector that writes a growing number, 512 bytes of it, to sector 64 + number % 65536, and nothing else:
# BIOS extended write (INT 13h, AH=43h), the next only when the last has succeeded, eight for each tick of the timer.
COUNTING_GUEST = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007cfbfc8816647c66ff06507c66a1507cbf0080b9800066f3ab6625ffff00006683c04066a35c7c"
    "be547cb800438a16647ccd13720af606507c0775cbf4ebc8faf4ebfc669000000000100001000080"
)
_SECTORS = 65536
FINAL = (VmotionPhase.SUCCEEDED, VmotionPhase.FAILED)


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


class HostUnderTest:
    """One agent, which can be killed and started again, and what a test wants to see of it from outside."""

    def __init__(self, name: str, address: str, authority: Authority, caller: Identity, root: Path) -> None:
        self.name, self.address, self.root = name, address, root
        self.run = root / "r"
        self.datastore = root / "ds"
        self.log = root / "agent.log"
        identity = authority.issue(
            root / "pki", PeerName("test", "esx", name), dns=[name, f"*.vmotion.{name}"], addresses=[address]
        )
        self.port = free_port(address)
        self.config = root / "esx.toml"
        self.config.write_text(
            f'name = "{name}"\nsite = "test"\nstate_dir = "{root}/s"\nrun_dir = "{self.run}"\n'
            f'pki_dir = "{identity.directory}"\n'
            f'[management]\naddress = "{address}"\nport = {self.port}\n'
            f'[vmotion]\naddress = "{address}"\nport = {free_port(address)}\n'
            f'[[datastores]]\nname = "datastore1"\npath = "{self.datastore}"\n'
            f'[[datastores]]\nname = "datastore2"\npath = "{root}/ds2"\n'
        )
        # Known not to work here or not needed: the probe for KVM takes its time.
        (root / "s").mkdir()
        (root / "s" / "accelerator.json").write_text(json.dumps({"boot_id": boot_id(), "accelerator": "tcg"}))
        self.client = HostClient(address, self.port, caller)
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, dies: str = "") -> None:
        """Start the agent, or one that dies at a point (as `dying_agent` takes it)."""
        program = [str(Path(__file__).with_name("dying_agent.py")), *dies.split()] if dies else ["-m", "landbridge.esx"]
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, *program, "--config", str(self.config), stdout=log, stderr=log
            )
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(HostUnreachable):
                    await self.client.host()
                    return
                if self.process.returncode is not None:
                    pytest.fail(f"agent {self.name} ended: {self.log.read_text()[-3000:]}")
                await asyncio.sleep(0.05)

    async def revive(self) -> None:
        """Have the agent running, whatever a test did to it."""
        assert self.process is not None
        if self.process.returncode is not None:
            await self.start()
        self.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def died(self) -> None:
        """Wait for the death of an agent that kills itself."""
        assert self.process is not None
        async with asyncio.timeout(90):
            assert await self.process.wait() == -signal.SIGKILL

    async def close(self) -> None:
        await self.client.close()
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()
        for vm in self.run.glob("*/pid"):
            pid = lock_holder(vm)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(AdminError):
            os.kill(await Admin(self.run / "relay" / "admin").pid(), signal.SIGKILL)

    # -- what is there ---------------------------------------------------------------------------------------------

    async def create(
        self,
        name: str,
        *,
        memory: int = 64,
        disk_mib: int = 64,
        disks: int = 1,
        firmware: Firmware = Firmware.BIOS,
    ) -> VmState:
        """A powered-off VM whose disks hold a pattern of their own in their first half."""
        config = VmConfig(
            name=name,
            instance_uuid=str(uuid.uuid4()),
            uuid=str(uuid.uuid4()),
            memory_mib=memory,
            firmware=firmware,
            controllers=[Controller(key=1000, type=ControllerType.PVSCSI, bus=0)],
            disks=[
                Disk(key=DISK + number, controller=1000, unit=number, capacity=disk_mib * MIB)
                for number in range(disks)
            ],
            nics=[Nic(key=4000)],
        )
        state = await self.client.create_vm(CreateVm(config=config, datastore="datastore1"))
        for number, disk in enumerate(state.config.disks):
            qemu_io(self.file(disk.path), f"write -P {0x51 + number} 0 {disk_mib // 2}M")
        return state

    async def counting(self, name: str, *, memory: int = 64) -> VmState:
        """A running VM that writes numbers to its first disk, with a second disk that holds a pattern."""
        sector = COUNTING_GUEST.ljust(510, b"\0") + b"\x55\xaa"
        (self.datastore / "counter.img").write_bytes(sector.ljust(40 * MIB, b"\0"))
        config = VmConfig(
            name=name,
            instance_uuid=str(uuid.uuid4()),
            uuid=str(uuid.uuid4()),
            memory_mib=memory,
            controllers=[Controller(key=1000, type=ControllerType.PVSCSI, bus=0)],
            disks=[
                Disk(key=DISK, controller=1000, unit=0, capacity=40 * MIB),
                Disk(key=DISK + 1, controller=1000, unit=1, capacity=64 * MIB),
            ],
            nics=[Nic(key=4000)],
        )
        source = {DISK: "[datastore1] counter.img"}
        state = await self.client.create_vm(CreateVm(config=config, datastore="datastore1", disk_sources=source))
        (self.datastore / "counter.img").unlink()
        qemu_io(self.file(state.config.disks[1].path), "write -P 0x5a 1M 16M")
        state = await self.client.power(state.config.instance_uuid, PowerOperation.ON)
        await self.writes(state)
        return state

    async def writes(self, vm: VmState) -> None:
        """Return when the guest has written to its disk, seen by the file's own clock."""
        file = self.file(vm.config.disks[0].path)
        before = file.stat().st_mtime_ns
        for _ in range(3000):
            if file.stat().st_mtime_ns != before:
                return
            await asyncio.sleep(0.02)
        pytest.fail(f"the guest {vm.config.name} does not write on {self.name}")

    async def numbers_are_whole(self, vm: VmState) -> int:
        """Power a counting VM off and check that every number it wrote is there; returns the last."""
        await self.client.power(vm.config.instance_uuid, PowerOperation.OFF)
        content = raw_content(self.file(vm.config.disks[0].path))
        numbers: list[int] = [struct.unpack_from("<I", content, (64 + index) * 512)[0] for index in range(_SECTORS)]
        last = max(numbers)
        for number in range(max(1, last - _SECTORS + 1), last + 1):
            assert numbers[number % _SECTORS] == number, f"the write of {number} is lost (last {last})"
        return last

    async def destroy(self, vm: VmState) -> None:
        """Power a VM off if need be, and delete it."""
        state = await self.client.vm(vm.config.instance_uuid)
        if state.power_state is PowerState.ON:
            await self.client.power(vm.config.instance_uuid, PowerOperation.OFF)
        await self.client.destroy_vm(vm.config.instance_uuid)

    def file(self, path: str) -> Path:
        root = self.datastore if path.startswith("[datastore1]") else self.root / "ds2"
        return root / path.partition("] ")[2]

    def files(self) -> list[str]:
        found = [*self.datastore.rglob("*"), *(self.root / "ds2").rglob("*")]
        return sorted(path.name for path in found if path.is_file() and path.name[0] != ".")

    async def done(self, job: Job) -> Job:
        """The end of a job, which must be a success."""
        async with asyncio.timeout(90):
            while job.state is JobState.RUNNING:
                job = await self.client.job(job.id, job.seq, 10)
        assert job.state is JobState.SUCCESS, job.error
        return job

    def qemu(self, vm: str) -> int | None:
        """The process of a VM, as the kernel says."""
        return lock_holder(self.run / vm / "pid")

    @contextlib.asynccontextmanager
    async def monitor(self, vm: str) -> AsyncIterator[Qmp]:
        """The VM's own monitor; only while no agent holds it."""
        qmp = await Qmp.connect(self.run / vm / "qmp.sock", "test")
        try:
            yield qmp
        finally:
            await qmp.close()

    async def streams(self) -> list[str]:
        """What the relay has open."""
        admin = Admin(self.run / "relay" / "admin")
        maps = [await admin.map(self.run / "relay" / name) for name in ("site.map", "names.map")]
        return [*maps[0], *maps[1].values()]

    async def end(self, move: str, timeout: float = 90) -> Vmotion:
        """The final state of a move."""
        return await self.reached(move, lambda view: view.phase in FINAL, timeout)

    async def reached(self, move: str, reached: Callable[[Vmotion], bool], timeout: float = 90) -> Vmotion:
        async with asyncio.timeout(timeout):
            seen = -1
            while True:
                try:
                    view = await self.client.vmotion(move, seen, 10)
                except HostUnreachable:
                    await asyncio.sleep(0.1)
                    continue
                if reached(view) or view.phase in FINAL:
                    return view
                seen = view.seq


class Pair:
    """A source, a target, and the moves between them."""

    def __init__(self, source: HostUnderTest, target: HostUnderTest) -> None:
        self.source, self.target = source, target

    async def prepare(self, vm: VmState, mode: VmotionMode = VmotionMode.LIVE, **options: object) -> Vmotion:
        request = IncomingVm.model_validate(
            {
                "id": str(uuid.uuid4()),
                "mode": mode,
                "source": vm.config,
                "config": vm.config,
                "datastore": "datastore1",
                **options,
            }
        )
        return await self.target.client.prepare_incoming(request)

    async def nothing_left(self, host: HostUnderTest) -> None:
        """No VM, no file, no process, no open stream on a host (some of it may still be on its way out)."""
        for _ in range(400):
            left = [vm.config.name for vm in await host.client.vms()] + host.files() + await host.streams()
            left += [str(pid) for pid in host.run.glob("*/pid") if lock_holder(pid) is not None]
            if not left:
                return
            await asyncio.sleep(0.05)
        pytest.fail(f"left on {host.name}: {left}")

    async def no_streams(self, host: HostUnderTest) -> None:
        """No open stream on a host (some may still be on its way out)."""
        for _ in range(400):
            if not (left := await host.streams()):
                return
            await asyncio.sleep(0.05)
        pytest.fail(f"open on {host.name}: {left}")

    async def begin(
        self, vm: VmState, mode: VmotionMode = VmotionMode.LIVE, bandwidth: int | None = None, **options: object
    ) -> str:
        prepared = await self.prepare(vm, mode, **options)
        await self.source.client.start_outgoing(
            OutgoingVm(
                id=prepared.id,
                mode=mode,
                vm=vm.config.instance_uuid,
                endpoints=prepared.endpoints,
                bandwidth=bandwidth,
            )
        )
        return prepared.id


def qemu_io(path: Path, *commands: str) -> None:
    arguments = [argument for command in commands for argument in ("-c", command)]
    answer = subprocess.run(["qemu-io", "-f", "qcow2", *arguments, path], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "failed" not in answer.stdout, answer.stdout


def raw_content(image: Path) -> bytes:
    """What a guest reads from a disk."""
    raw = image.with_name("content.raw")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw], check=True)
    content = raw.read_bytes()
    raw.unlink()
    return content


def same_content(one: Path, other: Path) -> bool:
    """Whether two images read the same (`-U`: although QEMU has one open)."""
    answer = subprocess.run(
        ["qemu-img", "compare", "-U", "-f", "qcow2", "-F", "qcow2", one, other], capture_output=True, check=False
    )
    return answer.returncode == 0


MakeHost = Callable[[str], Awaitable[HostUnderTest]]


@pytest.fixture
async def hosts(pair: Pair) -> AsyncIterator[Pair]:
    """Two hosts that are up and empty, and are so again after the test, however it ended."""
    yield pair
    for host in (pair.source, pair.target):
        await host.revive()
        for move in await host.client.vmotions():
            if move.phase not in FINAL:
                with contextlib.suppress(HostError):
                    await host.client.abort_vmotion(move.id)
        for vm in await host.client.vms():
            with contextlib.suppress(HostError):
                await host.destroy(vm)


@pytest.fixture(scope="module")
async def pair() -> AsyncIterator[Pair]:
    # UNIX sockets need short paths.
    root = Path(tempfile.mkdtemp(prefix="lbv", dir="/tmp"))
    authority = Authority.create(root / "ca", "site test")
    caller = authority.issue(root / "vc", PeerName("test", "vcenter", "vc"), addresses=["127.0.0.1"])
    made = []
    try:
        for number, name in enumerate(("esx01.test", "esx02.test"), start=1):
            (root / str(number)).mkdir()
            host = HostUnderTest(name, f"127.0.9.{number}", authority, caller, root / str(number))
            made.append(host)
            await host.start()
        yield Pair(*made)
    finally:
        for host in made:
            await host.close()
        shutil.rmtree(root, ignore_errors=True)
