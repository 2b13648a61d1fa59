"""What a change must fulfil: references, loops, addresses. No server: drafts of a tree in memory."""

from typing import Any

import pytest

from landbridge.nsx.policy import changes
from landbridge.nsx.policy.checks import check
from landbridge.nsx.policy.config import Account, Edge, PolicyConfig
from landbridge.nsx.policy.contents import Contents, Draft
from landbridge.nsx.policy.defaults import VLAN_ZONE, ensure
from landbridge.nsx.policy.faults import IN_USE, INVALID_PATH, OVERLAP, Fault
from landbridge.nsx.policy.model.base import Intent

_CONFIG = PolicyConfig.model_validate(
    {"state_dir": "/nowhere", "administrator": Account.model_validate({"user": "a", "password_file": "/nowhere"})}
)
_GROUPS = "/infra/domains/default/groups"
_CONNECTED = {"route_advertisement_types": ["TIER1_CONNECTED"]}


class Tree:
    """A tree that changes as requests do: each is checked, and kept or not."""

    def __init__(self) -> None:
        self.contents = Contents()
        self._apply(lambda draft: ensure(draft, _CONFIG))

    def _apply(self, work: Any) -> None:
        draft = Draft(self.contents, "tester", 1, 1000)
        work(draft)
        check(draft)
        after: dict[str, tuple[int, Intent | None]] = {path: (1, intent) for path, intent in draft.touched.items()}
        after |= dict.fromkeys(draft.gone, (1, None))
        self.contents = self.contents.followed_by(self.contents.sequence + 1, after)

    def patch(self, path: str, **fields: Any) -> None:
        self._apply(lambda draft: changes.patch(draft, path, fields))

    def delete(self, path: str) -> None:
        self._apply(lambda draft: changes.delete(draft, path))

    def refused(self, path: str, **fields: Any) -> Fault:
        before = self.contents
        with pytest.raises(Fault) as refused:
            self.patch(path, **fields)
        assert self.contents is before
        return refused.value


@pytest.fixture
def tree() -> Tree:
    made = Tree()
    made.patch("/infra/tier-0s/t0")
    made.patch("/infra/tier-1s/one", tier0_path="/infra/tier-0s/t0", **_CONNECTED)
    made.patch("/infra/tier-1s/two", tier0_path="/infra/tier-0s/t0", **_CONNECTED)
    made.patch("/infra/dhcp-server-configs/d", server_addresses=["100.96.0.1/30"])
    return made


def _segment(gateway: str, address: str, **more: Any) -> dict[str, Any]:
    return {"connectivity_path": f"/infra/tier-1s/{gateway}", "subnets": [{"gateway_address": address, **more}]}


def test_subnets_of_gateways_that_route_to_each_other_must_differ(tree: Tree) -> None:
    tree.patch("/infra/segments/a", **_segment("one", "10.0.0.1/24"))
    for gateway in ("one", "two"):
        fault = tree.refused("/infra/segments/b", **_segment(gateway, "10.0.0.129/25"))
        assert fault.code == OVERLAP
        assert "/infra/segments/a" in fault.message
    tree.patch("/infra/segments/b", **_segment("two", "10.0.1.1/24"))


def test_subnets_that_nobody_else_hears_of_may_be_the_same(tree: Tree) -> None:
    tree.patch("/infra/tier-1s/silent", tier0_path="/infra/tier-0s/t0")
    tree.patch("/infra/segments/a", **_segment("one", "10.0.0.1/24"))
    tree.patch("/infra/segments/b", **_segment("silent", "10.0.0.1/24"))
    # Until it tells them.
    assert tree.refused("/infra/tier-1s/silent", **_CONNECTED).code == OVERLAP


def test_an_extended_segment_overlaps_only_when_its_gateway_is_on(tree: Tree) -> None:
    tree.patch("/infra/segments/a", **_segment("one", "10.0.0.1/24"))
    off = {"advanced_config": {"connectivity": "OFF"}}
    tree.patch("/infra/segments/b", **_segment("two", "10.0.0.1/24"), **off)
    assert tree.refused("/infra/segments/b", advanced_config={"connectivity": "ON"}).code == OVERLAP


@pytest.mark.parametrize("address", ["10.0.0.0/24", "10.0.0.255/24", "127.0.0.1/8", "224.0.0.1/24", "0.0.0.0/24"])
def test_a_gateway_needs_an_address_that_an_interface_can_have(tree: Tree, address: str) -> None:
    tree.refused("/infra/segments/a", **_segment("one", address))


