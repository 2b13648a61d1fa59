"""The half of a migration at the site the VM comes to: a shadow of it on the appliance is moved to the real host."""

import asyncio
import contextlib
import logging
import time
from typing import Any, ClassVar

from pyVmomi import vim, vmodl

from landbridge.esx.client import HostError
from landbridge.esx.model import ApiError, PowerState, VmConfig, VmotionMode, VmState
from landbridge.hcx.ix.client import IxClient
from landbridge.hcx.ix.model import Announcement
from landbridge.hcx.mesh import Mesh, MeshError, Transit
from landbridge.hcx.migrations import placing
from landbridge.hcx.migrations.follow import Follower
from landbridge.hcx.migrations.halves import Nothing, Target
from landbridge.hcx.migrations.model import (
    Findings,
    HalfState,
    MigrationStopped,
    Seen,
    Streams,
    TargetOrder,
    TargetVm,
)
from landbridge.hcx.store import Document, Store
from landbridge.vmodl.client import VCenter, fault_text

_log = logging.getLogger(__name__)
_PREPARE_TIMEOUT = 45.0  # seconds; the source's appliance keeps its vCenter waiting for 50
_POLL = 20.0
_RETRY = 2.0
_PLACE_VALID = 10.0  # seconds
_PLACES_KEPT = 100
_UNREGISTER_ATTEMPTS = 20
_UNREGISTER_PAUSE = 0.25


class TargetHalf(Document):
    """What the target's site must not forget of a migration."""

    kind: ClassVar[str] = "target-half"
    instance_uuid: str
    vm: str = ""
    task: str = ""
    # None until the relocation's end was seen and cleaned up after.
    end: HalfState | None = None


