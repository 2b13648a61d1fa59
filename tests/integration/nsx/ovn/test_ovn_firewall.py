"""Groups and the distributed firewall, as OVN's own simulation of its flows decides."""

from typing import Any, Literal

from landbridge.nsx.policy.model.base import Intent, Tag
from landbridge.nsx.policy.model.gateways import Tier1
from landbridge.nsx.policy.model.security import (
    Condition,
    ConjunctionOperator,
    GatewayPolicy,
    Group,
    ICMPTypeServiceEntry,
    IPAddressExpression,
    L4PortSetServiceEntry,
    NestedExpression,
    PathExpression,
    PolicyExcludeList,
    Rule,
    SecurityPolicy,
    Service,
)
from landbridge.nsx.policy.model.segments import PortAddressBinding, PortAttachment, Segment, SegmentPort, SegmentSubnet
from landbridge.nsx.snapshot import RealizationState
from tests.integration.nsx.ovn.central import Site, machine

WEB, DB, T1 = "/infra/segments/web", "/infra/segments/db", "/infra/tier-1s/t"
POLICIES = "/infra/domains/default/security-policies"
GROUPS = "/infra/domains/default/groups"
SSH = Service(
    path="/infra/services/SSH",
    service_entries=[L4PortSetServiceEntry(l4_protocol="TCP", destination_ports=["22", "2200-2210"])],
)
PING = Service(path="/infra/services/ping", service_entries=[ICMPTypeServiceEntry(protocol="ICMPv4", icmp_type=8)])
ADDRESS = {1: "10.1.0.10", 2: "10.1.0.20", 3: "10.2.0.30"}
SSH_PACKET, OTHER_PACKET = "tcp.dst == 22", "tcp.dst == 23"


def bound(number: int, segment: str) -> SegmentPort:
    return SegmentPort(
        path=f"{segment}/ports/p{number}",
        parent_path=segment,
        attachment=PortAttachment(id=f"vif-{number}"),
        address_bindings=[PortAddressBinding(ip_address=ADDRESS[number])],
    )


def group(name: str, *expression: Any) -> Group:
    return Group(path=f"{GROUPS}/{name}", expression=list(expression))


def tagged(value: str) -> Condition:
    return Condition(member_type="VirtualMachine", key="Tag", operator="EQUALS", value=value)


def named(value: str) -> Condition:
    return Condition(member_type="VirtualMachine", key="Name", operator="STARTSWITH", value=value)


AND, OR = ConjunctionOperator(conjunction_operator="AND"), ConjunctionOperator(conjunction_operator="OR")


def policy(name: str, *rules: Rule, **fields: Any) -> list[Intent]:
    """A policy with its rules numbered as they stand."""
    path = f"{POLICIES}/{name}"
    numbered = [
        rule.model_copy(
            update={"path": f"{path}/rules/{number}", "parent_path": path, "sequence_number": number, "rule_id": number}
        )
        for number, rule in enumerate(rules)
    ]
    return [SecurityPolicy(path=path, **fields), *numbered]


def default(action: Literal["ALLOW", "DROP"]) -> list[Intent]:
    return policy("default-layer3-section", Rule(action=action, is_default=True), is_default=True)


async def build(site: Site, *intents: Intent) -> None:
    """Two VMs on one segment and a third on another, behind one tier-1; the third is known by its tools only."""
    await site.put(
        Tier1(path=T1),
        Segment(path=WEB, connectivity_path=T1, subnets=[SegmentSubnet(gateway_address="10.1.0.1/24")]),
        Segment(path=DB, connectivity_path=T1, subnets=[SegmentSubnet(gateway_address="10.2.0.1/24")]),
        SSH,
        PING,
        *(bound(number, WEB) for number in (1, 2)),
        bound(3, DB),
        *intents,
        machines=[
            machine(1, WEB, tags=(("tier", "web"),), name="web1"),
            machine(2, WEB, tags=(("tier", "web"), ("", "blue")), name="web2"),
            machine(3, DB, tags=(("tier", "db"),), name="db1"),
        ],
    )


