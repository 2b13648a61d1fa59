"""What a request does to a draft: put, patch, delete, and trees of those (`children`)."""

import uuid
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from landbridge.nsx.policy import faults
from landbridge.nsx.policy.contents import Draft
from landbridge.nsx.policy.derived import companions, derive
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.model.security import Rule, Service, ServiceEntry
from landbridge.nsx.policy.tree import (
    ROOT,
    Access,
    Place,
    children_of,
    is_id,
    parent_of,
    path_below,
    place_of,
)

_SERVICE_ENTRY: TypeAdapter[ServiceEntry] = TypeAdapter(ServiceEntry)
# What the server sets; clients send it back as they read it.
_OURS = {
    "path",
    "relative_path",
    "parent_path",
    "unique_id",
    "realization_id",
    "remote_path",
    "owner_id",
    "origin_site_id",
    "marked_for_delete",
    "overridden",
    "rule_count",
}
_DEEPEST = 12  # levels of nested children


def put(draft: Draft, path: str, body: dict[str, Any]) -> Intent:
    """Create or replace an object; an existing one only with its revision."""
    place = _place(path)
    current = existing(draft, path)
    if current is not None and body.get("_revision") != current.revision:
        raise faults.stale(_revision(body), current.revision)
    _write(draft, place, path, body, replace=True, always=True)
    found = existing(draft, path)
    if found is None:
        raise faults.missing(path)
    return found


def patch(draft: Draft, path: str, body: dict[str, Any], depth: int = 0) -> None:
    """Create an object or change the given fields of it (null: back to the default), with the body's children."""
    if path == ROOT:
        _only(body, {"children", "resource_type", "id", "display_name"} | _OURS, ROOT)
        children(draft, ROOT, body.get("children") or [], depth)
        return
    place = _place(path)
    below = body.get("children") or []
    bare = set(body) <= {"id", "resource_type", "children"} | _OURS
    # A node that only leads to its children changes nothing itself.
    if not (bare and existing(draft, path) is not None):
        _write(draft, place, path, {key: value for key, value in body.items() if key != "children"}, replace=False)
    children(draft, path, below, depth)


def delete(draft: Draft, path: str) -> None:
    """Delete an object; `checks` sees later what goes with it and who stands in the way."""
    place = _place(path)
    current = existing(draft, path)
    if current is None:
        raise faults.missing(path)
    if place.access is not Access.WRITE or current.system_owned or getattr(current, "is_default", False):
        raise faults.read_only(path)
    if place.embedded:
        service = draft.get(parent_of(place, path), Service)
        if service is None:
            raise faults.missing(path)
        left = [entry for entry in service.service_entries if entry.path != path]
        draft.put(draft.stamped(service.model_copy(update={"service_entries": left}), service, service.path, ROOT))
        return
    if place.nested:
        _renew(draft, parent_of(place, path))
    draft.delete(path)
    # At once, so that the same request can make an object of that path anew.
    for intent in _dying(draft, path):
        draft.delete(intent)


def children(draft: Draft, parent: str, wrapped: Iterable[Any], depth: int = 0) -> None:
    """Apply `Child...` wrappers below `parent`, in order."""
    if depth > _DEEPEST:
        raise faults.invalid("children: nested too deeply")
    if not isinstance(wrapped, list):
        raise faults.invalid("children: must be a list")
    for child in wrapped:
        _child(draft, parent, child, depth + 1)


def existing(draft: Draft, path: str) -> Intent | None:
    """The object at `path`, also one that is part of another."""
    place = place_of(path)
    if place is not None and place.embedded:
        service = draft.get(parent_of(place, path), Service)
        return next((entry for entry in service.service_entries if entry.path == path), None) if service else None
    return draft.intents.get(path)


def _child(draft: Draft, parent: str, wrapper: Any, depth: int) -> None:
    if not isinstance(wrapper, dict) or not isinstance(wrapper.get("resource_type"), str):
        raise faults.invalid("children: each is an object with a resource_type")
    sort = wrapper["resource_type"]
    if sort == "ChildResourceReference":
        target = _below(parent, str(wrapper.get("target_type", "")), wrapper.get("id"))
        if existing(draft, target) is None:
            raise faults.bad_path(target, "a ChildResourceReference refers to it and it does not exist")
        children(draft, target, wrapper.get("children") or [], depth)
        return
    name = sort.removeprefix("Child")
    body = wrapper.get(name)
    if not sort.startswith("Child") or not isinstance(body, dict):
        raise faults.invalid(f"children: a {sort} holds its object under {name!r}")
    path = _below(parent, name, body.get("id"))
    if wrapper.get("marked_for_delete") is True or body.get("marked_for_delete") is True:
        # What is below goes first: NSX's clients send it nested in what they delete.
        if body.get("children") and existing(draft, path) is not None:
            children(draft, path, body["children"], depth)
        if existing(draft, path) is not None:
            delete(draft, path)
        return
    patch(draft, path, body, depth)


