"""Jobs: what a call started that takes a while, read at /hybridity/api/jobs/{id}."""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from landbridge.hcx.store import Document, Store

_log = logging.getLogger(__name__)


class Job(Document):
    """A job as it is kept; times are seconds since the epoch."""

    kind: ClassVar[str] = "job"
    name: str
    username: str = ""
    percent: int = 0
    done: bool = False
    failed: bool = False
    error: str = ""
    started: float
    ended: float = 0.0

    def shape(self) -> dict[str, Any]:
        """HCX's form; times in milliseconds (terraform-provider-hcx, utils.go)."""
        return {
            "jobId": self.id,
            "name": self.name,
            "username": self.username,
            "isQueued": False,
            "isCancelled": False,
            "isRolledBack": self.failed,
            "createTimeEpoch": int(self.started * 1000),
            "startTime": int(self.started * 1000),
            "endTime": int(self.ended * 1000),
            "percentComplete": self.percent,
            "isDone": self.done and not self.failed,
            "didFail": self.failed,
            "message": self.error,
        }


Report = Callable[[int], Awaitable[None]]


class Jobs:
    """The manager's jobs. Each runs as a task this object owns; after a restart an unfinished one is failed, and
    who started it starts it again where that makes sense."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tasks: set[asyncio.Task[None]] = set()

    async def settle(self) -> None:
        """At the start: what a former process left unfinished has ended."""
        for job in await self._store.all(Job):
            if not job.done and not job.failed:
                job.failed, job.error, job.ended = True, "the manager was restarted", time.time()
                await self._store.put(job)

    async def get(self, job: str) -> Job | None:
        return await self._store.get(Job, job)

    async def start(self, name: str, username: str, work: Callable[[Report], Awaitable[None]]) -> Job:
        """Run `work`, which reports percents."""
        job = Job(id=str(uuid.uuid4()), name=name, username=username, started=time.time())
        await self._store.put(job)
        task = asyncio.create_task(self._run(job, work), name=f"job {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, job: Job, work: Callable[[Report], Awaitable[None]]) -> None:
        async def report(percent: int) -> None:
            job.percent = percent
            await self._store.put(job)

        try:
            await work(report)
            job.done, job.percent = True, 100
        except Exception as error:
            _log.warning("job %s failed: %s", job.name, error, exc_info=not str(error))
            job.failed, job.error = True, str(error) or type(error).__name__
        job.ended = time.time()
        await self._store.put(job)
