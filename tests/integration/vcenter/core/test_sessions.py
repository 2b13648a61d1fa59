"""Logging in, staying in, and what a role may."""

from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tests.integration.vcenter.core.vcenter_process import (
    ADMINISTRATOR,
    READER,
    VcenterProcess,
    finish,
    new_datacenter,
    unique,
    until,
)


def test_a_wrong_password_and_an_unknown_user_are_refused_alike(vcenter: VcenterProcess) -> None:
    messages = set()
    for user, password in ((ADMINISTRATOR[0], "wrong"), ("nobody@vsphere.local", "wrong"), ("", "")):
        with pytest.raises(vim.fault.InvalidLogin) as caught:
            vcenter.connect(user, password)
        messages.add(caught.value.msg)
    assert len(messages) == 1


@pytest.mark.parametrize("user", ["administrator@vsphere.local", "VSPHERE.LOCAL\\Administrator", "Administrator"])
def test_a_user_has_several_ways_to_write_the_name(vcenter: VcenterProcess, user: str) -> None:
    with vcenter.client((user, ADMINISTRATOR[1])) as si:
        assert si.content.sessionManager.currentSession.userName == "VSPHERE.LOCAL\\administrator"


def test_after_five_wrong_passwords_the_right_one_waits(vcenter: VcenterProcess) -> None:
    for _ in range(5):
        with pytest.raises(vim.fault.InvalidLogin):
            vcenter.connect(READER[0], "wrong")
    with pytest.raises(vim.fault.InvalidLogin):
        vcenter.connect(*READER)
    # Others are not locked out.
    with vcenter.client():
        pass

    def let_in() -> bool:
        try:
            with vcenter.client(READER):
                return True
        except vim.fault.InvalidLogin:
            return False

    until(let_in, "the lockout is over")


def test_without_a_login_only_the_way_to_one_is_open(vcenter: VcenterProcess, si: Any) -> None:
    stub = type(si._stub)("127.0.0.1", vcenter.port, version=si._stub.version, sslContext=vcenter.tls())
    stranger = vim.ServiceInstance("ServiceInstance", stub)
    content: Any = stranger.RetrieveContent()
    for attempt in (
        lambda: content.rootFolder.name,
        lambda: content.rootFolder.CreateFolder("x"),
        lambda: content.viewManager.CreateContainerView(content.rootFolder, [], True),
        stranger.CurrentTime,
        content.sessionManager.Logout,
    ):
        with pytest.raises(vim.fault.NotAuthenticated):
            attempt()


def test_a_session_nobody_uses_expires_with_its_views(tmp_path: Path) -> None:
    vcenter = VcenterProcess(tmp_path, settings="session_timeout = 1.5")
    vcenter.start()
    try:
        sleeper = vcenter.connect(*ADMINISTRATOR)
        sleeper.content.viewManager.CreateContainerView(sleeper.content.rootFolder, [], True)
        with vcenter.client() as busy:

            def only_one_left() -> bool:
                return len(busy.content.sessionManager.sessionList) == 1

            until(only_one_left, "the unused session expires")
        with pytest.raises(vim.fault.NotAuthenticated):
            _ = sleeper.content.rootFolder.name
    finally:
        assert vcenter.stop() == 0


def test_a_session_ended_by_an_administrator_is_over(vcenter: VcenterProcess, si: Any) -> None:
    victim = vcenter.connect(*ADMINISTRATOR)
    key = victim.content.sessionManager.currentSession.key
    assert si.content.sessionManager.SessionIsActive(key, "VSPHERE.LOCAL\\administrator")
    si.content.sessionManager.TerminateSession([key])
    with pytest.raises(vim.fault.NotAuthenticated):
        victim.CurrentTime()
    assert not si.content.sessionManager.SessionIsActive(key, "VSPHERE.LOCAL\\administrator")


def test_read_only_sees_everything_and_changes_nothing(vcenter: VcenterProcess, si: Any) -> None:
    datacenter = new_datacenter(si)
    with vcenter.client(READER) as reader:
        content = reader.content
        view = content.viewManager.CreateContainerView(content.rootFolder, [vim.Datacenter], True)
        mine = next(each for each in view.view if each._moId == datacenter._moId)
        assert mine.name == datacenter.name
        content.eventManager.QueryEvents(vim.event.EventFilterSpec())
        for attempt in (
            lambda: content.rootFolder.CreateDatacenter(unique("dc")),
            lambda: mine.vmFolder.CreateFolder("x"),
            lambda: mine.Rename("y"),
            mine.Destroy,
            lambda: mine.vmFolder.MoveInto([mine.vmFolder]),
            lambda: mine.PowerOnVm([vim.VirtualMachine("vm-1", reader._stub)]),
            lambda: mine.setCustomValue("a", "b"),
            lambda: content.eventManager.LogUserEvent(mine, "hello"),
            lambda: content.sessionManager.Terminate(["x"]),
            lambda: content.customFieldsManager.AddFieldDefinition("f"),
            lambda: content.authorizationManager.SetEntityPermissions(content.rootFolder, []),
        ):
            with pytest.raises(vim.fault.NoPermission) as caught:
                attempt()
            assert caught.value.privilegeId
        view.Destroy()
    assert datacenter.name.startswith("dc-")


def test_a_role_change_counts_at_once(vcenter: VcenterProcess, si: Any) -> None:
    manager, root = si.content.authorizationManager, si.content.rootFolder
    assert {role.name for role in manager.roleList} == {"Admin", "ReadOnly", "NoAccess"}

    def permission(role: int) -> Any:
        return vim.AuthorizationManager.Permission(principal=READER[0], group=False, roleId=role, propagate=True)

    with vcenter.client(READER) as reader:
        manager.SetEntityPermissions(root, [permission(-1)])
        try:
            datacenter = new_datacenter(reader)
        finally:
            manager.SetEntityPermissions(root, [permission(-2)])
        with pytest.raises(vim.fault.NoPermission):
            new_datacenter(reader)
        key = reader.content.sessionManager.currentSession.key
        granted = manager.HasPrivilegeOnEntity(root, key, ["System.View", "Datacenter.Create"])
        assert list(granted) == [True, False]
    finish(vim.Datacenter(datacenter._moId, si._stub).Destroy())
    users = {each.principal: each.roleId for each in manager.RetrieveRolePermissions(-2)}
    assert users == {"VSPHERE.LOCAL\\reader": -2}


def test_the_last_administrator_stays_one(si: Any) -> None:
    root = si.content.rootFolder
    me = vim.AuthorizationManager.Permission(principal=ADMINISTRATOR[0], group=False, roleId=-2, propagate=True)
    with pytest.raises(vim.fault.AuthMinimumAdminPermission):
        si.content.authorizationManager.SetEntityPermissions(root, [me])
    with pytest.raises(vmodl.fault.NotSupported):
        si.content.authorizationManager.AddRole("mine", [])
