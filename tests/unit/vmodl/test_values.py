"""Values as they are stored."""

import datetime as dt
from typing import Any

from pyVmomi import vim

from landbridge.vmodl.values import from_text, to_text


def test_a_task_comes_back_as_it_was_stored() -> None:
    fault = vim.fault.InvalidPowerState(requestedState="poweredOn", existingState="poweredOn", msg="on <already>")
    info = vim.TaskInfo(
        key="task-1",
        task=vim.Task("task-1", None),
        name=vim.VirtualMachine.PowerOn,
        descriptionId="VirtualMachine.powerOn",
        entity=vim.VirtualMachine("vm-1", None),
        entityName="ü\u2028<&>",
        state="error",
        cancelled=False,
        cancelable=True,
        error=fault,
        reason=vim.TaskReasonUser(userName="a"),
        queueTime=dt.datetime(2026, 1, 1, 1, 2, 3, 4, tzinfo=dt.UTC),
        eventChainId=3,
    )
    found = from_text(to_text(info, "info", vim.TaskInfo), vim.TaskInfo)
    assert found.error.msg == "on <already>"
    assert isinstance(found.error, vim.fault.InvalidPowerState)
    assert found.entityName == info.entityName
    assert (found.queueTime, found.entity, found.reason.userName) == (info.queueTime, info.entity, "a")
    assert found.name.info.wsdlName == "PowerOnVM_Task"


def test_an_event_keeps_its_class() -> None:
    event = vim.event.VmPoweredOnEvent(
        key=1, chainId=1, createdTime=dt.datetime(2026, 1, 1, tzinfo=dt.UTC), userName="u", template=False,
        vm=vim.event.VmEventArgument(name="v", vm=vim.VirtualMachine("vm-1", None)),
        host=vim.event.HostEventArgument(name="h", host=vim.HostSystem("host-1", None)),
    )  # fmt: skip
    found: Any = from_text(to_text(event, "event", vim.event.Event), vim.event.Event)
    assert isinstance(found, vim.event.VmPoweredOnEvent)
    argument: Any = found.vm
    assert argument.vm._moId == "vm-1"
