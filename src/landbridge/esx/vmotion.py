"""The moves of one host, coming and going: begun, watched, aborted, and taken up again after the agent's restart."""

import asyncio
import logging

from landbridge.esx.faults import Fault
from landbridge.esx.inventory import Inventory
from landbridge.esx.life import Life, require
from landbridge.esx.model import IncomingVm, OutgoingVm, Vmotion, VmotionMode, VmotionPhase
from landbridge.esx.vm import VirtualMachine
from landbridge.esx.vmotion_cold import ColdSource
from landbridge.esx.vmotion_disks import channel
from landbridge.esx.vmotion_journal import Journal, Record, boot_id
from landbridge.esx.vmotion_leave import Departure
from landbridge.esx.vmotion_move import CONTROL, RAM
from landbridge.esx.vmotion_source import LiveSource, Source
from landbridge.esx.vmotion_target import Target
from landbridge.relay import Relay, RelayError

_log = logging.getLogger(__name__)
_LIVES = {
    VmotionMode.LIVE: frozenset({Life.RUNNING}),
    VmotionMode.COLD: frozenset({Life.OFF}),
    VmotionMode.COPY: frozenset({Life.OFF, Life.RUNNING}),
}


class Vmotions:
    """`start` once the inventory is loaded and the relay runs; `close` before either is closed."""

    def __init__(self, inventory: Inventory, relay: Relay) -> None:
        self._inventory = inventory
        self._relay = relay
        self._journal = Journal(inventory.host.settings.state_dir / "vmotion")
        self._moves: dict[str, Departure | Target] = {}

    async def start(self) -> None:
        """Take up the moves that were under way."""
        records = await asyncio.to_thread(self._journal.load)
        await self._close_leftovers(records)
        for record in records:
            if record.incoming is not None:
                target = Target(record, self._journal, self._inventory, self._relay)
                self._moves[record.id] = target
                if not record.parted:
                    await target.recover()
            else:
                self._moves[record.id] = source = await self._recover_source(record)
                source.start()

    async def _close_leftovers(self, records: list[Record]) -> None:
        """Close what the last agent was killed too early to close: streams of no move that needs them."""
        needed = {name.lower() for record in records if not record.parted for name in record.streams.values()}
        try:
            for name in await self._relay.streams():
                if name.lower() not in needed:
                    _log.info("stream %s belongs to no move any more and is closed", name)
                    await self._relay.close(name)
        except RelayError as error:
            _log.warning("streams of moves that ended may be open still: %s", error)

    async def _recover_source(self, record: Record) -> Departure:
        assert record.outgoing is not None
        if not record.final:
            try:
                return self._source(record, self._inventory.get(record.outgoing.vm))
            except Fault:
                # All was done but to say so: a VM leaves the inventory only once the target has it.
                record.phase = VmotionPhase.SUCCEEDED
                await self._journal.save(record)
        return Departure(record, self._journal, self._inventory, self._relay)

    async def relay_restarted(self) -> None:
        """The relay died and lost all streams: moves that used them fail, and have to be able to say so."""
        for move in self._moves.values():
            if isinstance(move, Target) and not move.record.parted:
                await move.listen_again()

    async def close(self) -> None:
        """The agent ends; what QEMU does goes on."""
        await asyncio.gather(*(move.close() for move in self._moves.values()))

    # ------------------------------------------------------------------------------------- the API

    async def incoming(self, request: IncomingVm) -> Vmotion:
        """Get ready to receive a VM; the answer's endpoints are for the source. Asked again, the answer is the same."""
        known = self._known(request.id)
        if known is not None:
            return known
        if request.shared_vmx is not None and request.mode is VmotionMode.COPY:
            raise Fault("InvalidArgument", "a copy has files of its own: shared storage makes no sense")
        target = Target(Record(incoming=request, boot_id=boot_id()), self._journal, self._inventory, self._relay)
        self._moves[request.id] = target
        try:
            await target.prepare()
        except BaseException as error:
            del self._moves[request.id]
            if isinstance(error, RelayError):
                raise Fault("InsufficientResourcesFault", str(error)) from error
            raise
        return target.view

    async def outgoing(self, request: OutgoingVm) -> Vmotion:
        """Begin to move a VM. Asked again, the answer is how it stands."""
        known = self._known(request.id)
        if known is not None:
            return known
        vm = self._inventory.get(request.vm)
        async with vm.lock:
            _check(vm, request)
            record = Record(outgoing=request, boot_id=boot_id())
            source = self._source(record, vm)
            self._moves[request.id] = source
            vm.vmotion = request.id
            try:
                await source.save()
            except BaseException:
                vm.vmotion = None
                del self._moves[request.id]
                await source.close()
                raise
            source.start()
        return source.view

    def _known(self, move: str) -> Vmotion | None:
        return self._moves[move].view if move in self._moves else None

    def _source(self, record: Record, vm: VirtualMachine) -> Source:
        assert record.outgoing is not None
        kind = LiveSource if record.outgoing.mode is VmotionMode.LIVE else ColdSource
        return kind(record, self._journal, self._inventory, self._relay, vm)

    def all(self) -> list[Vmotion]:
        return [move.view for move in self._moves.values()]

    async def view(self, move: str, seen: int = -1, wait: float = 0) -> Vmotion:
        """A move's state, as soon as its `seq` is beyond `seen` or `wait` seconds passed."""
        found = self._get(move)
        if not found.record.final:
            await found.poll.beyond(seen, wait)
        return found.view

    async def abort(self, move: str) -> Vmotion:
        """Give a move up; the answer says what became of it. Fault `InvalidState` at the source's switchover."""
        found = self._get(move)
        fault = Fault("RequestCanceled", "the move was aborted")
        if isinstance(found, Target):
            await found.give_up(fault)
            await found.ended.wait()
        else:
            await found.abort(fault)
        return found.view

    async def part(self, move: str) -> None:
        """Nobody will ask any more about a move that ended here: no stream of it stays open.

        Fault `InvalidState` while it has not ended. To be called for the target only once the source knows the end:
        a source in doubt learns it from nobody else.
        """
        await self._get(move).part()

    async def open_ports(self, move: str) -> Vmotion:
        """Let OVN know now that the VIFs of a VM that is coming are here too, with both hosts requested for them."""
        found = self._get(move)
        if not isinstance(found, Target):
            raise Fault("InvalidState", f"vMotion {move} leaves this host: the ports are its target's")
        await found.open_ports()
        return found.view

    def _get(self, move: str) -> Departure | Target:
        try:
            return self._moves[move]
        except KeyError:
            raise Fault("ManagedObjectNotFound", f"this host knows no vMotion {move!r}") from None


def _check(vm: VirtualMachine, request: OutgoingVm) -> None:
    if vm.vmotion is not None:
        raise Fault("TaskInProgress", f"VM {vm.name!r} is being moved (vMotion {vm.vmotion})")
    if vm.invalid:
        raise Fault("InvalidState", f"VM {vm.name!r} can not be used: {vm.invalid}")
    require(vm.name, vm.life, _LIVES[request.mode], f"moved ({request.mode})")
    leaves = request.mode is not VmotionMode.COPY
    if vm.snapshots and leaves and not request.shared_storage:
        raise Fault(
            "SnapshotCopyNotSupported",
            f"VM {vm.name!r} has {len(vm.snapshots)} snapshots and its storage would move: remove them first",
        )
    needed = {CONTROL}
    if request.mode is VmotionMode.LIVE:
        needed.add(RAM)
    if not request.shared_storage:
        needed |= {channel(disk.key) for disk in vm.config.disks}
    missing = sorted(needed - set(request.endpoints))
    if missing:
        raise Fault("InvalidArgument", f"endpoints of {', '.join(missing)} are missing for VM {vm.name!r}")
