"""Datacenter: four folders, and all datastores and networks in them."""

from typing import Any, ClassVar

from pyVmomi import vim

from landbridge.vcenter.calls import Call
from landbridge.vcenter.managed import Entity, Managed
from landbridge.vcenter.objects.folder import create_folder, destroy_empty, rename
from landbridge.vcenter.tasks import TaskHandle

_FOLDERS = {"vm": "vmFolder", "host": "hostFolder", "datastore": "datastoreFolder", "network": "networkFolder"}


async def create_datacenter(inventory: Any, name: str, parent: Entity) -> "Datacenter":
    """Make a datacenter with its four folders."""
    datacenter = Datacenter(inventory, inventory.new_moid("datacenter"), {"name": name, "parent": parent.moid})
    await inventory.add(datacenter)
    folders = {holds: await create_folder(inventory, holds, holds, datacenter) for holds in _FOLDERS}
    datacenter.facts["folders"] = {holds: folder.moid for holds, folder in folders.items()}
    await datacenter.save()
    await datacenter.restored()
    return datacenter


class Datacenter(Entity):
    """Facts: `name`, `parent`, `folders` (moId by kind)."""

    kind = vim.Datacenter
    prefix = "datacenter"
    defaults: ClassVar[dict[str, Any]] = {
        "configuration": vim.Datacenter.ConfigInfo(defaultHardwareVersionKey="vmx-20")
    }

    def __init__(self, inventory: Any, moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self.lazy("datastore", lambda: self._within("datastore", vim.Datastore))
        self.lazy("network", lambda: self._within("network", vim.Network))

    async def restored(self) -> None:
        if "folders" not in self.facts:  # vCenter was killed while the datacenter was made
            for holds in _FOLDERS:
                if not any(child.facts.get("holds") == holds for child in self.inventory.children(self)):
                    await create_folder(self.inventory, holds, holds, self)
            self.facts["folders"] = {child.facts["holds"]: child.moid for child in self.inventory.children(self)}
            await self.save()
        for holds, name in _FOLDERS.items():
            self.set(**{name: self.folder(holds).ref})

    def folder(self, holds: str) -> Entity:
        """The folder for `vm`, `host`, `datastore` or `network`."""
        folder: Entity = self.inventory.get(self.facts["folders"][holds])
        return folder

    def child_added(self, child: Managed) -> None:
        self.invalidate("datastore", "network")

    def child_removed(self, child: Managed) -> None:
        self.invalidate("datastore", "network")

    def _within(self, holds: str, kind: type) -> list[Any]:
        if "folders" not in self.facts:
            return []
        found, queue = [], [self.folder(holds)]
        for each in queue:
            queue.extend(self.inventory.children(each))
            if issubclass(each.kind, kind):
                found.append(each.ref)
        return found

    async def rename_task(self, call: Call, new_name: str) -> Any:
        return await rename(call, self, new_name)

    async def destroy_task(self, call: Call) -> Any:
        async def work(task: TaskHandle) -> None:
            await destroy_empty(self)

        return await self.inventory.tasks.start(call, self, "Datacenter.destroy", work)

    async def power_on_multi_vm_task(self, call: Call, vm: list[Any], option: list[Any]) -> Any:
        from landbridge.vcenter import provisioning

        for ref in vm:
            call.require("VirtualMachine.Interact.PowerOn", self.inventory.get(ref))
        return await provisioning.power_on_multi_vm(call, self, vm, option)