class LocalTarget(Target):
    """The target half in this site's vCenter and appliance."""

    def __init__(self, store: Store, vcenter: VCenter, ix: IxClient, mesh: Mesh) -> None:
        self._store = store
        self._vcenter = vcenter
        self._ix = ix
        self._mesh = mesh
        self._follower = Follower(vcenter)
        self._settling: dict[str, asyncio.Task[HalfState]] = {}
        self._places: dict[str, tuple[float, placing.Place]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def resume(self) -> None:
        """After a restart: follow what is under way, and clean up after what ended."""
        for half in await self._store.all(TargetHalf):
            if half.task and half.end is None:
                self._follow(half)

    async def close(self) -> None:
        for task in self._settling.values():
            task.cancel()
        await asyncio.gather(*self._settling.values(), return_exceptions=True)
        await self._follower.close()

    async def check(self, _migration: str, order: TargetOrder) -> Findings:
        transit = await self._mesh.transit()
        findings, place = await self._vcenter.run(placing.check, order, transit)
        if place is not None and not findings.errors:
            self._places[_migration] = (time.monotonic(), place)
            while len(self._places) > _PLACES_KEPT:
                self._places.pop(next(iter(self._places)))
        return findings

    async def _place(self, migration: str, order: TargetOrder, transit: Transit) -> placing.Place:
        """Where the VM goes: what the validation of a moment ago found, or found now."""
        found, place = self._places.pop(migration, (0.0, None))
        if place is None or time.monotonic() - found > _PLACE_VALID:
            place = await self._vcenter.run(placing.resolve, order, transit)
        return place

    async def prepare(self, migration: str, vm: TargetVm) -> Streams:
        async with self._lock(migration):
            known = await self._store.get(TargetHalf, migration)
            half = known or TargetHalf(id=migration, instance_uuid=vm.order.instance_uuid)
            if known is None:
                await self._store.put(half)
            # The VM may be here already, when who drives the migration was dead while it came: then all goes on.
            if half.end is not None and half.end.phase == "failed":
                raise MigrationStopped(f"the target gave the migration up: {half.end.error}")
            try:
                async with asyncio.timeout(_PREPARE_TIMEOUT):
                    return await self._prepare(half, vm, again=known is not None)
            except TimeoutError as error:
                raise MigrationStopped(f"the target was not ready within {_PREPARE_TIMEOUT:.0f} s") from error
            except (MeshError, HostError, placing.NoPlace) as error:
                raise MigrationStopped(f"the target is not ready: {error}") from error
            except vmodl.MethodFault as fault:
                raise MigrationStopped(f"the target's vCenter refused the VM: {fault_text(fault)}") from fault

    async def _prepare(self, half: TargetHalf, vm: TargetVm, *, again: bool) -> Streams:
        if not half.task:
            transit = await self._mesh.transit()
            place = await self._place(half.id, vm.order, transit)
            shadow = _shadow(vm, place, transit)
            await self._ix.announce(half.id, Announcement(end="target", vm=half.instance_uuid, shadow=shadow))
            known = await self._vcenter.run(_registered, half.instance_uuid, transit) if again else ""
            half.vm = known or await self._register(shadow, place, transit)
            half.task = await self._vcenter.run(_relocate, half.vm, place)
            await self._store.put(half)
        self._follow(half)
        return await self._streams(half)

    async def _register(self, shadow: VmState, place: placing.Place, transit: Transit) -> str:
        task = await self._vcenter.run(_register, shadow, place, transit)
        info = await self._vcenter.finish(task)
        if info is None or info.state != "success":
            raise MigrationStopped(f"registering the VM at the target: {fault_text(info.error if info else None)}")
        return str(info.result._moId)

    async def _streams(self, half: TargetHalf) -> Streams:
        """Where our appliance takes the streams, once our vCenter asked it to send the VM."""
        ended = asyncio.create_task(self._follower.final(half.id))
        try:
            move = await self._ix.move(half.id)
            while not move.endpoints:
                asked = asyncio.create_task(self._ix.move(half.id, seen=move.seq, wait=_POLL))
                await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    asked.cancel()
                    raise MigrationStopped(f"the target's vCenter gave the move up: {ended.result().error}")
                move = await asked
        finally:
            ended.cancel()
        return Streams(endpoints=move.endpoints)

    async def state(self, migration: str, seen: Seen) -> HalfState:
        half = await self._store.get(TargetHalf, migration)
        if half is None or not half.task:
            raise MigrationStopped(f"migration {migration} was not prepared here")
        if half.end is not None:
            return half.end
        self._follow(half)
        state = await self._follower.state(migration, seen.seq, seen.wait)
        return await self._settled(half) if state.final else state

    async def abort(self, migration: str, _: Nothing) -> HalfState:
        async with self._lock(migration):
            half = await self._store.get(TargetHalf, migration)
            if half is None:
                return HalfState(phase="failed", error="nothing was prepared")
            if half.end is not None:
                return half.end
            if half.task:
                # Too late, or over: how it ends is told by the task.
                with contextlib.suppress(vmodl.MethodFault):
                    await self._vcenter.run(_cancel, half.task)
                self._follow(half)
                return await self._settled(half)
            await self._clear_away(half)
            half.end = HalfState(phase="failed", error="canceled before the target was ready")
            await self._store.put(half)
            return half.end

    async def forget(self, migration: str, _: Nothing) -> Nothing:
        settling = self._settling.pop(migration, None)
        if settling is not None:
            settling.cancel()
        self._follower.drop(migration)
        await self._ix.forget(migration)
        await self._store.delete(TargetHalf, migration)
        self._locks.pop(migration, None)
        return Nothing()

    # ------------------------------------------------------------------------------- inside

    def _lock(self, migration: str) -> asyncio.Lock:
        return self._locks.setdefault(migration, asyncio.Lock())

    def _follow(self, half: TargetHalf) -> None:
        """Follow the relocation to its end, and clean up there even if nobody asks any more."""
        self._follower.follow(half.id, half.task)
        if half.id not in self._settling:
            self._settling[half.id] = asyncio.create_task(self._settle(half), name=f"settle {half.id}")

    async def _settled(self, half: TargetHalf) -> HalfState:
        return await asyncio.shield(self._settling[half.id])

    async def _settle(self, half: TargetHalf) -> HalfState:
        state = await self._follower.final(half.id)
        while True:
            try:
                if state.phase == "succeeded":
                    await self._ix.finish(half.id, None)
                else:
                    await self._clear_away(half)
                break
            except Exception as error:
                # Whatever it is, what is left behind has to go: again until it is gone.
                _log.warning("after migration %s: %s", half.id, error)
                await asyncio.sleep(_RETRY)
        half.end = state
        await self._store.put(half)
        return state

    async def _clear_away(self, half: TargetHalf) -> None:
        """Remove the shadow; the VM itself stays what it is at its source."""
        with contextlib.suppress(HostError):  # an appliance that knows of nothing has nothing to end
            await self._ix.finish(half.id, ApiError(type="OperationAborted", message="the migration was given up"))
        with contextlib.suppress(MeshError):
            transit = await self._mesh.transit()
            vm = half.vm or await self._vcenter.run(_registered, half.instance_uuid, transit)
            if vm:
                await self._unregister(vm, transit)

    async def _unregister(self, vm: str, transit: Transit) -> None:
        for attempt in range(_UNREGISTER_ATTEMPTS):
            try:
                await self._vcenter.run(_unregister, vm, transit)
            except (vim.fault.TaskInProgress, vim.fault.InvalidPowerState):
                # vCenter just ended the relocation; that the shadow is off comes with the host's next event.
                if attempt + 1 == _UNREGISTER_ATTEMPTS:
                    raise
                await asyncio.sleep(_UNREGISTER_PAUSE)
            else:
                return


def _shadow(vm: TargetVm, place: placing.Place, transit: Transit) -> VmState:
    """The VM as our vCenter will see it on the appliance: on our networks, its disks nowhere yet."""
    config: VmConfig = vm.config.model_copy(deep=True)
    home = f"[{transit.datastore_name}] {config.instance_uuid}"
    for nic in config.nics:
        nic.network = place.port_groups.get(nic.key)
    for disk in config.disks:
        disk.path = f"{home}/disk-{disk.key}.vmdk"
    for cdrom in config.cdroms:
        cdrom.iso = None  # media stay where they are
    for port in config.serial_ports:
        port.file = ""
    power = PowerState.OFF if vm.order.mode is VmotionMode.COLD else PowerState.ON
    return VmState(config=config, vmx=f"{home}/vm.vmx", power_state=power, sender_authority=vm.sender_authority)


def _register(instance: Any, shadow: VmState, place: placing.Place, transit: Transit) -> str:
    folder = vim.Folder(place.folder, instance._stub)
    task = folder.RegisterVM_Task(
        path=shadow.vmx,
        name=shadow.config.name,
        asTemplate=False,
        pool=vim.ResourcePool(transit.pool, instance._stub),
        host=vim.HostSystem(transit.host, instance._stub),
    )
    return str(task._moId)


def _registered(instance: Any, instance_uuid: str, transit: Transit) -> str:
    """The VM of that UUID if it is on the appliance; empty if it is not."""
    for machine in vim.HostSystem(transit.host, instance._stub).vm:
        with contextlib.suppress(vmodl.fault.ManagedObjectNotFound):
            if machine.config is not None and machine.config.instanceUuid == instance_uuid:
                return str(machine._moId)
    return ""


def _relocate(instance: Any, vm: str, place: placing.Place) -> str:
    """The task that moves the shadow to the real host: one that runs already, or a new one."""
    machine = vim.VirtualMachine(vm, instance._stub)
    for task in machine.recentTask:
        with contextlib.suppress(vmodl.fault.ManagedObjectNotFound):
            if task.info.descriptionId == "VirtualMachine.relocate" and task.info.state in ("running", "queued"):
                return str(task._moId)
    spec = vim.vm.RelocateSpec(
        host=vim.HostSystem(place.host, instance._stub),
        pool=vim.ResourcePool(place.pool, instance._stub),
        datastore=vim.Datastore(place.datastore, instance._stub),
        folder=vim.Folder(place.folder, instance._stub),
    )
    return str(machine.RelocateVM_Task(spec=spec)._moId)


def _cancel(instance: Any, task: str) -> None:
    vim.Task(task, instance._stub).CancelTask()


def _unregister(instance: Any, vm: str, transit: Transit) -> None:
    """Unregister the shadow if it is still on the appliance."""
    machine = vim.VirtualMachine(vm, instance._stub)
    with contextlib.suppress(vmodl.fault.ManagedObjectNotFound):
        host = machine.runtime.host
        if host is not None and host._moId == transit.host:
            machine.UnregisterVM()
