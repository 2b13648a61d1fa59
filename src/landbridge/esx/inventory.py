"""All VMs of the host: created, registered from disk alone, forgotten, destroyed, moved in and out.

What is registered is a list of VMX files in the state directory; all else about a VM is read from its VMX file and
its process. A VM that is being moved here is on a list of its own, and is nobody's VM until the move is committed.
"""

import asyncio
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from landbridge.esx.disks import NewDisks
from landbridge.esx.faults import Fault
from landbridge.esx.host import Host
from landbridge.esx.layout import make_directory_on, make_home, own_files, settle
from landbridge.esx.life import Life, require
from landbridge.esx.model import CreateVm, Disk, VmConfig
from landbridge.esx.vm import VirtualMachine
from landbridge.esx.vm_files import read_vmx
from landbridge.esx.vmx import VmxFile, replace_file
from landbridge.vsan.faults import StorageFault
from landbridge.vsan.local import allocated

_log = logging.getLogger(__name__)


class Inventory:
    """`start` before use. VMs are named by their instance UUID."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._vms: dict[str, VirtualMachine] = {}
        self._incoming: dict[str, VirtualMachine] = {}
        self._file = host.settings.state_dir / "inventory.json"
        # One change of the list at a time; what a VM does with itself is under its own lock.
        self._lock = asyncio.Lock()

    @property
    def vms(self) -> list[VirtualMachine]:
        """The host's VMs."""
        return list(self._vms.values())

    @property
    def incoming(self) -> list[VirtualMachine]:
        """VMs that are being moved here."""
        return list(self._incoming.values())

    def get(self, vm: str) -> VirtualMachine:
        """The VM with this instance UUID; Fault `ManagedObjectNotFound`."""
        try:
            return self._vms[vm]
        except KeyError:
            raise Fault("ManagedObjectNotFound", f"this host has no VM {vm}", vm=vm) from None

    def get_incoming(self, vm: str) -> VirtualMachine:
        """The VM with this instance UUID that is being moved here."""
        try:
            return self._incoming[vm]
        except KeyError:
            raise Fault("ManagedObjectNotFound", f"no VM {vm} is being moved to this host", vm=vm) from None

    # -- the agent comes and goes -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the registered VMs and find their processes."""
        listed = json.loads(self._file.read_text()) if self._file.exists() else {}
        for entry in listed.get("vms", []):
            vm = await self._load(entry)
            self._vms[vm.id] = vm
        for entry in listed.get("incoming", []):
            vm = await self._load(entry)
            vm.listed = False
            self._incoming[vm.id] = vm
        await asyncio.gather(*(self._attach(vm) for vm in [*self.vms, *self.incoming]))

    async def close(self) -> None:
        """Let go of all VMs; they go on."""
        await asyncio.gather(*(vm.detach() for vm in [*self.vms, *self.incoming]))

    async def _load(self, entry: dict[str, str]) -> VirtualMachine:
        vmx = Path(entry["vmx"])
        try:
            vmx = self.host.datastores.file(entry["vmx"])
            vm = await asyncio.to_thread(VirtualMachine.load, self.host, vmx)
            if vm.id == entry["id"]:
                return vm
            reason = f"its VMX file names another VM, {vm.id}"
        except (Fault, StorageFault) as error:
            reason = str(error)
        # Shown, so that people see what is wrong; a VM that vanished without a word helps nobody.
        _log.warning("VM %s: %s", entry["name"], reason)
        config = VmConfig(name=entry["name"], instance_uuid=entry["id"], uuid=entry["id"], memory_mib=4)
        vm = VirtualMachine(self.host, vmx, VmxFile(config))
        vm.invalid = reason
        return vm

    async def _attach(self, vm: VirtualMachine) -> None:
        try:
            await vm.attach()
            await self.measure(vm)
        except Exception as error:  # one VM that does not answer must not keep the host from the others
            _log.exception("VM %s could not be taken up again", vm.name)
            vm.invalid = f"its process does not answer: {error}"

    def _save(self) -> None:
        def entries(vms: list[VirtualMachine]) -> list[dict[str, str]]:
            return [{"vmx": vm.vmx_path, "id": vm.id, "name": vm.name} for vm in vms]

        text = json.dumps({"vms": entries(self.vms), "incoming": entries(self.incoming)}, indent=1)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self._file, text.encode())

    # -- created, registered, forgotten, destroyed -----------------------------------------------------------------

    async def create(self, request: CreateVm) -> VirtualMachine:
        """Create a VM with its files. On failure nothing is left of it."""
        config = settle(request.config, self.host.capabilities)
        self._refuse_twin(config.instance_uuid)
        vmx = make_home(self.host.datastores.get(request.datastore), config.name)
        disks = NewDisks(self.host.datastores, vmx.parent, vmx.stem)
        try:
            made: list[Disk] = []
            for disk in config.disks:
                if disk.key in request.existing_disks:
                    made.append(await disks.existing(disk))
                elif disk.key in request.disk_sources:
                    made.append(await disks.copy(disk, request.disk_sources[disk.key]))
                else:
                    made.append(await disks.blank(disk))
            vm = VirtualMachine(self.host, vmx, VmxFile(config.model_copy(update={"disks": made})))
            vm.save()
            await self._add(vm, "created")
        except BaseException:
            disks.undo()
            shutil.rmtree(vmx.parent, ignore_errors=True)
            raise
        return vm

    async def register(self, vmx: str) -> VirtualMachine:
        """Take up a VM from its VMX file alone."""
        path = self.host.datastores.file(vmx)
        vm = await asyncio.to_thread(VirtualMachine.load, self.host, path)
        vm.file.config = settle(vm.config, self.host.capabilities)
        if any(other.vmx == path for other in self.vms):
            raise Fault("AlreadyExists", f"{vmx} is registered already", name=vmx)
        self._refuse_twin(vm.id)
        # What the file left open is decided now, and stays so.
        vm.save()
        await self._add(vm, "registered")
        return vm

    async def _add(self, vm: VirtualMachine, message: str) -> None:
        async with self._lock:
            self._refuse_twin(vm.id)
            self._vms[vm.id] = vm
            self._save()
        await self.measure(vm)
        self.host.events.add("vm-added", vm.id, message)

    def _refuse_twin(self, vm: str) -> None:
        if vm in self._vms or vm in self._incoming:
            raise Fault("AlreadyExists", f"a VM with instance UUID {vm} is on this host already", name=vm)

    async def unregister(self, vm: str) -> None:
        """Forget a VM that has no process; its files stay."""
        machine = self.get(vm)
        async with machine.lock:
            self._require_off(machine, "unregistered", frozenset({Life.OFF, Life.SUSPENDED}))
            await self._remove(machine, "unregistered")

    async def destroy(self, vm: str) -> None:
        """Delete a powered-off VM with its files."""
        machine = self.get(vm)
        async with machine.lock:
            self._require_off(machine, "destroyed", frozenset({Life.OFF}))
            await asyncio.to_thread(self._delete_files, machine)
            await self._remove(machine, "destroyed")

    def _require_off(self, vm: VirtualMachine, wanted: str, allowed: frozenset[Life]) -> None:
        if vm.vmotion:
            raise Fault("TaskInProgress", f"VM {vm.name!r} is being moved (vMotion {vm.vmotion})")
        require(vm.name, vm.life, allowed, wanted)

    async def _remove(self, vm: VirtualMachine, message: str) -> None:
        await vm.detach()
        async with self._lock:
            self._vms.pop(vm.id, None)
            self._save()
        self.host.events.add("vm-removed", vm.id, message)

    def _delete_files(self, vm: VirtualMachine) -> None:
        if not vm.vmx.is_absolute() or not vm.directory.is_dir():
            return
        mine = own_files(self.host.datastores, vm.vmx, vm.config)
        for other in [*self.vms, *self.incoming]:
            if other is not vm and other.vmx.is_absolute() and other.directory.is_dir():
                mine -= own_files(self.host.datastores, other.vmx, other.config)
        # The VMX file last: as long as there are files, it says whose they are.
        for path in sorted(mine, key=lambda path: path == vm.vmx):
            path.unlink(missing_ok=True)
        for directory in {path.parent for path in mine} | {vm.directory}:
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()

    # -- moved in and out ------------------------------------------------------------------------------------------

    async def create_incoming(
        self,
        config: VmConfig,
        datastore: str,
        *,
        disk_datastores: Mapping[int, str] | None = None,
        shared_disks: Mapping[int, str] | None = None,
        shared_vmx: str | None = None,
        start: bool = True,
    ) -> VirtualMachine:
        """Make room for a VM that is moved here: files laid out, blank disks of the right size, and with `start` a
        QEMU that waits for the guest (`-incoming defer`, NICs plugged).

        The VM is not visible until `commit`. On failure nothing is left. `config` is pinned already: Fault
        `CPUIncompatible` or `InvalidVmConfig` if this host can not run it.
        """
        self.host.capabilities.require_cpu(config.cpu_model)
        config = settle(config, self.host.capabilities)
        self._refuse_twin(config.instance_uuid)
        if shared_vmx is not None:
            vm = await self._shared(config, shared_vmx, shared_disks or {})
        else:
            vm = await self._blank(config, datastore, disk_datastores or {}, shared_disks or {})
        vm.listed = False
        try:
            async with self._lock:
                self._refuse_twin(vm.id)
                self._incoming[vm.id] = vm
                self._save()
            if start:
                await vm.launch(incoming=True)
                vm.life = Life.INCOMING
        except BaseException:
            await self.discard(vm)
            raise
        return vm

    async def _blank(
        self, config: VmConfig, datastore: str, elsewhere: Mapping[int, str], shared: Mapping[int, str]
    ) -> VirtualMachine:
        datastores = self.host.datastores
        vmx = make_home(datastores.get(datastore), config.name)
        disks = NewDisks(datastores, vmx.parent, vmx.stem)
        directories: dict[str, NewDisks] = {datastore: disks}
        made: list[Disk] = []
        try:
            for disk in config.disks:
                if disk.key in shared:
                    made.append(disk.model_copy(update={"path": shared[disk.key]}))
                    continue
                where = elsewhere.get(disk.key, datastore)
                if where not in directories:
                    directory = make_directory_on(datastores.get(where), config.name)
                    directories[where] = NewDisks(datastores, directory, vmx.stem)
                made.append(await directories[where].blank(disk.model_copy(update={"path": ""})))
            vm = VirtualMachine(self.host, vmx, VmxFile(config.model_copy(update={"disks": made})))
            vm.save()
        except BaseException:
            for one in directories.values():
                one.undo()
                one.remove_directory()
            raise
        return vm

    async def _shared(self, config: VmConfig, shared_vmx: str, disks: Mapping[int, str]) -> VirtualMachine:
        """A VM whose files are here already, under its source's hands until the move is committed."""
        vmx = self.host.datastores.file(shared_vmx)
        there = await asyncio.to_thread(read_vmx, self.host, vmx)
        moved = [
            disk.model_copy(update={"path": disks[disk.key]}) if disk.key in disks else disk for disk in config.disks
        ]
        file = VmxFile(config.model_copy(update={"disks": moved}), there.nvram)
        vm = VirtualMachine(self.host, vmx, file)
        vm.files_shared = True
        return vm

    async def commit(self, vm: VirtualMachine) -> None:
        """A VM that was moved here is here: running if its QEMU runs, else powered off."""
        async with self._lock:
            self._incoming.pop(vm.id, None)
            self._vms[vm.id] = vm
            vm.files_shared = False
            vm.save()
            self._save()
        if vm.process.alive:
            vm.adopt("moved here")
        elif vm.life is Life.INCOMING:
            vm.life = Life.OFF
        vm.listed = True
        self.host.events.add("vm-added", vm.id, "moved here")
        if vm.tools_connected and self.host.on_tools is not None:
            self.host.on_tools(vm.id)
        await self.measure(vm)

    async def discard(self, vm: VirtualMachine) -> None:
        """Give up a move here: when this returns, it is certain that the VM does not run here, and no file is left."""
        await vm.kill()
        vm.life = Life.OFF
        if not vm.files_shared:
            await asyncio.to_thread(self._delete_files, vm)
        async with self._lock:
            self._incoming.pop(vm.id, None)
            self._save()

    async def remove_after_move(self, vm: VirtualMachine, *, delete_files: bool = True) -> None:
        """The VM runs elsewhere: end its process here, forget it, and delete its files unless they moved with it."""
        await vm.kill()
        vm.life = Life.OFF
        if delete_files:
            await asyncio.to_thread(self._delete_files, vm)
        await self._remove(vm, "moved away")

    async def set_home(self, vm: VirtualMachine, vmx: Path) -> None:
        """The VM's files lie elsewhere now, its VMX file at `vmx`."""
        async with self._lock:
            vm.vmx = vmx
            vm.save()
            self._save()

    # -- about files -------------------------------------------------------------------------------------------------

    def user_of(self, path: Path) -> VirtualMachine | None:
        """The VM that needs a file, or something in a directory."""
        for vm in [*self.vms, *self.incoming]:
            if any(used.is_relative_to(path) for used in self._used(vm)):
                return vm
        return None

    def _used(self, vm: VirtualMachine) -> set[Path]:
        if not vm.vmx.is_absolute():
            return set()
        used = {vm.vmx}
        datastores = self.host.datastores
        for named in [disk.path for disk in vm.config.disks] + [one.iso for one in vm.config.cdroms if one.iso]:
            try:
                used |= set(datastores.chain(datastores.file(named)))
            except StorageFault:
                used.add(datastores.file(named))
        if vm.directory.is_dir():
            used |= own_files(datastores, vm.vmx, vm.config)
        return used

    async def measure(self, vm: VirtualMachine) -> None:
        """Bring `storage_committed` up to date."""
        if vm.invalid is None and vm.directory.is_dir():
            vm.storage_committed = await asyncio.to_thread(self._committed, vm)

    def _committed(self, vm: VirtualMachine) -> int:
        return allocated(path for path in own_files(self.host.datastores, vm.vmx, vm.config) if path.suffix != ".log")