def _below(parent: str, name: str, key: Any) -> str:
    places = children_of(place_of(parent) if parent != ROOT else None)
    place = next((place for place in places if place.child_name == name or place.kind.kind == name), None)
    if place is None:
        raise faults.invalid(f"children: {parent} has no children of type {name}")
    if place.singleton:
        return path_below(place, parent, "")
    if not isinstance(key, str) or not is_id(key):
        raise faults.invalid(f"id: {key!r} is no id for a {name}")
    return path_below(place, parent, key)


def _place(path: str) -> Place:
    place = place_of(path)
    if place is None:
        raise faults.unknown(path)
    return place


def _revision(body: dict[str, Any]) -> int | None:
    given = body.get("_revision")
    return given if isinstance(given, int) else None


def _only(body: dict[str, Any], fields: set[str], path: str) -> None:
    odd = sorted(key for key in set(body) - fields if not key.startswith("_"))
    if odd:
        raise faults.invalid(f"{odd[0]}: {path} has no such field")


def _write(draft: Draft, place: Place, path: str, body: dict[str, Any], *, replace: bool, always: bool = False) -> None:
    """`replace`: the body is all of it. `always`: a new revision even if nothing changed."""
    parent = parent_of(place, path)
    if parent != ROOT and parent not in draft.intents:
        raise faults.bad_path(parent, f"{path} lives below it and it does not exist")
    current = existing(draft, path)
    if place.access is Access.READ or (place.access is Access.UPDATE and current is None):
        raise faults.read_only(path)
    if place.embedded:
        _write_entry(draft, path, parent, body, replace=replace)
        return
    fields = _fields(body, path, place)
    nested = next((below for below in children_of(place) if below.nested and not below.embedded), None)
    listed = fields.pop(nested.nested, None) if nested else None
    if current is not None and not replace:
        fields = _merged(current, fields)
    made = _validated(place.kind, fields, path)
    if current is not None and current.system_owned and _differs(made, current, _SYSTEM_MAY_CHANGE):
        raise faults.read_only(path)
    made = derive(_with_entries(draft, made, current, path), path, parent)
    stamped = draft.stamped(_with_ours(draft, made, current), current, path, parent)
    if current is None or always or _differs(stamped, current, set()):
        draft.put(stamped)
    if current is None:
        if place.nested:
            _renew(draft, parent)
        for intent in companions(stamped):
            draft.put(draft.stamped(intent, None, intent.path, path).model_copy(update={"system_owned": True}))
    if nested is not None and (listed is not None or replace):
        _write_nested(draft, nested, path, listed or [], replace=replace)


def _renew(draft: Draft, path: str) -> None:
    """A policy with a rule more or less is another one: who puts the whole of it must not lose a rule unseen."""
    above = draft.intents.get(path)
    if above is not None and path not in draft.touched:
        draft.put(draft.stamped(above, above, path, above.parent_path))


# Of the default firewall rules people may change what happens to packets, of other things of the system nothing.
_SYSTEM_MAY_CHANGE = {"action", "logged", "tag", "notes", "disabled", "members", "logging_enabled", "tags"}
_STAMPS = {
    "revision",
    "last_modified_time",
    "last_modified_user",
    "create_time",
    "create_user",
    "unique_id",
    "path",
    "relative_path",
    "parent_path",
    "id",
    "resource_type",
    "system_owned",
    "service_entries",
    "rule_id",
    "is_default",
}


def _differs(one: Intent, other: Intent, ignored: set[str]) -> bool:
    if isinstance(one, Service) and isinstance(other, Service) and not ignored:
        entries = [
            [entry.model_dump(exclude=_STAMPS - {"id"}) for entry in service.service_entries]
            for service in (one, other)
        ]
        if entries[0] != entries[1]:
            return True
    if not one.display_name:
        ignored = ignored | {"display_name"}
    return one.model_dump(exclude=_STAMPS | ignored) != other.model_dump(exclude=_STAMPS | ignored)


def _write_nested(draft: Draft, place: Place, parent: str, listed: Any, *, replace: bool) -> None:
    """Rules in the body of their policy. A PUT's are all there are; a PATCH's come to those there are."""
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise faults.invalid(f"{place.nested}: must be a list of objects")
    named = {str(one.get("id") or uuid.uuid4()): one for one in listed}
    if not all(is_id(key) for key in named) or len(named) != len(listed):
        raise faults.invalid(f"{place.nested}: an id is malformed, or there twice")
    paths = {path_below(place, parent, key): one for key, one in named.items()}
    if replace:
        for rule in list(draft.below(parent, place.kind)):
            if rule.path not in paths:
                delete(draft, rule.path)
    for path, one in paths.items():
        current = existing(draft, path)
        given = _revision(one)
        if replace and current is not None and given is not None and given != current.revision:
            raise faults.stale(given, current.revision)
        if one.get("marked_for_delete") is True:
            if current is not None:
                delete(draft, path)
        else:
            _write(draft, place, path, one, replace=replace)


