"""What the criteria of groups mean: for those who ask for members, and for those who make them real.

Between two operators AND binds closer than OR, as criteria do in NSX.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, Self, TypeVar

from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.model.security import Condition, ConjunctionOperator, Expression

_COMPARE: Mapping[str, Callable[[str, str], bool]] = {
    "EQUALS": lambda have, want: have == want,
    "NOTEQUALS": lambda have, want: have != want,
    "CONTAINS": lambda have, want: want in have,
    "STARTSWITH": lambda have, want: have.startswith(want),
    "ENDSWITH": lambda have, want: have.endswith(want),
}
_MACHINE_NAMES = {"Name": "name", "OSName": "os_name", "ComputerName": "computer_name"}


class _Members(Protocol):
    def __or__(self, other: Any, /) -> Self: ...
    def __and__(self, other: Any, /) -> Self: ...


_M = TypeVar("_M", bound=_Members)


def joined(expressions: Iterable[Expression], members: Callable[[Expression], _M], nobody: _M) -> _M:
    """The members of a whole list of expressions, with the operators between them."""
    terms: list[_M] = []
    both = False
    for expression in expressions:
        if isinstance(expression, ConjunctionOperator):
            both = expression.conjunction_operator == "AND"
            continue
        found = members(expression)
        if both and terms:
            terms[-1] = terms[-1] & found
        else:
            terms.append(found)
    whole = nobody
    for term in terms:
        whole = whole | term
    return whole


def is_tag(condition: Condition, tag: tuple[str, str]) -> bool:
    """Whether this is the condition's tag (scope, tag): its value is `scope|tag`, or a tag of any scope."""
    scope, bar, value = condition.value.rpartition("|")
    operator = "EQUALS" if condition.operator == "NOTEQUALS" else condition.operator
    if bar and (tag[0] == scope) is not (condition.scope_operator == "EQUALS"):
        return False
    return _COMPARE[operator](tag[1], value)


def tagged(condition: Condition, tags: Iterable[tuple[str, str]]) -> bool:
    """Whether one of the tags is the condition's. NOTEQUALS: none is."""
    return any(is_tag(condition, tag) for tag in tags) is not (condition.operator == "NOTEQUALS")


def holds(condition: Condition, intent: Intent) -> bool:
    """Whether an object of the tree is what the condition says."""
    if condition.key == "Tag":
        return tagged(condition, ((tag.scope, tag.tag) for tag in intent.tags))
    return condition.key == "Name" and _COMPARE[condition.operator](intent.display_name or intent.id, condition.value)


def named(condition: Condition, machine: object) -> bool:
    """Whether a VM (`landbridge.nsx.snapshot.Machine`) has the name, system or computer name the condition says."""
    return _COMPARE[condition.operator](str(getattr(machine, _MACHINE_NAMES[condition.key])), condition.value)
