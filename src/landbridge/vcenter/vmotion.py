"""One vMotion as vCenter sees it: the target is made ready, the source is sent off, both are watched to the end.

The two agents do the move between them; vCenter's death stops nothing, and a watcher started later picks up where the
last one was. The target's word counts: the move is done when the target says `succeeded`. It has failed when the
target is known not to run the VM, or when the source says that it goes on running it.
"""

import asyncio
import logging
import sys
from dataclasses import dataclass, field
from typing import Any

from pyVmomi import vim, vmodl

from landbridge.esx.client import HostClient, HostError, HostUnreachable
from landbridge.esx.model import ApiError, IncomingVm, OutgoingVm, Vmotion, VmotionMode, VmotionPhase
from landbridge.vcenter.host_jobs import percent
from landbridge.vcenter.tasks import TaskHandle

log = logging.getLogger(__name__)
_WAIT = 30.0  # seconds an agent keeps a request open while nothing changes
_FIRST_RETRY, _LAST_RETRY = 0.1, 2.0  # seconds between attempts to reach an agent
_BOTH_AWAY = 600.0  # seconds after which a move is given up whose two hosts do not answer
_LAST_WORD = 2.0  # seconds for the source's final numbers
_LEAVE_SOURCE = 30.0  # seconds a source gets to notice that its target is gone
_PARTING = 24 * 3600.0  # seconds hosts that do not answer are waited for, to be told that a move is over
_LAST_PARTING_RETRY = 15.0
_FINAL = (VmotionPhase.SUCCEEDED, VmotionPhase.FAILED)
_TOO_LATE = (VmotionPhase.SWITCHOVER, VmotionPhase.IN_DOUBT, *_FINAL)
_UNKNOWN = "ManagedObjectNotFound"

_partings: set[asyncio.Task[None]] = set()


@dataclass
class _End:
    """What is known of a move at one host."""

    host: Any
    latest: Vmotion | None = None
    # The agent does not know the move.
    unknown: bool = False
    # Since when the agent does not answer (the loop's time).
    away_since: float | None = None
    aborting: bool = False

    @property
    def phase(self) -> VmotionPhase | None:
        return self.latest.phase if self.latest is not None else None

    @property
    def final(self) -> bool:
        return self.unknown or self.phase in _FINAL


