"""Which VMs belong to which groups, as people ask it. The rules are the realising side's: AND binds closer than OR."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from landbridge.nsx.policy import faults
from landbridge.nsx.policy.contents import Contents
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.model.security import (
    Condition,
    ConjunctionOperator,
    Expression,
    ExternalIDExpression,
    Group,
    NestedExpression,
    PathExpression,
)
from landbridge.nsx.policy.model.segments import Segment, SegmentPort
from landbridge.nsx.snapshot import Machine

_Tags = Iterable[tuple[str, str]]
_COMPARE: dict[str, Callable[[str, str], bool]] = {
    "EQUALS": lambda have, want: have == want,
    "NOTEQUALS": lambda have, want: have != want,
    "CONTAINS": lambda have, want: want in have,
    "STARTSWITH": lambda have, want: have.startswith(want),
    "ENDSWITH": lambda have, want: have.endswith(want),
}
_NAMES = {"Name": "name", "OSName": "os_name", "ComputerName": "computer_name"}


class Membership:
    """VMs of groups at one moment; VMs are known by their instance UUIDs."""

    def __init__(self, contents: Contents, machines: Iterable[Machine]) -> None:
        self._contents = contents
        self._machines: Mapping[str, Machine] = {machine.id: machine for machine in machines}
        self._known: dict[str, frozenset[str]] = {}
        self._on: dict[str, set[str]] = {}  # VMs by segment, and by VIF
        for machine in self._machines.values():
            for vif in machine.vifs:
                self._on.setdefault(vif.segment, set()).add(machine.id)
                self._on.setdefault(vif.id, set()).add(machine.id)

    def of(self, path: str, above: tuple[str, ...] = ()) -> frozenset[str]:
        """The VMs of a group, or on a segment or port."""
        intent = self._contents.intents.get(path)
        if isinstance(intent, Segment):
            return frozenset(self._on.get(path, ()))
        if isinstance(intent, SegmentPort):
            return frozenset(self._on.get(intent.attachment.id, ()) if intent.attachment else ())
        if not isinstance(intent, Group) or path in above:
            return frozenset()
        if path not in self._known:
            self._known[path] = self._evaluate(intent.expression, (*above, path))
        return self._known[path]

    def _evaluate(self, expressions: Iterable[Expression], above: tuple[str, ...]) -> frozenset[str]:
        terms: list[frozenset[str]] = []
        both = False
        for expression in expressions:
            if isinstance(expression, ConjunctionOperator):
                both = expression.conjunction_operator == "AND"
                continue
            found = self._one(expression, above)
            if both and terms:
                terms[-1] &= found
            else:
                terms.append(found)
        return frozenset().union(*terms)

    def _one(self, expression: Expression, above: tuple[str, ...]) -> frozenset[str]:
        match expression:
            case PathExpression():
                return frozenset[str]().union(*(self.of(path, above) for path in expression.paths))
            case ExternalIDExpression():
                return frozenset(expression.external_ids) & self._machines.keys()
            case NestedExpression():
                parts = [self._condition(one, above) for one in expression.expressions if isinstance(one, Condition)]
                return frozenset.intersection(*parts) if parts else frozenset()
            case Condition():
                return self._condition(expression, above)
        return frozenset()  # addresses are no VMs

    def _condition(self, condition: Condition, above: tuple[str, ...]) -> frozenset[str]:
        if condition.member_type == "VirtualMachine":
            return frozenset(key for key, machine in self._machines.items() if self._holds_machine(condition, machine))
        kinds: dict[str, type[Intent]] = {"Group": Group, "Segment": Segment, "SegmentPort": SegmentPort}
        kind = kinds.get(condition.member_type)
        held = (one.path for one in self._contents.of(kind) if _holds(condition, one)) if kind else ()
        return frozenset[str]().union(*(self.of(path, above) for path in held))

    def _holds_machine(self, condition: Condition, machine: Machine) -> bool:
        if condition.key == "Tag":
            return _tagged(condition, self._contents.machine_tags.get(machine.id, ()))
        return _COMPARE[condition.operator](getattr(machine, _NAMES[condition.key]), condition.value)


def _holds(condition: Condition, intent: Intent) -> bool:
    if condition.key == "Tag":
        return _tagged(condition, ((tag.scope, tag.tag) for tag in intent.tags))
    return condition.key == "Name" and _COMPARE[condition.operator](intent.display_name, condition.value)


def _tagged(condition: Condition, tags: _Tags) -> bool:
    """Whether one of the tags is the condition's, `scope|tag` or a tag of any scope. NOTEQUALS: none is."""
    scope, bar, value = condition.value.rpartition("|")
    compare = _COMPARE["EQUALS" if condition.operator == "NOTEQUALS" else condition.operator]
    in_scope = condition.scope_operator == "EQUALS"
    found = any((not bar or (tag[0] == scope) is in_scope) and compare(tag[1], value) for tag in tags)
    return found is not (condition.operator == "NOTEQUALS")


def group(contents: Contents, path: str) -> Group:
    """The group; Fault 404 if there is none."""
    found = contents.get(path, Group)
    if found is None:
        raise faults.missing(path)
    return found


def associations(contents: Contents, membership: Membership, machine: str) -> list[dict[str, Any]]:
    """References to the groups that a VM belongs to."""
    return [
        {
            "target_type": Group.kind,
            "target_id": one.path,
            "path": one.path,
            "target_display_name": one.display_name,
            "is_valid": True,
        }
        for one in contents.of(Group)
        if machine in membership.of(one.path)
    ]
