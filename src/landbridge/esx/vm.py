"""One virtual machine: its configuration, its files, its QEMU, and what power operations do with them.

A VM's process and its files are the truth; this object is what the agent knows of them, and is made anew from them
when the agent starts. Who changes something holds `lock`; what QEMU and the guest do by themselves arrives as events.
"""

import asyncio
import contextlib
import hashlib
import logging
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from qemu.qmp import EventListener

from landbridge.esx import hardware, memory_image, snapshot_file
from landbridge.esx.faults import Fault, as_fault
from landbridge.esx.guest import GuestAgent
from landbridge.esx.host import Host
from landbridge.esx.life import ON, Life, move, power_state, require
from landbridge.esx.model import (
    Firmware,
    GuestState,
    Nic,
    PowerOperation,
    PowerState,
    Snapshot,
    VmConfig,
    VmState,
    VmStats,
    vif_id,
)
from landbridge.esx.process import QemuProcess, started_at
from landbridge.esx.qmp import Qmp
from landbridge.esx.switch import SwitchError
from landbridge.esx.vm_files import beside, efi_variables, machine_files
from landbridge.esx.vm_files import read_vmx as read_vmx
from landbridge.esx.vm_files import write_vmx as write_vmx
from landbridge.esx.vmx import VmxFile
from landbridge.vsan.faults import StorageFault

_log = logging.getLogger(__name__)
_END_TIMEOUT = 10.0  # seconds from the end of a monitor to the end of its process
_RESUME_TIMEOUT = 200.0  # seconds for reading or writing a guest's memory