@dataclass
class Watch:
    """Watches one move until its outcome is certain."""

    task: TaskHandle
    inventory: Any
    id: str
    source: Any
    target: Any
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def outcome(self) -> Vmotion:
        """The target's last word, when the move succeeded.

        HostError if it failed and the VM is at the source as before; HostUnreachable if both hosts stay away.
        Both hosts are told afterwards, in the background, that nobody will ask any more.
        """
        try:
            return await self._outcome()
        finally:
            # Only interrupted (vCenter ends), there is no verdict; whoever watches next comes here again.
            if not isinstance(sys.exception(), asyncio.CancelledError):
                part_in_background(self.inventory, self.id, self.source, self.target)

    async def _outcome(self) -> Vmotion:
        ends = (_End(self.source), _End(self.target))
        watchers = [asyncio.create_task(self._follow(end)) for end in ends]
        watchers.append(asyncio.create_task(self._on_cancel(ends[0])))
        try:
            while True:
                verdict = await self._judge(*ends)
                if verdict is not None:
                    await self._last_word(ends[0])
                    return verdict
                self._changed.clear()
                try:
                    await asyncio.wait_for(self._changed.wait(), _WAIT)
                except TimeoutError:
                    self._refuse_both_away(*ends)
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)

    # -- looking ------------------------------------------------------------------------------------------

    def _client(self, host: Any) -> HostClient:
        connection = self.inventory.hosts.connection(host)
        if connection is None:
            raise HostUnreachable(f"{host.name} is disconnected")
        client: HostClient = connection.client
        return client

    async def _follow(self, end: _End) -> None:
        retry = _FIRST_RETRY
        while not end.final:
            seen = end.latest.seq if end.latest is not None else -1
            try:
                end.latest = await self._client(end.host).vmotion(self.id, seen=seen, wait=_WAIT)
                end.away_since, retry = None, _FIRST_RETRY
                self._show(end.latest)
            except HostError as error:
                if error.type != _UNKNOWN:
                    log.warning("vMotion %s at %s: %s", self.id, end.host.name, error)
                    await asyncio.sleep(_LAST_RETRY)
                end.unknown = error.type == _UNKNOWN
            except HostUnreachable:
                end.away_since = end.away_since or asyncio.get_running_loop().time()
                await asyncio.sleep(retry)
                retry = min(retry * 2, _LAST_RETRY)
            self._changed.set()

    def _show(self, latest: Vmotion) -> None:
        """The move's progress as the task's: percent, and the numbers as arguments of its description."""
        if latest.progress.disk_total + latest.progress.memory_total > 0:
            self.task.progress(percent(latest.progress))
        if latest.phase in _TOO_LATE:
            self.task.allow_cancel(False)
        if latest.direction == "outgoing":
            show_progress(self.task, latest)

    async def _last_word(self, source: _End) -> None:
        """The source's numbers of the whole move, the guest's pause among them, for who reads the task."""
        try:
            async with asyncio.timeout(_LAST_WORD):
                self._show(await self._client(source.host).vmotion(self.id))
        except (HostError, HostUnreachable, TimeoutError) as error:
            log.info("vMotion %s: %s tells no more of it: %s", self.id, source.host.name, error)

    async def _on_cancel(self, source: _End) -> None:
        await self.task.cancel_requested.wait()
        await self._abort(source)
        self._changed.set()

    # -- deciding -----------------------------------------------------------------------------------------

    async def _judge(self, source: _End, target: _End) -> Vmotion | None:
        """The target's word if the move succeeded, None while it is open; raises if it failed for certain."""
        if target.phase is VmotionPhase.SUCCEEDED:
            return target.latest
        if target.final:
            await self._leave(source)
            raise self._failure(source, target)
        if source.phase is VmotionPhase.FAILED or source.unknown:
            await self._abort(target)
            if (answer := target.latest) is not None and answer.phase is VmotionPhase.SUCCEEDED:
                return answer
            # A target that can not be reached never got the end of the stream: it can not run, and cleans up itself.
            if target.final or (target.away_since is not None and not source.unknown):
                raise self._failure(source, target)
        return None

    async def _leave(self, source: _End) -> None:
        """The target gave up: the source goes on by itself, and is told in case it has not noticed."""
        if source.final:
            return
        await self._abort(source)
        try:
            async with asyncio.timeout(_LEAVE_SOURCE):
                while not source.final and source.away_since is None:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            log.warning("vMotion %s: %s has not given it up yet", self.id, source.host.name)

    async def _abort(self, end: _End) -> None:
        if end.final or end.aborting:
            return
        end.aborting = True
        try:
            end.latest = await self._client(end.host).abort_vmotion(self.id)
        except HostError as error:
            # Too late (it switches over), or the agent never heard of it: what it says next decides.
            end.unknown = error.type == _UNKNOWN
            log.info("vMotion %s can not be given up at %s: %s", self.id, end.host.name, error)
        except HostUnreachable as error:
            end.away_since = end.away_since or asyncio.get_running_loop().time()
            log.warning("vMotion %s: %s could not be told to give up: %s", self.id, end.host.name, error)
        end.aborting = False

    def _failure(self, source: _End, target: _End) -> Exception:
        if self.task.cancelled:
            return vmodl.fault.RequestCanceled(msg="The task was canceled by a user.")
        for end in (source, target):
            if end.latest is not None and end.latest.error is not None:
                return HostError(end.latest.error)
        missing = next((end.host.name for end in (source, target) if end.unknown), "one of its hosts")
        return HostError(
            ApiError(type="MigrationFault", message=f"The move ended without being carried out: {missing} has lost it.")
        )

    def _refuse_both_away(self, source: _End, target: _End) -> None:
        now = asyncio.get_running_loop().time()
        away = [end.away_since for end in (source, target) if end.away_since is not None]
        if len(away) == 2 and now - max(away) > _BOTH_AWAY:
            raise HostUnreachable(
                f"neither {source.host.name} nor {target.host.name} answers; the VM is where they find it to be"
            )


def part_in_background(inventory: Any, vmotion: str, source: Any, target: Any) -> None:
    """Tell both ends of a move that is over that nobody will ask any more, as soon as each can be told."""
    parting = asyncio.create_task(Parting(inventory, vmotion).run(source, target), name=f"vmotion parting {vmotion}")
    _partings.add(parting)
    parting.add_done_callback(_partings.discard)


