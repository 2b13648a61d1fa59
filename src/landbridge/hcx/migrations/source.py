"""The half of a migration at the site the VM leaves: its vCenter moves it to the interconnect appliance."""

import asyncio
import contextlib
import time
from typing import Any, ClassVar

from pyVmomi import vim, vmodl

from landbridge.esx.client import HostError
from landbridge.esx.model import ApiError, VmotionPhase
from landbridge.hcx.ix.client import IxClient
from landbridge.hcx.ix.model import Announcement
from landbridge.hcx.mesh import Mesh, MeshError, Transit
from landbridge.hcx.migrations.follow import Follower
from landbridge.hcx.migrations.halves import Nothing, Source
from landbridge.hcx.migrations.model import (
    HalfState,
    MigrationStopped,
    Outcome,
    Requested,
    Seen,
    SourceOrder,
    Streams,
)
from landbridge.hcx.store import Document, Store
from landbridge.vmodl.client import VCenter, fault_text

_LEAVE_TIMEOUT = 60.0  # seconds
_UNREGISTER_ATTEMPTS = 20
_UNREGISTER_PAUSE = 0.25  # seconds


class SourceHalf(Document):
    """What the source's site must not forget of a migration."""

    kind: ClassVar[str] = "source-half"
    order: SourceOrder
    began: float
    task: str = ""
    # At the source nothing is left of the VM.
    left: bool = False


class LocalSource(Source):
    """The source half in this site's vCenter and appliance."""

    def __init__(self, store: Store, vcenter: VCenter, ix: IxClient, mesh: Mesh, authority: str) -> None:
        """`authority` (PEM) vouches for the hosts of this site."""
        self._store = store
        self._vcenter = vcenter
        self._ix = ix
        self._mesh = mesh
        self._authority = authority
        self._follower = Follower(vcenter)
        self._lock = asyncio.Lock()

    async def resume(self) -> None:
        """After a restart: follow what is under way."""
        for half in await self._store.all(SourceHalf):
            if half.task:
                self._follower.follow(half.id, half.task)

    async def close(self) -> None:
        await self._follower.close()

    async def begin(self, migration: str, order: SourceOrder) -> Nothing:
        async with self._lock:
            known = await self._store.get(SourceHalf, migration)
            half = known or SourceHalf(id=migration, order=order, began=time.time())
            if known is None:
                await self._store.put(half)
            if not half.task:
                try:
                    half.task = await self._start(half, again=known is not None)
                except (MeshError, HostError) as error:
                    raise MigrationStopped(f"{order.vm} can not leave its site: {error}") from error
                except vmodl.MethodFault as fault:
                    raise MigrationStopped(f"the source's vCenter refused the move: {fault_text(fault)}") from fault
                await self._store.put(half)
        self._follower.follow(migration, half.task)
        return Nothing()

    async def _start(self, half: SourceHalf, *, again: bool) -> str:
        """The relocation task: the one a process before us started, or a new one."""
        order = half.order
        transit, _ = await asyncio.gather(
            self._mesh.transit(),
            self._ix.announce(half.id, Announcement(end="source", vm=order.instance_uuid)),
        )
        running = await self._vcenter.run(_running_relocation, order.vm, half.began) if again else ""
        if running:
            return running
        if order.remove_snapshots or order.remove_isos:
            await self._make_movable(order)
        return await self._vcenter.run(_relocate, order.vm, transit)

    async def _make_movable(self, order: SourceOrder) -> None:
        for wanted, work in ((order.remove_snapshots, _remove_snapshots), (order.remove_isos, _remove_isos)):
            task = await self._vcenter.run(work, order.vm) if wanted else ""
            if task:
                info = await self._vcenter.finish(task)
                if info is None or info.state != "success":
                    raise MigrationStopped(f"preparing {order.vm}: {fault_text(info.error if info else None)}")

    async def requested(self, migration: str, seen: Seen) -> Requested:
        await self._known(migration)
        asked = asyncio.create_task(self._asked(migration, seen.wait))
        ended = asyncio.create_task(self._follower.final(migration))
        try:
            await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise MigrationStopped(f"the source's vCenter gave the move up: {ended.result().error}")
            return await asked
        finally:
            asked.cancel()
            ended.cancel()

    async def _asked(self, migration: str, wait: float) -> Requested:
        move = await self._ix.move(migration)
        if move.incoming is None:
            move = await self._ix.move(migration, seen=move.seq, wait=wait)
        return Requested(incoming=move.incoming, authority=self._authority)

    async def join(self, migration: str, streams: Streams) -> Nothing:
        await self._known(migration)
        try:
            await self._ix.join(migration, streams.endpoints)
        except HostError as error:
            raise MigrationStopped(f"the source's appliance: {error}") from error
        return Nothing()

    async def state(self, migration: str, seen: Seen) -> HalfState:
        await self._known(migration)
        state = await self._follower.state(migration, seen.seq, seen.wait)
        with contextlib.suppress(HostError):
            move = await self._ix.move(migration)
            return state.model_copy(update={"abort_requested": move.abort_requested})
        return state

    async def cancel(self, migration: str, _: Nothing) -> Nothing:
        half = await self._store.get(SourceHalf, migration)
        if half is not None and half.task:
            # Too late, or over: how it ends is told by the task.
            with contextlib.suppress(vmodl.MethodFault):
                await self._vcenter.run(_cancel, half.task)
        return Nothing()

    async def finish(self, migration: str, outcome: Outcome) -> HalfState:
        half = await self._store.get(SourceHalf, migration)
        if half is None:
            return HalfState(phase="failed", error="the migration did not begin at its source")
        error = ApiError(type="OperationAborted", message=outcome.error) if outcome.error else None
        if error is None and half.task:
            await self._let_source_host_leave(half)
        with contextlib.suppress(HostError):  # the appliance never heard of it: then vCenter did not ask it either
            await self._ix.finish(migration, error)
        if not half.task:
            half.task = await self._vcenter.run(_running_relocation, half.order.vm, half.began)
            if not half.task:
                return HalfState(phase="failed", error=outcome.error)
        self._follower.follow(migration, half.task)
        state = await self._follower.final(migration)
        if not outcome.error and not half.left:
            await self._unregister(half)
        return state

    async def _let_source_host_leave(self, half: SourceHalf) -> None:
        """Wait until the source host knows that the VM runs elsewhere: it learns it over streams that end with us.

        A host that died meanwhile has nothing left to learn them for, so the wait ends.
        """
        self._follower.follow(half.id, half.task)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_TIMEOUT):
                state = await self._follower.state(half.id)
                while not state.final and state.detail.get("phase") != VmotionPhase.SUCCEEDED:
                    state = await self._follower.state(half.id, state.seq, _LEAVE_TIMEOUT)

    async def _unregister(self, half: SourceHalf) -> None:
        """Take the VM, which is on the appliance now and runs elsewhere, out of this vCenter."""
        transit = await self._mesh.transit()
        for attempt in range(_UNREGISTER_ATTEMPTS):
            try:
                left = await self._vcenter.run(_unregister, half.order.vm, transit)
            except (vim.fault.TaskInProgress, vim.fault.InvalidPowerState):
                # vCenter just ended the relocation; that the VM is off comes with the host's next event.
                if attempt + 1 == _UNREGISTER_ATTEMPTS:
                    raise
                await asyncio.sleep(_UNREGISTER_PAUSE)
                continue
            if not left:
                raise MigrationStopped(
                    f"{half.order.vm} runs at the target, but the source's vCenter still shows it on a host: "
                    "unregister it there by hand after a look at it"
                )
            break
        half.left = True
        await self._store.put(half)

    async def forget(self, migration: str, _: Nothing) -> Nothing:
        self._follower.drop(migration)
        await self._ix.forget(migration)
        await self._store.delete(SourceHalf, migration)
        return Nothing()

    async def _known(self, migration: str) -> SourceHalf:
        half = await self._store.get(SourceHalf, migration)
        if half is None or not half.task:
            raise MigrationStopped(f"migration {migration} did not begin here")
        self._follower.follow(migration, half.task)
        return half


