"""The manager's migrations: validate, start, query, cancel, and what the workflow's steps work with."""

import asyncio
import logging
import time
import uuid
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID

from landbridge.esx.model import VmotionMode
from landbridge.hcx.config import ManagerConfig, Role
from landbridge.hcx.faults import ApiFault
from landbridge.hcx.inventory import VmFacts, vm_facts
from landbridge.hcx.ix.client import IxClient
from landbridge.hcx.mesh import Mesh
from landbridge.hcx.migrations import steps, validation
from landbridge.hcx.migrations.carrying import Carrying
from landbridge.hcx.migrations.halves import RemoteSource, RemoteTarget, Source, Target
from landbridge.hcx.migrations.model import (
    FINAL_STATES,
    Findings,
    HalfState,
    Migration,
    MigrationInput,
    MigrationState,
    MigrationStopped,
    Progress,
    TargetOrder,
)
from landbridge.hcx.migrations.source import LocalSource
from landbridge.hcx.migrations.target import LocalTarget
from landbridge.hcx.migrations.vmotion import migrate
from landbridge.hcx.pairing import Pairing
from landbridge.hcx.store import Store
from landbridge.pki import Identity
from landbridge.vmodl.client import VCenter

_log = logging.getLogger(__name__)
# Phases in which the VM may be on its way for good.
_TOO_LATE = ("switchover", "in-doubt", "succeeded")
_LATE_STEPS = ("SOURCE_SIDE_CLEANUP", "DESTINATION_SIDE_CLEANUP")


