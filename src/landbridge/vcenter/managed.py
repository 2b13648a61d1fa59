"""What every live managed object has: a reference, properties with versions, durable facts, methods found by name.

A class is a managed object type of the vSphere API. `PowerOnVM_Task` of the API is `async def power_on_vm_task`
here (`snake_case` says how names map), so adding a method is adding a function:

    class VirtualMachine(Entity):
        kind = vim.VirtualMachine
        prefix = "vm"

        async def power_on_vm_task(self, call: Call, host: vim.HostSystem | None = None) -> vim.Task:
            return await self.inventory.tasks.start(call, self, "VirtualMachine.powerOn", self._power_on)

Parameters arrive by keyword, as pyVmomi's objects: an absent one is None, an absent array is empty. A name that is a
Python keyword or builtin ends in an underscore (`type_`, `filter_`).
"""

import builtins
import keyword
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from pyVmomi import vim
from pyVmomi.VmomiSupport import DataObject, ManagedObject

if TYPE_CHECKING:
    from landbridge.vcenter.calls import Call
    from landbridge.vcenter.inventory import Inventory

_WORD = re.compile(r"([A-Z]+)([A-Z][a-z])|([a-z0-9])([A-Z])")
# By the API's type: the class that brings its objects back from the store. Filled as modules are imported.
IMPLEMENTATIONS: dict[type, "type[Managed]"] = {}


@cache
def snake_case(name: str) -> str:
    """A name of the API in Python's way: `AddDVPortgroup_Task` is `add_dv_portgroup_task`, `type` is `type_`."""
    snake = _WORD.sub(lambda m: f"{m[1]}_{m[2]}" if m[1] else f"{m[3]}_{m[4]}", name)
    snake = _WORD.sub(lambda m: f"{m[1]}_{m[2]}" if m[1] else f"{m[3]}_{m[4]}", snake).lower()
    return f"{snake}_" if keyword.iskeyword(snake) or hasattr(builtins, snake) else snake


class Managed:
    """One live managed object.

    `facts` is its durable part, plain JSON, which `save` writes through to the store. Properties are what clients
    read: pyVmomi values, set by `set`, rebuilt from the facts when vCenter starts. Values are never changed in place:
    build a new one and `set` it, or nobody learns of the change.
    """

    kind: ClassVar[type]
    prefix: ClassVar[str] = ""
    # False: lives as long as its session or this process, and is not in the store.
    durable: ClassVar[bool] = True
    # What properties are unless set: shared by all objects of the class.
    defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "kind" in cls.__dict__ and cls.durable:
            IMPLEMENTATIONS[cls.kind] = cls
        inherited: dict[str, Any] = {}
        for base in reversed(cls.__mro__[1:]):
            inherited.update(base.__dict__.get("defaults", {}))
        cls.defaults = {**inherited, **cls.__dict__.get("defaults", {})}

    def __init__(self, inventory: "Inventory", moid: str, facts: dict[str, Any] | None = None) -> None:
        self.inventory = inventory
        self.moid = moid
        self.facts: dict[str, Any] = {} if facts is None else facts
        # A reference as pyVmomi has it: `kind(moid, None)`.
        self.ref: Any = self.kind(moid, None)
        # The inventory's version at the last change of any property.
        self.version = 0
        # Text of values written before, for the property collector: by API version and path, with the value it is of.
        self.written: dict[tuple[str, str], tuple[Any, str]] = {}
        self._properties: dict[str, Any] = {}
        self._lazy: dict[str, Callable[[], Any]] = {}

    def __repr__(self) -> str:
        return f"<{self.kind.__name__} {self.moid}>"

    # -- life -------------------------------------------------------------------------------------------

    async def restored(self) -> None:
        """Called once after a start of vCenter, when all objects are there: rebuild the properties from the facts."""

    async def save(self) -> None:
        """Write the facts through to the store; returns when they are durable."""
        await self.inventory.save(self)

    def child_added(self, child: "Managed") -> None:
        """An object whose parent this is was added (or moved here)."""

    def child_removed(self, child: "Managed") -> None:
        """An object whose parent this was is gone (or moved away)."""

    # -- properties -------------------------------------------------------------------------------------

    def set(self, **properties: Any) -> None:
        """Give properties new values: data objects, primitives, references, lists of them, or None for unset.

        A value equal to the one before is no change. Otherwise the version grows and waiting collectors wake.
        """
        changed = False
        for name, value in properties.items():
            self._lazy.pop(name, None)
            if name in self._properties and same(self._properties[name], value):
                continue
            self._properties[name] = value
            changed = True
        if changed:
            self.inventory.touch(self)

    def value(self, name: str) -> Any:
        """A top-level property's value, None if unset. KeyError if the type has no such property."""
        if name in self._properties:
            return self._properties[name]
        if (function := self._lazy.get(name)) is not None:
            value = self._properties[name] = function()
            return value
        if name in self.defaults:
            return self.defaults[name]
        if name not in property_names(self.kind):
            raise KeyError(name)
        return None

    def value_for(self, call: "Call", name: str) -> Any:
        """A property as one session sees it; the same for all unless a class says otherwise."""
        return self.value(name)

    def lazy(self, name: str, function: Callable[[], Any]) -> None:
        """A property computed when somebody asks, kept until `invalidate`."""
        self._lazy[name] = function
        self._properties.pop(name, None)

    def invalidate(self, *names: str) -> None:
        """Forget what lazy properties were; who waits for changes of this object looks again."""
        for name in names:
            if name in self._lazy:
                self._properties.pop(name, None)
        self.inventory.touch(self)


