"""CustomFieldsManager: named fields that users give to entities."""

from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import GetVmodlType

from landbridge.vcenter.calls import Call
from landbridge.vcenter.managed import Entity, Managed

if TYPE_CHECKING:
    from landbridge.vcenter.inventory import Inventory

_FIRST_KEY = 101


class CustomFieldsManager(Managed):
    """Facts: `fields` (key, name, type), `next` (the next key)."""

    kind = vim.CustomFieldsManager

    def __init__(self, inventory: "Inventory", moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self.facts.setdefault("fields", [])
        self.facts.setdefault("next", _FIRST_KEY)
        self._show()

    async def add_custom_field_def(
        self, call: Call, name: str, mo_type: type | None = None
    ) -> vim.CustomFieldsManager.FieldDef:
        self._refuse_duplicate(name)
        if mo_type is not None and not issubclass(mo_type, vim.ManagedEntity):
            raise vmodl.fault.InvalidArgument(
                invalidProperty="moType", msg=f"{mo_type.__name__} is not a managed entity."
            )
        field = {"key": self.facts["next"], "name": name, "type": mo_type.__name__ if mo_type is not None else None}
        self.facts["next"] += 1
        self.facts["fields"].append(field)
        await self._changed()
        return _definition(field)

    async def rename_custom_field_def(self, call: Call, key: int, name: str) -> None:
        field = self._field(key)
        self._refuse_duplicate(name)
        field["name"] = name
        await self._changed()

    async def remove_custom_field_def(self, call: Call, key: int) -> None:
        self.facts["fields"].remove(self._field(key))
        await self._changed()
        for entity in self.inventory.all(Entity):
            if str(key) in entity.facts.get("custom", {}):
                await entity.set_custom_field(key, None)

    async def set_field(self, call: Call, entity: Any, key: int, value: str) -> None:
        await self.set_value(self.inventory.get(entity), self._field(key), value)

    async def set_value(self, entity: Entity, field: dict[str, Any], value: str) -> None:
        """Give an entity a value for a field; an empty one takes it away."""
        if field["type"] is not None and not issubclass(entity.kind, GetVmodlType(field["type"])):
            raise vmodl.fault.InvalidArgument(
                invalidProperty="entity", msg=f"The field {field['name']} is for {field['type']}, {entity.name} is not."
            )
        await entity.set_custom_field(field["key"], value or None)

    def named(self, name: str) -> dict[str, Any]:
        """The field called `name`; InvalidArgument if there is none."""
        found: dict[str, Any] | None = next((each for each in self.facts["fields"] if each["name"] == name), None)
        if found is None:
            raise vmodl.fault.InvalidArgument(invalidProperty="key", msg=f"There is no custom field '{name}'.")
        return found

    # -- inside -------------------------------------------------------------------------------------------

    def _field(self, key: int) -> dict[str, Any]:
        found: dict[str, Any] | None = next((each for each in self.facts["fields"] if each["key"] == key), None)
        if found is None:
            raise vmodl.fault.InvalidArgument(invalidProperty="key", msg=f"There is no custom field {key}.")
        return found

    def _refuse_duplicate(self, name: str) -> None:
        if any(each["name"] == name for each in self.facts["fields"]):
            raise vim.fault.DuplicateName(name=name, object=self.ref, msg=f"There is a custom field '{name}' already.")

    async def _changed(self) -> None:
        await self.save()
        self._show()

    def _show(self) -> None:
        self.set(field=[_definition(each) for each in self.facts["fields"]])


def _definition(field: dict[str, Any]) -> vim.CustomFieldsManager.FieldDef:
    kind = GetVmodlType(field["type"]) if field["type"] is not None else None
    return vim.CustomFieldsManager.FieldDef(key=field["key"], name=field["name"], type=str, managedObjectType=kind)
