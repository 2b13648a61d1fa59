"""What collectors of tasks and of events have in common: a position in a history, pages, filters."""

import datetime as dt
from typing import TYPE_CHECKING, Any

from pyVmomi import vmodl

from landbridge.vcenter.calls import Call
from landbridge.vcenter.sessions import Session, SessionObject, canonical

if TYPE_CHECKING:
    from landbridge.vcenter.inventory import Inventory

_MAX_PAGE = 1000


class HistoryCollector(SessionObject):
    """A window on a history, oldest first. The position is after the last item at first, as vCenter has it."""

    def __init__(self, inventory: "Inventory", session: Session, spec: Any) -> None:
        super().__init__(inventory, session)
        self._spec = spec
        self._page = 10
        # Items older than this key were read; None is the end.
        self._position: int | None = None
        self.set(filter=spec)
        self.lazy("latestPage", lambda: self.matching()[-self._page :][::-1])

    def matching(self) -> list[Any]:
        """All items the filter lets through, oldest first."""
        raise NotImplementedError

    def read(self, count: int, *, forward: bool) -> list[Any]:
        """The next items after the position, or those before it, and move it there."""
        if not 0 < count <= _MAX_PAGE:
            raise vmodl.fault.InvalidArgument(
                invalidProperty="maxCount", msg=f"maxCount is {count}; it must be 1 to {_MAX_PAGE}."
            )
        items = self.matching()
        position = len(items) if self._position is None else min(self._position, len(items))
        if forward:
            self._position = min(position + count, len(items))
            return items[position : self._position]
        self._position = max(position - count, 0)
        return items[self._position : position][::-1]

    async def reset_collector(self, call: Call) -> None:
        self._position = None

    async def rewind_collector(self, call: Call) -> None:
        self._position = 0

    async def set_collector_page_size(self, call: Call, max_count: int) -> None:
        if not 0 < max_count <= _MAX_PAGE:
            raise vmodl.fault.InvalidArgument(
                invalidProperty="maxCount", msg=f"maxCount is {max_count}; it must be 1 to {_MAX_PAGE}."
            )
        self._page = max_count
        self.invalidate("latestPage")

    async def destroy_collector(self, call: Call) -> None:
        await self.end()


def by_entity(inventory: "Inventory", spec: Any) -> set[str]:
    """The moIds a filter by entity means: `self`, its `children`, or `all` of both."""
    root = inventory.get(spec.entity)
    moids = [root.moid] if spec.recursion != "children" else []
    children = inventory.children(root) if spec.recursion != "self" else []
    for child in children:
        moids.append(child.moid)
        if spec.recursion == "all":
            children.extend(inventory.children(child))
    return set(moids)


def by_user(user: str | None, spec: Any) -> bool:
    """Whether a filter by user lets this one through."""
    if not user:
        return bool(spec.systemUser)
    return not spec.userList or canonical(user) in {canonical(name) for name in spec.userList}


def in_time(when: dt.datetime | None, spec: Any) -> bool:
    """Whether a filter by time lets this moment through; what has not happened is in no time."""
    if when is None:
        return False
    begin, end = _aware(spec.beginTime), _aware(spec.endTime)
    return (begin is None or when >= begin) and (end is None or when < end)


def _aware(when: dt.datetime | None) -> dt.datetime | None:
    return when.replace(tzinfo=dt.UTC) if when is not None and when.tzinfo is None else when
