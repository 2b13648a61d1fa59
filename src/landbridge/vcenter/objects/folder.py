"""Folder: the tree of the inventory, and where most things are created."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pyVmomi import vim, vmodl

from landbridge.vcenter.calls import Call
from landbridge.vcenter.managed import Entity, Managed
from landbridge.vcenter.naming import written_name
from landbridge.vcenter.tasks import TaskHandle

# What each kind of folder holds. A datacenter's four folders, and the root's.
CHILD_TYPES: dict[str, tuple[type, ...]] = {
    "root": (vim.Folder, vim.Datacenter),
    "vm": (vim.Folder, vim.VirtualMachine, vim.VirtualApp),
    "host": (vim.Folder, vim.ComputeResource),
    "datastore": (vim.Folder, vim.Datastore, vim.StoragePod),
    "network": (vim.Folder, vim.Network, vim.DistributedVirtualSwitch),
}
_PREFIXES = {"root": "group-d", "vm": "group-v", "host": "group-h", "datastore": "group-s", "network": "group-n"}


async def create_folder(inventory: Any, name: str, holds: str, parent: Entity | None) -> "Folder":
    """Make a folder that `holds` one of CHILD_TYPES' kinds."""
    number = inventory.new_moid("group").rpartition("-")[2]
    facts = {"name": name, "holds": holds, "parent": parent.moid if parent is not None else None}
    folder = Folder(inventory, f"{_PREFIXES[holds]}{number}", facts)
    await inventory.add(folder)
    return folder


class Folder(Entity):
    """Facts: `name`, `parent`, `holds` (a key of CHILD_TYPES)."""

    kind = vim.Folder
    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, inventory: Any, moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self.holds: str = self.facts["holds"]
        self.set(childType=list(CHILD_TYPES[self.holds]))
        self.lazy("childEntity", lambda: [child.ref for child in inventory.children(self)])

    def child_added(self, child: Managed) -> None:
        self.invalidate("childEntity")
        if (datacenter := self.ancestor(vim.Datacenter)) is not None:
            datacenter.child_added(child)

    def child_removed(self, child: Managed) -> None:
        self.child_added(child)

    # -- creating -----------------------------------------------------------------------------------------

    async def create_folder(self, call: Call, name: str) -> Any:
        name = free_name(self, name)
        made = await create_folder(self.inventory, name, self.holds, self)
        return made.ref

    async def create_datacenter(self, call: Call, name: str) -> Any:
        self._require("root", "datacenters")
        name = free_name(self, name)
        from landbridge.vcenter.objects.datacenter import create_datacenter

        made = await create_datacenter(self.inventory, name, self)
        self.inventory.events.post(
            vim.event.DatacenterCreatedEvent,
            datacenter=made,
            parent=vim.event.FolderEventArgument(folder=self.ref, name=self.name),
            message=f"Created datacenter {name} in folder {self.name}",
            user=call.user,
        )
        return made.ref

    async def create_cluster_ex(self, call: Call, name: str, spec: Any) -> Any:
        from landbridge.vcenter import provisioning

        self._require("host", "clusters")
        name = free_name(self, name)
        made = await provisioning.create_cluster(call, self, name, spec)
        return made.ref

    async def create_vm_task(self, call: Call, config: Any, pool: Any, host: Any = None) -> Any:
        from landbridge.vcenter import provisioning

        self._require("vm", "virtual machines")
        return await provisioning.create_vm(call, self, config, pool, host)

    async def register_vm_task(
        self,
        call: Call,
        path: str,
        as_template: bool,
        name: str | None = None,
        pool: Any = None,
        host: Any = None,
    ) -> Any:
        from landbridge.vcenter import provisioning

        self._require("vm", "virtual machines")
        return await provisioning.register_vm(call, self, path, name, as_template, pool, host)

    async def add_standalone_host_task(
        self, call: Call, spec: Any, add_connected: bool, comp_res_spec: Any = None, license_: str | None = None
    ) -> Any:
        from landbridge.vcenter import provisioning

        self._require("host", "hosts")
        return await provisioning.add_standalone_host(call, self, spec, comp_res_spec, add_connected, license_)

    async def create_dvs_task(self, call: Call, spec: Any) -> Any:
        from landbridge.vcenter import provisioning

        self._require("network", "distributed switches")
        return await provisioning.create_dvs(call, self, spec)

    # -- changing -----------------------------------------------------------------------------------------

    async def rename_task(self, call: Call, new_name: str) -> Any:
        return await rename(call, self, new_name)

    async def move_into_folder_task(self, call: Call, list_: Sequence[Any]) -> Any:
        moving: list[Entity] = [self.inventory.get(ref) for ref in list_]

        async def work(task: TaskHandle) -> None:
            for entity in moving:
                self._check_move(entity)
            for entity in moving:
                await entity.move_to(self)

        return await self.inventory.tasks.start(call, self, "Folder.moveInto", work)

    async def destroy_task(self, call: Call) -> Any:
        async def work(task: TaskHandle) -> None:
            if isinstance(self.parent, Entity) and isinstance(self.parent, Folder):
                await destroy_empty(self)
            else:
                raise vmodl.fault.NotSupported(msg=f"The folder {self.name} is part of its datacenter.")

        return await self.inventory.tasks.start(call, self, "Folder.destroy", work)

    # -- inside -------------------------------------------------------------------------------------------

    def _require(self, holds: str, what: str) -> None:
        if self.holds != holds:
            raise vmodl.fault.NotSupported(msg=f"The folder {self.name} does not hold {what}.")

    def _check_move(self, entity: Entity) -> None:
        same_kind = not isinstance(entity, Folder) or entity.holds == self.holds
        if not issubclass(entity.kind, CHILD_TYPES[self.holds]) or not same_kind:
            raise vmodl.fault.NotSupported(msg=f"The folder {self.name} does not hold what {entity.name} is.")
        if entity.ancestor(vim.Datacenter) is not self.ancestor(vim.Datacenter) and self.holds != "root":
            raise vim.fault.InvalidFolder(target=self.ref, msg=f"{entity.name} is in another datacenter.")
        here: Any = self
        while here is not None:
            if here is entity:
                raise vim.fault.InvalidFolder(target=self.ref, msg=f"{entity.name} can not move into itself.")
            here = here.parent
        if entity.parent is not self:
            free_name(self, entity.name)


