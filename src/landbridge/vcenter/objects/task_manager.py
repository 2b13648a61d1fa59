"""TaskManager and its collectors: recent tasks, and the history of tasks."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pyVmomi import vim, vmodl

from landbridge.vcenter.calls import Call
from landbridge.vcenter.history import HistoryCollector, by_entity, by_user, in_time
from landbridge.vcenter.managed import Managed
from landbridge.vcenter.sessions import Session
from landbridge.vcenter.tasks import Task

if TYPE_CHECKING:
    from landbridge.vcenter.inventory import Inventory


class TaskManager(Managed):
    kind = vim.TaskManager
    durable = False
    defaults: ClassVar[dict[str, Any]] = {"maxCollector": 32}

    def __init__(self, inventory: "Inventory", moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self.lazy("recentTask", inventory.tasks.recent)
        self.lazy("description", _description)

    async def create_collector_for_tasks(self, call: Call, filter_: Any) -> Any:
        assert call.session is not None
        made = TaskHistoryCollector(self.inventory, call.session, filter_)
        await made.appear()
        return made.ref


class TaskHistoryCollector(HistoryCollector):
    """Tasks that match a TaskFilterSpec, in the order they were queued."""

    kind = vim.TaskHistoryCollector

    def __init__(self, inventory: "Inventory", session: Session, spec: Any) -> None:
        for name in ("alarm", "scheduledTask", "tag", "parentTaskKey", "rootTaskKey"):
            if getattr(spec, name, None):
                raise vmodl.fault.NotSupported(msg=f"A filter of tasks by {name} is not supported.")
        super().__init__(inventory, session, spec)

    def matching(self) -> list[Any]:
        spec = self._spec
        tasks: list[Task] = self.inventory.all(Task)
        infos = [task.info for task in tasks]
        if spec.entity is not None:
            about = by_entity(self.inventory, spec.entity)
            infos = [info for info in infos if info.entity is not None and info.entity._moId in about]
        if spec.time is not None:
            field = {"queuedTime": "queueTime", "startedTime": "startTime"}.get(spec.time.timeType, "completeTime")
            infos = [info for info in infos if in_time(getattr(info, field), spec.time)]
        if spec.userName is not None:
            infos = [info for info in infos if by_user(getattr(info.reason, "userName", None), spec.userName)]
        if spec.state:
            infos = [info for info in infos if info.state in spec.state]
        if spec.eventChainId:
            infos = [info for info in infos if info.eventChainId in spec.eventChainId]
        return infos

    async def read_next_tasks(self, call: Call, max_count: int) -> list[Any]:
        return self.read(max_count, forward=True)

    async def read_previous_tasks(self, call: Call, max_count: int) -> list[Any]:
        return self.read(max_count, forward=False)


def _description() -> vim.TaskDescription:
    states = [vim.ElementDescription(key=state, label=state, summary=state) for state in vim.TaskInfo.State.values]
    kinds = {vim.TaskReasonUser: "user", vim.TaskReasonSystem: "system"}
    reasons = [vim.TypeDescription(key=kind, label=label, summary=label) for kind, label in kinds.items()]
    return vim.TaskDescription(state=states, reason=reasons, methodInfo=list(_methods()))


def _methods() -> Iterator[vim.ElementDescription]:
    """Each method that makes a task, by its description id (`VirtualMachine.powerOn`)."""
    for kind in (vim.VirtualMachine, vim.HostSystem, vim.ClusterComputeResource, vim.Folder, vim.Datacenter):
        for name, info in kind._methodInfo.items():
            if getattr(kind, name).info.isTask:
                label = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
                key = f"{kind.__name__.removeprefix('vim.')}.{name[0].lower()}{name[1:]}"
                yield vim.ElementDescription(key=key, label=label, summary=info.wsdlName)