def test_dhcp_needs_a_server_and_ranges_inside_the_subnet(tree: Tree) -> None:
    ranges = _segment("one", "10.0.0.1/24", dhcp_ranges=["10.0.0.10-10.0.0.20"])
    assert "dhcp_config_path" in tree.refused("/infra/segments/a", **ranges).message
    server = {"dhcp_config_path": "/infra/dhcp-server-configs/d"}
    tree.patch("/infra/segments/a", **ranges, **server)
    for bad in (["10.0.1.5-10.0.1.9"], ["10.0.0.0/28"], ["10.0.0.5-10.0.0.9", "10.0.0.9"], ["10.0.0.1-10.0.0.9"]):
        tree.refused("/infra/segments/b", **_segment("two", "10.0.0.1/24", dhcp_ranges=bad), **server)
    for address in ("10.0.1.2/24", "10.0.0.1/24", "10.0.0.2/25"):
        config = {"resource_type": "SegmentDhcpV4Config", "server_address": address}
        tree.refused("/infra/segments/b", **_segment("one", "10.0.0.1/24", dhcp_config=config), **server)
    # A gateway's server is as good, and then the gateway can not lose it.
    tree.patch("/infra/tier-1s/two", dhcp_config_paths=["/infra/dhcp-server-configs/d"])
    tree.patch("/infra/segments/c", **_segment("two", "10.0.2.1/24", dhcp_ranges=["10.0.2.10-10.0.2.20"]))
    assert "/infra/segments/c" in tree.refused("/infra/tier-1s/two", dhcp_config_paths=[]).message


def test_static_bindings_are_in_the_subnet_and_each_is_there_once(tree: Tree) -> None:
    server = {"dhcp_config_path": "/infra/dhcp-server-configs/d"}
    tree.patch("/infra/segments/a", **_segment("one", "10.0.0.1/24"), **server)
    bindings = "/infra/segments/a/dhcp-static-binding-configs"
    tree.patch(f"{bindings}/x", mac_address="00:50:56:00:00:01", ip_address="10.0.0.5")
    for mac, address in (("02", "10.0.0.5"), ("01", "10.0.0.6"), ("02", "10.0.1.5"), ("02", "10.0.0.1")):
        tree.refused(f"{bindings}/y", mac_address=f"00:50:56:00:00:{mac}", ip_address=address)
    tree.patch(f"{bindings}/y", mac_address="00:50:56:00:00:02", ip_address="10.0.0.6")
    # A subnet that no longer holds them is refused as well.
    tree.refused("/infra/segments/a", subnets=[{"gateway_address": "10.0.9.1/24"}])


def test_vlans_belong_to_vlan_transport_zones(tree: Tree) -> None:
    tree.refused("/infra/segments/v", vlan_ids=["100"])
    tree.refused("/infra/segments/v", transport_zone_path=VLAN_ZONE)
    for bad in ("4095", "x", "1-2-3"):
        tree.refused("/infra/segments/v", transport_zone_path=VLAN_ZONE, vlan_ids=[bad])
    tree.patch("/infra/segments/v", transport_zone_path=VLAN_ZONE, vlan_ids=["100"])
    tree.refused("/infra/segments/v", connectivity_path="/infra/tier-1s/one")


def test_groups_and_services_that_hold_themselves_are_refused(tree: Tree) -> None:
    def holding(*names: str) -> dict[str, Any]:
        paths = [f"{_GROUPS}/{name}" for name in names]
        return {"expression": [{"resource_type": "PathExpression", "paths": paths}]}

    tree.patch(f"{_GROUPS}/a")
    tree.patch(f"{_GROUPS}/b", **holding("a"))
    tree.patch(f"{_GROUPS}/c", **holding("b"))
    fault = tree.refused(f"{_GROUPS}/a", **holding("c"))
    assert f"{_GROUPS}/a -> {_GROUPS}/c -> {_GROUPS}/b -> {_GROUPS}/a" in fault.message
    nested = {"resource_type": "NestedServiceServiceEntry", "id": "n", "nested_service_path": "/infra/services/s"}
    assert "contains itself" in tree.refused("/infra/services/s", service_entries=[nested]).message


