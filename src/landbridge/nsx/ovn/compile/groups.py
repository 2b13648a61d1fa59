"""Groups: their members as a port group, and as sets of the addresses that OVN does not know from its ports."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from landbridge.nsx.ovn.compile.addresses import plain
from landbridge.nsx.ovn.compile.context import Context, name_of
from landbridge.nsx.ovn.rows import Ref
from landbridge.nsx.policy.model.criteria import holds, is_tag, joined, named
from landbridge.nsx.policy.model.security import (
    Condition,
    Expression,
    ExternalIDExpression,
    Group,
    IPAddressExpression,
    MACAddressExpression,
    NestedExpression,
    PathExpression,
)
from landbridge.nsx.policy.model.segments import Segment, SegmentPort


@dataclass(frozen=True)
class Members:
    """`ports` are places in the context's list."""

    ports: frozenset[int] = frozenset()
    addresses: frozenset[str] = frozenset()
    error: str = ""

    def __or__(self, other: "Members") -> "Members":
        return Members(self.ports | other.ports, self.addresses | other.addresses, self.error or other.error)

    def __and__(self, other: "Members") -> "Members":
        return Members(self.ports & other.ports, self.addresses & other.addresses, self.error or other.error)


@dataclass(frozen=True)
class Set:
    """A set of ports and addresses in OVN, as matches name it."""

    port_group: Ref
    name: str
    four: tuple[str, ...]  # names of sets of IPv4 addresses
    six: tuple[str, ...]
    members: Members = field(default_factory=Members)


class Groups:
    """Members of all groups of a snapshot, and the rows of those that are asked for."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._members: dict[str, Members] = {}
        self._conditions: dict[tuple[str, ...], frozenset[int]] = {}
        self._sets: dict[str, Set] = {}
        self._of_machine: dict[str, set[int]] = {}
        self._of_segment: dict[str, set[int]] = {}
        self._of_path: dict[str, int] = {}
        # There are few tags, names of many VMs: tags are compared once, not once a VM.
        self._of_tag: dict[tuple[str, str], set[int]] = {}
        for place, port in enumerate(context.ports):
            if port.machine is not None:
                self._of_machine.setdefault(port.machine.id, set()).add(place)
            self._of_segment.setdefault(port.segment, set()).add(place)
            if port.path:
                self._of_path[port.path] = place
        for machine in context.snapshot.machines.values():
            for tag in machine.tags:
                self._of_tag.setdefault(tag, set()).update(self._of_machine.get(machine.id, ()))

    def compile(self) -> None:
        """The rows of all groups."""
        for group in self._context.of(Group):
            made = self.named(group.path)
            self._context.wanted.claim(group.path, "RealizedGroup", made.port_group, error=made.members.error)

    def named(self, path: str) -> Set:
        """The set of a group, a segment or a segment port."""
        return self._sets.get(path) or self.made(path, self.members(path))

    def made(self, key: str, members: Members) -> Set:
        """Rows for these members."""
        if key in self._sets:
            return self._sets[key]
        wanted, name = self._context.wanted, name_of(key)
        ports = [self._context.ports[place] for place in members.ports]
        group = wanted.add("Port_Group", f"{key}#ports", name=name, ports=frozenset(port.ref for port in ports))
        sets: list[list[str]] = [[f"{name}_ip4"], [f"{name}_ip6"]]  # which OVN makes of the ports' own addresses
        known = plain([*members.addresses, *(address for port in ports for address in port.addresses)])
        for version, addresses, names in zip("46", known, sets, strict=True):
            if addresses:
                wanted.add("Address_Set", f"{key}#{version}", name=f"{name}_v{version}", addresses=addresses)
                names.append(f"{name}_v{version}")
        self._sets[key] = Set(group, name, tuple(sets[0]), tuple(sets[1]), members)
        return self._sets[key]

    def members(self, path: str, above: tuple[str, ...] = ()) -> Members:
        """Who belongs to a group, a segment or a segment port."""
        if path in self._of_segment:
            return Members(frozenset(self._of_segment[path]))
        if path in self._of_path:
            return Members(frozenset({self._of_path[path]}))
        group = self._context.get(path, Group)
        if group is None or path in above:
            return Members()
        if path not in self._members:
            self._members[path] = self._evaluate(group.expression, (*above, path))
        return self._members[path]

    # -- expressions ----------------------------------------------------------------------------------------

    def _evaluate(self, expressions: Iterable[Expression], above: tuple[str, ...]) -> Members:
        return joined(expressions, lambda one: self._one(one, above), Members())

    def _one(self, expression: Expression, above: tuple[str, ...]) -> Members:
        match expression:
            case IPAddressExpression():
                return Members(addresses=frozenset(expression.ip_addresses))
            case MACAddressExpression():
                return Members(error="rules of layer 3 know no MAC addresses: name the VMs or segment ports instead")
            case PathExpression():
                found = Members()
                for path in expression.paths:
                    found |= self.members(path, above)
                return found
            case ExternalIDExpression():
                places = (self._of_machine.get(one, set()) for one in expression.external_ids)
                return Members(frozenset[int]().union(*places))
            case NestedExpression():
                return self._nested(expression, above)
            case Condition():
                return self._condition(expression, above)
        return Members()

    def _nested(self, expression: NestedExpression, above: tuple[str, ...]) -> Members:
        parts = [self._condition(one, above) for one in expression.expressions if isinstance(one, Condition)]
        found = parts[0] if parts else Members()
        for part in parts[1:]:
            found &= part
        return found

    def _condition(self, condition: Condition, above: tuple[str, ...]) -> Members:
        if condition.member_type == "Group":
            found = Members()
            for group in self._context.of(Group):
                if holds(condition, group):
                    found |= self.members(group.path, above)
            return found
        if condition.member_type == "IPSet":
            return Members(error="there are no IP sets beside groups of IP addresses: nest such a group")
        key = (condition.member_type, condition.key, condition.operator, condition.value, condition.scope_operator)
        if key not in self._conditions:
            self._conditions[key] = frozenset(self._places(condition))
        return Members(self._conditions[key])

    def _places(self, condition: Condition) -> Iterable[int]:
        if condition.member_type == "VirtualMachine":
            return self._machines(condition)
        if condition.member_type == "Segment":
            found = (
                self._of_segment.get(segment.path, ())
                for segment in self._context.of(Segment)
                if holds(condition, segment)
            )
            return [place for places in found for place in places]
        return [
            self._of_path[port.path]
            for port in self._context.of(SegmentPort)
            if port.path in self._of_path and holds(condition, port)
        ]

    def _machines(self, condition: Condition) -> Iterable[int]:
        if condition.key == "Tag":
            holders = (places for tag, places in self._of_tag.items() if is_tag(condition, tag))
            found = set[int]().union(*holders)
            if condition.operator == "NOTEQUALS":
                return set[int]().union(*self._of_machine.values()) - found
            return found
        machines = self._context.snapshot.machines
        return [
            place
            for identifier, places in self._of_machine.items()
            if named(condition, machines[identifier])
            for place in places
        ]
