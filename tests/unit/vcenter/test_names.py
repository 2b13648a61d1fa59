"""How names of the API map to Python's, and which privilege a method needs."""

from types import SimpleNamespace
from typing import Any

import pytest
from pyVmomi import vim

from landbridge.vcenter.authorization import ADMINISTRATOR, NO_ACCESS, READ_ONLY, allows
from landbridge.vcenter.dispatch import required_privilege
from landbridge.vcenter.managed import snake_case
from landbridge.vcenter.sessions import canonical, display
from landbridge.vmodl.requests import find_method


@pytest.mark.parametrize(
    ("name", "python"),
    [
        ("PowerOnVM_Task", "power_on_vm_task"),
        ("AddDVPortgroup_Task", "add_dv_portgroup_task"),
        ("CreateSnapshotEx_Task", "create_snapshot_ex_task"),
        ("PowerOnMultiVM_Task", "power_on_multi_vm_task"),
        ("RetrievePropertiesEx", "retrieve_properties_ex"),
        ("maxWaitSeconds", "max_wait_seconds"),
        ("type", "type_"),
        ("filter", "filter_"),
        ("list", "list_"),
    ],
)
def test_api_names_become_pythonic(name: str, python: str) -> None:
    assert snake_case(name) == python


def privilege(kind: type, method: str) -> str:
    managed: Any = SimpleNamespace(kind=kind)
    return required_privilege(managed, find_method("urn:vim25", method))


@pytest.mark.parametrize(
    ("kind", "method", "reader"),
    [
        (vim.SessionManager, "Login", True),
        (vim.ServiceInstance, "CurrentTime", True),
        (vim.SearchIndex, "FindByUuid", True),
        (vim.AuthorizationManager, "RetrieveEntityPermissions", True),
        (vim.VirtualMachine, "PowerOnVM_Task", False),
        (vim.VirtualMachine, "Destroy_Task", False),
        (vim.VirtualMachine, "RelocateVM_Task", False),
        (vim.VirtualMachine, "UnregisterVM", False),
        (vim.Datacenter, "PowerOnMultiVM_Task", False),
        (vim.Folder, "MoveIntoFolder_Task", False),
        (vim.Folder, "Rename_Task", False),
        (vim.Task, "CancelTask", False),
        (vim.AuthorizationManager, "SetEntityPermissions", False),
        (vim.VirtualMachine, "setCustomValue", False),
    ],
)
def test_read_only_may_call_what_looks_and_nothing_that_changes(kind: type, method: str, reader: bool) -> None:
    needed = privilege(kind, method)
    assert allows(READ_ONLY, needed) is reader
    assert allows(ADMINISTRATOR, needed)


def test_no_access_has_no_privilege() -> None:
    assert not allows(NO_ACCESS, "System.View")


@pytest.mark.parametrize("user", ["administrator@vsphere.local", "VSPHERE.LOCAL\\Administrator", "ADMINISTRATOR"])
def test_a_user_name_has_one_canonical_form(user: str) -> None:
    assert canonical(user) == "administrator@vsphere.local"
    assert display(canonical(user)) == "VSPHERE.LOCAL\\administrator"