async def passes(site: Site, source: int, target: int, packet: str = SSH_PACKET, *, new: bool = True) -> bool:
    """Whether a packet arrives, from NIC to NIC, on one segment or through the gateway."""
    switch = {1: WEB, 2: WEB, 3: DB}
    mac = f"00:50:56:00:00:{target:02x}"
    if switch[source] != switch[target]:
        port = f"{switch[source]}:gateway"
        (mac,) = [row[1] for row in await site.rows("Logical_Router_Port", "name", "mac") if row[0] == port]
    flow = (
        f'inport == "vif-{source}" && eth.src == 00:50:56:00:00:{source:02x} && eth.dst == {mac}'
        f" && ip4.src == {ADDRESS[source]} && ip4.dst == {ADDRESS[target]} && ip.ttl == 64 && {packet}"
    )
    state = "--ct=new" if new else "--ct=est"
    return f'output("vif-{target}")' in await site.trace(switch[source], flow, "--minimal", *[state] * 4)


def all_realized(site: Site, intents: list[Intent]) -> bool:
    return all(one.state is RealizationState.REALIZED for intent in intents for one in site.realized(intent.path))


async def test_connections_are_remembered_where_nothing_is_forbidden_too(site: Site) -> None:
    await build(site, *default("ALLOW"))
    assert {tuple(row) for row in await site.rows("ACL", "action", "direction")} == {
        ("allow-related", "from-lport"),
        ("allow-related", "to-lport"),
    }
    assert await passes(site, 1, 3)
    assert all_realized(site, default("ALLOW"))


async def test_groups_by_tag_let_what_the_rule_says_through_and_nothing_else(site: Site) -> None:
    web, db = group("web", tagged("tier|web")), group("db", tagged("tier|db"))
    rules = policy(
        "app",
        Rule(action="ALLOW", source_groups=[web.path], destination_groups=[db.path], services=[SSH.path]),
    )
    await build(site, web, db, *rules, *default("DROP"))
    assert await passes(site, 1, 3)
    assert await passes(site, 2, 3, "tcp.dst == 2205")
    assert not await passes(site, 1, 3, OTHER_PACKET)
    assert not await passes(site, 3, 1)
    assert not await passes(site, 1, 2), "members of one group have no rule among themselves"
    assert all_realized(site, rules)


async def test_a_tag_moves_a_vm_into_a_group_at_once(site: Site) -> None:
    blue = group("blue", tagged("blue"))
    rules = policy("app", Rule(action="DROP", destination_groups=[blue.path]))
    await build(site, blue, *rules, *default("ALLOW"))
    assert not await passes(site, 1, 2)
    await site.put(machines=[machine(2, WEB, name="web2")])
    assert await passes(site, 1, 2)


async def test_criteria_are_joined_by_or_and_conditions_by_and(site: Site) -> None:
    both = group(
        "both",
        *(NestedExpression(expressions=[tagged("tier|web"), AND, named("web2")]), OR, named("db")),
    )
    await build(site, both, *policy("app", Rule(action="DROP", destination_groups=[both.path])), *default("ALLOW"))
    assert not await passes(site, 1, 2)
    assert not await passes(site, 1, 3)
    assert await passes(site, 2, 1)


async def test_addresses_segments_and_nested_groups_are_members_too(site: Site) -> None:
    addresses = group("addresses", IPAddressExpression(ip_addresses=["10.2.0.28-10.2.0.31"]))
    nested = group("nested", PathExpression(paths=[addresses.path, WEB]))
    rules = policy("app", Rule(action="DROP", source_groups=[nested.path], destination_groups=["10.1.0.16/28"]))
    await build(site, addresses, nested, *rules, *default("ALLOW"))
    assert not await passes(site, 3, 2)
    assert not await passes(site, 1, 2)
    assert await passes(site, 3, 1)


async def test_categories_go_before_policies_and_those_before_rules(site: Site) -> None:
    await build(
        site,
        *policy("a-late", Rule(action="ALLOW"), sequence_number=1),
        *policy("z-early", Rule(action="DROP", services=[SSH.path]), category="Emergency", sequence_number=99),
        *default("ALLOW"),
    )
    assert not await passes(site, 1, 2)
    assert await passes(site, 1, 2, OTHER_PACKET)


