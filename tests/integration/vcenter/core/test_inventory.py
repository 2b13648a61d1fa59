"""Folders, datacenters, views, searching, names, custom fields, tasks and events, by stock pyVmomi."""

import datetime as dt
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tests.integration.vcenter.core.vcenter_process import VcenterProcess, finish, new_datacenter, unique


@pytest.fixture
def datacenter(si: Any) -> Any:
    return new_datacenter(si)


def test_a_datacenter_has_its_four_folders(datacenter: Any) -> None:
    folders = [datacenter.vmFolder, datacenter.hostFolder, datacenter.datastoreFolder, datacenter.networkFolder]
    assert [folder.name for folder in folders] == ["vm", "host", "datastore", "network"]
    assert "VirtualMachine" in datacenter.vmFolder.childType
    assert (datacenter.datastore, datacenter.network) == ([], [])


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\tb", "x" * 81])
def test_names_that_can_not_be_are_refused(datacenter: Any, name: str) -> None:
    with pytest.raises(vim.fault.InvalidName):
        datacenter.vmFolder.CreateFolder(name)
    with pytest.raises(vim.fault.InvalidName):
        finish(datacenter.Rename(name))


def test_a_slash_in_a_name_is_written_escaped(si: Any, datacenter: Any) -> None:
    folder = datacenter.vmFolder.CreateFolder("a/b ü 雪")
    assert folder.name == "a%2fb ü 雪"
    path = f"{datacenter.name}/vm/a%2fb ü 雪"
    assert si.content.searchIndex.FindByInventoryPath(path) == folder


def test_a_second_of_the_same_name_is_refused_and_names_the_first(datacenter: Any) -> None:
    first = datacenter.vmFolder.CreateFolder("same")
    with pytest.raises(vim.fault.DuplicateName) as caught:
        datacenter.vmFolder.CreateFolder("same")
    assert (caught.value.name, caught.value.object) == ("same", first)
    other = datacenter.vmFolder.CreateFolder("other")
    with pytest.raises(vim.fault.DuplicateName):
        finish(other.Rename("same"))


def test_folders_move_but_not_into_themselves_or_elsewhere(si: Any, datacenter: Any) -> None:
    a = datacenter.vmFolder.CreateFolder("a")
    b = a.CreateFolder("b")
    c = datacenter.vmFolder.CreateFolder("c")
    finish(c.MoveInto([b]))
    assert (b.parent, a.childEntity, c.childEntity) == (c, [], [b])
    with pytest.raises(vim.fault.InvalidFolder):
        finish(b.MoveInto([c]))
    with pytest.raises(vim.fault.InvalidFolder):
        finish(new_datacenter(si).vmFolder.MoveInto([b]))
    with pytest.raises(vmodl.fault.NotSupported):
        finish(datacenter.hostFolder.MoveInto([b]))


def test_things_are_made_only_where_they_belong(datacenter: Any) -> None:
    with pytest.raises(vmodl.fault.NotSupported):
        datacenter.vmFolder.CreateDatacenter("x")
    with pytest.raises(vmodl.fault.NotSupported):
        datacenter.vmFolder.CreateClusterEx("x", vim.cluster.ConfigSpecEx())
    with pytest.raises(vmodl.fault.NotSupported):
        finish(datacenter.vmFolder.Destroy())


def test_a_datacenter_goes_with_its_folders(si: Any, datacenter: Any) -> None:
    inner = datacenter.vmFolder.CreateFolder("a").CreateFolder("b")
    finish(datacenter.Destroy())
    for gone in (datacenter, inner):
        with pytest.raises(vmodl.fault.ManagedObjectNotFound):
            _ = gone.name


def test_views_show_what_is(si: Any, datacenter: Any) -> None:
    manager, folder = si.content.viewManager, datacenter.vmFolder
    flat = manager.CreateContainerView(datacenter, [vim.Folder], False)
    deep = manager.CreateContainerView(si.content.rootFolder, [vim.Folder], True)
    a = folder.CreateFolder("a")
    b = a.CreateFolder("b")
    assert folder in flat.view
    assert a in flat.view  # a datacenter's own folders are its structure, not a level
    assert b not in flat.view
    assert {a._moId, b._moId} <= {each._moId for each in deep.view}
    finish(a.Destroy())
    assert not {a._moId, b._moId} & {each._moId for each in deep.view}
    chosen = manager.CreateListView([folder, datacenter])
    assert chosen.Modify([datacenter.hostFolder, b], [datacenter]) == [b]
    assert list(chosen.view) == [folder, datacenter.hostFolder]
    copy = manager.CreateListViewFromView(chosen)
    assert list(copy.view) == list(chosen.view)
    assert chosen.Reset([]) == []
    assert chosen.view == []
    window = manager.CreateInventoryView()
    assert list(window.view) == [si.content.rootFolder]
    window.OpenFolder([si.content.rootFolder])
    assert datacenter in window.view
    window.CloseFolder([si.content.rootFolder])
    assert list(window.view) == [si.content.rootFolder]
    for view in (flat, deep, chosen, copy, window):
        view.Destroy()
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = flat.view


