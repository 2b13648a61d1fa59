"""The distributed firewall: ACLs on port groups.

A rule is checked where its VMs are (`scope`): on what they send and on what they receive. So a rule is two ACLs, of the
port group of its scope. The order of categories, policies and rules is counted from the end, which leaves the
priorities of the rules below a new one as they are.
"""

from collections.abc import Iterator
from typing import NamedTuple

from landbridge.nsx.ovn.compile.addresses import plain
from landbridge.nsx.ovn.compile.context import Context
from landbridge.nsx.ovn.compile.groups import Groups, Members, Set
from landbridge.nsx.ovn.compile.services import Services
from landbridge.nsx.ovn.rows import Ref
from landbridge.nsx.policy.model.security import PolicyExcludeList, Rule, SecurityPolicy

_CATEGORIES = ("Ethernet", "Emergency", "Infrastructure", "Environment", "Application")
_LOWEST = 1000  # priority of the last rule
_HIGHEST = 32000
_NAME_LIMIT = 63
_EVERYBODY = "#everybody"
_VERSIONS = {"IPV4": "ip4", "IPV6": "ip6", "IPV4_IPV6": "ip"}
# What keeps a VM on the network, and so is let through before a last rule that drops.
_ESSENTIAL = (
    "udp && udp.src == {67, 68} && udp.dst == {67, 68}",
    "icmp6 && icmp6.type == {130, 131, 132, 133, 134, 135, 136, 143}",
)
_ETHERNET = (
    "OVN has one list of rules, so rules of layer 2 can not go before those of layer 3: "
    "leave the category Ethernet to its default rule"
)


class _Direction(NamedTuple):
    name: str
    acl: str
    own: str  # the port that the rule is checked at
    other: str  # what a rule's direction is that is not for this one


_DIRECTIONS = (_Direction("out", "from-lport", "inport", "IN"), _Direction("in", "to-lport", "outport", "OUT"))


def compile_firewall(context: Context, groups: Groups, services: Services) -> None:
    firewall = _Firewall(context, groups, services)
    policies = sorted(
        context.of(SecurityPolicy),
        key=lambda policy: (_CATEGORIES.index(policy.category), policy.is_default, policy.sequence_number, policy.path),
    )
    rules = [
        (policy, rule)
        for policy in policies
        for rule in sorted(
            context.below(policy.path, Rule), key=lambda rule: (rule.is_default, rule.sequence_number, rule.path)
        )
    ]
    firewall.compile(rules)
    for policy in policies:
        rows = [row for of, rule in rules if of is policy for row in firewall.rows.get(rule.path, ())]
        context.wanted.claim(policy.path, "RealizedSecurityPolicy", *rows)


