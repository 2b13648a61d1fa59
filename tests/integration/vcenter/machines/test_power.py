"""Power operations and what they answer in the wrong state."""

import pytest
from pyVmomi import vim, vmodl

from .site import Site, wait


@pytest.mark.parametrize(
    ("method", "running", "requested"),
    [
        ("PowerOnVM_Task", True, "poweredOn"),
        ("PowerOffVM_Task", False, "poweredOff"),
        ("ResetVM_Task", False, "poweredOn"),
        ("SuspendVM_Task", False, "suspended"),
        ("Destroy_Task", True, "poweredOff"),
    ],
)
def test_an_operation_in_the_wrong_state_names_both_states(
    site: Site, method: str, running: bool, requested: str
) -> None:
    vm = site.create_running() if running else site.create()
    with pytest.raises(vim.fault.InvalidPowerState) as refused:
        wait(getattr(vm, method)())
    assert refused.value.requestedState == requested
    assert refused.value.existingState == ("poweredOn" if running else "poweredOff")


def test_a_suspended_vm_goes_on(site: Site) -> None:
    vm = site.create_running()
    wait(vm.SuspendVM_Task())
    assert vm.runtime.powerState == "suspended"
    wait(vm.PowerOnVM_Task())
    assert vm.runtime.powerState == "poweredOn"
    wait(vm.ResetVM_Task())
    assert vm.runtime.powerState == "poweredOn"


def test_a_guest_without_tools_can_not_be_asked(site: Site) -> None:
    vm = site.create_running()
    with pytest.raises(vim.fault.ToolsUnavailable):
        vm.ShutdownGuest()
    with pytest.raises(vim.fault.ToolsUnavailable):
        vm.RebootGuest()
    with pytest.raises(vmodl.fault.NotSupported):
        vm.StandbyGuest()
    assert vm.runtime.powerState == "poweredOn"


def test_several_vms_are_powered_on_by_one_task(site: Site) -> None:
    off, on = site.create(), site.create_running()
    result = wait(site.datacenter.PowerOnMultiVM_Task([off, on]))
    assert [attempt.vm for attempt in result.attempted] == [off]
    assert [refused.vm for refused in result.notAttempted] == [on]
    wait(result.attempted[0].task)
    assert off.runtime.powerState == "poweredOn"


def test_a_vm_takes_one_task_at_a_time(site: Site) -> None:
    vm = site.create_running()
    moving = vm.RelocateVM_Task(vim.vm.RelocateSpec(host=site.hosts[1], datastore=site.datastore(1)))
    with pytest.raises(vim.fault.TaskInProgress) as refused:
        wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="too soon")))
    assert refused.value.task == moving
    wait(moving)
    wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="now")))
