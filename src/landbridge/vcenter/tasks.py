"""Tasks: what a method ending in `_Task` starts, its progress and result as a Task object, its life across restarts.

    async def power_on_vm_task(self, call, host=None):
        return await self.inventory.tasks.start(call, self, "VirtualMachine.powerOn", self._power_on)

    async def _power_on(self, task: TaskHandle) -> None:
        task.progress(10)
        ...

A fault the work raises is the task's error. A task that ran when vCenter was killed is adopted at the next start by
the resume function of its description id, which gets a handle with the journal the work kept; without one it ends
in error and says so.
"""

import asyncio
import datetime as dt
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import ManagedMethod

from landbridge.vcenter.managed import Managed
from landbridge.vmodl.values import from_text, to_text

if TYPE_CHECKING:
    from landbridge.vcenter.calls import Call
    from landbridge.vcenter.inventory import Inventory

log = logging.getLogger(__name__)
Work = Callable[["TaskHandle"], Awaitable[Any]]
# Finished tasks kept, the oldest go first. vCenter keeps 30 days; a count bounds memory whatever the load.
_KEPT = 1000
_RECENT = 20


class Task(Managed):
    """A Task object. Its facts: `info` (a TaskInfo as XML) and `journal` (what its work noted)."""

    kind = vim.Task
    prefix = "task"

    @property
    def info(self) -> Any:
        """Its TaskInfo."""
        return self.value("info")

    async def restored(self) -> None:
        self.set(info=from_text(self.facts["info"], vim.TaskInfo))

    def change(self, **fields: Any) -> None:
        """Give the info new values; not durable until `record`."""
        # A new object: collectors hold the one before to tell what changed.
        info = vim.TaskInfo()
        for name in (p.name for p in info._GetPropertyList()):
            setattr(info, name, fields[name] if name in fields else getattr(self.info, name))
        self.set(info=info)

    async def record(self) -> None:
        self.facts["info"] = to_text(self.info, "info", vim.TaskInfo)
        await self.save()

    async def cancel_task(self, call: "Call") -> None:
        if self.info.state not in ("running", "queued"):
            raise vim.fault.InvalidState(msg=f"The task {self.moid} has ended: {self.info.state}.")
        if not self.info.cancelable:
            raise vmodl.fault.NotSupported(msg=f"The task {self.info.descriptionId} can not be cancelled.")
        self.inventory.tasks.cancel(self)

    async def update_progress(self, call: "Call", percent_done: int) -> None:
        raise vmodl.fault.NotSupported(msg="Only tasks of extensions take progress from outside.")


class TaskHandle:
    """What the work of a task has in its hands."""

    def __init__(self, task: Task) -> None:
        self.task = task
        # Set by CancelTask; the work looks at it, or waits for it, where it can stop in order.
        self.cancel_requested = asyncio.Event()

    @property
    def cancelled(self) -> bool:
        return self.cancel_requested.is_set()

    @property
    def entity(self) -> str:
        """The moId of the entity the task is about."""
        return str(self.task.info.entity._moId)

    @property
    def journal(self) -> dict[str, Any]:
        """What the work noted; a resumed task finds here what it had noted before vCenter died."""
        journal: dict[str, Any] = self.task.facts.setdefault("journal", {})
        return journal

    async def note(self, **facts: Any) -> None:
        """Add JSON facts to the journal; they are durable when this returns."""
        self.journal.update(facts)
        await self.task.save()

    def progress(self, percent: int) -> None:
        """Percent done, 0 to 100; never goes back."""
        percent = max(0, min(100, int(percent)))
        if percent > (self.task.info.progress or 0):
            self.task.change(progress=percent)

    def describe(self, message: str) -> None:
        """What is being done now, for people: the task's `description`."""
        self.task.change(description=vmodl.LocalizableMessage(key=self.task.info.descriptionId, message=message))

    def allow_cancel(self, cancelable: bool) -> None:
        """Whether CancelTask works from now on (a relocation can not be cancelled once it switched over)."""
        if bool(self.task.info.cancelable) is not cancelable:
            self.task.change(cancelable=cancelable)

    def check_cancelled(self) -> None:
        """RequestCanceled if CancelTask was called."""
        if self.cancelled:
            raise vmodl.fault.RequestCanceled(msg="The task was canceled by a user.")