class VirtualMachine:
    """A VM with the VMX file `vmx`. Nothing is started or looked for until `attach` or a power operation."""

    def __init__(self, host: Host, vmx: Path, file: VmxFile) -> None:
        self.host = host
        self.vmx = vmx
        self.file = file
        self.lock = asyncio.Lock()
        self.life = Life.SUSPENDED if file.suspend_image else Life.OFF
        self.process = QemuProcess(host.vm_run_dir(file.config.instance_uuid))
        self.guest_agent = GuestAgent(self.process.tools)
        self.tools_connected = False
        self.guest = GuestState()
        self.stats = VmStats()
        self.snapshots: list[Snapshot] = []
        self.current_snapshot: int | None = None
        self.storage_committed = 0
        self.boot_time: float | None = None
        self.vmotion: str | None = None
        self.invalid: str | None = None
        # Visible to others; false while the VM is being moved here.
        self.listed = True
        # The files are another host's too, which runs the VM: nothing is written.
        self.files_shared = False
        # Numbers of an earlier life of the agent must not come again: who holds one would change unseen what it saw.
        self.version = int(time.time() * 1000)
        # Awaited when QEMU ended by itself or by the guest's wish.
        self.on_exit: list[Callable[[VirtualMachine], Awaitable[None]]] = []
        self._qmp: Qmp | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._shutdown_reason = ""

    @classmethod
    def load(cls, host: Host, vmx: Path) -> "VirtualMachine":
        """Read a VM from its VMX file. Blocks for a moment; Fault if the file is missing or makes no sense."""
        vm = cls(host, vmx, read_vmx(host, vmx))
        vm.snapshots, vm.current_snapshot = snapshot_file.read(vmx)
        return vm

    # -- what it is ---------------------------------------------------------------------------------------------

    @property
    def config(self) -> VmConfig:
        return self.file.config

    @property
    def id(self) -> str:
        """The instance UUID, which names the VM in the API."""
        return self.file.config.instance_uuid

    @property
    def name(self) -> str:
        return self.file.config.name

    @property
    def directory(self) -> Path:
        """The home directory, where the VMX file is."""
        return self.vmx.parent

    @property
    def vmx_path(self) -> str:
        """The datastore path of the VMX file. (That of a VM whose datastore is away is all there is of it.)"""
        return self.host.datastores.path_of(self.vmx) if self.vmx.is_absolute() else str(self.vmx)

    @property
    def power_state(self) -> PowerState:
        return power_state(self.life)

    @property
    def log_file(self) -> Path:
        return self.directory / "vmware.log"

    @property
    def qmp(self) -> Qmp:
        """The monitor of the VM's QEMU; Fault `InvalidPowerState` if there is none."""
        if self._qmp is None or not self._qmp.connected:
            raise Fault("InvalidPowerState", f"VM {self.name!r} is {self.life}: it has no running QEMU")
        return self._qmp

    def state(self) -> VmState:
        """The VM as the API shows it."""
        stats = self.stats
        if self.boot_time is not None:
            stats = stats.model_copy(update={"uptime_seconds": max(0, int(time.time() - self.boot_time))})
        return VmState(
            config=self.config,
            vmx=self.vmx_path,
            power_state=self.power_state,
            boot_time=self.boot_time,
            snapshots=self.snapshots,
            current_snapshot=self.current_snapshot,
            guest=self.guest,
            stats=stats,
            storage_committed=self.storage_committed,
            version=self.version,
            vmotion=self.vmotion,
            invalid=self.invalid,
        )

    def changed(self, message: str = "") -> None:
        """Count a change and tell who follows the host's events."""
        self.version += 1
        if self.listed:
            self.host.events.add("vm-changed", self.id, message)

    def save(self, config: VmConfig | None = None) -> None:
        """Write the VMX file, with a new configuration if one is given."""
        if config is not None:
            self.file.config = config
        if not self.files_shared:
            write_vmx(self.host, self.vmx, self.file)

    async def disk_node(self, key: int) -> str:
        """The node a disk's device writes to now: the top of its chain, as QEMU says."""
        return (await self.device_nodes())[f"disk-{key}"]

    async def device_nodes(self) -> dict[str, str]:
        """The node at each device (`disk-<key>`, `cdrom-<key>`); drives without a medium are left out."""
        nodes = {}
        for block in await self.qmp.execute("query-block"):
            if block.get("qdev") and block.get("inserted", {}).get("node-name"):
                nodes[_device_id(block["qdev"])] = block["inserted"]["node-name"]
        return nodes

    # -- power --------------------------------------------------------------------------------------------------

    async def power(self, operation: PowerOperation) -> None:
        """Do a power operation and return when the VM is in its new state (for guest ones: when the guest was told)."""
        actions: dict[PowerOperation, Callable[[], Awaitable[None]]] = {
            PowerOperation.ON: self.power_on,
            PowerOperation.OFF: self.power_off,
            PowerOperation.RESET: self.reset,
            PowerOperation.SUSPEND: self.suspend,
            PowerOperation.SHUTDOWN_GUEST: self.shut_down_guest,
            PowerOperation.REBOOT_GUEST: self.reboot_guest,
        }
        async with self.lock:
            if self.invalid:
                raise Fault("InvalidState", f"VM {self.name!r} can not be used: {self.invalid}")
            if self.vmotion and operation is not PowerOperation.RESET:
                raise Fault("TaskInProgress", f"VM {self.name!r} is being moved (vMotion {self.vmotion})")
            await actions[operation]()

    async def power_on(self) -> None:
        """Start the VM, resume it from suspension, or continue it after QEMU stopped it for an I/O error."""
        require(self.name, self.life, frozenset({Life.OFF, Life.SUSPENDED, Life.PAUSED}), "powered on")
        if self.life is Life.PAUSED:
            await self.qmp.execute("cont")
            return
        if self.config.template:
            raise Fault("NotSupported", f"{self.name!r} is a template: it can be cloned, not started")
        if self.process.find():
            # One that was starting when an earlier agent died.
            await self.process.kill()
        image_file = self.file.suspend_image
        if image_file is None:
            self._connect_at_start()
        try:
            await self.launch(incoming=image_file is not None)
            if image_file is not None:
                await memory_image.load(self.qmp, beside(self.host, self.vmx, image_file), _RESUME_TIMEOUT)
                # From here on the image is stale: a crash now is a power failure, never a step back in time.
                self.file.suspend_image = None
                self.save()
            await self.qmp.execute("cont")
        except BaseException:
            await self.kill()
            self.life = Life.SUSPENDED if self.file.suspend_image else Life.OFF
            raise
        if image_file is not None:
            beside(self.host, self.vmx, image_file).unlink(missing_ok=True)
        self._running("resumed" if image_file else "powered on")

    async def launch(self, *, incoming: bool = False) -> None:
        """Start QEMU with the VM built and standing still, and connect to it. On failure nothing is left running."""
        if self.host.maintenance:
            raise Fault("InvalidState", f"host {self.host.name} is in maintenance mode and starts no VM")
        self.life = move(self.name, self.life, Life.STARTING)
        try:
            hardware.check(self.config)
            self.host.require_memory(self.config)
            files = await asyncio.to_thread(self._files)
            files.taps = await self.plug()
            command = hardware.command_line(self.config, files, self.process, self.host.accelerator, incoming=incoming)
            if incoming and self.files_shared:
                # `cont` on a receiving QEMU takes the images at once, which the source has still locked.
                command.remove("-S")
            self._shutdown_reason = ""
            self.process.start(command, self.log_file)
            await self._connect()
            for nic in self.config.nics:
                if not nic.connected:
                    await self.qmp.execute("set_link", name=f"nic-{nic.key}", up=False)
        except BaseException as error:
            await self.kill()
            self.life = Life.SUSPENDED if self.file.suspend_image else Life.OFF
            if isinstance(error, StorageFault | SwitchError | TimeoutError | OSError):
                raise as_fault(error) from error
            raise

    async def power_off(self) -> None:
        """Cut the power."""
        if self.life is Life.SUSPENDED:
            self._drop_suspend_image()
            return
        require(self.name, self.life, ON, "powered off")
        self.life = move(self.name, self.life, Life.STOPPING)
        await self.kill()
        self._off("powered off")

    async def reset(self) -> None:
        """Press the reset button."""
        require(self.name, self.life, ON, "reset")
        await self.qmp.execute("system_reset")
        if self.life is Life.PAUSED:
            await self.qmp.execute("cont")
        self.changed("reset")

    async def suspend(self) -> None:
        """Write the guest's memory to a file and end its process; power-on resumes it."""
        require(self.name, self.life, frozenset({Life.RUNNING}), "suspended")
        target = self.directory / f"{self.vmx.stem}.vmss"
        self.host.datastores.holding(target).require_space(self.config.memory_mib << 20, f"suspending {self.name!r}")
        self.life = move(self.name, self.life, Life.SUSPENDING)
        try:
            await self.qmp.execute("stop")
            await memory_image.save(self.qmp, target, _RESUME_TIMEOUT)
        except BaseException:
            target.unlink(missing_ok=True)
            if self._qmp is not None and self._qmp.connected:
                self.life = Life.RUNNING
                await self._qmp.execute("cont")
            raise
        self.file.suspend_image = target.name
        self.save()
        await self.kill()
        self._off("suspended", Life.SUSPENDED)

    async def shut_down_guest(self) -> None:
        """Ask the guest to shut down. Fault `ToolsUnavailable` if no guest agent runs in it."""
        await self._ask_guest("powerdown")

    async def reboot_guest(self) -> None:
        """Ask the guest to reboot. Fault `ToolsUnavailable` if no guest agent runs in it."""
        await self._ask_guest("reboot")

    async def _ask_guest(self, mode: str) -> None:
        require(self.name, self.life, frozenset({Life.RUNNING}), "asked")
        if not self.tools_connected:
            raise Fault("ToolsUnavailable", f"no guest agent runs in VM {self.name!r}: install qemu-guest-agent in it")
        await self.guest_agent.shut_down(mode)

    async def kill(self) -> None:
        """End the VM's process for certain, and take its NICs off the switch. The life is the caller's to set."""
        await self._disconnect()
        if self.process.find():
            await self.process.kill()
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(shutil.rmtree, self.process.directory)
        await self.unplug()

    # -- the agent comes and goes ---------------------------------------------------------------------------------

    async def attach(self) -> None:
        """Find the VM's process after the agent's start, and take up what happened meanwhile."""
        if not self.process.find():
            await self.unplug()
            return
        await self._connect()
        status = (await self.qmp.execute("query-status"))["status"]
        if not self.listed or status in ("inmigrate", "postmigrate", "finish-migrate"):
            # What stands in the middle of a move is the move's to decide.
            self.life = Life.INCOMING if status == "inmigrate" else Life.PAUSED
        elif status == "prelaunch" or self.life is Life.SUSPENDED:
            # Its power-on or suspension was under way and never answered: memory is on disk, or nothing ran yet.
            await self.kill()
            return
        else:
            self.life = Life.RUNNING if status == "running" else Life.PAUSED
        self.boot_time = await asyncio.to_thread(started_at, self.process.pid or 0)

    def adopt(self, message: str) -> None:
        """A guest that was moved here runs: from now on it is one of ours."""
        self._running(message)

    async def detach(self) -> None:
        """Let go of the VM; its process goes on. For the end of the agent."""
        await self._disconnect()
        self.process.forget()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _running(self, message: str) -> None:
        self.life = move(self.name, self.life, Life.RUNNING)
        self.boot_time = time.time()
        self.changed(message)

    def _off(self, message: str, life: Life = Life.OFF) -> None:
        self.life = life
        self.boot_time = None
        self.guest, self.tools_connected, self.stats = GuestState(), False, VmStats()
        self.changed(message)

    def _connect_at_start(self) -> None:
        """Power-on plugs the cables in that start connected, and only those."""
        nics = [nic.model_copy(update={"connected": nic.start_connected}) for nic in self.config.nics]
        if nics != self.config.nics:
            self.save(self.config.model_copy(update={"nics": nics}))

    def _drop_suspend_image(self) -> None:
        name = self.file.suspend_image
        self.file.suspend_image = None
        self.save()
        if name:
            beside(self.host, self.vmx, name).unlink(missing_ok=True)
        self._off("powered off")

    def _files(self) -> hardware.MachineFiles:
        files = machine_files(self.host, self.vmx, self.config)
        if self.config.firmware is Firmware.EFI:
            files.nvram = self.prepare_nvram()
        return files

    def prepare_nvram(self) -> Path:
        """The file of the EFI variables, made from the firmware's template when the VM has none yet."""
        if self.file.nvram is None:
            self.file.nvram = f"{self.vmx.stem}.nvram"
            self.save()
        return efi_variables(beside(self.host, self.vmx, self.file.nvram))

    def tap(self, nic: int) -> str:
        """The name of a NIC's TAP on this host: the same after every start, and different on hosts that share a
        network namespace. An interface's name has at most 15 characters."""
        return "t" + hashlib.sha256(f"{self.host.name}/{self.id}/{nic}".encode()).hexdigest()[:12]

    async def plug(self) -> dict[int, str]:
        """Plug all NICs into the switch; their TAPs by key. No switch: no TAPs."""
        if self.host.switch is None:
            return {}
        for nic in self.config.nics:
            await self.plug_nic(nic)
        return {nic.key: self.tap(nic.key) for nic in self.config.nics}

    async def plug_nic(self, nic: Nic) -> None:
        """Plug one NIC into its port group. Of a VM that is moved here OVN is not told yet that its VIFs are here."""
        if self.host.switch is not None:
            vif = vif_id(self.id, nic.key)
            await self.host.switch.plug(
                self.tap(nic.key), nic.network, nic.mac or "", vif=vif, vm=self.id, active=self.listed
            )

    async def unplug(self) -> None:
        """Take all NICs off the switch."""
        if self.host.switch is not None:
            for nic in self.config.nics:
                try:
                    await self.host.switch.unplug(self.tap(nic.key))
                except SwitchError as error:
                    # A port without a VM behind it does no harm, and the next power-on takes it over.
                    _log.warning("VM %s: %s", self.name, error)

    async def _connect(self) -> None:
        connecting = asyncio.create_task(Qmp.connect(self.process.qmp, self.name))
        ended = asyncio.create_task(self.process.wait())
        try:
            await asyncio.wait({connecting, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                raise Fault("GenericVmConfigFault", f"QEMU did not start: {self.process.exit_text(self.log_file)}")
            self._qmp = await connecting
        finally:
            connecting.cancel()
            ended.cancel()
        # Registered here, not in the task: what happens before the task first runs must not be missed.
        self._watcher = asyncio.create_task(self._watch(self._qmp, self._qmp.follow()), name=f"watch {self.id}")
        await self._look_for_tools()

    async def _look_for_tools(self) -> None:
        for device in await self.qmp.execute("query-chardev"):
            if device["label"] == "tools":
                self.tools_connected = bool(device["frontend-open"])

    async def _disconnect(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None and watcher is not asyncio.current_task():
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        if self._qmp is not None:
            await self._qmp.close()
            self._qmp = None

    async def _watch(self, qmp: Qmp, listener: EventListener) -> None:
        """Follow QEMU's events until it ends; one task per VM with a process."""
        reader = asyncio.create_task(self._follow(listener))
        try:
            await qmp.closed()
            ended = await self._process_ended()
        finally:
            reader.cancel()
        while not listener.empty():
            self._take(await listener.get())
        if not ended:
            _log.warning("VM %s: the monitor's connection broke; connecting again", self.name)
            try:
                await self._connect()
            except (Fault, TimeoutError):
                await self.process.wait()
            else:
                return
        await self._ended()

    async def _process_ended(self) -> bool:
        """QEMU closes its monitor when it ends: whether it does."""
        try:
            async with asyncio.timeout(_END_TIMEOUT):
                await self.process.wait()
        except TimeoutError:
            return False
        return True

    async def _follow(self, listener: EventListener) -> None:
        async for event in listener:
            self._take(event)

    def _take(self, event: Any) -> None:
        """One event of QEMU's, turned into state."""
        kind, data = str(event["event"]), event.get("data", {})
        if kind == "SHUTDOWN":
            self._shutdown_reason = str(data.get("reason", ""))
        elif kind == "VSERPORT_CHANGE" and data.get("id") == "tools-port":
            self.tools_connected = bool(data.get("open"))
            if not self.tools_connected:
                self.guest = GuestState()
            elif self.host.on_tools is not None:
                self.host.on_tools(self.id)
            self.changed("guest agent started" if self.tools_connected else "guest agent ended")
        elif kind == "STOP" and self.life is Life.RUNNING and self.vmotion is None:
            self.life = Life.PAUSED
            self.changed("stopped by QEMU")
        elif kind == "RESUME" and self.life is Life.PAUSED:
            self.life = Life.RUNNING
            self.changed("runs again")
        elif kind == "BLOCK_IO_ERROR" and data.get("action") == "stop":
            message = f"a disk reports {data.get('reason', 'an error')}; power on to try again"
            self.host.events.add("guest-event", self.id, message)
        elif kind == "GUEST_PANICKED":
            self.host.events.add("guest-event", self.id, "guest crashed")
        elif kind == "RESET" and data.get("guest"):
            self.host.events.add("guest-event", self.id, "the guest restarted itself")

    async def _ended(self) -> None:
        """QEMU ended although nobody here ended it: the guest shut down, or QEMU crashed or was killed."""
        _log.info("QEMU of VM %s ended (%s)", self.name, self._shutdown_reason or "no reason given")
        # Before anybody learns that it is off: a power-on must not find its ports taken away again.
        await self.unplug()
        self._qmp = None
        self._watcher = None
        if self.life not in (Life.OFF, Life.SUSPENDED):
            guest = self._shutdown_reason.startswith("guest")
            self._off("shut down by the guest" if guest else "its process ended unexpectedly", self._life_without())
        for hook in list(self.on_exit):
            await hook(self)

    def _life_without(self) -> Life:
        return Life.SUSPENDED if self.file.suspend_image else Life.OFF


def _device_id(qdev: str) -> str:
    """query-block says `disk-2000`, or a path like `/machine/peripheral/disk-2000/virtio-backend`."""
    return qdev.split("/")[3] if qdev.startswith("/machine/peripheral/") else qdev
