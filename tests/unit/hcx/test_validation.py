"""What validation finds in a request and a VM."""

from typing import Any

import pytest

from landbridge.hcx.inventory import NicFacts, VmFacts
from landbridge.hcx.migrations.model import InvalidMove, Migration, MigrationInput, MigrationState
from landbridge.hcx.migrations.validation import check_request, check_vm, map_networks


def _asked(**changes: Any) -> MigrationInput:
    base: dict[str, Any] = {
        "migrationType": "vMotion",
        "entityDetails": {"entityId": "vm-1", "entityName": "web01"},
        "networks": {"targetNetworks": [{"srcNetworkValue": "dvportgroup-1", "destNetworkValue": "dvportgroup-9"}]},
        "somethingClientsSend": True,
    }
    return MigrationInput.model_validate({**base, **changes})


def _vm(**changes: Any) -> VmFacts:
    base: dict[str, Any] = {
        "moid": "vm-1",
        "name": "web01",
        "instance_uuid": "5028d6b4-0000-4000-8000-000000000001",
        "power_state": "poweredOn",
        "host": "host-1",
        "template": False,
        "connection_state": "connected",
        "snapshots": False,
        "nics": [NicFacts(key=4000, mac="00:50:56:00:00:01", network="dvportgroup-1", network_name="VM Network")],
    }
    return VmFacts.model_validate({**base, **changes})


def test_a_vm_that_can_go_has_no_findings() -> None:
    assert check_request(_asked()).errors == []
    assert check_vm(_asked(), _vm()).errors == []


@pytest.mark.parametrize("kind", ["VR", "bulkVMotion", "RAV", "OsAssistedMigration", ""])
def test_a_type_that_is_not_served_is_refused_by_name(kind: str) -> None:
    [error] = check_request(_asked(migrationType=kind)).errors
    assert "web01" in error
    assert "vMotion or Cold" in error


def test_a_scheduled_switchover_is_refused() -> None:
    assert check_request(_asked(schedule={"scheduledFailover": True})).errors
    assert not check_request(_asked(schedule={"scheduledFailover": False})).errors


@pytest.mark.parametrize("rule", ["upgradeHardware", "upgradeVMTools", "forcePowerOffVm"])
def test_rules_that_are_not_served_are_refused(rule: str) -> None:
    assert rule in check_request(_asked(decisionRules={rule: True})).errors[0]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"power_state": "poweredOff"}, "poweredOff"),
        ({"template": True}, "template"),
        ({"connection_state": "disconnected"}, "disconnected"),
        ({"snapshots": True}, "removeSnapshots"),
        ({"mounted": ["[ds] a.iso"]}, "[ds] a.iso"),
    ],
)
def test_what_keeps_a_vm_is_named_with_the_vm(changes: dict[str, Any], word: str) -> None:
    [error] = check_vm(_asked(), _vm(**changes)).errors
    assert "web01" in error
    assert word in error


def test_cold_needs_the_vm_off() -> None:
    assert check_vm(_asked(migrationType="Cold"), _vm()).errors
    assert not check_vm(_asked(migrationType="Cold"), _vm(power_state="poweredOff")).errors


def test_a_rule_that_clears_the_way_is_taken() -> None:
    asked = _asked(decisionRules={"removeSnapshots": True, "removeISOs": True})
    assert not check_vm(asked, _vm(snapshots=True, mounted=["[ds] a.iso"])).errors


def test_a_network_nobody_mapped_is_found() -> None:
    [error] = check_vm(_asked(networks={"targetNetworks": []}), _vm()).errors
    assert "VM Network" in error


def test_networks_are_mapped_by_id_before_name() -> None:
    mappings = [
        {"srcNetworkValue": "dvportgroup-2", "srcNetworkName": "VM Network", "destNetworkValue": "wrong"},
        {"srcNetworkName": "VM Network", "destNetworkName": "right"},
    ]
    assert map_networks(_asked(networks={"targetNetworks": mappings}), _vm()) == {4000: "right"}


def test_a_nic_on_no_network_needs_no_mapping() -> None:
    vm = _vm(nics=[NicFacts(key=4000, mac="", network="", network_name="")])
    assert not check_vm(_asked(networks={"targetNetworks": []}), vm).errors
    assert map_networks(_asked(), vm) == {}


def test_a_missing_vm_is_named() -> None:
    assert "vm-1" in check_vm(_asked(), None).errors[0]


def test_a_migration_that_is_over_stays_over() -> None:
    migration = Migration(id="m", input=_asked(), username="admin")
    migration.move_to(MigrationState.CANCELLING)
    migration.move_to(MigrationState.MIGRATED)
    with pytest.raises(InvalidMove):
        migration.move_to(MigrationState.MIGRATING)
