"""The steps of the migration workflow.

A step that died is run again: each first finds out what was done. Until the switchover a site that does not answer
ends the migration after a while; from then on, and when taking back, a step tries until it is done.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from dbos import DBOS
from pyVmomi import vmodl
from sqlalchemy.exc import SQLAlchemyError

from landbridge.esx.client import HostError, HostUnreachable
from landbridge.hcx.faults import ApiFault
from landbridge.hcx.migrations.halves import Nothing
from landbridge.hcx.migrations.model import (
    GAVE_UP,
    Migration,
    MigrationState,
    MigrationStopped,
    Outcome,
    Requested,
    Seen,
    SourceOrder,
    Streams,
    TargetVm,
)
from landbridge.hcx.peer import PeerUnreachable
from landbridge.vmodl.client import VCenterUnreachable, fault_text

if TYPE_CHECKING:
    from landbridge.hcx.migrations.service import Migrations

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_PATIENCE = 30.0  # seconds a step before the switchover waits for a site that does not answer
_RETRY = 0.5  # seconds between attempts, growing
_RETRY_LIMIT = 10.0
_REQUEST_WAIT = 20.0  # seconds a long poll for vCenter's request may last
_REQUEST_TIMEOUT = 60.0
_TRANSIENT = (PeerUnreachable, VCenterUnreachable, HostUnreachable)

# DBOS is one per process and calls steps by themselves: they find what they work on here.
_service: "list[Migrations]" = []


def bind(service: "Migrations") -> None:
    """Let the steps work for this manager."""
    _service[:] = [service]


def _here() -> "Migrations":
    return _service[0]


async def _patiently(work: Callable[[], Awaitable[_T]]) -> _T:
    """Do it, again while a site does not answer; MigrationStopped when patience ends or a site refuses."""
    deadline = time.monotonic() + _PATIENCE
    pause = _RETRY
    while True:
        try:
            return await work()
        except _TRANSIENT as error:
            if time.monotonic() > deadline:
                raise MigrationStopped(f"given up after {_PATIENCE:.0f} s: {error}") from error
        except (ApiFault, HostError) as error:
            raise MigrationStopped(str(error)) from error
        except vmodl.MethodFault as fault:
            raise MigrationStopped(f"vCenter: {fault_text(fault)}") from fault
        await asyncio.sleep(pause)
        pause = min(pause * 2, _RETRY_LIMIT)


async def _until_done(what: str, work: Callable[[], Awaitable[_T]]) -> _T:
    """Do it, again until it is done: there is no way back from here."""
    pause = _RETRY
    while True:
        try:
            return await work()
        except MigrationStopped:
            raise
        except Exception as error:
            _log.warning("%s, tried again in %.1f s: %s", what, pause, error or type(error).__name__)
        await asyncio.sleep(pause)
        pause = min(pause * 2, _RETRY_LIMIT)


async def _kept(work: Callable[[], Awaitable[_T]]) -> _T:
    """Do what needs the manager's database, again while that is away: a migration does not end for its sake."""
    while True:
        try:
            return await work()
        except SQLAlchemyError as error:
            _log.warning("the database, tried again in %.1f s: %s", _RETRY, error)
        await asyncio.sleep(_RETRY)


async def _entered(migration: str, step: str) -> Migration:
    """The migration, now in `step`."""
    return await _kept(lambda: _here().enter(migration, step))


async def _enter(migration: str, step: str) -> Migration:
    """The migration, now in `step`; MigrationStopped if somebody canceled it."""
    document = await _entered(migration, step)
    if document.cancel:
        raise MigrationStopped("canceled", canceled=True)
    return document


@DBOS.step()
async def collect_vm_details(migration: str) -> None:
    """Look at the VM once more: between the validation and now it may have changed."""
    await _enter(migration, "COLLECT_VM_DETAILS")
    await _patiently(lambda: _here().refresh(migration))


@DBOS.step()
async def start_source_relocation(migration: str) -> None:
    """The source's vCenter begins to move the VM to its appliance, which waits for the other site."""
    document = await _enter(migration, "SOURCE_SIDE_START_RELOCATE")
    rules = document.input.decisionRules
    order = SourceOrder(
        vm=document.input.entityDetails.entityId,
        instance_uuid=document.instance_uuid,
        mode=document.input.mode,
        remove_isos=rules.removeISOs,
        remove_snapshots=rules.removeSnapshots,
    )
    await _patiently(lambda: _here().source(document).begin(migration, order))


