"""Changing a VM's hardware: what differs is plugged in and out, live where QEMU can, and the VMX file follows.

All that can be refused is refused before anything is touched. New things are plugged in before old ones go, and if a
step fails, what was plugged in is taken out again.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from landbridge.esx import hardware
from landbridge.esx.disks import NewDisks
from landbridge.esx.faults import Fault
from landbridge.esx.layout import settle
from landbridge.esx.life import ON
from landbridge.esx.model import Cdrom, Disk, Nic, ReconfigureVm, VmConfig
from landbridge.esx.qmp import QmpError
from landbridge.esx.vm import VirtualMachine
from landbridge.vsan import image
from landbridge.vsan.local import allocated

_Device = TypeVar("_Device", Disk, Nic, Cdrom)
_UNPLUG_TIMEOUT = 15.0  # seconds a guest has to let go of a NIC
# What a running VM can not change.
_COLD_FIELDS = (
    "uuid",
    "hardware_version",
    "firmware",
    "machine",
    "cpu_model",
    "memory_mib",
    "cpus",
    "cores_per_socket",
    "controllers",
    "serial_ports",
)


async def reconfigure(vm: VirtualMachine, request: ReconfigureVm) -> None:
    """Give a VM a new configuration. Takes the VM's lock; Fault if refused, and then nothing has changed."""
    async with vm.lock:
        if request.version != vm.version:
            raise Fault(
                "ConcurrentAccess",
                f"VM {vm.name!r} has changed since version {request.version} (now {vm.version}): read it again",
            )
        if vm.invalid:
            raise Fault("InvalidState", f"VM {vm.name!r} can not be used: {vm.invalid}")
        if vm.vmotion:
            raise Fault("TaskInProgress", f"VM {vm.name!r} is being moved (vMotion {vm.vmotion})")
        await _Change(vm, request).apply()
    vm.changed("reconfigured")