def test_children_are_found_by_name_and_path(si: Any, datacenter: Any) -> None:
    index = si.content.searchIndex
    folder = datacenter.vmFolder.CreateFolder("web")
    assert index.FindChild(datacenter.vmFolder, "web") == folder
    assert index.FindChild(datacenter.vmFolder, "db") is None
    assert index.FindByInventoryPath(f"/{datacenter.name}/vm/web/") == folder
    assert index.FindByInventoryPath(f"Datacenters/{datacenter.name}/vm/web") == folder
    assert index.FindByInventoryPath("/no/where") is None
    assert index.FindByUuid(None, "564d0000-0000-0000-0000-000000000000", True, False) is None


def test_custom_fields_belong_to_entities(si: Any, datacenter: Any) -> None:
    manager = si.content.customFieldsManager
    field = manager.AddFieldDefinition(unique("owner"), vim.Datacenter)
    manager.SetField(datacenter, field.key, "ops")
    assert [(each.key, each.value) for each in datacenter.customValue] == [(field.key, "ops")]
    datacenter.setCustomValue(field.name, "dev")
    assert [each.value for each in datacenter.customValue] == ["dev"]
    with pytest.raises(vmodl.fault.InvalidArgument):
        manager.SetField(datacenter.vmFolder, field.key, "x")
    with pytest.raises(vim.fault.DuplicateName):
        manager.AddFieldDefinition(field.name)
    manager.RemoveFieldDefinition(field.key)
    assert datacenter.customValue == []
    with pytest.raises(vmodl.fault.InvalidArgument):
        manager.SetField(datacenter, field.key, "x")


def test_a_task_tells_its_story(si: Any, datacenter: Any) -> None:
    task = datacenter.vmFolder.CreateFolder("t").Rename("u")
    finish(task)
    info = task.info
    assert (info.state, info.descriptionId, info.entityName) == ("success", "Folder.rename", "t")
    assert info.reason.userName == "VSPHERE.LOCAL\\administrator"
    assert info.queueTime <= info.startTime <= info.completeTime
    assert task in info.entity.recentTask
    assert task in si.content.taskManager.recentTask
    with pytest.raises(vim.fault.InvalidState):
        task.Cancel()
    about = vim.TaskFilterSpec.ByEntity(entity=datacenter, recursion="all")
    collector = si.content.taskManager.CreateCollector(vim.TaskFilterSpec(entity=about))
    assert [each.key for each in collector.latestPage] == [task._moId]
    assert collector.ReadNext(10) == []
    assert [each.key for each in collector.ReadPrev(10)] == [task._moId]
    collector.Remove()


def test_events_are_posted_found_and_collected(si: Any, datacenter: Any) -> None:
    manager = si.content.eventManager
    manager.LogUserEvent(datacenter, "hello <&>")
    assert manager.latestEvent.fullFormattedMessage == "User logged event: hello <&>"
    about = vim.event.EventFilterSpec.ByEntity(entity=datacenter, recursion="self")
    found = manager.QueryEvents(vim.event.EventFilterSpec(entity=about))
    assert [type(each) for each in found] == [vim.event.DatacenterCreatedEvent, vim.event.GeneralUserEvent]
    assert found[0].userName == "VSPHERE.LOCAL\\administrator"
    assert found[1].datacenter.datacenter == datacenter
    only = vim.event.EventFilterSpec(entity=about, eventTypeId=["vim.event.GeneralUserEvent"])
    assert len(manager.QueryEvents(only)) == 1
    future = vim.event.EventFilterSpec.ByTime(beginTime=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
    assert manager.QueryEvents(vim.event.EventFilterSpec(time=future)) == []
    collector = manager.CreateCollectorForEvents(vim.event.EventFilterSpec(entity=about))
    assert [each.key for each in collector.latestPage] == [found[1].key, found[0].key]
    collector.Rewind()
    assert [each.key for each in collector.ReadNext(1)] == [found[0].key]
    posted = vim.event.EventEx(eventTypeId="com.example.thing", message="it happened", key=0, chainId=0,
                               createdTime=dt.datetime.now(dt.UTC), userName="me")  # fmt: skip
    manager.PostEvent(posted)
    assert manager.latestEvent.eventTypeId == "com.example.thing"
    with pytest.raises(vim.fault.InvalidEvent):
        manager.PostEvent(found[0])


def test_counters_and_options_are_described(vcenter: VcenterProcess, si: Any, datacenter: Any) -> None:
    assert {each.nameInfo.key for each in si.content.perfManager.perfCounter} >= {"usagemhz", "consumed"}
    with pytest.raises(vmodl.fault.InvalidArgument):
        si.content.perfManager.QueryPerfProviderSummary(datacenter)
    (option,) = si.content.setting.QueryOptions("VirtualCenter.FQDN")
    assert option.value == "vcenter.lab"
    with pytest.raises(vim.fault.InvalidName):
        si.content.setting.QueryOptions("nothing.here")
