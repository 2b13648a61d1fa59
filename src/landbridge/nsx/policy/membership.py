"""Which VMs belong to which groups, as people ask it."""

from collections.abc import Iterable, Mapping
from typing import Any

from landbridge.nsx.policy import faults
from landbridge.nsx.policy.contents import Contents
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.model.criteria import holds, joined, named, tagged
from landbridge.nsx.policy.model.security import (
    Condition,
    Expression,
    ExternalIDExpression,
    Group,
    NestedExpression,
    PathExpression,
)
from landbridge.nsx.policy.model.segments import Segment, SegmentPort
from landbridge.nsx.snapshot import Machine


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
        return joined(expressions, lambda one: self._one(one, above), frozenset[str]())

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
        held = (one.path for one in self._contents.of(kind) if holds(condition, one)) if kind else ()
        return frozenset[str]().union(*(self.of(path, above) for path in held))

    def _holds_machine(self, condition: Condition, machine: Machine) -> bool:
        if condition.key == "Tag":
            return tagged(condition, self._contents.machine_tags.get(machine.id, ()))
        return named(condition, machine)


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
