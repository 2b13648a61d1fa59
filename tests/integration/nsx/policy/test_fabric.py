"""Machines, their NICs and tags, what became of intents, and search, over HTTPS."""

import uuid
from collections.abc import Iterator

import pytest

from landbridge.nsx.snapshot import Machine, RealizationState, Realized, Vif
from tests.integration.nsx.policy.bare import Api
from tests.integration.nsx.policy.managers import Manager

_STATE = "/infra/realized-state"


@pytest.fixture
def machine(nsx: Manager) -> Iterator[Machine]:
    identity = str(uuid.uuid4())
    vif = Vif(str(uuid.uuid4()), identity, 4000, "00:50:56:0a:0b:0c", "/infra/segments/homed", ("10.63.0.5",))
    made = Machine(identity, "db-01", "esx02.cloud", powered_on=False, computer_name="db", vifs=(vif,))
    nsx.fabric.known.append(made)
    yield made
    nsx.fabric.known.remove(made)


async def test_machines_and_their_nics_are_shown_with_their_tags(api: Api, machine: Machine) -> None:
    tags = [{"scope": "tier", "tag": "db"}]
    where = f"{_STATE}/enforcement-points/default/virtual-machines/{machine.id}/tags"
    status, _ = await api.call("POST", where, {"virtual_machine_id": machine.id, "tags": tags})
    assert status == 200
    for path in ("/api/v1/fabric/virtual-machines", f"{_STATE}/virtual-machines"):
        (seen,) = (await api.get(path, params={"display_name": "db-01"}))["results"]
        assert (seen["external_id"], seen["power_state"], seen["tags"]) == (machine.id, "VM_STOPPED", tags)
    (vif,) = (await api.get("/api/v1/fabric/vifs", params={"owner_vm_id": machine.id}))["results"]
    assert vif["lport_attachment_id"] == machine.vifs[0].id
    assert vif["ip_address_info"][0]["ip_addresses"] == ["10.63.0.5"]
    many = [{"scope": "n", "tag": str(number)} for number in range(31)]
    await api.refused("POST", where, {"tags": many})
    await api.refused("POST", "/api/v1/fabric/virtual-machines?action=paint", {"external_id": machine.id})


async def test_a_group_names_its_machines_and_a_machine_its_groups(api: Api, machine: Machine) -> None:
    def condition(member: str, key: str, operator: str, value: str) -> dict[str, str]:
        words = {"member_type": member, "key": key, "operator": operator, "value": value}
        return {"resource_type": "Condition", **words}

    def joined(operator: str) -> dict[str, str]:
        return {"resource_type": "ConjunctionOperator", "conjunction_operator": operator}

    groups = "/infra/domains/default/groups"
    tags = {"external_id": machine.id, "tags": [{"scope": "tier", "tag": "db"}]}
    await api.call("POST", "/api/v1/fabric/virtual-machines?action=update_tags", tags)
    await api.patch("/infra/segments/homed", {"tags": [{"scope": "zone", "tag": "inner"}]})
    tagged = condition("VirtualMachine", "Tag", "EQUALS", "tier|db")
    no, named = (
        condition("VirtualMachine", "Name", "EQUALS", "no"),
        condition("VirtualMachine", "Name", "EQUALS", "db-01"),
    )
    wanted: dict[str, list[dict[str, object]]] = {
        "m-tag": [{**tagged}],
        "m-other-scope": [{**tagged, "value": "env|db"}],
        "m-not": [{**tagged, "operator": "NOTEQUALS"}],
        "m-and": [{**tagged}, {**joined("AND")}, {**no}],
        "m-or": [{**no}, {**joined("AND")}, {**tagged}, {**joined("OR")}, {**named}],
        "m-segment": [{**condition("Segment", "Tag", "EQUALS", "inner")}],
        "m-path": [{"resource_type": "PathExpression", "paths": ["/infra/segments/homed"]}],
        "m-group": [{"resource_type": "PathExpression", "paths": [f"{groups}/m-tag"]}],
        "m-nested": [{"resource_type": "NestedExpression", "expressions": [tagged, joined("AND"), named]}],
        "m-id": [{"resource_type": "ExternalIDExpression", "external_ids": [machine.id]}],
        "m-address": [{"resource_type": "IPAddressExpression", "ip_addresses": ["10.63.0.0/24"]}],
    }
    holding = set()
    for name, expression in wanted.items():
        await api.patch(f"{groups}/{name}", {"expression": expression})
        members = await api.get(f"{groups}/{name}/members/virtual-machines")
        if machine.id in {one["external_id"] for one in members["results"]}:
            holding.add(name)
    assert holding == {"m-tag", "m-or", "m-segment", "m-path", "m-group", "m-nested", "m-id"}
    where = "/infra/virtual-machine-group-associations"
    found = (await api.get(where, params={"vm_external_id": machine.id}))["results"]
    assert holding == {one["path"].rsplit("/", 1)[-1] for one in found if "/m-" in one["path"]}
    await api.refused("GET", f"{where}?vm_external_id={uuid.uuid4()}", status=404)
    await api.refused("GET", f"{groups}/none/members/virtual-machines", status=404)
    for name in ("m-group", *(wanted.keys() - {"m-group"})):
        await api.delete(f"{groups}/{name}")


