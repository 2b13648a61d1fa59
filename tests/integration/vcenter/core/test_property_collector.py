"""Reading properties and waiting for their changes, by stock pyVmomi."""

import threading
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tests.integration.vcenter.core.vcenter_process import (
    VcenterProcess,
    filter_spec,
    finish,
    new_datacenter,
    unique,
    until,
    view_spec,
)

Collector = vmodl.query.PropertyCollector
Options = Collector.RetrieveOptions


@pytest.fixture
def folder(si: Any) -> Any:
    """A VM folder of a new datacenter."""
    return new_datacenter(si).vmFolder


def values(content: Any) -> dict[str, Any]:
    return {each.name: each.val for each in content.propSet}


def wait(collector: Any, version: str | None, seconds: int = 20) -> Any:
    return collector.WaitForUpdatesEx(version, Collector.WaitOptions(maxWaitSeconds=seconds))


def tree() -> list[Any]:
    """The recursive traversal every vSphere guide has: folders, and the VM folder of datacenters."""
    folders = Collector.TraversalSpec(
        name="folders",
        type=vim.Folder,
        path="childEntity",
        skip=False,
        selectSet=[Collector.SelectionSpec(name="folders"), Collector.SelectionSpec(name="vms")],
    )
    vms = Collector.TraversalSpec(
        name="vms",
        type=vim.Datacenter,
        path="vmFolder",
        skip=False,
        selectSet=[Collector.SelectionSpec(name="folders")],
    )
    return [folders, vms]


def test_recursive_named_traversals_find_the_whole_tree(si: Any, folder: Any) -> None:
    deep = folder.CreateFolder("a").CreateFolder("b").CreateFolder("c")
    spec = filter_spec(si.content.rootFolder, vim.Folder, ["name", "parent"], tree())
    found = si.content.propertyCollector.RetrieveContents([spec])
    by_id = {each.obj._moId: values(each) for each in found}
    assert by_id[deep._moId]["name"] == "c"
    assert by_id[by_id[deep._moId]["parent"]._moId]["name"] == "b"
    assert len(by_id) == len(found)


def test_nested_paths_lead_into_data_objects_and_array_elements(si: Any) -> None:
    manager = si.content.perfManager
    paths = ["perfCounter[6].nameInfo.key", "perfCounter[6]", "perfCounter[999]", "historicalInterval"]
    (found,) = si.content.propertyCollector.RetrieveContents([filter_spec(manager, type(manager), paths)])
    assert values(found)["perfCounter[6].nameInfo.key"] == "usagemhz"
    assert values(found)["perfCounter[6]"].groupInfo.key == "cpu"
    assert "perfCounter[999]" not in values(found)
    assert values(found)["historicalInterval"] == []


@pytest.mark.parametrize("path", ["nonsense", "name.nonsense", "", "name.", "a..b", "childEntity[", "x" * 5000])
def test_a_path_there_is_not_is_invalid_property(si: Any, path: str) -> None:
    root = si.content.rootFolder
    with pytest.raises(vmodl.query.InvalidProperty) as caught:
        si.content.propertyCollector.RetrieveContents([filter_spec(root, vim.Folder, [path])])
    assert caught.value.name == path[:200]


def test_all_properties_of_the_most_derived_type_come_when_asked(si: Any, folder: Any) -> None:
    spec = filter_spec(folder, vim.ManagedEntity, ["name"])
    spec.propSet.append(Collector.PropertySpec(type=vim.Folder, all=True))
    (found,) = si.content.propertyCollector.RetrieveContents([spec])
    assert {"name", "parent", "childType", "childEntity", "overallStatus", "effectiveRole"} <= values(found).keys()
    assert list(values(found)["effectiveRole"]) == [-1]


def test_pages_continue_until_the_last_and_a_token_works_once(si: Any, folder: Any) -> None:
    names = {folder.CreateFolder(f"f{number}").name for number in range(7)}
    collector = si.content.propertyCollector
    spec = filter_spec(folder, vim.Folder, ["name"], tree())
    spec.objectSet[0].skip = True
    spec.objectSet[0].selectSet[0].selectSet = []
    page = collector.RetrievePropertiesEx([spec], Options(maxObjects=3))
    first = page.token
    found, sizes = [*page.objects], [len(page.objects)]
    while page.token:
        page = collector.ContinueRetrievePropertiesEx(page.token)
        found += page.objects
        sizes.append(len(page.objects))
    assert sizes == [3, 3, 1]
    assert {values(each)["name"] for each in found} == names
    for method in (collector.ContinueRetrievePropertiesEx, collector.CancelRetrievePropertiesEx):
        with pytest.raises(vmodl.fault.InvalidArgument):
            method(first)