def test_expressions_alternate_with_operators(tree: Tree) -> None:
    address = {"resource_type": "IPAddressExpression", "ip_addresses": ["10.0.0.0/24"]}
    joined = {"resource_type": "ConjunctionOperator", "conjunction_operator": "OR"}
    for bad in ([address, address], [joined], [address, joined], [joined, address]):
        tree.refused(f"{_GROUPS}/e", expression=bad)
    tree.patch(f"{_GROUPS}/e", expression=[address, joined, address])


def test_a_rule_names_groups_services_and_addresses_that_are_there(tree: Tree) -> None:
    policy = "/infra/domains/default/security-policies/p"
    tree.patch(f"{_GROUPS}/g")
    tree.patch(policy, rules=[{"id": "r", "action": "DROP", "source_groups": [f"{_GROUPS}/g", "10.0.0.1-10.0.0.5"]}])
    assert tree.refused(f"{policy}/rules/r", source_groups=[f"{_GROUPS}/none"]).code == INVALID_PATH
    assert tree.refused(f"{policy}/rules/r", services=[f"{_GROUPS}/g"]).code == INVALID_PATH
    tree.refused(f"{policy}/rules/r", source_groups=["ANY", "10.0.0.1"])
    tree.refused(f"{policy}/rules/r", source_groups=["somewhere"])
    with pytest.raises(Fault) as used:
        tree.delete(f"{_GROUPS}/g")
    assert used.value.code == IN_USE
    assert f"{policy}/rules/r" in used.value.message
    tree.delete(policy)
    tree.delete(f"{_GROUPS}/g")
    assert not [path for path in tree.contents.intents if path.startswith(policy)]


def test_nat_rules_have_what_their_action_needs_and_no_more(tree: Tree) -> None:
    rules = "/infra/tier-1s/one/nat/USER/nat-rules"
    tree.refused(f"{rules}/a", action="SNAT", source_network="10.0.0.0/24")
    tree.refused(f"{rules}/a", action="DNAT", translated_network="10.0.0.5")
    tree.refused(f"{rules}/a", action="NO_SNAT", source_network="10.0.0.0/24", translated_network="192.0.2.1")
    tree.patch(f"{rules}/a", action="SNAT", source_network="10.0.0.0/24", translated_network="192.0.2.1")
    tree.refused("/infra/tier-1s/one/nat/INTERNAL/nat-rules/a", action="SNAT", translated_network="192.0.2.1")
    with pytest.raises(Fault) as used:
        tree.delete("/infra/tier-1s/one")
    assert used.value.code == IN_USE
    tree.delete(f"{rules}/a")
    tree.delete("/infra/tier-1s/one")


def test_a_nic_is_attached_to_one_port(tree: Tree) -> None:
    tree.patch("/infra/segments/a")
    tree.patch("/infra/segments/a/ports/p", attachment={"id": "vif-1"})
    tree.refused("/infra/segments/a/ports/q", attachment={"id": "vif-1"})
    with pytest.raises(Fault) as used:
        tree.delete("/infra/segments/a")
    assert used.value.code == IN_USE


def test_profiles_bound_to_a_segment_go_with_it_and_can_not_go_before(tree: Tree) -> None:
    tree.patch("/infra/mac-discovery-profiles/m", mac_learning_enabled=True)
    tree.patch("/infra/segments/a")
    binding = "/infra/segments/a/segment-discovery-profile-binding-maps/b"
    tree.patch(binding, mac_discovery_profile_path="/infra/mac-discovery-profiles/m")
    with pytest.raises(Fault):
        tree.delete("/infra/mac-discovery-profiles/m")
    tree.delete("/infra/segments/a")
    assert binding not in tree.contents.intents
    tree.delete("/infra/mac-discovery-profiles/m")


def test_edges_follow_the_configuration_and_one_in_use_stays(tree: Tree) -> None:
    def configured(*names: str) -> None:
        edges = [Edge(name=name) for name in names]
        tree._apply(lambda draft: ensure(draft, _CONFIG.model_copy(update={"edges": edges})))

    cluster = "/infra/sites/default/enforcement-points/default/edge-clusters/edge-cluster"
    configured("e1", "e2", "e3")
    services = {"edge_cluster_path": cluster, "preferred_edge_paths": [f"{cluster}/edge-nodes/e2"]}
    tree.patch("/infra/tier-1s/one/locale-services/default", **services)
    configured("e1")
    left = [path for path in tree.contents.intents if path.startswith(f"{cluster}/edge-nodes/")]
    assert sorted(left) == [f"{cluster}/edge-nodes/e1", f"{cluster}/edge-nodes/e2"]
