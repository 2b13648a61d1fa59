"""Which objects a filter spec is about: starting objects, traversal and selection specs, recursive named ones."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyVmomi import vmodl
from pyVmomi.VmomiSupport import ManagedObject

from landbridge.vcenter.calls import Call
from landbridge.vcenter.managed import Managed, property_names
from landbridge.vcenter.paths import check, evaluate
from landbridge.vcenter.sessions import SessionObject

_Collector = vmodl.query.PropertyCollector
# A pass over an object with a select set; bounds what a spec with many traversals can cost.
_MAX_STEPS = 1_000_000


@dataclass
class Selected:
    """An object and the property paths wanted of it."""

    managed: Managed
    paths: tuple[str, ...]


@dataclass
class Selection:
    objects: list[Selected] = field(default_factory=list)
    # moIds of all objects that were looked at on the way: a change of any may change the selection.
    visited: set[str] = field(default_factory=set)


def select(call: Call, spec: Any) -> Selection:
    """Evaluate a FilterSpec. ManagedObjectNotFound if a starting object is gone; InvalidProperty for wrong paths."""
    selection = Selection()
    wanted = _Wanted(spec.propSet)
    seen: set[str] = set()
    for start in spec.objectSet:
        try:
            first = _visible(call, start.obj)
        except vmodl.fault.ManagedObjectNotFound:
            if spec.reportMissingObjectsInResults:
                continue
            raise
        named = {each.name: each for each in _traversals(start.selectSet) if each.name}
        for managed, skip in _walk(call, first, start, named, selection.visited):
            if skip or managed.moid in seen:
                continue
            paths = wanted.paths(managed)
            if paths is not None:
                seen.add(managed.moid)
                selection.objects.append(Selected(managed, paths))
    return selection


class _Wanted:
    """Which paths a spec's property sets want of an object, by its type."""

    def __init__(self, property_sets: Sequence[Any]) -> None:
        self._sets = property_sets
        self._by_kind: dict[type, tuple[str, ...] | None] = {}

    def paths(self, managed: Managed) -> tuple[str, ...] | None:
        kind = managed.kind
        if kind not in self._by_kind:
            self._by_kind[kind] = self._find(kind)
        return self._by_kind[kind]

    def _find(self, kind: type) -> tuple[str, ...] | None:
        # The set of the most derived type counts, as the API has it.
        matching = [each for each in self._sets if each.type is not None and issubclass(kind, each.type)]
        if not matching:
            return None
        best = max(matching, key=lambda each: len(each.type.__mro__))
        if best.all:
            return tuple(sorted(property_names(kind)))
        for path in best.pathSet:
            check(kind, path)
        return tuple(dict.fromkeys(best.pathSet))


def _walk(
    call: Call, first: Managed, start: Any, named: dict[str, Any], visited: set[str]
) -> Iterator[tuple[Managed, bool]]:
    queue: deque[tuple[Managed, Sequence[Any], bool]] = deque([(first, start.selectSet or (), bool(start.skip))])
    done: set[tuple[str, int]] = set()
    steps = 0
    while queue:
        managed, select_set, skip = queue.popleft()
        visited.add(managed.moid)
        yield managed, skip
        if (managed.moid, id(select_set)) in done:
            continue
        done.add((managed.moid, id(select_set)))
        for each in select_set:
            steps += 1
            if steps > _MAX_STEPS:
                raise vmodl.fault.InvalidArgument(invalidProperty="specSet", msg="The traversal does not end.")
            traversal = _resolve(each, named)
            if not issubclass(managed.kind, traversal.type):
                continue
            for ref in _references(call, managed, traversal.path):
                child = call.inventory.objects.get(ref._moId)
                if child is not None:
                    queue.append((child, traversal.selectSet or (), bool(traversal.skip)))


def _resolve(selection: Any, named: dict[str, Any]) -> Any:
    if isinstance(selection, _Collector.TraversalSpec):
        return selection
    if selection.name not in named:
        raise vmodl.fault.InvalidArgument(
            invalidProperty="selectSet", msg=f"The selection spec '{selection.name}' names no traversal spec."
        )
    return named[selection.name]


def _traversals(select_set: Sequence[Any] | None) -> Iterator[Any]:
    stack = list(select_set or ())
    while stack:
        each = stack.pop()
        if isinstance(each, _Collector.TraversalSpec):
            yield each
            stack.extend(each.selectSet or ())


def _references(call: Call, managed: Managed, path: str) -> Sequence[ManagedObject]:
    value = evaluate(call, managed, path)
    if value is None:
        return ()
    if isinstance(value, ManagedObject):
        return (value,)
    if isinstance(value, list) and all(isinstance(each, ManagedObject) for each in value):
        return value
    raise vmodl.query.InvalidProperty(name=path, msg=f"The property '{path}' does not lead to managed objects.")


def _visible(call: Call, ref: ManagedObject) -> Managed:
    managed: Managed = call.inventory.get(ref)
    if isinstance(managed, SessionObject) and managed.session is not call.session:
        raise vmodl.fault.ManagedObjectNotFound(obj=ref, msg=f"There is no object {ref._moId}.")
    return managed