async def test_a_rule_applies_only_to_its_scope_and_direction_and_not_to_the_excluded(site: Site) -> None:
    one = group("one", named("web1"))
    rules = policy("app", Rule(action="REJECT", scope=[one.path], direction="IN"))
    await build(site, one, *rules, *default("ALLOW"))
    assert not await passes(site, 2, 1)
    assert await passes(site, 1, 2)
    assert await passes(site, 3, 2)
    await site.put(PolicyExcludeList(path="/infra/settings/firewall/security/exclude-list", members=[one.path]))
    assert await passes(site, 2, 1)


async def test_negated_sources_are_all_but_these(site: Site) -> None:
    web = group("web", tagged("tier|web"))
    rules = policy(
        "app", Rule(action="DROP", source_groups=[web.path], sources_excluded=True, destination_groups=[ADDRESS[1]])
    )
    await build(site, web, *rules, *default("ALLOW"))
    assert await passes(site, 2, 1)
    assert not await passes(site, 3, 1)


async def test_answers_of_a_permitted_connection_come_back(site: Site) -> None:
    rules = policy("app", Rule(action="ALLOW", source_groups=[ADDRESS[1]], services=[SSH.path]))
    await build(site, *rules, *default("DROP"))
    flow = "tcp.src == 22 && tcp.dst == 40000"
    assert not await passes(site, 2, 1, flow)
    answer = (
        'inport == "vif-2" && eth.src == 00:50:56:00:00:02 && eth.dst == 00:50:56:00:00:01 && ip.ttl == 64'
        f" && ip4.src == {ADDRESS[2]} && ip4.dst == {ADDRESS[1]} && {flow}"
    )
    assert 'output("vif-1")' in await site.trace(WEB, answer, "--minimal", "--ct=est,rpl", "--ct=est,rpl")


async def test_dhcp_gets_through_a_last_rule_that_drops(site: Site) -> None:
    await build(site, *default("DROP"))
    assert await passes(site, 1, 2, "udp.src == 68 && udp.dst == 67")
    assert not await passes(site, 1, 2, "udp.src == 68 && udp.dst == 69")


async def test_a_logged_rule_logs_with_its_number_and_tag(site: Site) -> None:
    await build(site, *policy("app", Rule(action="ALLOW", logged=True, tag="audit", direction="OUT")), *default("DROP"))
    logged = [row for row in await site.rows("ACL", "log", "name", "direction") if row[0]]
    assert logged == [[True, "0 audit", "from-lport"]]


async def test_a_new_first_rule_leaves_the_rows_of_the_others_alone(site: Site) -> None:
    await build(site, *policy("app", *[Rule(action="ALLOW", services=[SSH.path])] * 5), *default("DROP"))
    before = await site.rows("ACL", "_uuid", "priority")
    await site.put(*policy("first", Rule(action="DROP", services=[PING.path]), category="Emergency"))
    after = await site.rows("ACL", "_uuid", "priority")
    assert [row for row in before if row not in after] == []
    assert len(after) == len(before) + 2


async def test_a_gateways_firewall_says_that_it_is_not_realised(site: Site) -> None:
    path = "/infra/domains/default/gateway-policies/g"
    rule = Rule(path=f"{path}/rules/r", parent_path=path, action="DROP", scope=[T1])
    await build(site, GatewayPolicy(path=path), rule)
    (realized,) = site.realized(rule.path)
    assert realized.state is RealizationState.ERROR
    assert "distributed firewall" in realized.error


async def test_ports_of_tagged_segments_are_members(site: Site) -> None:
    condition = Condition(member_type="Segment", key="Tag", operator="EQUALS", value="zone|inner")
    inner = group("inner", condition)
    await build(site, inner, *policy("app", Rule(action="DROP", destination_groups=[inner.path])), *default("ALLOW"))
    assert await passes(site, 1, 3)
    segment = site.tree.snapshot.get(DB, Segment)
    assert segment is not None
    await site.put(segment.model_copy(update={"tags": [Tag(scope="zone", tag="inner")]}))
    assert not await passes(site, 1, 3)
