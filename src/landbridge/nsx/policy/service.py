"""What the API does, without HTTP: read, list, change. A change is checked as a whole and kept as a whole."""

import asyncio
import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from landbridge.nsx.policy import changes, faults, hierarchy, search
from landbridge.nsx.policy.checks import check
from landbridge.nsx.policy.config import PolicyConfig
from landbridge.nsx.policy.contents import Contents, Draft
from landbridge.nsx.policy.defaults import ensure
from landbridge.nsx.policy.machines import Fabric
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.model.security import Service
from landbridge.nsx.policy.model.segments import Segment
from landbridge.nsx.policy.store import Store
from landbridge.nsx.policy.tree import (
    ROOT,
    Place,
    children_of,
    collection_of,
    is_empty_collection,
    owner_of,
    parent_of,
    place_of,
)

_T = TypeVar("_T")
_LARGEST_PAGE = 1000
_SYSTEM = "system"


@dataclass(frozen=True)
class Page:
    """What a list request asks for."""

    size: int = _LARGEST_PAGE
    cursor: str = ""
    sort_by: str = ""
    ascending: bool = True
    fields: tuple[str, ...] = ()

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> "Page":
        """Of the request's parameters; Fault 400 if they make no sense."""
        size = query.get("page_size", str(_LARGEST_PAGE))
        if not size.isdecimal() or not 0 <= int(size) <= _LARGEST_PAGE:
            raise faults.invalid(f"page_size: {size!r} is no number from 0 to {_LARGEST_PAGE}")
        ascending = query.get("sort_ascending", "true").lower() != "false"
        fields = tuple(name.strip() for name in query.get("included_fields", "").split(",") if name.strip())
        return cls(int(size), query.get("cursor", ""), query.get("sort_by", ""), ascending, fields)


def paged(results: Iterable[dict[str, Any]], page: Page, default_sort: str = "display_name") -> dict[str, Any]:
    """One page in NSX's frame. The cursor names the last object shown, so changes meanwhile shift nothing."""
    sort_by = page.sort_by or default_sort
    ordered = sorted(((_key(one, sort_by), one) for one in results), key=lambda pair: pair[0])
    if not page.ascending:
        ordered.reverse()
    count = len(ordered)
    if page.cursor:
        last = _read_cursor(page.cursor)
        ordered = [pair for pair in ordered if (pair[0] > last if page.ascending else pair[0] < last)]
    shown = ordered[: page.size]
    answer: dict[str, Any] = {
        "results": [_only(one, page.fields) for _, one in shown],
        "result_count": count,
        "sort_by": sort_by,
        "sort_ascending": page.ascending,
    }
    if shown and len(shown) < len(ordered):
        answer["cursor"] = base64.urlsafe_b64encode(json.dumps(shown[-1][0]).encode()).decode().rstrip("=")
    return answer


def _key(one: dict[str, Any], sort_by: str) -> tuple[int, float, str, str]:
    value = one.get(sort_by)
    number = float(value) if isinstance(value, int | float) else 0.0
    text = str(value).lower() if isinstance(value, str) else ""
    identity = str(one.get("path") or one.get("external_id") or one.get("id", ""))
    return (0 if value is not None else 1, number, text, identity)


def _read_cursor(cursor: str) -> tuple[int, float, str, str]:
    try:
        first, second, third, fourth = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        return int(first), float(second), str(third), str(fourth)
    except (ValueError, TypeError, binascii.Error) as error:
        raise faults.invalid(f"cursor: {cursor!r} is none of this list") from error


def _only(one: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if not fields or key in fields or key == "resource_type"}