def _fields(body: dict[str, Any], path: str, place: Place) -> dict[str, Any]:
    """The body without what is the server's; 400 if it says that it is another object."""
    name = path.rsplit("/", 1)[-1]
    if not place.singleton and body.get("id") not in (None, "", name):
        raise faults.invalid(f"id: {body['id']!r} is not the id in the path, {name!r}")
    kinds = (None, "", place.kind.kind, place.child_name)
    if not place.embedded and body.get("resource_type") not in kinds:
        raise faults.invalid(f"resource_type: {body['resource_type']!r} does not live at {path}")
    kept = {key: value for key, value in body.items() if key not in _OURS and not key.startswith("_")}
    for key in ("id", *(() if place.embedded else ("resource_type",))):
        kept.pop(key, None)
    return kept


def _merged(current: Intent, fields: dict[str, Any]) -> dict[str, Any]:
    now = current.shape()
    kept = {key: value for key, value in now.items() if key not in _OURS and not key.startswith("_")}
    kept.pop("id", None)
    if not isinstance(current, Service) or "service_entries" not in fields:
        return kept | fields
    listed = fields["service_entries"] or []
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise faults.invalid("service_entries: must be a list of objects")
    entries = {str(one.get("id", "")): one for one in now.get("service_entries", [])}
    for one in listed:
        key = str(one.get("id") or uuid.uuid4())
        if one.get("marked_for_delete") is True:
            entries.pop(key, None)
        else:
            entries[key] = one | {"id": key}
    return kept | fields | {"service_entries": list(entries.values())}


def _validated(kind: type[Intent], fields: dict[str, Any], path: str) -> Intent:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _as_fault(error, path) from error


def _as_fault(error: ValidationError, path: str) -> faults.Fault:
    said = []
    for one in error.errors()[:5]:
        where = ".".join(str(part) for part in one["loc"])
        why = "no such field, or not supported" if one["type"] == "extra_forbidden" else one["msg"]
        said.append(f"{where or 'body'}: {why}")
    return faults.invalid(f"{path}: {'; '.join(said)}")


def _with_ours(draft: Draft, made: Intent, current: Intent | None) -> Intent:
    """Fields of single types that are the server's."""
    ours: dict[str, Any] = {}
    if isinstance(made, Rule):
        ours["rule_id"] = current.rule_id if isinstance(current, Rule) else draft.next_rule_number()
    if "is_default" in type(made).model_fields:
        ours["is_default"] = getattr(current, "is_default", False)
    return made.model_copy(update=ours)


def _with_entries(draft: Draft, made: Intent, current: Intent | None, path: str) -> Intent:
    """A service's entries are objects too: stamp those that changed."""
    if not isinstance(made, Service):
        return made
    before = {entry.id: entry for entry in current.service_entries} if isinstance(current, Service) else {}
    entries = []
    for entry in made.service_entries:
        key = entry.id or str(uuid.uuid4())
        if not is_id(key):
            raise faults.invalid(f"service_entries: {key!r} is no id")
        was = before.get(key)
        if was is not None and not _differs(entry, was, set()):
            entries.append(was)
        else:
            entries.append(draft.stamped(entry, was, f"{path}/service-entries/{key}", path))
    if len({entry.id for entry in entries}) != len(entries):
        raise faults.invalid("service_entries: two have the same id")
    return made.model_copy(update={"service_entries": entries})


def _write_entry(draft: Draft, path: str, parent: str, body: dict[str, Any], *, replace: bool) -> None:
    service = draft.get(parent, Service)
    place = _place(path)
    if service is None:
        raise faults.bad_path(parent, f"{path} lives below it and it does not exist")
    if service.system_owned:
        raise faults.read_only(path)
    current = existing(draft, path)
    fields = _fields(body, path, place)
    if current is not None and not replace:
        fields = _merged(current, fields)
    try:
        entry = _SERVICE_ENTRY.validate_python(fields)
    except ValidationError as error:
        raise _as_fault(error, path) from error
    stamped = draft.stamped(entry, current, path, parent)
    if current is None:
        entries = [*service.service_entries, stamped]
    else:
        entries = [stamped if one.path == path else one for one in service.service_entries]
    draft.put(draft.stamped(service.model_copy(update={"service_entries": entries}), service, parent, ROOT))


def _dying(draft: Draft, path: str) -> list[str]:
    """What is part of an object without being kept in it: goes along."""
    kinds = tuple(place.kind for place in children_of(place_of(path)) if place.dies_with_parent)
    return [intent.path for intent in draft.below(path, Intent) if isinstance(intent, kinds)]
