"""What VMs and the host use: read from the kernel and QEMU every `PERIOD` seconds, and shown until the next time."""

import asyncio
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from landbridge.esx.faults import Fault
from landbridge.esx.guest import report
from landbridge.esx.inventory import Inventory
from landbridge.esx.life import ON, Life
from landbridge.esx.model import GuestState, HostStats, VmStats
from landbridge.esx.vm import VirtualMachine

_log = logging.getLogger(__name__)
PERIOD = 15.0  # seconds
# A guest's addresses come up moments after its agent does; then the pace is slower than the counters'.
_GUEST_EVERY = 2
_GREETING = (0.3, 1.0, 2.0, 4.0)  # seconds between the first questions
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GUEST_BUDGET = 8.0  # seconds for one guest's answers


@dataclass
class _Last:
    """One look at the host: seconds of CPU, and when."""

    cpu: float
    at: float


class Counters:
    """One task for all VMs, `run` until cancelled, and one for each guest that has just started."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._last: dict[str, _Last] = {}
        self._host_last = _Last(_host_cpu(), time.monotonic())
        self._host_mhz = 0
        self.cpu_mhz = _clock_mhz()
        self._round = 0
        self._greeting: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look at everything, again and again."""
        self._inventory.host.on_tools = self._greet
        for vm in self._inventory.vms:
            if vm.tools_connected:
                self._greet(vm.id)
        try:
            while True:
                await asyncio.sleep(PERIOD)
                await self._look_at_all()
        finally:
            for task in self._greeting:
                task.cancel()
            await asyncio.gather(*self._greeting, return_exceptions=True)

    async def _look_at_all(self) -> None:
        self._round += 1
        self._look_at_host()
        for vm in self._inventory.vms:
            try:
                await self.look(vm)
            except (Fault, OSError, TimeoutError) as error:
                _log.info("counters of VM %s: %s", vm.name, error)
        if self._round % _GUEST_EVERY == 0:
            await asyncio.gather(*(self.ask(vm) for vm in self._inventory.vms if vm.tools_connected))

    def _greet(self, vm: str) -> None:
        """Ask a guest soon after its agent started, so that who waits for its address need not wait for the round."""
        task = asyncio.create_task(self._first_answers(vm), name=f"greet {vm}")
        self._greeting.add(task)
        task.add_done_callback(self._greeting.discard)

    async def _first_answers(self, vm: str) -> None:
        for pause in _GREETING:
            await asyncio.sleep(pause)
            try:
                machine = self._inventory.get(vm)
            except Fault:
                return
            await self.ask(machine)
            if not machine.tools_connected or any(machine.guest.ip_addresses.values()):
                return

    async def look(self, vm: VirtualMachine) -> None:
        """Read one VM's counters, and find a process that an earlier agent was starting when it died."""
        if vm.life is Life.OFF and not vm.lock.locked() and vm.process.pid_file.exists() and vm.process.find():
            async with vm.lock:
                await vm.attach()
            vm.changed("found running")
        if vm.life not in ON or vm.process.pid is None:
            self._last.pop(vm.id, None)
            return
        vm.stats = await self._stats(vm)
        await self._inventory.measure(vm)
        self._inventory.host.events.add("vm-stats", vm.id)

    async def _stats(self, vm: VirtualMachine) -> VmStats:
        cpu, resident = _process(vm.process.pid or 0)
        stats = VmStats(cpu_seconds=cpu, memory_mib=resident >> 20, cpu_mhz=self._mhz(vm.id, cpu))
        for device in await vm.qmp.execute("query-blockstats"):
            if str(device.get("qdev", "")).startswith(("disk-", "/machine/peripheral/disk-")):
                numbers = device["stats"]
                stats.disk_read_bytes += numbers["rd_bytes"]
                stats.disk_write_bytes += numbers["wr_bytes"]
                stats.disk_reads += numbers["rd_operations"]
                stats.disk_writes += numbers["wr_operations"]
        switch = vm.host.switch
        if switch is not None:
            for nic in vm.config.nics:
                traffic = switch.counters(vm.tap(nic.key))
                stats.net_rx_bytes += traffic.rx_bytes
                stats.net_tx_bytes += traffic.tx_bytes
        return stats

    def _mhz(self, vm: str, cpu: float) -> int:
        now = time.monotonic()
        last = self._last.get(vm)
        self._last[vm] = _Last(cpu, now)
        if last is None or now <= last.at:
            return 0
        return max(0, int((cpu - last.cpu) / (now - last.at) * self.cpu_mhz))

    async def ask(self, vm: VirtualMachine) -> None:
        """Ask a guest what it says about itself. One that is slow keeps what it said before."""
        try:
            async with asyncio.timeout(_GUEST_BUDGET):
                answer = await report(vm.guest_agent)
        except TimeoutError:
            return
        if not vm.tools_connected:
            answer = GuestState()
        if answer != vm.guest:
            vm.guest = answer
            vm.changed("the guest reports")

    def _look_at_host(self) -> None:
        now, cpu = time.monotonic(), _host_cpu()
        if now > self._host_last.at:
            self._host_mhz = max(0, int((cpu - self._host_last.cpu) / (now - self._host_last.at) * self.cpu_mhz))
        self._host_last = _Last(cpu, now)

    def host(self) -> HostStats:
        """The host's own counters. Disk bytes are those of all VMs, network bytes those of all interfaces."""
        received, sent = _network()
        vms = [vm.stats for vm in self._inventory.vms]
        return HostStats(
            cpu_mhz=self._host_mhz,
            memory_mib=_memory_used() >> 20,
            uptime_seconds=int(float(Path("/proc/uptime").read_text().split()[0])),
            net_rx_bytes=received,
            net_tx_bytes=sent,
            disk_read_bytes=sum(stats.disk_read_bytes for stats in vms),
            disk_write_bytes=sum(stats.disk_write_bytes for stats in vms),
        )


def _process(pid: int) -> tuple[float, int]:
    """Seconds of CPU a process has used, and its resident bytes (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK, int(fields[21]) * _PAGE


def _host_cpu() -> float:
    """Seconds of CPU all processors together were busy."""
    user, nice, system, _idle, _wait, *rest = (int(word) for word in Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + sum(rest)) / _TICK


def memory_total() -> int:
    """The host's memory in bytes."""
    return _meminfo()["MemTotal"]


def _memory_used() -> int:
    memory = _meminfo()
    return memory["MemTotal"] - memory["MemAvailable"]


def _meminfo() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}


def _network() -> tuple[int, int]:
    received = sent = 0
    for line in Path("/proc/self/net/dev").read_text().splitlines()[2:]:
        name, _, numbers = line.partition(":")
        if name.strip() != "lo":
            words = numbers.split()
            received, sent = received + int(words[0]), sent + int(words[8])
    return received, sent


def cpu_info() -> dict[str, str]:
    """What /proc/cpuinfo says of the first processor."""
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _clock_mhz() -> int:
    return int(float(cpu_info().get("cpu MHz", "1000")))
