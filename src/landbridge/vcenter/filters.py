"""A property filter: what its client was told last, and what changed since."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyVmomi import vmodl

from landbridge.vcenter.calls import Call
from landbridge.vcenter.collecting import change, missing_property, object_update
from landbridge.vcenter.managed import same
from landbridge.vcenter.paths import differences, evaluate, parse
from landbridge.vcenter.selection import Selected, select
from landbridge.vcenter.sessions import Session, SessionObject

if TYPE_CHECKING:
    from landbridge.vcenter.inventory import Inventory


class _Reported:
    """What the client knows of one object."""

    __slots__ = ("paths", "ref", "values", "version")

    def __init__(self, ref: Any) -> None:
        self.ref = ref
        self.paths: tuple[str, ...] = ()
        self.values: dict[str, Any] = {}
        self.version = -1


class PropertyFilter(SessionObject):
    """A filter of a collector. Values are immutable by the inventory's rule, so remembering them costs references."""

    kind = vmodl.query.PropertyCollector.Filter

    def __init__(
        self,
        inventory: "Inventory",
        session: Session,
        spec: Any,
        partial_updates: bool,
        siblings: dict[str, "PropertyFilter"],
    ) -> None:
        super().__init__(inventory, session)
        self._spec = spec
        self._partial = bool(partial_updates)
        self._siblings = siblings
        self._reported: dict[str, _Reported] = {}
        self._visited: set[str] = set()
        self._checked = -1
        self.set(spec=spec, partialUpdates=self._partial)

    async def destroy_property_filter(self, call: Call) -> None:
        await self.end()

    async def end(self) -> None:
        self._siblings.pop(self.moid, None)
        await super().end()

    def forget(self) -> None:
        """The client starts over: all is new to it."""
        self._reported.clear()
        self._checked = -1

    def updates(self, call: Call) -> list[str]:
        """ObjectUpdate elements for all that changed since the last call; they count as told."""
        since, self._checked = self._checked, self.inventory.version
        if since >= 0:
            changed = self.inventory.changes(since)
            if changed is not None and changed.isdisjoint(self._visited):
                return []
        try:
            selection = select(call, self._spec)
        except vmodl.fault.ManagedObjectNotFound:
            # A starting object is gone: so is everything found from it.
            selected: list[Selected] = []
        else:
            selected = selection.objects
            self._visited = selection.visited
        found = {each.managed.moid for each in selected}
        gone = [object_update("leave", self._reported.pop(moid).ref, "", "") for moid in self._reported.keys() - found]
        return gone + [update for each in selected if (update := self._update(call, each)) is not None]

    def _update(self, call: Call, selected: Selected) -> str | None:
        managed = selected.managed
        reported = self._reported.get(managed.moid)
        entering = reported is None or reported.ref is not managed.ref
        if reported is None or entering:
            reported = self._reported[managed.moid] = _Reported(managed.ref)
        elif reported.version == managed.version:
            return None
        reported.version = managed.version
        changes, missing = [], []
        for path in selected.paths:
            try:
                value = evaluate(call, managed, path)
                before = reported.values.get(path)
                reported.values[path] = value
                if not entering:
                    changes += [change(call, *each) for each in self._changes(path, before, value)]
                elif value is not None:
                    changes.append(change(call, path, "assign", value))
            except vmodl.query.InvalidProperty:
                raise
            except Exception as error:
                missing.append(missing_property(call, path, managed, error))
        if not entering and not changes and not missing:
            return None
        return object_update("enter" if entering else "modify", managed.ref, "".join(changes), "".join(missing))

    def _changes(self, path: str, before: Any, value: Any) -> Iterator[tuple[str, str, Any]]:
        if same(before, value):
            return
        if value is None and len(parse(path)) > 1:
            yield path, "indirectRemove", None
        elif self._partial:
            yield from differences(path, before, value)
        else:
            yield path, "assign", value