class PolicyService:
    """The tree, as people and programs use it."""

    def __init__(self, store: Store, fabric: Fabric) -> None:
        self.store = store
        self._fabric = fabric

    async def prepare(self, config: PolicyConfig) -> None:
        """See to it that the system's own objects are there."""
        await self.store.change(lambda draft: ensure(draft, config), _SYSTEM)

    async def whole(self, kinds: str, base: str) -> dict[str, Any]:
        """The root with what is below it, in the form that PATCH takes; see `hierarchy`."""
        contents = await self.store.contents()
        return await asyncio.to_thread(hierarchy.whole, contents, kinds, base)

    async def get(self, path: str) -> dict[str, Any]:
        """An object as the API shows it; Fault 404 if there is none."""
        contents = await self.store.contents()
        if path == ROOT:
            return hierarchy.root()
        place = place_of(path)
        if place is None:
            raise faults.unknown(path)
        found = _find(contents, place, path)
        if found is None:
            raise faults.missing(path)
        return shape(contents, found)

    async def list(self, path: str, page: Page) -> dict[str, Any]:
        """A page of the collection at `path`; Fault 404 if that is none, or its parent isn't there."""
        contents = await self.store.contents()
        place = collection_of(path)
        if place is None and not is_empty_collection(path):
            raise faults.unknown(path)
        parent = parent_of(place, f"{path}/x") if place else owner_of(path)
        if parent != ROOT and parent not in contents.intents:
            raise faults.missing(parent)
        if place is None:
            return paged((), page)
        members: Iterable[Intent]
        if place.embedded:
            service = contents.get(parent, Service)
            members = service.service_entries if service else []
        else:
            # Subtypes live elsewhere.
            members = (one for one in contents.below(parent, place.kind) if one.path.rsplit("/", 1)[0] == path)
        ordered = "sequence_number" if "sequence_number" in place.kind.model_fields else "display_name"
        # In a thread, as thousands may have to be shown.
        return await asyncio.to_thread(lambda: paged((shape(contents, one) for one in members), page, ordered))

    async def search(self, query: str, page: Page) -> dict[str, Any]:
        """A page of the objects that a query of the search language finds."""
        predicate = search.parse(query)
        contents = await self.store.contents()

        def found() -> Iterable[dict[str, Any]]:
            return (shown for intent in contents.intents.values() if predicate(shown := shape(contents, intent)))

        return await asyncio.to_thread(lambda: paged(found(), page))

    async def put(self, path: str, body: dict[str, Any], user: str) -> dict[str, Any]:
        """Create or replace; the object as it is then."""
        await self._change(lambda draft: changes.put(draft, path, body), user)
        return await self.get(path)

    async def patch(self, path: str, body: dict[str, Any], user: str) -> None:
        """Create or change, with all children in the body, as one."""
        await self._change(lambda draft: changes.patch(draft, path, body), user)

    async def delete(self, path: str, user: str) -> None:
        await self._change(lambda draft: changes.delete(draft, path), user)

    async def _change(self, work: Callable[[Draft], _T], user: str) -> _T:
        attached: dict[str, set[str]] = {}
        for machine in self._fabric.machines():
            for vif in machine.vifs:
                attached.setdefault(vif.segment, set()).add(machine.id)

        def checked(draft: Draft) -> _T:
            result = work(draft)
            for path in sorted(draft.gone):
                if isinstance(draft.before.intents[path], Segment) and path in attached:
                    raise faults.Fault(
                        400,
                        faults.SEGMENT_HAS_VMS,
                        f"Segment path=[{path}] has {len(attached[path])} VMs or VIFs attached. Disconnect all VMs "
                        "and VIFs before deleting a segment.",
                    )
            check(draft)
            return result

        return await self.store.change(checked, user)


def _find(contents: Contents, place: Place, path: str) -> Intent | None:
    if not place.embedded:
        return contents.intents.get(path)
    service = contents.get(parent_of(place, path), Service)
    return next((entry for entry in service.service_entries if entry.path == path), None) if service else None


def shape(contents: Contents, intent: Intent) -> dict[str, Any]:
    """The object with those that its body holds."""
    shown = intent.shape()
    for place in children_of(place_of(intent.path)):
        if place.nested and not place.embedded:
            below = sorted(
                contents.below(intent.path, place.kind), key=lambda one: (getattr(one, "sequence_number", 0), one.id)
            )
            shown[place.nested] = [one.shape() for one in below]
            if "rule_count" in shown:
                shown["rule_count"] = len(below)
    return shown