class Migrations:
    """All migrations this manager drives, and this site's halves of those another drives."""

    def __init__(
        self, config: ManagerConfig, store: Store, pairing: Pairing, mesh: Mesh, ix: IxClient, vcenter: VCenter
    ) -> None:
        self._config = config
        self._store = store
        self._pairing = pairing
        self._vcenter = vcenter
        self.local_source = LocalSource(store, vcenter, ix, mesh, Identity(config.pki_dir).ca.read_text())
        self.local_target = LocalTarget(store, vcenter, ix, mesh)
        self._remote_source = RemoteSource(pairing.remote, "source")
        self._remote_target = RemoteTarget(pairing.remote, "target")
        self._progress: dict[str, Progress] = {}
        self._canceled: dict[str, asyncio.Event] = {}
        self._facts: dict[str, VmFacts] = {}
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        """Go on with the halves of this site and, at a connector, with the migrations under way."""
        await self.local_source.resume()
        await self.local_target.resume()
        if self._config.role is Role.CONNECTOR:
            steps.bind(self)
            config = DBOSConfig(
                name="landbridge-hcx",
                system_database_url=self._config.workflow_url(),
                # Fixed, so that a newer manager goes on with what an older one began.
                application_version="1",
                executor_id=self._config.name,
                log_level="WARNING",
            )
            DBOS(config=config)
            DBOS.launch()
            await self._start_forgotten()

    async def stop(self) -> None:
        """Let go; workflows are left as they are, for the next process."""
        await self.local_source.close()
        await self.local_target.close()

    async def _start_forgotten(self) -> None:
        """A migration kept just before the manager died may have no workflow yet; starting twice is starting once."""
        for document in await self._store.all(Migration):
            if document.state not in FINAL_STATES:
                await self._launch(document.id)

    async def _launch(self, migration: str) -> None:
        with SetWorkflowID(migration):
            await DBOS.start_workflow_async(migrate, migration)

    # ------------------------------------------------------------------------------- what the API calls

    async def active(self) -> list[str]:
        """Ids of migrations that are not over."""
        return [document.id for document in await self.all() if document.state not in FINAL_STATES]

    async def all(self) -> list[Migration]:
        return await self._store.all(Migration)

    async def known(self, ids: list[str]) -> list[Migration]:
        """Those migrations of `ids` that there are."""
        found = [await self._store.get(Migration, migration) for migration in ids]
        return [document for document in found if document is not None]

    def progress(self, document: Migration) -> Progress:
        """The newest there is: while it is carried it changes faster than it is kept."""
        return self._progress.get(document.id, document.progress)

    async def validate(self, asked: MigrationInput) -> Findings:
        """What would keep the VM from migrating."""
        findings, _, _ = await self._examine(asked, "")
        return findings

    async def begin(self, asked: MigrationInput, username: str) -> Migration:
        """Start a migration that passes validation; ApiFault 400 says what it does not pass."""
        if self._config.role is not Role.CONNECTOR:
            raise ApiFault(400, "Wrong role", "migrations are started at the connector, in either direction")
        findings, document, facts = await self._examine(asked, username)
        if findings.errors or facts is None:
            errors = [{"message": text} for text in findings.errors]
            raise ApiFault(400, "Validation failed", "; ".join(findings.errors), errors)
        async with self._changing:
            for other in await self.all():
                if other.state not in FINAL_STATES and other.instance_uuid == document.instance_uuid:
                    raise ApiFault(409, "Migration active", f"{document.vm_name} is in migration {other.id} already")
            document.warnings = findings.warnings
            document.progress = Progress(disk_total=sum(facts.disks.values()), memory_total=_memory(asked, facts))
            self._facts[document.id] = facts
            await self._store.put(document)
            await self._launch(document.id)
        return document

    async def cancel(self, migration: str) -> Migration:
        """Ask for the end of a migration. ApiFault 409 when it is over, or past its switchover."""
        async with self._changing:
            document = await self._get(migration)
            if document.state in FINAL_STATES:
                raise ApiFault(409, "Not cancellable", f"migration {migration} is over: {document.state}")
            if document.step in _LATE_STEPS or self.progress(document).phase in _TOO_LATE:
                raise ApiFault(
                    409,
                    "Not cancellable",
                    f"{document.vm_name} has switched over to the target: migrate it back when this has ended",
                )
            if not document.cancel:
                document.cancel = True
                if document.state is MigrationState.MIGRATING:
                    document.move_to(MigrationState.CANCELLING)
                await self._store.put(document)
        self._cancel_event(migration).set()
        return document

    # ------------------------------------------------------------------------------- what the steps call

    def source(self, document: Migration) -> Source:
        return self.local_source if document.direction == "out" else self._remote_source

    def target(self, document: Migration) -> Target:
        return self._remote_target if document.direction == "out" else self.local_target

    def target_order(self, document: Migration) -> TargetOrder:
        return self._order(document, self._facts.get(document.id))

    def _order(self, document: Migration, facts: VmFacts | None) -> TargetOrder:
        return TargetOrder(
            name=document.vm_name,
            instance_uuid=document.instance_uuid,
            mode=document.input.mode,
            placement=document.input.placement,
            storage=document.input.storage,
            networks=document.networks,
            space=facts.committed if facts else 0,
            hardware_version=facts.hardware_version if facts else "",
        )

    async def enter(self, migration: str, step: str) -> Migration:
        """Note which step a migration is in."""
        async with self._changing:
            document = await self._get(migration)
            if document.step != step:
                document.step = step
                document.updated = time.time()
                await self._store.put(document)
        return document

    async def refresh(self, migration: str) -> None:
        """Look at the VM again; MigrationStopped if it can not migrate any more."""
        if migration in self._facts:
            return  # this process looked when it was started, a moment ago
        document = await self._get(migration)
        facts = await self._read(document)
        findings = validation.check_vm(document.input, facts)
        if findings.errors:
            raise MigrationStopped("; ".join(findings.errors))

    async def carry(self, document: Migration) -> bool:
        """Follow both halves to the end; True when the VM is at the target. MigrationStopped if it is not."""
        total = document.progress.model_copy(deep=True)
        if document.cancel:
            self._cancel_event(document.id).set()
        carrying = Carrying(
            document.id, self.source(document), self.target(document), self._cancel_event(document.id), total
        )
        self._progress[document.id] = carrying.progress
        try:
            return await carrying.run()
        finally:
            async with self._changing:
                kept = await self._get(document.id)
                kept.progress = carrying.progress
                await self._store.put(kept)

    async def note_end(self, migration: str, state: HalfState) -> None:
        """Keep the source's last word on the move: its numbers, among them the guest's silence."""
        async with self._changing:
            document = await self._get(migration)
            document.progress.take(state)
            await self._store.put(document)
            self._progress.pop(migration, None)

    async def warn(self, migration: str, warning: str) -> None:
        async with self._changing:
            document = await self._get(migration)
            document.warnings.append(warning)
            await self._store.put(document)

    async def conclude(self, migration: str, state: MigrationState, error: str) -> None:
        """The end of a migration."""
        async with self._changing:
            document = await self._get(migration)
            if document.state in FINAL_STATES:
                return
            document.move_to(state)
            document.error = error
            document.ended = time.time()
            document.step = {MigrationState.MIGRATED: "COMPLETED", MigrationState.CANCELED: "CANCELED"}.get(
                state, "FAILED"
            )
            if state is MigrationState.MIGRATED:
                document.progress.percent = 100
            await self._store.put(document)
        _log.info("migration %s of %s: %s %s", migration, document.vm_name, state, error)
        self._progress.pop(migration, None)
        self._canceled.pop(migration, None)
        self._facts.pop(migration, None)

    # ------------------------------------------------------------------------------- inside

    def _cancel_event(self, migration: str) -> asyncio.Event:
        return self._canceled.setdefault(migration, asyncio.Event())

    async def _get(self, migration: str) -> Migration:
        document = await self._store.get(Migration, migration)
        if document is None:
            raise ApiFault(404, "Not found", f"no migration {migration}")
        return document

    async def _draft(self, asked: MigrationInput, username: str) -> Migration:
        peer = await self._pairing.paired()
        if asked.destination.endpointId not in ("", peer.id, self._pairing.endpoint):
            raise ApiFault(400, "Invalid destination", f"no site pairing with endpoint {asked.destination.endpointId}")
        inward = asked.destination.endpointId == self._pairing.endpoint
        document = Migration(id=str(uuid.uuid4()), input=asked, username=username, direction="in" if inward else "out")
        document.vm_name = asked.entityDetails.entityName
        return document

    async def _read(self, document: Migration) -> VmFacts | None:
        moid = document.input.entityDetails.entityId
        if document.direction == "out":
            return await self._vcenter.run(vm_facts, moid)
        client = await self._pairing.remote()
        answer: dict[str, Any] = await client.call("POST", "/interconnect/halves/vm", {"vm": moid})
        found = answer["data"].get("vm")
        return VmFacts.model_validate(found) if found else None

    async def _examine(self, asked: MigrationInput, username: str) -> tuple[Findings, Migration, VmFacts | None]:
        """What a request, the VM and the target say; the migration it would be, and the VM as it is now."""
        document = await self._draft(asked, username)
        findings = validation.check_request(asked)
        if findings.errors:
            return findings, document, None
        facts = await self._read(document)
        findings = findings.joined(validation.check_vm(asked, facts))
        if facts is not None:
            document.vm_name, document.instance_uuid = facts.name, facts.instance_uuid
            document.networks = validation.map_networks(asked, facts)
            target = self.target(document)
            findings = findings.joined(await target.check(document.id, self._order(document, facts)))
        return findings, document, facts


def _memory(asked: MigrationInput, facts: VmFacts) -> int:
    """Bytes of memory that move; a VM that is off has none."""
    return 0 if asked.mode is VmotionMode.COLD else facts.memory_mib << 20