def _machine(instance: Any, vm: str) -> Any:
    return vim.VirtualMachine(vm, instance._stub)


def _running_relocation(instance: Any, vm: str, since: float) -> str:
    """A relocation of the VM that began after `since` (seconds since the epoch) and is not over; empty if none."""
    try:
        recent = _machine(instance, vm).recentTask
    except vmodl.fault.ManagedObjectNotFound:
        return ""
    for task in recent:
        with contextlib.suppress(vmodl.fault.ManagedObjectNotFound):
            info = task.info
            ours = info.descriptionId == "VirtualMachine.relocate" and info.state in ("running", "queued")
            # One second of tolerance for clocks that are set differently.
            if ours and info.queueTime.timestamp() >= since - 1:
                return str(task._moId)
    return ""


def _relocate(instance: Any, vm: str, transit: Transit) -> str:
    spec = vim.vm.RelocateSpec(
        host=vim.HostSystem(transit.host, instance._stub),
        pool=vim.ResourcePool(transit.pool, instance._stub),
        datastore=vim.Datastore(transit.datastore, instance._stub),
    )
    return str(_machine(instance, vm).RelocateVM_Task(spec=spec)._moId)


def _cancel(instance: Any, task: str) -> None:
    vim.Task(task, instance._stub).CancelTask()


def _remove_snapshots(instance: Any, vm: str) -> str:
    machine = _machine(instance, vm)
    if machine.snapshot is None or not machine.snapshot.rootSnapshotList:
        return ""
    return str(machine.RemoveAllSnapshots_Task()._moId)


def _remove_isos(instance: Any, vm: str) -> str:
    machine = _machine(instance, vm)
    changes = []
    for device in machine.config.hardware.device:
        cdrom = isinstance(device, vim.vm.device.VirtualCdrom)
        if cdrom and isinstance(device.backing, vim.vm.device.VirtualCdrom.IsoBackingInfo):
            device.backing = vim.vm.device.VirtualCdrom.RemotePassthroughBackingInfo(deviceName="", exclusive=False)
            changes.append(vim.vm.device.VirtualDeviceSpec(operation="edit", device=device))
    if not changes:
        return ""
    return str(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=changes))._moId)


def _unregister(instance: Any, vm: str, transit: Transit) -> bool:
    """Whether the VM is out of this vCenter; False if it is on another host than the appliance."""
    machine = _machine(instance, vm)
    try:
        if machine.runtime.host._moId != transit.host:
            return False
        machine.UnregisterVM()
    except vmodl.fault.ManagedObjectNotFound:
        pass
    return True