async def test_a_segment_with_machines_on_it_stays(api: Api, nsx: Manager, machine: Machine) -> None:
    await api.patch("/infra/segments/homed", {})
    error = await api.refused("DELETE", "/infra/segments/homed")
    assert error["error_code"] == 503040
    nsx.fabric.known.remove(machine)
    await api.delete("/infra/segments/homed")
    nsx.fabric.known.append(machine)


async def test_only_what_was_said_to_be_real_is_shown_as_real(api: Api, nsx: Manager) -> None:
    path = "/infra/segments/real"
    await api.patch(path, {})

    async def status() -> tuple[str, str]:
        shown = await api.get(f"{_STATE}/status", params={"intent_path": path})
        return shown["publish_status"], shown["consolidated_status"]["consolidated_status"]

    assert await status() == ("UNREALIZED", "IN_PROGRESS")
    assert (await api.get(f"{_STATE}/realized-entities", params={"intent_path": path}))["results"] == []
    row = str(uuid.uuid4())
    nsx.realization.said[path] = [Realized(path, "RealizedLogicalSwitch", row, RealizationState.REALIZED)]
    nsx.realization.upto = (await nsx.store.contents()).sequence
    assert await status() == ("REALIZED", "SUCCESS")
    (entity,) = (await api.get(f"{_STATE}/realized-entities", params={"intent_path": path}))["results"]
    assert (entity["entity_type"], entity["state"]) == ("RealizedLogicalSwitch", "REALIZED")
    assert entity["realization_specific_identifier"] == row
    assert (await api.get(f"{_STATE}/realized-entity", params={"intent_path": path})) == entity
    # Changed since: what was said is of the past.
    await api.patch(path, {"description": "changed"})
    assert await status() == ("UNREALIZED", "IN_PROGRESS")
    nsx.realization.said[path] = [Realized(path, "RealizedLogicalSwitch", "", RealizationState.ERROR, "no such thing")]
    nsx.realization.upto += 1
    assert await status() == ("ERROR", "ERROR")
    error = (await api.get(f"{_STATE}/status", params={"intent_path": path}))["publish_status_error"]
    assert error == "no such thing"
    await api.refused("GET", f"{_STATE}/status?intent_path=/infra/segments/none", status=404)
    await api.refused("GET", f"{_STATE}/status")


async def test_search_finds_objects_by_type_name_and_tag(api: Api) -> None:
    for number in range(3):
        tags = [{"scope": "found", "tag": str(number)}]
        await api.patch(f"/infra/segments/search-{number}", {"display_name": f"seek {number}", "tags": tags})
    for path in ("/search", "/search/query"):
        query = {"query": "resource_type:Segment AND tags.scope:found", "page_size": "2", "sort_by": "display_name"}
        first = await api.get(path, params=query)
        assert (first["result_count"], len(first["results"])) == (3, 2)
        rest = await api.get(path, params={**query, "cursor": first["cursor"]})
        names = [one["display_name"] for one in (*first["results"], *rest["results"])]
        assert names == ["seek 0", "seek 1", "seek 2"]
    query = {"query": 'display_name:"seek 1"', "included_fields": "id"}
    assert (await api.get("/search", params=query))["results"] == [{"id": "search-1", "resource_type": "Segment"}]
    await api.refused("GET", "/search?query=(")
