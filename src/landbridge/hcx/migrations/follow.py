"""Relocations under way in this site's vCenter, each followed by one long poll, however many ask about it."""

import asyncio
import logging
from typing import Any, Literal

from pyVmomi import vmodl

from landbridge.hcx.migrations.model import HalfState
from landbridge.vmodl.client import VCenter, VCenterUnreachable, fault_text

_log = logging.getLogger(__name__)
_RETRY = 1.0  # seconds between attempts while vCenter does not answer


class Follower:
    """States of relocation tasks, by migration."""

    def __init__(self, vcenter: VCenter) -> None:
        self._vcenter = vcenter
        self._states: dict[str, HalfState] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._news = asyncio.Condition()

    def follow(self, migration: str, task: str) -> None:
        """Follow a task from now on; one that is followed already is followed once."""
        if migration not in self._tasks:
            self._states.setdefault(migration, HalfState())
            self._tasks[migration] = asyncio.create_task(self._run(migration, task), name=f"follow {task}")

    async def state(self, migration: str, seq: int = -1, wait: float = 0.0) -> HalfState:
        """A followed task's state, as soon as it is another than the one with `seq`.

        Another, not a later one: who asks may have its number from the process before us, which counted further.
        """
        try:
            async with asyncio.timeout(wait), self._news:
                await self._news.wait_for(lambda: self._states[migration].final or self._states[migration].seq != seq)
        except TimeoutError:
            pass
        return self._states[migration]

    async def final(self, migration: str) -> HalfState:
        """The state when the task has ended."""
        async with self._news:
            await self._news.wait_for(lambda: self._states[migration].final)
        return self._states[migration]

    def knows(self, migration: str) -> bool:
        return migration in self._states

    def drop(self, migration: str) -> None:
        task = self._tasks.pop(migration, None)
        if task is not None:
            task.cancel()
        self._states.pop(migration, None)

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, migration: str, task: str) -> None:
        while True:
            try:
                async for info in self._vcenter.watch(task):
                    await self._publish(migration, _state(info))
            except VCenterUnreachable as error:
                # The relocation itself needs no vCenter; it is there again, or an operator sees to it.
                _log.warning("following %s: %s", task, error)
            except vmodl.fault.ManagedObjectNotFound:
                await self._publish(
                    migration, HalfState(phase="failed", error=f"vCenter knows no task {task} any more")
                )
                return
            except vmodl.MethodFault as fault:
                _log.warning("following %s: %s", task, fault_text(fault))
            else:
                return
            await asyncio.sleep(_RETRY)

    async def _publish(self, migration: str, state: HalfState) -> None:
        known = self._states.get(migration, HalfState())
        self._states[migration] = state.model_copy(update={"seq": known.seq + 1})
        async with self._news:
            self._news.notify_all()


def _state(info: Any) -> HalfState:
    phase: Literal["running", "succeeded", "failed"] = "running"
    if info.state in ("success", "error"):
        phase = "succeeded" if info.state == "success" else "failed"
    detail = {}
    if info.description is not None:
        detail = {argument.key: str(argument.value) for argument in info.description.arg or []}
    return HalfState(
        phase=phase,
        error=fault_text(info.error) if phase == "failed" else "",
        percent=100 if phase == "succeeded" else info.progress or 0,
        detail=detail,
    )
