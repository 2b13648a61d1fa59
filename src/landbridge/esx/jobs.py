"""Long operations of the host: started, watched by long poll, cancelled; and the long poll itself.

What is to be seen of a job after it ended stays for an hour.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

from landbridge.esx.faults import Fault, as_fault
from landbridge.esx.model import Job, JobState, Progress

_KEEP = 3600.0  # seconds
_LONGEST_WAIT = 120.0  # seconds a caller may ask to wait


class LongPoll:
    """A number that grows with every change of something, and those who wait for that."""

    def __init__(self, seq: int = 0) -> None:
        self.seq = seq
        self._changed = asyncio.Event()

    def bump(self) -> None:
        """Tell everybody who waits that something changed."""
        self.seq += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def beyond(self, seen: int, wait: float) -> None:
        """Return when `seq` is beyond `seen`, or after `wait` seconds."""
        deadline = asyncio.get_running_loop().time() + min(wait, _LONGEST_WAIT)
        while self.seq <= seen:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                return


class JobRun:
    """One operation under way. The work calls `report`; everybody else reads `view`."""

    def __init__(self, vm: str | None) -> None:
        self.id = secrets.token_hex(8)
        self.vm = vm
        self.state = JobState.RUNNING
        self.progress = Progress()
        self.error: Fault | None = None
        self.ended: float | None = None
        self.poll = LongPoll()
        self.task: asyncio.Task[None] | None = None

    def report(self, phase: str, done: int, total: int) -> None:
        """Bytes done of those to be done in a phase named for people."""
        self.progress = Progress(phase=phase, disk_done=done, disk_total=total)
        self.poll.bump()

    @property
    def view(self) -> Job:
        return Job(
            id=self.id,
            state=self.state,
            progress=self.progress,
            seq=self.poll.seq,
            error=self.error.error if self.error else None,
            vm=self.vm,
        )


Work = Callable[[JobRun], Awaitable[str | None]]


class Jobs:
    """The jobs of one agent."""

    def __init__(self) -> None:
        self._jobs: dict[str, JobRun] = {}

    def start(self, name: str, work: Work, vm: str | None = None) -> Job:
        """Run `work`; what it returns, if anything, is the instance UUID of the VM it made.

        A work that is cancelled or fails leaves things as they were before.
        """
        self._forget_old()
        job = JobRun(vm)
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._run(job, work), name=f"job {name} {job.id}")
        return job.view

    async def view(self, job: str, seen: int = -1, wait: float = 0) -> Job:
        """A job's state, as soon as its `seq` is beyond `seen` or `wait` seconds passed."""
        run = self._get(job)
        await run.poll.beyond(seen, wait)
        return run.view

    async def cancel(self, job: str) -> Job:
        """Give a job up and wait until what it began is undone. A job that ended stays as it ended."""
        run = self._get(job)
        if run.task is not None and not run.task.done():
            run.task.cancel()
            await asyncio.wait([run.task])
        return run.view

    async def close(self) -> None:
        """Give all jobs up: the agent ends."""
        tasks = [job.task for job in self._jobs.values() if job.task is not None and not job.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=30)

    async def _run(self, job: JobRun, work: Work) -> None:
        try:
            job.vm = await work(job) or job.vm
            job.state = JobState.SUCCESS
        except asyncio.CancelledError:
            job.error = Fault("RequestCanceled", "the operation was cancelled")
        except Exception as error:
            job.error = as_fault(error)
        if job.error is not None:
            job.state = JobState.ERROR
        job.ended = time.monotonic()
        job.poll.bump()

    def _get(self, job: str) -> JobRun:
        try:
            return self._jobs[job]
        except KeyError:
            raise Fault("ManagedObjectNotFound", f"this host has no job {job!r}") from None

    def _forget_old(self) -> None:
        limit = time.monotonic() - _KEEP
        for job in [job for job in self._jobs.values() if job.ended is not None and job.ended < limit]:
            del self._jobs[job.id]