def test_a_cancelled_retrieval_is_over(si: Any, folder: Any) -> None:
    for number in range(3):
        folder.CreateFolder(f"f{number}")
    collector = si.content.propertyCollector
    page = collector.RetrievePropertiesEx([filter_spec(folder, vim.Folder, ["name"], tree())], Options(maxObjects=1))
    collector.CancelRetrievePropertiesEx(page.token)
    with pytest.raises(vmodl.fault.InvalidArgument):
        collector.ContinueRetrievePropertiesEx(page.token)


def test_nothing_found_is_an_unset_result(si: Any, folder: Any) -> None:
    spec = filter_spec(folder, vim.VirtualMachine, ["name"])
    assert si.content.propertyCollector.RetrievePropertiesEx([spec], Options()) is None


def test_a_starting_object_that_is_gone_is_named(si: Any) -> None:
    ghost = vim.VirtualMachine("vm-4711", si._stub)
    with pytest.raises(vmodl.fault.ManagedObjectNotFound) as caught:
        si.content.propertyCollector.RetrieveContents([filter_spec(ghost, vim.VirtualMachine, ["name"])])
    assert caught.value.obj._moId == "vm-4711"


def test_a_wait_tells_what_is_then_only_what_changes(si: Any, folder: Any) -> None:
    collector = si.content.propertyCollector.CreatePropertyCollector()
    made = collector.CreateFilter(filter_spec(folder, vim.Folder, ["name", "childEntity"]), False)
    first = wait(collector, "")
    (entered,) = first.filterSet[0].objectSet
    assert (entered.kind, entered.obj, first.filterSet[0].filter) == ("enter", folder, made)
    assert {change.name for change in entered.changeSet} == {"name", "childEntity"}
    assert wait(collector, first.version, 0) is None
    child = folder.CreateFolder("x")
    second = wait(collector, first.version)
    (changed,) = second.filterSet[0].objectSet
    assert changed.kind == "modify"
    assert [(change.name, list(change.val)) for change in changed.changeSet] == [("childEntity", [child])]
    assert int(second.version) > int(first.version)
    collector.Destroy()
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        wait(collector, second.version, 0)


def test_a_long_poll_returns_when_the_change_comes(vcenter: VcenterProcess, si: Any, folder: Any) -> None:
    with vcenter.client() as other:
        collector = other.content.propertyCollector
        mine = vim.Folder(folder._moId, other._stub)
        collector.CreateFilter(filter_spec(mine, vim.Folder, ["name"]), False)
        version = wait(collector, "").version
        answers: list[Any] = []
        waiting = threading.Thread(target=lambda: answers.append(wait(collector, version, 60)))
        waiting.start()
        new_name = unique("renamed")
        finish(folder.Rename(new_name))
        waiting.join(30)
    (update,) = answers[0].filterSet[0].objectSet
    assert [(change.name, change.val) for change in update.changeSet] == [("name", new_name)]


def test_unrelated_changes_do_not_end_a_wait(si: Any, folder: Any) -> None:
    collector = si.content.propertyCollector.CreatePropertyCollector()
    collector.CreateFilter(filter_spec(folder, vim.Folder, ["name"]), False)
    version = wait(collector, "").version
    folder.CreateFolder("child")
    new_datacenter(si)
    assert wait(collector, version, 1) is None


def test_a_lost_answer_is_given_again_and_an_unknown_version_refused(si: Any, folder: Any) -> None:
    collector = si.content.propertyCollector.CreatePropertyCollector()
    collector.CreateFilter(filter_spec(folder, vim.Folder, ["childEntity"]), False)
    first = wait(collector, "")
    folder.CreateFolder("x")
    second = wait(collector, first.version)
    again = wait(collector, first.version)
    assert (again.version, len(again.filterSet)) == (second.version, 1)
    with pytest.raises(vmodl.query.InvalidCollectorVersion):
        wait(collector, "4711")
    anew = wait(collector, "")
    assert anew.filterSet[0].objectSet[0].kind == "enter"


