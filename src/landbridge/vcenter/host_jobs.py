"""Following what agents do for long: a job's or a move's progress as a task's."""

import asyncio

from landbridge.esx.client import HostClient, HostError, HostUnreachable
from landbridge.esx.model import ApiError, Job, JobState, Progress
from landbridge.vcenter.tasks import TaskHandle

_WAIT = 30.0  # seconds an agent keeps a request open while nothing changes
# Seconds an agent may be away (it restarts, the work goes on) before its job is given up.
_AWAY = 120.0


def percent(progress: Progress) -> int:
    """How much of the bytes is done, of 100; 99 at most, for the end is the state's to tell."""
    total = progress.disk_total + progress.memory_total
    if total <= 0:
        return 0
    return min(99, (progress.disk_done + progress.memory_done) * 100 // total)


async def follow(task: TaskHandle, client: HostClient, job: Job) -> Job:
    """Wait until a job has ended; HostError if it failed, HostUnreachable if its agent stays away.

    Cancelling the task cancels the job, which then ends in its own error.
    """
    cancel_sent = False
    away_since: float | None = None
    while job.state is JobState.RUNNING:
        task.progress(percent(job.progress))
        try:
            if task.cancelled and not cancel_sent:
                cancel_sent = True
                await client.cancel_job(job.id)
            job = await _next(task, client, job, cancel_sent)
            away_since = None
        except HostUnreachable:
            now = asyncio.get_running_loop().time()
            away_since = away_since or now
            if now - away_since > _AWAY:
                raise
            await asyncio.sleep(0.5)
    if job.state is JobState.ERROR:
        raise HostError(job.error or ApiError(type="SystemError", message="the job failed"))
    return job


async def _next(task: TaskHandle, client: HostClient, job: Job, cancel_sent: bool) -> Job:
    """The job's next state, or the same one at once when the task is cancelled."""
    waiting = asyncio.ensure_future(client.job(job.id, seen=job.seq, wait=_WAIT))
    cancelled = asyncio.ensure_future(task.cancel_requested.wait())
    try:
        others = set() if cancel_sent else {cancelled}
        await asyncio.wait({waiting, *others}, return_when=asyncio.FIRST_COMPLETED)
        return await waiting if waiting.done() else job
    finally:
        waiting.cancel()
        cancelled.cancel()
