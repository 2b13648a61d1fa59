"""What block jobs and a migration are doing, followed by QEMU's events: to know at once, without polling.

States are QMP's own (JobStatus, MigrationStatus in QEMU's QAPI reference).
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any

from landbridge.esx.faults import Fault
from landbridge.esx.qmp import Qmp, QmpGone

_EVENTS = ("JOB_STATUS_CHANGE", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED", "MIGRATION", "RESUME", "STOP")


class BlockWatch:
    """Follows one QEMU while the `async with` lasts.

    `jobs`: status by job id. `errors`: why a job failed, by job id. `migration`: the migration's status, `none` if
    there never was one. `resumed`: how often the guest was started since.
    """

    def __init__(self, qmp: Qmp) -> None:
        self.jobs: dict[str, str] = {}
        self.errors: dict[str, str] = {}
        self.migration = "none"
        self.resumed = 0
        self.gone = False
        self._qmp = qmp
        self._listening = qmp.listener(*_EVENTS)
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "BlockWatch":
        listener = self._listening.__enter__()
        try:
            await self._take_stock()
        except BaseException:
            self._listening.__exit__(None, None, None)
            raise

        async def follow() -> None:
            async for event in listener:
                self._take(str(event["event"]), event.get("data", {}))
                self._tell()

        async def notice_end() -> None:
            await self._qmp.closed()
            # What QEMU said last may still be on its way to us.
            await asyncio.sleep(0)
            self.gone = True
            self._tell()

        self._tasks = [
            asyncio.create_task(follow(), name="block watch"),
            asyncio.create_task(notice_end(), name="block watch end"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        self._listening.__exit__(kind, error, trace)

    async def until(self, reached: Callable[[], bool], what: str, timeout: float | None = None) -> None:
        """Wait until `reached()`. QmpGone if QEMU ends first, TimeoutError after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not reached():
                    if self.gone:
                        raise QmpGone(what)
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"{what} did not come within {timeout:g} s") from None

    def concluded(self, *jobs: str) -> bool:
        """Whether none of the jobs is under way any more."""
        return all(self.jobs.get(job, "null") in ("concluded", "null") for job in jobs)

    def ready(self, *jobs: str) -> bool:
        """Whether mirrors are in step with what they mirror. Fault as soon as one has failed instead."""
        self.require(*jobs)
        return all(self.jobs.get(job) in ("ready", "standby") for job in jobs)

    def require(self, *jobs: str) -> None:
        """Fault if one of the jobs ended."""
        for job in jobs:
            if job in self.errors or self.jobs.get(job) in ("aborting", "concluded", "null"):
                raise Fault("FileFault", f"block job {job} ended: {self.errors.get(job, 'cancelled')}")

    async def _take_stock(self) -> None:
        for job in await self._qmp.execute("query-jobs"):
            self.jobs[job["id"]] = job["status"]
            if "error" in job:
                self.errors[job["id"]] = job["error"]
        self.migration = (await self._qmp.execute("query-migrate")).get("status", "none")

    def _take(self, kind: str, data: Any) -> None:
        if kind == "JOB_STATUS_CHANGE":
            self.jobs[data["id"]] = data["status"]
        elif kind in ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED"):
            if "error" in data:
                self.errors[data["device"]] = data["error"]
        elif kind == "MIGRATION":
            self.migration = data["status"]
        elif kind == "RESUME":
            self.resumed += 1

    def _tell(self) -> None:
        self._changed.set()


async def cancel_jobs(qmp: Qmp, *jobs: str) -> None:
    """End block jobs at once, whatever they are doing, and forget them. Jobs that are not there are no error."""
    known = {job["id"] for job in await qmp.execute("query-jobs")}
    async with BlockWatch(qmp) as watch:
        for job in known.intersection(jobs):
            if not watch.concluded(job):
                await qmp.execute("block-job-cancel", device=job, force=True)
        await watch.until(lambda: watch.concluded(*jobs), "the end of block jobs", timeout=60)
        await dismiss_jobs(qmp, *jobs)


async def dismiss_jobs(qmp: Qmp, *jobs: str) -> None:
    """Forget jobs that ended: they were made with `auto-dismiss` off, so that no end is missed."""
    for job in await qmp.execute("query-jobs"):
        if job["id"] in jobs and job["status"] == "concluded":
            await qmp.execute("job-dismiss", id=job["id"])


async def node_names(qmp: Qmp) -> set[str]:
    """All named nodes of the block graph."""
    return {node["node-name"] for node in await qmp.execute("query-named-block-nodes", flat=True)}