class Tasks:
    """Starts tasks, owns the running ones, keeps the finished."""

    def __init__(self, inventory: "Inventory") -> None:
        self._inventory = inventory
        self._running: dict[str, tuple[asyncio.Task[None], TaskHandle]] = {}
        self._resume: dict[str, Work] = {}
        self._finished: dict[str, None] = {}
        self._by_entity: dict[str, list[str]] = {}
        self._chain = 0

    # -- what methods call ----------------------------------------------------------------------------------

    async def start(
        self,
        call: "Call",
        entity: Managed,
        description_id: str,
        work: Work,
        *,
        cancelable: bool = False,
        journal: dict[str, Any] | None = None,
    ) -> vim.Task:
        """Make a task about `entity` and run `work` in the background; the returned reference is for the client.

        `description_id` is the API's (`VirtualMachine.powerOn`). The result of `work` (a pyVmomi value, a Managed, or
        None) becomes the task's result, a MethodFault it raises its error. The task is durable when this returns.
        """
        task = self._new_task(call.user, entity, description_id, cancelable)
        task.facts["journal"] = dict(journal or {})
        task.facts["info"] = to_text(task.info, "info", vim.TaskInfo)
        await self._inventory.add(task)
        self._show(task)
        self._run(task, work)
        ref: vim.Task = task.ref
        return ref

    def on_resume(self, description_id: str, work: Work) -> None:
        """`work` adopts tasks of `description_id` that were under way when vCenter died."""
        self._resume[description_id] = work

    def running(self, entity: Managed) -> list[Task]:
        """Tasks about `entity` that have not ended."""
        handles = (handle.task for _, handle in self._running.values())
        return [task for task in handles if task.info.entity._moId == entity.moid]

    def cancel(self, task: Task) -> None:
        """Ask the work of a running task to stop."""
        task.change(cancelled=True)
        if (running := self._running.get(task.moid)) is not None:
            running[1].cancel_requested.set()

    # -- start and end of vCenter -----------------------------------------------------------------------------

    async def resume(self) -> None:
        """After the inventory was loaded: adopt what was under way, end what nobody adopts."""
        tasks: list[Task] = self._inventory.all(Task)
        for task in tasks:
            self._show(task)
            if task.info.state not in ("running", "queued"):
                self._finished[task.moid] = None
            elif (work := self._resume.get(task.info.descriptionId)) is not None:
                self._run(task, work)
            else:
                fault = vmodl.fault.SystemError(reason="vCenter was restarted")
                fault.msg = "vCenter was restarted while the task ran. Look at the object's state before trying again."
                await self._end(task, error=fault)

    async def stop(self) -> None:
        """Interrupt running tasks without ending them: the next start resumes them."""
        running = [runner for runner, _ in self._running.values()]
        for runner in running:
            runner.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # -- inside -----------------------------------------------------------------------------------------------

    def _new_task(self, user: str, entity: Managed, description_id: str, cancelable: bool) -> Task:
        inventory = self._inventory
        task = Task(inventory, inventory.new_moid(Task.prefix))
        now = dt.datetime.now(dt.UTC)
        self._chain += 1
        info = vim.TaskInfo(
            key=task.moid,
            task=task.ref,
            name=_method(entity.kind, description_id),
            descriptionId=description_id,
            entity=entity.ref if isinstance(entity.ref, vim.ManagedEntity) else None,
            entityName=str(entity.facts.get("name", entity.moid)),
            state=vim.TaskInfo.State.running,
            cancelled=False,
            cancelable=cancelable,
            reason=vim.TaskReasonUser(userName=user) if user else vim.TaskReasonSystem(),
            queueTime=now,
            startTime=now,
            eventChainId=self._chain,
        )
        task.set(info=info)
        return task

    def _run(self, task: Task, work: Work) -> None:
        handle = TaskHandle(task)
        runner = asyncio.create_task(self._work(handle, work), name=f"{task.moid} {task.info.descriptionId}")
        self._running[task.moid] = (runner, handle)

    async def _work(self, handle: TaskHandle, work: Work) -> None:
        task = handle.task
        try:
            try:
                result = await work(handle)
            except vmodl.MethodFault as fault:
                await self._end(task, error=fault)
            except Exception as error:
                log.exception("%s %s failed", task.moid, task.info.descriptionId)
                internal = vmodl.fault.SystemError(reason=str(error) or type(error).__name__)
                internal.msg = f"A general system error occurred: {error}"
                await self._end(task, error=internal)
            else:
                await self._end(task, result=result.ref if isinstance(result, Managed) else result)
        except TypeError as error:
            # A result or fault that lacks a required field can not be told; that it ended must be.
            log.exception("%s %s ended with what can not be written", task.moid, task.info.descriptionId)
            untold = vmodl.fault.SystemError(reason=str(error), msg=f"The end of the task can not be told: {error}")
            await self._end(task, error=untold)
        finally:
            self._running.pop(task.moid, None)

    async def _end(self, task: Task, result: Any = None, error: vmodl.MethodFault | None = None) -> None:
        state = vim.TaskInfo.State.success if error is None else vim.TaskInfo.State.error
        now = dt.datetime.now(dt.UTC)
        before = task.info
        task.facts["ended"] = now.timestamp()
        fields: dict[str, Any] = {"state": state, "completeTime": now, "cancelable": False}
        if error is None:
            fields.update(result=result, progress=before.progress)
        else:
            fields.update(error=error)
        # Durable first, visible second: a client that saw the success must find it after a crash.
        final = Task(self._inventory, task.moid, task.facts)
        final.set(info=before)
        final.change(**fields)
        await final.record()
        task.set(info=final.info)
        self._finished[task.moid] = None
        self._show(task)
        while len(self._finished) > _KEPT:
            await self._forget(next(iter(self._finished)))

    async def _forget(self, moid: str) -> None:
        del self._finished[moid]
        task = self._inventory.objects.get(moid)
        if isinstance(task, Task):
            if task.info.entity is not None:
                recent = self._by_entity.get(task.info.entity._moId, [])
                if moid in recent:
                    recent.remove(moid)
            await self._inventory.remove(task)

    def _show(self, task: Task) -> None:
        """Keep `recentTask` of the entity and of the task manager true."""
        objects = self._inventory.objects
        if task.info.entity is not None:
            recent = self._by_entity.setdefault(task.info.entity._moId, [])
            if task.moid not in recent:
                recent.append(task.moid)
                del recent[:-5]
            if (entity := objects.get(task.info.entity._moId)) is not None:
                entity.set(recentTask=[objects[moid].ref for moid in recent if moid in objects])
        if (manager := objects.get("TaskManager")) is not None:
            manager.invalidate("recentTask")

    def recent(self) -> list[vim.Task]:
        """References of running tasks and of the latest finished ones."""
        moids = [*list(self._finished)[-_RECENT:], *self._running]
        return [self._inventory.objects[moid].ref for moid in moids if moid in self._inventory.objects]


def _method(kind: type, description_id: str) -> Any:
    """The method a description id belongs to, as TaskInfo's `name` has it; None if the type has no such method."""
    _, _, verb = description_id.partition(".")
    method = getattr(kind, verb[:1].upper() + verb[1:], None)
    return method if isinstance(method, ManagedMethod) else None
