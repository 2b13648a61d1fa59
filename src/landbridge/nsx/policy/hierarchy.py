"""The tree in one piece, as `GET /infra?filter=Type-Tier1|Segment` answers it: PATCH takes it back as it is."""

from typing import Any

from landbridge.nsx.policy import faults
from landbridge.nsx.policy.contents import Contents
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.tree import PLACES, ROOT, Access, Place, children_of, place_of

_NAMES = {name for place in PLACES for name in (place.child_name, place.kind.kind)}


def root() -> dict[str, Any]:
    return {"resource_type": "Infra", "id": "infra", "display_name": "infra", "path": ROOT, "_revision": 0}


def whole(contents: Contents, kinds: str, base: str) -> dict[str, Any]:
    """The root with its children nested. `kinds` is NSX's filter (`Type-A|B`; empty: all), `base` a path: only what is
    there and below. Objects above those that are asked for stand as references."""
    wanted = _wanted(kinds)
    if base and base != ROOT and base not in contents.intents:
        raise faults.missing(base)
    return root() | {"children": _below(contents, ROOT, wanted, base or ROOT)}


def _wanted(kinds: str) -> set[str]:
    if not kinds:
        return _NAMES
    if not kinds.startswith("Type-"):
        raise faults.invalid(f"filter: {kinds!r} is not of the form Type-Tier1|Segment")
    wanted = set(kinds.removeprefix("Type-").split("|"))
    if odd := wanted - _NAMES:
        raise faults.invalid(f"filter: there is no type {min(odd)}")
    return wanted


def _below(contents: Contents, path: str, wanted: set[str], base: str) -> list[dict[str, Any]]:
    found = []
    for place in children_of(place_of(path) if path != ROOT else None):
        if place.embedded:
            continue
        for intent in contents.below(path, place.kind):
            # A kind may live at several places; ways to `base` lead past its ancestors only.
            related = intent.path == base or intent.path.startswith(f"{base}/") or base.startswith(f"{intent.path}/")
            if place_of(intent.path) is place and related:
                found += _one(contents, place, intent, wanted, base)
    return found


def _one(contents: Contents, place: Place, intent: Intent, wanted: set[str], base: str) -> list[dict[str, Any]]:
    children = _below(contents, intent.path, wanted, base)
    inside = intent.path == base or intent.path.startswith(f"{base}/")
    asked = bool({place.child_name, intent.kind} & wanted) and inside
    # What only the system makes can not be sent back as an object.
    if asked and place.access is not Access.READ:
        name = place.child_name
        return [{"resource_type": f"Child{name}", name: intent.shape() | ({"children": children} if children else {})}]
    if children:
        reference = {"resource_type": "ChildResourceReference", "target_type": place.child_name, "id": intent.id}
        return [reference | {"children": children}]
    return []