class _Firewall:
    def __init__(self, context: Context, groups: Groups, services: Services) -> None:
        self.rows: dict[str, list[Ref]] = {}
        self._context = context
        self._groups = groups
        self._services = services
        self._matches: dict[tuple[object, ...], str] = {}
        lists = context.of(PolicyExcludeList)
        self._left_alone = frozenset[int]().union(
            *(groups.members(path).ports for one in lists for path in one.members)
        )

    def compile(self, rules: list[tuple[SecurityPolicy, Rule]]) -> None:
        for place, (policy, rule) in enumerate(reversed(rules)):
            priority = _LOWEST + place * 2
            error = self._problem(policy, rule)
            if not error and priority >= _HIGHEST:
                error = f"OVN has room for {(_HIGHEST - _LOWEST) // 2} rules"
            # Also rules that forbid nothing: with them OVN remembers who began each connection, and a rule that comes
            # later cuts those under way. Begun to be remembered in the middle, an answer looks like a beginning.
            if not error and not rule.disabled and policy.category != "Ethernet":
                self.rows[rule.path] = self._rule(policy, rule, priority)
            self._context.wanted.claim(rule.path, "RealizedFirewallRule", *self.rows.get(rule.path, ()), error=error)

    def _problem(self, policy: SecurityPolicy, rule: Rule) -> str:
        if policy.category == "Ethernet" and not (rule.is_default and _passes(rule)) and not rule.disabled:
            return _ETHERNET
        for path in (*rule.source_groups, *rule.destination_groups, *self._scope(policy, rule)):
            if path.startswith("/") and (error := self._groups.members(path).error):
                return f"{path}: {error}"
        if any(not path.startswith("/") and path != "ANY" for path in self._scope(policy, rule)):
            return "the scope of a rule are groups, segments or ports, not addresses"
        if rule.services not in ([], ["ANY"]) and not self._service(rule):
            return f"{', '.join(rule.services)}: there is nothing in these services"
        return ""

    @staticmethod
    def _scope(policy: SecurityPolicy, rule: Rule) -> list[str]:
        """The policy's scope is that of its rules, if it has one."""
        return rule.scope if policy.scope in ([], ["ANY"]) else policy.scope

    def _rule(self, policy: SecurityPolicy, rule: Rule, priority: int) -> list[Ref]:
        scope = self._scope(policy, rule)
        action = {"DROP": "drop", "REJECT": "reject"}.get(rule.action)
        rows = []
        for direction in _DIRECTIONS:
            if rule.direction == direction.other:
                continue
            for number, (at, own) in enumerate(self._own(rule, direction, scope)):
                parts = [f"{direction.own} == @{at.name}", _VERSIONS[rule.ip_protocol], own]
                parts += [self._others(rule, direction), self._service(rule)]
                acl = self._context.wanted.add(
                    "ACL",
                    f"{rule.path}#{direction.name}#{number}",
                    name=frozenset({_name(rule)}),
                    priority=priority,
                    direction=direction.acl,
                    match=" && ".join(part for part in parts if part),
                    action=action or ("allow-related" if policy.stateful else "allow-stateless"),
                    log=rule.logged,
                    severity=frozenset({"info"} if rule.logged else ()),
                )
                essential = self._essential(rule, direction, at, priority + 1) if rule.is_default and action else []
                self._context.wanted.join(at.port_group, "acls", acl, *essential)
                rows += [acl, *essential]
        return rows

    def _essential(self, rule: Rule, direction: _Direction, at: Set, priority: int) -> list[Ref]:
        return [
            self._context.wanted.add(
                "ACL",
                f"{rule.path}#{direction.name}#essential{number}",
                priority=priority,
                direction=direction.acl,
                match=f"{direction.own} == @{at.name} && {match}",
                action="allow-related",
            )
            for number, match in enumerate(_ESSENTIAL)
        ]

    # -- matches --------------------------------------------------------------------------------------------

    def _own(self, rule: Rule, direction: _Direction, scope: list[str]) -> Iterator[tuple[Set, str]]:
        """Where the rule is checked, and what is left to match of the peer that is there.

        A group's VMs are known by their ports there, whatever addresses they use. On the other side only addresses
        are known: OVN drops a whole rule that names a port group without a port on the same switch.
        """
        outwards = direction.own == "inport"
        paths = rule.source_groups if outwards else rule.destination_groups
        negated = rule.sources_excluded if outwards else rule.destinations_excluded
        if "ANY" in paths or negated:
            yield self._port_group(scope), self._addresses(paths, "src" if outwards else "dst", negated=negated)
            return
        groups = [path for path in paths if path.startswith("/")]
        if groups:
            yield self._port_group(scope, groups), ""
        if len(groups) < len(paths) or any(self._groups.members(path).addresses for path in groups):
            yield self._port_group(scope), self._addresses(paths, "src" if outwards else "dst", negated=False)

    def _others(self, rule: Rule, direction: _Direction) -> str:
        if direction.own == "inport":
            return self._addresses(rule.destination_groups, "dst", negated=rule.destinations_excluded)
        return self._addresses(rule.source_groups, "src", negated=rule.sources_excluded)

    def _service(self, rule: Rule) -> str:
        return self._services.match([path for path in rule.services if path != "ANY"], rule.service_entries)

    def _addresses(self, paths: list[str], field: str, *, negated: bool) -> str:
        if "ANY" in paths:
            return ""
        key = (field, negated, *paths)
        if key not in self._matches:
            self._matches[key] = self._address_match(paths, field, negated=negated)
        return self._matches[key]

    def _address_match(self, paths: list[str], field: str, *, negated: bool) -> str:
        sets = [self._groups.named(path) for path in paths if path.startswith("/")]
        four, six = plain(path for path in paths if not path.startswith("/"))
        parts = []
        for version, texts, names in (
            ("ip4", four, [name for one in sets for name in one.four]),
            ("ip6", six, [name for one in sets for name in one.six]),
        ):
            values = [f"${name}" for name in names] + sorted(texts)
            if values:
                parts.append(f"{version}.{field} == {{{', '.join(values)}}}")
        whole = f"({' || '.join(parts)})"
        return f"!{whole}" if negated else whole

    def _port_group(self, scope: list[str], groups: list[str] | None = None) -> Set:
        """The ports at which rules of this scope are checked: of `groups` only, and none that is left alone."""
        everywhere = "ANY" in scope
        whole = groups if everywhere else scope if groups is None else None
        if whole is not None and len(whole) == 1 and not self._left_alone & self._groups.members(whole[0]).ports:
            return self._groups.named(whole[0])
        places = frozenset(range(len(self._context.ports))) if everywhere else self._ports(scope)
        key = _EVERYBODY if everywhere else "#scope#" + "#".join(sorted(scope))
        if groups is not None:
            places &= self._ports(groups)
            key += "#of#" + "#".join(sorted(groups))
        return self._groups.made(key, Members(places - self._left_alone))

    def _ports(self, paths: list[str]) -> frozenset[int]:
        return frozenset[int]().union(*(self._groups.members(path).ports for path in paths))


def _passes(rule: Rule) -> bool:
    return rule.action == "ALLOW" and not rule.logged


def _name(rule: Rule) -> str:
    """What the log says: the rule's number and its tag, or its name."""
    return f"{rule.rule_id} {rule.tag or rule.display_name or rule.id}"[:_NAME_LIMIT]
