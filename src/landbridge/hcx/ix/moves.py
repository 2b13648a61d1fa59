"""The migrations at one appliance: what was announced, what vCenter asked, which streams were opened for it.

A move is a file (JSON, replaced by rename), so that an appliance killed at any moment knows it again; the streams
themselves live in the relay's process.
"""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

from landbridge.esx.model import (
    ApiError,
    Endpoint,
    IncomingVm,
    OutgoingVm,
    PowerState,
    Vmotion,
    VmotionPhase,
    VmState,
)
from landbridge.hcx.ix.events import Kind
from landbridge.hcx.ix.model import Announcement, Move
from landbridge.hcx.ix.wan import SITE, WAN, Wan
from landbridge.relay import RelayError

# vCenter waits 60 s for the answer of `incoming`; the managers prepare the target in a second or two.
_JOIN_TIMEOUT = 50.0
_ABORT_TIMEOUT = 50.0
_MIGRATION_ID = re.compile(r"^[a-z0-9-]{1,64}$")


class MoveError(Exception):
    """A request that can not be done: `type` is the vSphere fault's name."""

    def __init__(self, kind: str, message: str, status: int = 409) -> None:
        super().__init__(message)
        self.type = kind
        self.status = status


class Moves:
    """All moves of the appliance. `changed` is called with (event type, instance UUID, words for people)."""

    def __init__(self, directory: Path, wan: Wan, changed: Callable[[Kind, str, str], None]) -> None:
        self._directory = directory
        self._wan = wan
        self._changed = changed
        self._moves: dict[str, Move] = {}
        self._news = asyncio.Condition()

    def load(self) -> None:
        """Read what a former process left."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for file in self._directory.glob("*.json"):
            move = Move.model_validate_json(file.read_text())
            self._moves[move.migration] = move

    # ------------------------------------------------------------------------------- asked by the manager

    async def announce(self, migration: str, announcement: Announcement) -> Move:
        """Expect a migration; announced again, it is what it is."""
        if not _MIGRATION_ID.match(migration):
            raise MoveError("InvalidArgument", f"{migration!r} is not a migration's id", 400)
        known = self._moves.get(migration)
        if known is not None:
            return known
        busy = self._of_vm(announcement.vm)
        if busy is not None:
            raise MoveError("ResourceInUse", f"VM {announcement.vm} is in migration {busy.migration} already")
        shadow = announcement.shadow
        move = Move(migration=migration, end=announcement.end, vm=announcement.vm, shadow=shadow)
        await self._save(move)
        return move

    async def read(self, migration: str, seen: int, wait: float) -> Move:
        """A move as soon as its `seq` is beyond `seen`."""
        return await self._wait(migration, wait, lambda move: move.seq > seen)

    async def join(self, migration: str, endpoints: dict[str, Endpoint]) -> Move:
        """Lead the source host's streams to the other appliance, and let `incoming` answer."""
        move = self._get(migration)
        if move.incoming is None:
            raise MoveError("InvalidState", f"vCenter did not ask to move VM {move.vm} here yet")
        if move.endpoints or move.final:
            return move
        move.endpoints = await self._forward(SITE, WAN, endpoints)
        move.towards = endpoints
        await self._save(move)
        return move

    async def finish(self, migration: str, error: ApiError | None) -> Move:
        """Tell how the move ended. At the source end of a success the VM is here, powered off: it runs elsewhere.

        The streams of a success stay until it is forgotten: the two hosts may still be taking leave.
        """
        move = self._get(migration)
        if move.phase is VmotionPhase.SUCCEEDED or (move.phase is VmotionPhase.FAILED and error is not None):
            return move
        move.phase = VmotionPhase.FAILED if error else VmotionPhase.SUCCEEDED
        move.error = error
        if error is None and move.end == "source":
            move.registered = True
            move.shadow = _passed(move)
        elif error is None:
            move.registered = False
        else:
            await self._close_streams(move)
            _switch_off(move)
        await self._save(move)
        if error is None:
            self._changed("vm-added" if move.registered else "vm-removed", move.vm, "moved by HCX")
        elif move.registered:
            self._changed("vm-changed", move.vm, "the migration was given up")
        return move

    async def forget(self, migration: str) -> None:
        move = self._moves.get(migration)
        if move is None:
            return
        await self._close_streams(move)
        if move.registered:
            self._changed("vm-removed", move.vm, "the migration is over")
        del self._moves[migration]
        (self._directory / f"{migration}.json").unlink(missing_ok=True)
        async with self._news:
            self._news.notify_all()

    async def reopen(self) -> None:
        """Open all streams again, under their names, in a relay that lost them: a move in doubt asks over them."""
        for move in self._moves.values():
            sides = (SITE, WAN) if move.end == "source" else (WAN, SITE)
            for to in move.towards.values():
                await self._wan.relay.forward(*sides, to)

    def busy(self) -> list[str]:
        """Ids of migrations that are not over."""
        return [move.migration for move in self._moves.values() if not move.final]

    # ------------------------------------------------------------------------------- asked by vCenter

    def vms(self) -> list[VmState]:
        return [move.shadow for move in self._moves.values() if move.registered and move.shadow]

    async def register(self, vmx: str) -> VmState:
        for move in self._moves.values():
            if move.shadow is not None and move.shadow.vmx == vmx and move.end == "target":
                if not move.registered:
                    move.registered = True
                    await self._save(move)
                    self._changed("vm-added", move.vm, "shadow of a VM that HCX brings")
                return move.shadow
        raise MoveError("FileNotFound", f"no HCX migration brings {vmx}", 404)

    async def unregister(self, vm: str) -> None:
        for move in self._moves.values():
            if move.vm == vm and move.registered:
                if move.phase is not None and not move.final:
                    raise MoveError("InvalidState", f"VM {vm} is in migration {move.migration}: cancel that first")
                move.registered = False
                await self._save(move)
                self._changed("vm-removed", vm, "unregistered")
                return
        raise MoveError("ManagedObjectNotFound", f"no VM {vm} here", 404)

    async def incoming(self, request: IncomingVm) -> Vmotion:
        """vCenter moves a VM here: answered when the other site is ready to take it."""
        move = self._of_vm(request.config.instance_uuid, "source")
        if move is None or move.phase is not None:
            raise MoveError(
                "NotSupported",
                f"{request.config.name} can not be moved to an interconnect appliance by hand: start an HCX migration",
            )
        self._wan.relay  # noqa: B018 - without a pair there is nowhere to go
        move.incoming = request
        move.vmotion = request.id
        move.phase = VmotionPhase.PREPARED
        await self._save(move)
        try:
            move = await self._wait(move.migration, _JOIN_TIMEOUT, lambda move: bool(move.endpoints) or move.final)
        except MoveError as error:
            raise MoveError("OperationAborted", f"the migration was given up: {error}") from error
        if move.error is not None:
            raise MoveError(move.error.type, move.error.message)
        if not move.endpoints:
            await self.finish(move.migration, ApiError(type="Timedout", message="the other site was not prepared"))
            raise MoveError("Timedout", f"the other site was not ready within {_JOIN_TIMEOUT:.0f} s", 504)
        return move.as_vmotion()

    async def outgoing(self, request: OutgoingVm) -> Vmotion:
        """vCenter moves a shadow VM to a host of the site: open the WAN for the VM behind it."""
        move = self._of_vm(request.vm, "target")
        if move is None:
            raise MoveError("NotFound", f"no HCX migration brings VM {request.vm}", 404)
        if move.phase is None:
            move.endpoints = await self._forward(WAN, SITE, request.endpoints)
            move.towards = request.endpoints
            move.outgoing = request
            move.vmotion = request.id
            move.phase = VmotionPhase.DISK
            await self._save(move)
        return move.as_vmotion()

    def vmotions(self) -> list[Vmotion]:
        return [move.as_vmotion() for move in self._moves.values() if move.phase is not None]

    async def vmotion(self, vmotion: str, seen: int, wait: float) -> Vmotion:
        move = self._of_vmotion(vmotion)
        move = await self._wait(move.migration, wait, lambda move: move.seq > seen)
        return move.as_vmotion()

    async def abort(self, vmotion: str) -> Vmotion:
        """Give a move up. At the source end the managers find out what became of the VM; the answer waits for it."""
        move = self._of_vmotion(vmotion)
        if move.final:
            return move.as_vmotion()
        move.abort_requested = True
        if move.end == "target":
            # Nothing runs here that had to be stopped: the source host learns it from the target host's silence
            # and from its own vCenter, which the managers tell.
            move.phase = VmotionPhase.FAILED
            move.error = ApiError(type="RequestCanceled", message="the move was given up")
            _switch_off(move)
            await self._save(move)
            self._changed("vm-changed", move.vm, "the migration was given up")
            return move.as_vmotion()
        await self._save(move)
        return (await self._wait(move.migration, _ABORT_TIMEOUT, lambda move: move.final)).as_vmotion()

    def part(self, vmotion: str) -> None:
        """Whether nobody will ask any more about a move. Behind the appliance is a host that may still ask over the
        streams here, whatever the appliance knows: it has parted when the managers have forgotten the migration."""
        move = self._of_vmotion(vmotion)
        raise MoveError("InvalidState", f"migration {move.migration} is not cleaned up yet")

    # ------------------------------------------------------------------------------- inside

    def _get(self, migration: str) -> Move:
        move = self._moves.get(migration)
        if move is None:
            raise MoveError("NotFound", f"no migration {migration} here", 404)
        return move

    def _of_vm(self, vm: str, end: str | None = None) -> Move | None:
        """The migration a VM is in; one that is over does not count."""
        for move in self._moves.values():
            if move.vm == vm and end in (None, move.end) and not move.final:
                return move
        return None

    def _of_vmotion(self, vmotion: str) -> Move:
        for move in self._moves.values():
            if move.vmotion == vmotion:
                return move
        raise MoveError("ManagedObjectNotFound", f"no vMotion {vmotion} here", 404)

    async def _wait(self, migration: str, wait: float, until: Callable[[Move], bool]) -> Move:
        try:
            async with asyncio.timeout(wait), self._news:
                await self._news.wait_for(lambda: migration not in self._moves or until(self._moves[migration]))
        except TimeoutError:
            pass
        return self._get(migration)

    async def _save(self, move: Move) -> None:
        move.seq += 1
        file = self._directory / f"{move.migration}.json"
        new = file.with_suffix(".new")
        new.write_text(move.model_dump_json())
        new.chmod(0o600)
        new.rename(file)
        self._moves[move.migration] = move
        async with self._news:
            self._news.notify_all()

    async def _forward(self, in_side: str, out_side: str, endpoints: dict[str, Endpoint]) -> dict[str, Endpoint]:
        relay = self._wan.relay
        opened: dict[str, Endpoint] = {}
        try:
            for channel, endpoint in endpoints.items():
                opened[channel] = await relay.forward(in_side, out_side, endpoint)
        except RelayError as error:
            for endpoint in opened.values():
                await relay.close(endpoint.name)
            raise MoveError("ResourceInUse", str(error)) from error
        return opened

    async def _close_streams(self, move: Move) -> None:
        for endpoint in move.endpoints.values():
            await self._wan.relay.close(endpoint.name)


def _switch_off(move: Move) -> None:
    """A shadow that will not be moved any more stands for no running VM: so it can be unregistered."""
    if move.shadow is not None:
        version = move.shadow.version + 1
        move.shadow = move.shadow.model_copy(update={"power_state": PowerState.OFF, "version": version})


def _passed(move: Move) -> VmState | None:
    """The VM as the source's vCenter sees it after it left: on this host, and not running here."""
    if move.incoming is None:
        return None
    config = move.incoming.config
    return VmState(
        config=config, vmx=f"[{move.incoming.datastore}] {config.instance_uuid}/vm.vmx", power_state=PowerState.OFF
    )
