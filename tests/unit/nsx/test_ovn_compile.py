"""The compiler and the comparison as pure functions: what they make does not depend on who asks when."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from landbridge.nsx.ovn.compile import compile_snapshot
from landbridge.nsx.ovn.compile.addresses import networks, text_of
from landbridge.nsx.ovn.difference import COLUMNS, difference
from landbridge.nsx.ovn.ovsdb import _Framer
from landbridge.nsx.ovn.rows import KEY, Present, Ref, Wanted
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.model.dhcp import DhcpServerConfig
from landbridge.nsx.policy.model.gateways import LocaleServices, Tier0, Tier1
from landbridge.nsx.policy.model.security import SecurityPolicy
from landbridge.nsx.policy.model.segments import PortAttachment, Segment, SegmentPort, SegmentSubnet
from landbridge.nsx.snapshot import Machine, Snapshot, Vif

WEB, DB = "/infra/segments/web", "/infra/segments/db"

_MODEL = "landbridge.nsx.policy.model"


def compiled(*intents: Intent, machines: Iterable[Machine] = (), present: Present | None = None) -> Wanted:
    snapshot = Snapshot(1, {one.path: one for one in intents}, {one.id: one for one in machines})
    return compile_snapshot(snapshot, present or Present())


def machine(segment: str) -> Machine:
    vif = Vif("vif-1", "vm-1", 4000, "00:50:56:00:00:01", segment)
    return Machine("vm-1", "vm1", "esx01", powered_on=True, vifs=(vif,))


def errors(wanted: Wanted, path: str) -> list[str]:
    return [claim.error for claim in wanted.claims if claim.intent_path == path]


def test_the_order_of_the_tree_makes_no_difference() -> None:
    intents = [Tier0(path="/infra/tier-0s/a")]
    tier1s = [Tier1(path=f"/infra/tier-1s/{name}", tier0_path="/infra/tier-0s/a") for name in "cab"]
    assert compiled(*intents, *tier1s).rows == compiled(*reversed(tier1s), *intents).rows


def test_a_choice_that_somebody_scribbled_over_is_made_again() -> None:
    tree = [Tier0(path="/infra/tier-0s/a"), Tier1(path="/infra/tier-1s/b", tier0_path="/infra/tier-0s/a")]
    for scribble in ("nonsense", "10.0.0.0/30", "100.64.0.0/24", ""):
        wanted = compiled(*tree, present=Present(choices={"/infra/tier-1s/b#uplink": scribble}))
        assert wanted.rows[Ref("Logical_Router_Port", "/infra/tier-1s/b#uplink")].choice == "100.64.0.0/30"


def test_a_tier_1_for_which_no_transit_is_left_says_so() -> None:
    tree = [Tier0(path="/infra/tier-0s/a", transit_subnets=["100.64.0.0/29"])]
    wanted = compiled(*tree, *[Tier1(path=f"/infra/tier-1s/{n}", tier0_path="/infra/tier-0s/a") for n in "bcd"])
    assert errors(wanted, "/infra/tier-1s/c") == [""]
    assert "larger" in errors(wanted, "/infra/tier-1s/d")[0]


def _kinds(parent: type[Intent]) -> Iterator[type[Intent]]:
    for kind in parent.__subclasses__():
        yield from _kinds(kind)
        if "kind" in vars(kind):
            yield kind


def test_every_kind_of_intent_is_answered_for() -> None:
    """What nobody claims would be in progress for ever."""
    # What is above each: most are of no use alone, and say why.
    above = "/infra/tier-0s/a/locale-services/b"
    needed = {"segment_path": WEB, "subnets": [{"ip_addresses": ["10.0.0.1"], "prefix_len": 24}]}
    fields: dict[str, dict[str, Any]] = {
        "Tier0Interface": needed,
        "Tier1Interface": needed,
        "DhcpV4StaticBindingConfig": {"mac_address": "00:50:56:00:00:01", "ip_address": "10.0.0.5", "parent_path": WEB},
        "StaticRoutes": {
            "network": "10.9.0.0/16",
            "next_hops": [{"ip_address": "10.0.0.9"}],
            "parent_path": "/infra/tier-0s/a",
        },
        "PolicyNatRule": {"action": "SNAT", "path": "/infra/tier-0s/a/nat/USER/nat-rules/r"},
        "PolicyDnsForwarderZone": {"upstream_servers": ["10.0.0.1"]},
        "PolicyDnsForwarder": {
            "listener_ip": "10.0.0.1",
            "default_forwarder_zone_path": "/infra/dns-forwarder-zones/z",
        },
        "Rule": {"action": "DROP", "parent_path": "/infra/domains/default/security-policies/p"},
        "SegmentPort": {"parent_path": WEB},
        "LocaleServices": {"parent_path": "/infra/tier-0s/a"},
    }
    ground = [Segment(path=WEB), Tier0(path="/infra/tier-0s/a"), SecurityPolicy(path=fields["Rule"]["parent_path"])]
    ground.append(LocaleServices(path=above, parent_path="/infra/tier-0s/a"))
    entries = {kind.kind for kind in _kinds(Intent) if kind.kind.endswith("ServiceEntry")}
    for kind in _kinds(Intent):
        if kind.kind in entries or not kind.__module__.startswith(_MODEL):
            continue  # parts of their service, and what the Policy API keeps for itself
        path = f"/infra/test/{kind.kind}"
        one = kind.model_validate({"path": path, "parent_path": above, **fields.get(kind.kind, {})})
        wanted = compiled(*ground, one)
        assert one.path in {claim.intent_path for claim in wanted.claims}, kind.kind


def test_a_vif_is_a_port_once_whoever_else_claims_it() -> None:
    port = SegmentPort(path=f"{DB}/ports/p", parent_path=DB, attachment=PortAttachment(id="vif-1"))
    wanted = compiled(Segment(path=WEB), Segment(path=DB), port, machines=[machine(WEB)])
    assert [ref.key for ref in wanted.rows if ref.table == "Logical_Switch_Port"] == [f"{WEB}#port#vif-1"]
    assert WEB in errors(wanted, port.path)[0]


def test_what_is_outside_of_the_ranges_is_excluded_to_the_address() -> None:
    subnet = SegmentSubnet(gateway_address="10.0.0.1/28", dhcp_ranges=["10.0.0.9-10.0.0.12", "10.0.0.4/31"])
    server = DhcpServerConfig(path="/infra/dhcp-server-configs/d", server_address="10.0.0.10/28")
    wanted = compiled(server, Segment(path=WEB, subnets=[subnet], dhcp_config_path=server.path))
    config = wanted.rows[Ref("Logical_Switch", WEB)].columns["other_config"]
    assert config == {
        "subnet": "10.0.0.0/28",
        "exclude_ips": "10.0.0.1..10.0.0.3 10.0.0.6..10.0.0.8 10.0.0.10 10.0.0.13..10.0.0.14",
    }


@pytest.mark.parametrize(
    ("text", "prefixes"),
    [
        ("10.0.0.1", ["10.0.0.1"]),
        ("10.0.0.0/24", ["10.0.0.0/24"]),
        ("10.0.0.5-10.0.0.9", ["10.0.0.5", "10.0.0.6/31", "10.0.0.8/31"]),
        ("2001:db8::1-2001:db8::2", ["2001:db8::1", "2001:db8::2"]),
    ],
)
def test_ranges_become_prefixes(text: str, prefixes: list[str]) -> None:
    assert [text_of(network) for network in networks(text)] == prefixes


# -- comparison ---------------------------------------------------------------------------------------------


def database(**tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    full: dict[str, dict[str, dict[str, Any]]] = {table: {} for table in COLUMNS}
    for table, rows in tables.items():
        for uuid, row in rows.items():
            extra: dict[str, Any] = {"dynamic_addresses": frozenset()} if table == "Logical_Switch_Port" else {}
            full[table][uuid] = {**COLUMNS[table], "external_ids": {}, **extra, **row}
    return full


def test_what_somebody_set_in_a_column_that_nobody_wants_is_put_back() -> None:
    wanted = compiled(Segment(path=WEB))
    row = {"name": WEB, "external_ids": {KEY: WEB}}
    assert difference(wanted.rows, database(Logical_Switch={"u1": row})).operations == []
    changed = database(Logical_Switch={"u1": {**row, "other_config": {"mcast_snoop": "true"}}})
    (operation,) = difference(wanted.rows, changed).operations
    assert operation["row"] == {"other_config": ["map", []]}


def test_a_copy_of_a_row_with_its_key_goes() -> None:
    wanted = compiled(Segment(path=WEB))
    row = {"name": WEB, "external_ids": {KEY: WEB}}
    (operation,) = difference(wanted.rows, database(Logical_Switch={"u1": row, "u2": row})).operations
    assert operation["op"] == "delete"


def test_of_a_large_set_only_the_difference_is_sent() -> None:
    wanted = Wanted()
    wanted.add("Address_Set", "a", name="a", addresses=frozenset(f"10.0.0.{n}" for n in range(1, 100)))
    before = {"name": "a", "external_ids": {KEY: "a"}, "addresses": frozenset(f"10.0.0.{n}" for n in range(99))}
    (operation,) = difference(wanted.rows, database(Address_Set={"u": before})).operations
    assert operation["mutations"] == [
        ["addresses", "insert", ["set", ["10.0.0.99"]]],
        ["addresses", "delete", ["set", ["10.0.0.0"]]],
    ]


# -- the wire -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_messages_are_cut_apart_wherever_the_stream_was(size: int) -> None:
    messages = [{"a": 'br{ce " \\ } quote"'}, {"ü": [{"b": {}}, "\\"]}, {}, {"match": 'inport == "x\\"{"'}]
    stream = " ".join(json.dumps(message, ensure_ascii=False) for message in messages).encode()
    framer = _Framer()
    found = [one for start in range(0, len(stream), size) for one in framer.feed(stream[start : start + size])]
    assert found == messages