class _Change:
    """One reconfiguration: `old` to `new`, with what takes its steps back."""

    def __init__(self, vm: VirtualMachine, request: ReconfigureVm) -> None:
        self.vm = vm
        self.old = vm.config
        self.new = settle(request.config, vm.host.capabilities)
        self.request = request
        self.live = vm.life in ON
        self.disks = NewDisks(vm.host.datastores, vm.directory, vm.vmx.stem)
        self.undo: list[Callable[[], Awaitable[object]]] = []

    async def apply(self) -> None:
        self._refuse()
        try:
            await self._make_disks()
            if self.live:
                await self._plug_and_unplug_disks()
                await self._change_nics()
            await self._change_cdroms()
            for disk in self.new.disks:
                await self._grow(disk)
            self.vm.save(self.new)
        except BaseException:
            for step in reversed(self.undo):
                with contextlib.suppress(Fault, TimeoutError):
                    await step()
            self.disks.undo()
            raise
        await self._delete_removed()

    # -- what is not possible ------------------------------------------------------------------------------------

    def _refuse(self) -> None:
        if self.new.instance_uuid != self.old.instance_uuid:
            raise Fault("NotSupported", "a VM's instance UUID can not change on its host: clone the VM")
        self._refuse_disks()
        if self.live:
            self._refuse_live()
        elif self.vm.file.suspend_image and self._hardware_differs():
            raise self._cold("its hardware", "suspended: resume or power it off first")

    def _refuse_live(self) -> None:
        for field in _COLD_FIELDS:
            if getattr(self.new, field) != getattr(self.old, field):
                raise self._cold(field)
        for config, disks in ((self.new, self._added_disks()), (self.old, self._removed_disks())):
            for disk in disks:
                if not hardware.hot_pluggable(config, disk.controller):
                    raise self._cold(f"disk {disk.key}, on its kind of controller,")
        drives = [[(one.key, one.controller, one.unit) for one in config.cdroms] for config in (self.old, self.new)]
        if drives[0] != drives[1]:
            raise self._cold("CD-ROM drives")
        for nic in self.new.nics:
            before = _by_key(self.old.nics, nic.key)
            if before is not None and (before.type, before.mac) != (nic.type, nic.mac):
                raise self._cold(f"the type or MAC address of NIC {nic.key}")

    def _refuse_disks(self) -> None:
        for disk in self.new.disks:
            old = _by_key(self.old.disks, disk.key)
            if old is None:
                continue
            if disk.capacity < old.capacity:
                raise Fault(
                    "InvalidDeviceSpec",
                    f"disk {disk.key} has {old.capacity} bytes and can not shrink to {disk.capacity}",
                    key=str(disk.key),
                )
            if disk.path not in ("", old.path):
                raise Fault(
                    "InvalidDeviceSpec",
                    f"disk {disk.key} is {old.path}: remove it and add {disk.path} as another, or relocate the VM",
                    key=str(disk.key),
                )
            if self.live and (disk.controller, disk.unit, disk.thin, disk.uuid or old.uuid) != (
                old.controller,
                old.unit,
                old.thin,
                old.uuid,
            ):
                raise self._cold(f"the address of disk {disk.key}")
            if disk.capacity != old.capacity and self.vm.snapshots:
                raise Fault("NotSupported", f"disk {disk.key} can not grow while the VM has snapshots: remove them")
        if self.vm.snapshots and self._removed_disks():
            raise Fault("NotSupported", "a disk that snapshots need can not be removed: remove the snapshots first")

    def _hardware_differs(self) -> bool:
        soft = {"name", "annotation", "extra_config", "guest_id"}
        return self.new.model_dump(exclude=soft) != self.old.model_dump(exclude=soft)

    def _cold(self, what: str, state: str = "running: power it off first") -> Fault:
        return Fault(
            "InvalidPowerState",
            f"{what} of VM {self.vm.name!r} can not change while it is {state}",
            existingState=self.vm.power_state.value,
            requestedState="poweredOff",
        )

    # -- disks ---------------------------------------------------------------------------------------------------

    def _added_disks(self) -> list[Disk]:
        return [disk for disk in self.new.disks if _by_key(self.old.disks, disk.key) is None]

    def _removed_disks(self) -> list[Disk]:
        return [disk for disk in self.old.disks if _by_key(self.new.disks, disk.key) is None]

    async def _make_disks(self) -> None:
        """The files of new disks; what is known of old ones but left out of the request."""
        disks: list[Disk] = []
        for disk in self.new.disks:
            old = _by_key(self.old.disks, disk.key)
            if old is not None:
                disks.append(disk.model_copy(update={"path": old.path, "uuid": old.uuid}))
            elif disk.key in self.request.existing_disks:
                disks.append(await self.disks.existing(disk))
            else:
                disks.append(await self.disks.blank(disk))
        self.new = self.new.model_copy(update={"disks": disks})

    async def _plug_and_unplug_disks(self) -> None:
        # First out, then in: a new disk may take the address of one that goes.
        for disk in self._removed_disks():
            await self._unplug_disk(disk)
            self._undo(self._plug_disk, self.old, disk)
        for disk in self._added_disks():
            await self._plug_disk(self.new, disk)
            self._undo(self._unplug_disk, disk)

    async def _plug_disk(self, config: VmConfig, disk: Disk) -> None:
        nodes = hardware.disk_nodes(disk, await asyncio.to_thread(self._chain, disk))
        try:
            for node in nodes:
                await self.vm.qmp.execute("blockdev-add", **node)
            await self.vm.qmp.execute("device_add", **hardware.disk_device(config, disk, nodes[-1]["node-name"]))
        except BaseException:
            await self._delete_nodes(disk)
            raise

    def _chain(self, disk: Disk) -> list[Path]:
        datastores = self.vm.host.datastores
        return datastores.chain(datastores.file(disk.path))

    async def _unplug_disk(self, disk: Disk) -> None:
        await self._remove_device(f"disk-{disk.key}")
        await self._delete_nodes(disk)

    async def _delete_nodes(self, disk: Disk) -> None:
        """Delete a disk's layers, each as soon as none stands on it."""
        prefix = f"disk-{disk.key}-"
        nodes = await self.vm.qmp.execute("query-named-block-nodes", flat=True)
        left = sorted((node["node-name"] for node in nodes if node["node-name"].startswith(prefix)), reverse=True)
        while left:
            still = [name for name in left if not await self._delete_node(name)]
            if len(still) == len(left):
                raise Fault("ResourceInUse", f"disk {disk.key} is in use by a block job: nodes {still}")
            left = still

    async def _delete_node(self, name: str) -> bool:
        try:
            await self.vm.qmp.execute("blockdev-del", **{"node-name": name})
        except QmpError:
            return False
        return True

    async def _grow(self, disk: Disk) -> None:
        old = _by_key(self.old.disks, disk.key)
        if old is None or disk.capacity == old.capacity:
            return
        datastore, path = self.vm.host.datastores.locate(disk.path)
        datastore.require_capacity(disk.capacity, f"disk {path.name}")
        if not disk.thin:
            datastore.require_space(disk.capacity - allocated([path]), f"disk {path.name}")
        if self.live:
            node = await self.vm.disk_node(disk.key)
            await self.vm.qmp.execute("block_resize", **{"node-name": node, "size": disk.capacity})
        else:
            await image.resize(path, disk.capacity)

    def _undo(self, step: Callable[..., Awaitable[object]], *arguments: object) -> None:
        self.undo.append(partial(step, *arguments))

    async def _delete_removed(self) -> None:
        for disk in self._removed_disks():
            if disk.key in self.request.destroy_disks:
                chain = await asyncio.to_thread(self._chain, disk)
                for layer in chain:
                    if layer.parent == chain[-1].parent:
                        layer.unlink(missing_ok=True)

    async def _remove_device(self, device: str, timeout: float = _UNPLUG_TIMEOUT) -> None:
        """Unplug a device and wait until the guest let go of it."""
        with self.vm.qmp.listener("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR") as events:
            await self.vm.qmp.execute("device_del", id=device)
            try:
                async with asyncio.timeout(timeout):
                    async for event in events:
                        data: dict[str, str] = event["data"]  # type: ignore[assignment]
                        if data.get("device") != device:
                            continue
                        if event["event"] == "DEVICE_DELETED":
                            return
                        raise Fault("InvalidState", f"the guest refuses to let go of {device}")
            except TimeoutError:
                raise Fault(
                    "InvalidState",
                    f"the guest did not let go of {device} within {timeout:g} s: power it off instead",
                ) from None

    # -- NICs ----------------------------------------------------------------------------------------------------

    async def _change_nics(self) -> None:
        for nic in self.old.nics:
            if _by_key(self.new.nics, nic.key) is None:
                await self._unplug_nic(nic)
                self._undo(self._plug_nic, self.old, nic)
        for nic in self.new.nics:
            old = _by_key(self.old.nics, nic.key)
            if old is None:
                await self._plug_nic(self.new, nic)
                self._undo(self._unplug_nic, nic)
                continue
            if nic.network != old.network:
                await self.vm.plug_nic(nic)
                self._undo(self.vm.plug_nic, old)
            if nic.connected != old.connected:
                await self._link(nic)
                self._undo(self._link, old)

    async def _link(self, nic: Nic) -> None:
        await self.vm.qmp.execute("set_link", name=f"nic-{nic.key}", up=nic.connected)

    async def _plug_nic(self, config: VmConfig, nic: Nic) -> None:
        async with contextlib.AsyncExitStack() as steps:
            await self.vm.plug_nic(nic)
            steps.push_async_callback(self._drop_tap, nic)
            tap = self.vm.tap(nic.key) if self.vm.host.switch is not None else None
            await self.vm.qmp.execute("netdev_add", **hardware.nic_backend(nic, tap))
            steps.push_async_callback(self.vm.qmp.execute, "netdev_del", id=f"net-{nic.key}")
            await self.vm.qmp.execute("device_add", **hardware.nic_device(config, nic))
            if not nic.connected:
                await self._link(nic)
            steps.pop_all()

    async def _unplug_nic(self, nic: Nic) -> None:
        await self._remove_device(f"nic-{nic.key}")
        await self.vm.qmp.execute("netdev_del", id=f"net-{nic.key}")
        await self._drop_tap(nic)

    async def _drop_tap(self, nic: Nic) -> None:
        if self.vm.host.switch is not None:
            await self.vm.host.switch.unplug(self.vm.tap(nic.key))

    # -- CD-ROMs -------------------------------------------------------------------------------------------------

    async def _change_cdroms(self) -> None:
        for one in self.new.cdroms:
            old = _by_key(self.old.cdroms, one.key)
            iso = self.vm.host.datastores.file(one.iso) if one.iso and one.connected else None
            if iso is not None and not iso.is_file():
                raise Fault("FileNotFound", f"{one.iso} is not there")
            if self.live and old is not None and (old.iso, old.connected) != (one.iso, one.connected):
                await self._change_medium(one, iso)

    async def _change_medium(self, cdrom: Cdrom, iso: Path | None) -> None:
        device = f"cdrom-{cdrom.key}"
        await self.vm.qmp.execute("blockdev-open-tray", id=device, force=True)
        if device in await self.vm.device_nodes():
            await self.vm.qmp.execute("blockdev-remove-medium", id=device)
            await self.vm.qmp.execute("blockdev-del", **{"node-name": device})
        if iso is not None:
            await self.vm.qmp.execute("blockdev-add", **hardware.cdrom_node(cdrom, iso))
            await self.vm.qmp.execute("blockdev-insert-medium", **{"id": device, "node-name": device})
        await self.vm.qmp.execute("blockdev-close-tray", id=device)


def _by_key(devices: list[_Device], key: int) -> _Device | None:
    return next((device for device in devices if device.key == key), None)