class Entity(Managed):
    """A managed entity: has a name and a parent, both facts (`name`, `parent`: the parent's moId or None)."""

    defaults: ClassVar[dict[str, Any]] = {
        "overallStatus": "green",
        "configStatus": "green",
        "alarmActionsEnabled": True,
    }

    def __init__(self, inventory: "Inventory", moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self._properties["name"] = self.facts.get("name", "")
        self._properties["parent"] = self._parent_ref()
        self._show_custom_fields()

    def value_for(self, call: "Call", name: str) -> Any:
        if name == "effectiveRole" and call.session is not None:
            return [call.session.role]
        return self.value(name)

    @property
    def name(self) -> str:
        return str(self.facts.get("name", ""))

    @property
    def parent(self) -> Managed | None:
        moid = self.facts.get("parent")
        return self.inventory.objects.get(moid) if moid else None

    async def rename(self, name: str) -> None:
        """Take another name, in the facts and as a property."""
        self.facts["name"] = name
        await self.save()
        self.set(name=name)

    async def move_to(self, parent: Managed) -> None:
        """Become a child of `parent`; both parents are told."""
        self.inventory.detach(self)
        self.facts["parent"] = parent.moid
        self.inventory.attach(self)
        await self.save()

    # -- custom fields, reload ----------------------------------------------------------------------------

    async def set_custom_field(self, key: int, value: str | None) -> None:
        """Give a custom field (by its definition's key) a value; None takes it away."""
        custom: dict[str, str] = {**self.facts.get("custom", {})}
        if value is None:
            custom.pop(str(key), None)
        else:
            custom[str(key)] = value
        self.facts["custom"] = custom
        await self.save()
        self._show_custom_fields()

    async def set_custom_value(self, call: "Call", key: str, value: str) -> None:
        """`setCustomValue` of the API: by the field's name."""
        manager = self.inventory.get("CustomFieldsManager")
        await manager.set_value(self, manager.named(key), value)

    async def reload(self, call: "Call") -> None:
        """`Reload`: what is shown is always what is; there is nothing to read again."""

    def _show_custom_fields(self) -> None:
        custom: dict[str, str] = self.facts.get("custom", {})
        values = [vim.CustomFieldsManager.StringValue(key=int(key), value=value) for key, value in custom.items()]
        if values or "customValue" in self._properties:
            self.set(customValue=values, value=values)

    def ancestor(self, kind: type) -> "Entity | None":
        """The nearest entity of `kind` above this one (or this one itself)."""
        here: Managed | None = self
        while isinstance(here, Entity):
            if issubclass(here.kind, kind):
                return here
            here = here.parent
        return None

    def _parent_ref(self) -> vim.ManagedEntity | None:
        parent = self.parent
        return parent.ref if parent is not None else None


@cache
def property_names(kind: type) -> frozenset[str]:
    """The names of all properties a managed object type has, inherited ones too."""
    return frozenset(info.name for info in kind._GetPropertyList())  # type: ignore[attr-defined]


def same(old: Any, new: Any) -> bool:
    """Whether two property values are equal, field by field: pyVmomi's data objects have no `==` of their own."""
    if old is new:
        return True
    if type(old) is not type(new):
        # A plain list and a typed array of the same elements are the same value.
        return isinstance(old, list) and isinstance(new, list) and _same_elements(old, new)
    if isinstance(old, list):
        return _same_elements(old, new)
    if isinstance(old, DataObject):
        fields = new.__dict__
        return all(same(value, fields[name]) for name, value in old.__dict__.items())
    if isinstance(old, ManagedObject):
        return bool(old._moId == new._moId)
    return bool(old == new)


def _same_elements(old: list[Any], new: list[Any]) -> bool:
    return len(old) == len(new) and all(map(same, old, new))
