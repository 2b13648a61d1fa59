"""The migration workflow: what happens to a VM on its way, from top to bottom, for vMotion and Cold alike.

Each step is kept by DBOS when it is done. A manager that was killed goes on with the step it was in, so each may be
repeated; how is said in `steps`.
"""

import logging

from dbos import DBOS

from landbridge.hcx.migrations import steps
from landbridge.hcx.migrations.model import MigrationStopped

_log = logging.getLogger(__name__)


@DBOS.workflow(name="migrate")
async def migrate(migration: str) -> None:
    """Carry one VM to the other site, or leave it running where it is and nothing at the other."""
    error, canceled = "", False
    try:
        await steps.collect_vm_details(migration)
        await steps.start_source_relocation(migration)
        await steps.await_source_request(migration)
        await steps.start_target_relocation(migration)
        await steps.join_streams(migration)
        runs_at_target = await steps.carry(migration)
    except MigrationStopped as stopped:
        canceled = stopped.canceled
        runs_at_target, error = await steps.roll_back(migration, stopped.message)
    except Exception as defect:
        # Nobody foresaw it, and still the VM must not stay between two sites.
        _log.exception("migration %s", migration)
        reason = f"the HCX manager failed, its log says more: {type(defect).__name__}: {defect}"
        runs_at_target, error = await steps.roll_back(migration, reason)
    if runs_at_target:
        await steps.leave_source(migration)
    await steps.clean_up(migration)
    await steps.conclude(migration, runs_at_target, error, canceled)