@DBOS.step()
async def await_source_request(migration: str) -> None:
    """The source's vCenter told its appliance all about the VM."""
    document = await _enter(migration, "PROCESS_SOURCE_RECONFIGURE")
    await _incoming(document)


async def _incoming(document: Migration) -> Requested:
    deadline = time.monotonic() + _REQUEST_TIMEOUT
    source = _here().source(document)
    while time.monotonic() < deadline:
        answer = await _patiently(lambda: source.requested(document.id, Seen(wait=_REQUEST_WAIT)))
        if answer.incoming is not None:
            return answer
    raise MigrationStopped(f"the source's vCenter did not ask its appliance within {_REQUEST_TIMEOUT:.0f} s")


@DBOS.step()
async def start_target_relocation(migration: str) -> None:
    """The target's vCenter begins to move a shadow of the VM from its appliance to the real host."""
    document = await _enter(migration, "DESTINATION_SIDE_START_RELOCATE")
    await _streams(document)


async def _streams(document: Migration) -> Streams:
    requested = await _incoming(document)
    assert requested.incoming is not None
    config, authority = requested.incoming.source, requested.authority
    vm = TargetVm(order=_here().target_order(document), config=config, sender_authority=authority)
    return await _patiently(lambda: _here().target(document).prepare(document.id, vm))


@DBOS.step()
async def join_streams(migration: str) -> None:
    """The source's appliance leads its host's streams to the other one: from here on bytes flow."""
    document = await _enter(migration, "JOIN_RELOCATE")
    streams = await _streams(document)
    await _patiently(lambda: _here().source(document).join(migration, streams))


@DBOS.step()
async def carry(migration: str) -> bool:
    """Watch both halves until the target's says that the VM is there."""
    document = await _entered(migration, "RELOCATE_PROGRESS")
    return await _here().carry(document)


@DBOS.step()
async def roll_back(migration: str, reason: str) -> tuple[bool, str]:
    """Take it back; whether the VM runs at the target all the same, which alone knows, and why it does not."""
    document = await _entered(migration, "ROLLBACK")
    source, target = _here().source(document), _here().target(document)
    if reason != GAVE_UP:  # else its vCenter has stopped it already, and would call it canceled by a user
        await _until_done("canceling at the source", lambda: source.cancel(migration, Nothing()))
    end = await _until_done("giving up at the target", lambda: target.abort(migration, Nothing()))
    if end.phase == "succeeded":
        return True, ""
    outcome = Outcome(error=reason or "the migration was given up")
    left = await _until_done("ending at the source", lambda: source.finish(migration, outcome))
    return False, f"{reason}: {left.error}" if reason == GAVE_UP and left.error else reason


@DBOS.step()
async def leave_source(migration: str) -> None:
    """The VM runs at the target: the source's vCenter ends its half and forgets it."""
    document = await _entered(migration, "SOURCE_SIDE_CLEANUP")
    source = _here().source(document)
    try:
        end = await _until_done("ending at the source", lambda: source.finish(migration, Outcome()))
        await _kept(lambda: _here().note_end(migration, end))
    except MigrationStopped as stop:
        message = stop.message
        await _kept(lambda: _here().warn(migration, message))


@DBOS.step()
async def clean_up(migration: str) -> None:
    """Streams and records of both halves go."""
    document = await _entered(migration, "DESTINATION_SIDE_CLEANUP")
    source, target = _here().source(document), _here().target(document)
    await asyncio.gather(
        _until_done("cleaning up at the source", lambda: source.forget(migration, Nothing())),
        _until_done("cleaning up at the target", lambda: target.forget(migration, Nothing())),
    )


@DBOS.step()
async def conclude(migration: str, moved: bool, error: str, canceled: bool) -> None:
    """Say how it ended."""
    state = MigrationState.FAILED
    if moved:
        state, error = MigrationState.MIGRATED, ""
    elif canceled:
        state, error = MigrationState.CANCELED, "canceled"
    await _kept(lambda: _here().conclude(migration, state, error))