@dataclass
class Parting:
    """The end of a move after its end: hosts close its streams, although their other half may never come back.

    The target is told only after the source answered that it has parted, or that it knows of no such move: a source in
    doubt learns where its VM is from the target alone. As long as the source does not answer, the target stays there.
    """

    inventory: Any
    id: str

    async def run(self, source: Any, target: Any) -> None:
        try:
            async with asyncio.timeout(_PARTING):
                await self._part(source)
                await self._part(target, give_up=True)
        except (HostError, _Removed) as error:
            log.warning("vMotion %s: not both hosts could be told that it is over: %s", self.id, error)
        except TimeoutError:
            log.warning("vMotion %s: not both hosts answered within a day to hear that it is over", self.id)

    async def _part(self, host: Any, *, give_up: bool = False) -> None:
        retry = _FIRST_RETRY
        while True:
            try:
                client = await self._client(host)
                await self._tell(client, give_up=give_up)
            except HostError as error:
                if error.type == _UNKNOWN:
                    return
                if error.type == "NotSupported":
                    raise
                # Not ended there, mostly: a source on its way out, a target that does not know yet.
                log.info("vMotion %s is not over at %s: %s", self.id, host.name, error)
            except HostUnreachable as error:
                log.info("vMotion %s: %s can not be told yet that it is over: %s", self.id, host.name, error)
            else:
                return
            await asyncio.sleep(retry)
            retry = min(retry * 2, _LAST_PARTING_RETRY)

    async def _tell(self, client: HostClient, *, give_up: bool) -> None:
        try:
            await client.part_vmotion(self.id)
        except HostError as error:
            if not give_up or error.type != "InvalidState":
                raise
            # The source has ended: a target that still waits for it need not.
            await client.abort_vmotion(self.id)
            await client.part_vmotion(self.id)

    async def _client(self, host: Any) -> HostClient:
        """The host's client, as soon as the host is connected."""
        while host.moid in self.inventory.objects:
            connection = self.inventory.hosts.connection(host)
            if connection is None:
                await asyncio.sleep(_LAST_PARTING_RETRY)
                continue
            try:
                # Not for ever: a host that is disconnected and connected again has another connection.
                async with asyncio.timeout(_LAST_PARTING_RETRY):
                    await connection.listed.wait()
            except TimeoutError:
                continue
            client: HostClient = connection.client
            return client
        raise _Removed(f"{host.moid} was removed from the inventory")


class _Removed(Exception):  # noqa: N818 - a state of the world more than an error of a call
    """The host is vCenter's no more."""


def show_progress(task: TaskHandle, vmotion: Vmotion) -> None:
    """Put phase and numbers of a move into the task's description, as message arguments clients can read.

    Keys: phase; diskTotal, diskDone, disk-<key> for each disk, memoryTotal, memoryDone (bytes); rate, dirtyRate (bytes
    a second); at the end downtimeMs.
    """
    progress = vmotion.progress
    values: dict[str, Any] = {
        "phase": vmotion.phase.value,
        "diskTotal": progress.disk_total,
        "diskDone": progress.disk_done,
        "memoryTotal": progress.memory_total,
        "memoryDone": progress.memory_done,
        "rate": round(progress.rate),
        "dirtyRate": round(progress.dirty_rate),
    }
    values |= {f"disk-{key}": done for key, done in progress.disks.items()}
    if progress.downtime_ms is not None:
        values["downtimeMs"] = progress.downtime_ms
    arguments = [vmodl.KeyAnyValue(key=key, value=str(value)) for key, value in values.items()]
    task.task.change(
        description=vmodl.LocalizableMessage(
            key=task.task.info.descriptionId, arg=arguments, message=f"vMotion: {vmotion.phase.value}"
        )
    )


async def run(
    task: TaskHandle, inventory: Any, incoming: IncomingVm, vm: str, source: Any, target: Any, *, shared: bool
) -> Vmotion:
    """Carry out a move; returns the target's last word. Raises as `Watch.outcome`, and what preparing it refuses.

    The task's journal says which hosts and which move before anything happens.
    """
    await task.note(vmotion=incoming.id, source=source.moid, target=target.moid)
    task.check_cancelled()
    target_client, source_client = target.client(), source.client()
    try:
        prepared = await target_client.prepare_incoming(incoming)
    except HostUnreachable:
        # It may be prepared none the less.
        part_in_background(inventory, incoming.id, source, target)
        raise
    outgoing = OutgoingVm(
        id=incoming.id, mode=incoming.mode, vm=vm, endpoints=prepared.endpoints, shared_storage=shared
    )
    try:
        await source_client.start_outgoing(outgoing)
    except HostError:
        # Refused: the target, which waits for it, is told that nothing comes.
        await _give_up(target_client, incoming.id)
        part_in_background(inventory, incoming.id, source, target)
        raise
    except HostUnreachable as error:
        # It may have started none the less; the watch finds out.
        log.warning("vMotion %s: no answer from the source %s: %s", incoming.id, source.name, error)
    return await Watch(task, inventory, incoming.id, source, target).outcome()


async def _give_up(client: HostClient, vmotion: str) -> None:
    try:
        await client.abort_vmotion(vmotion)
    except (HostError, HostUnreachable) as error:
        log.warning("vMotion %s: the target could not be told to give up: %s", vmotion, error)


def mode_of(vm: Any) -> VmotionMode:
    """Live for a running VM, cold for one that is off or suspended."""
    running = vm.value("runtime").powerState == vim.VirtualMachine.PowerState.poweredOn
    return VmotionMode.LIVE if running else VmotionMode.COLD