@pytest.mark.parametrize("partial", [True, False])
def test_partial_updates_name_the_finest_path(si: Any, partial: bool) -> None:
    manager = si.content.customFieldsManager
    collector = si.content.propertyCollector.CreatePropertyCollector()
    collector.CreateFilter(filter_spec(manager, type(manager), ["field"]), partial)
    version = wait(collector, "").version

    def changes() -> list[tuple[str, str, Any]]:
        nonlocal version
        answer = wait(collector, version)
        version = answer.version
        (update,) = answer.filterSet[0].objectSet
        return [(change.name, change.op, change.val) for change in update.changeSet]

    field = manager.AddFieldDefinition(unique("field"))
    path = f"field[{field.key}]"
    added = changes()
    new_name = unique("renamed")
    manager.RenameFieldDefinition(field.key, new_name)
    renamed = changes()
    manager.RemoveFieldDefinition(field.key)
    removed = changes()
    if partial:
        assert [(name, op, val.key) for name, op, val in added] == [(path, "add", field.key)]
        assert renamed == [(f"{path}.name", "assign", new_name)]
        assert removed == [(path, "remove", None)]
    else:
        assert [[(name, op) for name, op, _ in each] for each in (added, renamed, removed)] == [
            [("field", "assign")]
        ] * 3
        assert new_name in [each.name for each in renamed[0][2]]


def test_objects_leave_when_they_are_destroyed(si: Any, folder: Any) -> None:
    child = folder.CreateFolder("doomed")
    collector = si.content.propertyCollector.CreatePropertyCollector()
    spec = filter_spec(folder, vim.Folder, ["name"], tree())
    collector.CreateFilter(spec, False)
    version = wait(collector, "").version
    finish(child.Destroy())
    updates: dict[str, str] = {}
    while "leave" not in updates.values():
        answer = wait(collector, version)
        version = answer.version
        updates.update({each.obj._moId: each.kind for each in answer.filterSet[0].objectSet})
    assert updates[child._moId] == "leave"


def test_many_updates_come_in_truncated_parts(si: Any, folder: Any) -> None:
    for number in range(5):
        folder.CreateFolder(f"f{number}")
    collector = si.content.propertyCollector.CreatePropertyCollector()
    collector.CreateFilter(filter_spec(folder, vim.Folder, ["name"], tree()), False)
    options = Collector.WaitOptions(maxObjectUpdates=4, maxWaitSeconds=0)
    first = collector.WaitForUpdatesEx("", options)
    second = collector.WaitForUpdatesEx(first.version, options)
    assert (first.truncated, len(first.filterSet[0].objectSet)) == (True, 4)
    assert (bool(second.truncated), len(second.filterSet[0].objectSet)) == (False, 2)
    assert collector.WaitForUpdatesEx(second.version, options) is None


def test_a_waiting_call_can_be_cancelled(vcenter: VcenterProcess, folder: Any) -> None:
    with vcenter.client() as waiter:
        collector = waiter.content.propertyCollector.CreatePropertyCollector()
        collector.CreateFilter(filter_spec(vim.Folder(folder._moId, waiter._stub), vim.Folder, ["name"]), False)
        version = wait(collector, "").version
        caught: list[Exception] = []

        def waiting() -> None:
            try:
                collector.WaitForUpdatesEx(version, None)
            except vmodl.MethodFault as fault:
                caught.append(fault)

        thread = threading.Thread(target=waiting)
        thread.start()

        def cancelled() -> bool:
            collector.CancelWaitForUpdates()
            return not thread.is_alive()

        until(cancelled, "the wait ends")
    assert isinstance(caught[0], vmodl.fault.RequestCanceled)


def test_filters_of_one_session_are_not_another_s(vcenter: VcenterProcess, si: Any, folder: Any) -> None:
    mine = si.content.propertyCollector.CreateFilter(filter_spec(folder, vim.Folder, ["name"]), False)
    assert si.content.propertyCollector.filter == [mine]
    with vcenter.client() as other:
        assert other.content.propertyCollector.filter == []
        with pytest.raises(vmodl.fault.ManagedObjectNotFound):
            Collector.Filter(mine._moId, other._stub).Destroy()
    mine.Destroy()
    assert si.content.propertyCollector.filter == []


def test_views_drive_filters(si: Any, folder: Any) -> None:
    view = si.content.viewManager.CreateContainerView(folder, [vim.Folder], True)
    collector = si.content.propertyCollector.CreatePropertyCollector()
    collector.CreateFilter(view_spec(view, vim.Folder, ["name"]), False)
    assert wait(collector, "", 0) is None
    child = folder.CreateFolder("born")
    answer = wait(collector, "")
    assert [(each.kind, each.obj) for each in answer.filterSet[0].objectSet] == [("enter", child)]
    finish(child.Destroy())
    gone = wait(collector, answer.version)
    assert [(each.kind, each.obj) for each in gone.filterSet[0].objectSet] == [("leave", child)]
    view.Destroy()
