"""Property paths: `config.hardware.device[2000].backing`, what they lead to, and what changed between two values."""

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from pyVmomi import vmodl
from pyVmomi.VmomiSupport import Array, DataObject, GetVmodlType, ManagedObject

from landbridge.vcenter.managed import Managed, property_names, same

if TYPE_CHECKING:
    from landbridge.vcenter.calls import Call

_SEGMENT = re.compile(r'(\w+)(?:\[(?:"([^"]*)"|([^\]"]+))\])?(?:\.|$)')
_MAX_LENGTH = 1000


@lru_cache(maxsize=4096)
def parse(path: str) -> tuple[tuple[str, str | None], ...]:
    """The segments of a path as (name, key of an array element or None); InvalidProperty if it is none."""
    segments, position = [], 0
    while position < len(path) <= _MAX_LENGTH:
        match = _SEGMENT.match(path, position)
        if match is None:
            break
        segments.append((match[1], match[2] if match[2] is not None else match[3]))
        position = match.end()
    if not segments or position < len(path) or path.endswith("."):
        raise invalid(path)
    return tuple(segments)


def evaluate(call: "Call", managed: Managed, path: str) -> Any:
    """What a path leads to: a value, None if it is unset; InvalidProperty if there is no such path.

    Arrays come as pyVmomi's typed arrays, empty ones too.
    """
    segments = parse(path)
    name, key = segments[0]
    if name not in property_names(managed.kind):
        raise invalid(path, managed.kind)
    value = managed.value_for(call, name)
    if isinstance(value, list) and not isinstance(value, Array):
        value = declared_type(managed.kind, name)(value)
    if key is not None:
        value = element(value, key, path)
    for name, key in segments[1:]:
        if value is None:
            return None
        if not isinstance(value, DataObject):
            raise invalid(path, managed.kind)
        try:
            inner = getattr(value, name)
        except AttributeError:
            raise invalid(path, managed.kind) from None
        if isinstance(inner, list) and not isinstance(inner, Array):
            inner = declared_type(value.__class__, name)(inner)
        value = inner if key is None else element(inner, key, path)
    return value


def check(kind: Any, path: str) -> None:
    """InvalidProperty if a type can not have a path, whatever its values; deeper fields may belong to subclasses."""
    if parse(path)[0][0] not in property_names(kind):
        raise invalid(path, kind)


def element(array: Any, key: str, path: str) -> Any:
    """The element of an array whose `key` (or moId, or value) is `key`; None if there is none."""
    if array is None:
        return None
    if not isinstance(array, list):
        raise invalid(path)
    return next((each for each in array if key_of(each) == key), None)


def key_of(item: Any) -> str | None:
    """What names an element of an array in a path; None if nothing does."""
    if isinstance(item, DataObject):
        key = item.__dict__.get("key")
        if isinstance(key, ManagedObject):
            return str(key._moId)
        return None if key is None else str(key)
    if isinstance(item, ManagedObject):
        return str(item._moId)
    return str(item)


def differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, str, Any]]:
    """The changes that lead from one value of a path to another, as (path, operation, value), the finest there are.

    Operations are those of PropertyChange: `assign`, and for elements of keyed arrays `add` and `remove`.
    """
    if same(old, new):
        return
    if isinstance(old, DataObject) and type(old) is type(new):
        for field, value in new.__dict__.items():
            yield from differences(f"{path}.{field}", old.__dict__[field], value)
    elif isinstance(old, list) and isinstance(new, list) and (keys := _keyed(old, new)) is not None:
        yield from _element_differences(path, *keys)
    else:
        yield path, "assign", new


def _element_differences(path: str, old: dict[Any, Any], new: dict[Any, Any]) -> Iterator[tuple[str, str, Any]]:
    for key in old.keys() - new.keys():
        yield f"{path}[{_quoted(key)}]", "remove", None
    for key, value in new.items():
        name = f"{path}[{_quoted(key)}]"
        if key not in old:
            yield name, "add", value
        else:
            yield from differences(name, old[key], value)


def _keyed(old: list[Any], new: list[Any]) -> tuple[dict[Any, Any], dict[Any, Any]] | None:
    """Two arrays by the keys of their elements, if all have one and none has it twice."""
    tables = []
    for array in (old, new):
        if not all(isinstance(each, DataObject) and isinstance(each.__dict__.get("key"), int | str) for each in array):
            return None
        table = {each.__dict__["key"]: each for each in array}
        if len(table) != len(array):
            return None
        tables.append(table)
    return tables[0], tables[1]


def _quoted(key: Any) -> str:
    return str(key) if isinstance(key, int) else f'"{key}"'


@cache
def declared_type(kind: Any, name: str) -> Any:
    """The type a class declares for a property (an array type for arrays)."""
    info = kind._GetPropertyInfo(name)
    return GetVmodlType("string[]") if info.type is object else info.type


def invalid(path: str, kind: type | None = None) -> vmodl.query.InvalidProperty:
    where = f" of {kind.__name__}" if kind is not None else ""
    return vmodl.query.InvalidProperty(name=path[:200], msg=f"There is no property '{path[:200]}'{where}.")