def free_name(parent: Entity, name: str) -> str:
    """The name as the inventory writes it; InvalidName, or DuplicateName if a child of `parent` has it."""
    written = written_name(name, parent.ref)
    for child in parent.inventory.children(parent):
        if child.name == written:
            raise vim.fault.DuplicateName(
                name=written, object=child.ref, msg=f"The name '{written}' already exists in {parent.name}."
            )
    return written


async def rename(call: Call, entity: Entity, name: str) -> Any:
    """`Rename_Task` of entities whose name is only in the inventory."""
    kind = entity.kind.__name__.rpartition(".")[2]

    async def work(task: TaskHandle) -> None:
        new_name = written_name(name, entity.ref)
        if new_name == entity.name:
            return
        if isinstance(parent := entity.parent, Entity):
            free_name(parent, new_name)
        await entity.rename(new_name)

    return await entity.inventory.tasks.start(call, entity, f"{kind}.rename", work)


async def destroy_empty(entity: Entity) -> None:
    """Remove an entity with all the empty folders under it; ResourceInUse if anything else is under it."""
    inventory = entity.inventory
    doomed: list[Entity] = [entity]
    for each in doomed:
        doomed.extend(inventory.children(each))
    rest = [each for each in doomed if not isinstance(each, Folder) and each is not entity]
    if rest:
        raise vim.fault.ResourceInUse(
            type=rest[0].kind, name=rest[0].name, msg=f"{entity.name} is not empty: {rest[0].name} is in it."
        )
    for each in reversed(doomed):
        await inventory.remove(each)
