"""What the peers of the live migration benchmark run on: a namespace, a bridge, TAPs, and one guest's hardware.

The guest is the lab's, with the hardware that landbridge gives it, so that bare QEMU and libvirt move the same machine.
"""

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from landbridge.esx.model import Controller, ControllerType, Disk, Nic, VmConfig
from landbridge.lab.image import DISK_BYTES, GuestSettings, base_image, guest_disk
from landbridge.lab.probe import Findings, findings_from

GUEST_ADDRESS = "10.100.0.10"
CLIENT_ADDRESS = "10.100.0.1"
GUEST_MAC = "00:50:56:00:00:0a"
MEMORY_MIB = 256


def run(*argv: str | Path) -> str:
    """Run a command; CalledProcessError with what it said."""
    done = subprocess.run([str(word) for word in argv], check=True, capture_output=True, text=True, timeout=120)
    return done.stdout


def in_namespace(namespace: str, *argv: str | Path) -> list[str]:
    return ["ip", "netns", "exec", namespace, *(str(word) for word in argv)]


@contextmanager
def network(namespace: str, taps: list[str]) -> Iterator[None]:
    """A namespace with a bridge that has the client's address and these TAPs."""
    run("ip", "netns", "add", namespace)
    try:
        for words in (
            "link set lo up",
            "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"addr add {CLIENT_ADDRESS}/24 dev br0",
            "link set br0 up",
            *(f"tuntap add {tap} mode tap" for tap in taps),
            *(f"link set {tap} master br0 up" for tap in taps),
        ):
            run("ip", "-n", namespace, *words.split())
        yield
    finally:
        with suppress(subprocess.CalledProcessError):
            run("ip", "netns", "del", namespace)


def make_disk(path: Path, dirty_mib_per_s: int) -> None:
    """A fresh disk of the lab's guest."""
    settings = GuestSettings(
        hostname="bench", address=f"{GUEST_ADDRESS}/24", dirty_mib=32, dirty_mib_per_s=dirty_mib_per_s
    )
    guest_disk(base_image(), path, settings)


def machine(version: str, cpu: str) -> VmConfig:
    """The guest's configuration: q35, pvscsi, vmxnet3."""
    identity = str(uuid.uuid4())
    return VmConfig(
        name="bench",
        instance_uuid=identity,
        uuid=identity,
        machine=version,
        cpu_model=cpu,
        memory_mib=MEMORY_MIB,
        controllers=[Controller(key=1000, type=ControllerType.PVSCSI, bus=0)],
        disks=[Disk(key=2000, controller=1000, unit=0, capacity=DISK_BYTES)],
        nics=[Nic(key=4000, mac=GUEST_MAC)],
    )


async def wait_ready(namespace: str, timeout: float = 180.0) -> None:
    """Wait until the guest answers the client in `namespace`; TimeoutError if it does not."""
    ask = in_namespace(namespace, sys.executable, "-m", "landbridge.lab.probe", "ask", GUEST_ADDRESS, "status")
    async with asyncio.timeout(timeout):
        while True:
            process = await asyncio.create_subprocess_exec(
                *ask, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
            )
            if await process.wait() == 0:
                return
            await asyncio.sleep(0.5)


@asynccontextmanager
async def watched(namespace: str) -> AsyncIterator[list[Findings]]:
    """Probe the guest from `namespace` for as long as the context lasts; then the list has what was seen."""
    process = await asyncio.create_subprocess_exec(
        *in_namespace(namespace, sys.executable, "-m", "landbridge.lab.probe", "watch", GUEST_ADDRESS),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    found: list[Findings] = []
    try:
        async with asyncio.timeout(60):
            if await process.stdout.readline() != b"ready\n":
                raise RuntimeError("the probe did not start")
        yield found
        process.stdin.close()
        async with asyncio.timeout(30):
            found.append(findings_from(json.loads(await process.stdout.read())))
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
