"""Datastore: a place for VMs' files that one or more hosts see."""

import datetime as dt
from typing import Any, ClassVar

from pyVmomi import vim, vmodl

from landbridge.esx.client import HostClient
from landbridge.esx.model import Datastore as HostDatastore
from landbridge.vcenter.calls import Call
from landbridge.vcenter.hardware.devices import datastore_of
from landbridge.vcenter.host_faults import agent_faults
from landbridge.vcenter.managed import Entity
from landbridge.vcenter.naming import written_name
from landbridge.vcenter.objects.datastore_browser import DatastoreBrowser

_LARGEST_FILE = 62 << 40  # bytes; vSphere's own limit of a disk


class Datastore(Entity):
    """Facts: url, mounts (host's moId to the datastore's name there), told (what a host told last), browser."""

    kind = vim.Datastore
    prefix = "datastore"
    defaults: ClassVar[dict[str, Any]] = {
        "capability": vim.Datastore.Capability(
            directoryHierarchySupported=True,
            rawDiskMappingsSupported=False,
            perFileThinProvisioningSupported=True,
            storageIORMSupported=False,
            nativeSnapshotSupported=False,
            topLevelDirectoryCreateSupported=True,
            seSparseSupported=False,
        )
    }

    def __init__(self, inventory: Any, moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        for name in ("summary", "info", "host", "vm"):
            self.lazy(name, getattr(self, f"_{name}"))
        self.lazy("browser", lambda: self.inventory.objects[self.facts["browser"]].ref)

    @classmethod
    async def discovered(cls, inventory: Any, datacenter: Entity, found: HostDatastore) -> "Datastore":
        """A datastore a host of `datacenter` told of for the first time; a taken name gets a number behind it."""
        folder = inventory.get(datacenter.value("datastoreFolder"))
        taken = {child.name for child in inventory.children(folder)}
        name = base = written_name(found.name)
        number = 1
        while name in taken:
            name = f"{base} ({number})"
            number += 1
        browser = DatastoreBrowser(inventory, inventory.new_moid(DatastoreBrowser.prefix))
        moid = inventory.new_moid(cls.prefix)
        browser.facts["datastore"] = moid
        facts = {
            "name": name,
            "parent": folder.moid,
            "url": found.url,
            "mounts": {},
            "told": found.model_dump(mode="json"),
            "browser": browser.moid,
        }
        datastore = cls(inventory, moid, facts)
        await inventory.add(browser)
        await inventory.add(datastore)
        return datastore

    # -- hosts that see it -------------------------------------------------------------------------------

    async def mounted(self, host: Any, told: HostDatastore) -> None:
        """A host sees it, under the name it tells."""
        facts = told.model_dump(mode="json")
        mounts = {**self.facts["mounts"], host.moid: told.name}
        if mounts != self.facts["mounts"] or facts != self.facts["told"]:
            self.facts.update(mounts=mounts, told=facts)
            await self.save()
            self.invalidate("summary", "info", "host")

    async def unmounted(self, host: Any) -> None:
        """A host sees it no more; without any host it is gone."""
        self.facts["mounts"].pop(host.moid, None)
        if self.facts["mounts"]:
            await self.save()
            self.invalidate("summary", "host")
            return
        await self.inventory.remove(self.inventory.get(self.facts["browser"]))
        await self.inventory.remove(self)

    def hosts(self) -> list[Any]:
        """The hosts that see it."""
        objects = self.inventory.objects
        return [objects[moid] for moid in self.facts["mounts"] if moid in objects]

    def access(self) -> tuple[HostClient, str]:
        """The client of a connected host that sees it, and its name there; HostNotConnected if there is none."""
        for host in self.hosts():
            if host.connection_state == "connected":
                return host.client(), self.facts["mounts"][host.moid]
        raise vmodl.fault.HostNotConnected(msg=f"No host that sees the datastore {self.name} is connected.")

    def vms(self) -> list[Any]:
        """VMs with a file on it."""
        return [vm for vm in self.inventory.all(vim.VirtualMachine) if self.name in vm.datastore_names_used()]

    # -- methods -----------------------------------------------------------------------------------------

    async def refresh_datastore(self, call: Call) -> None:
        client, name = self.access()
        with agent_faults(self):
            listed = await client.datastores()
        for told in listed:
            if told.name == name:
                self.facts["told"] = told.model_dump(mode="json")
                await self.save()
                self.invalidate("summary", "info")

    async def refresh_datastore_storage_info(self, call: Call) -> None:
        await self.refresh_datastore(call)

    async def rename_datastore(self, call: Call, new_name: str) -> None:
        await self._rename(new_name)

    async def rename_task(self, call: Call, new_name: str) -> vim.Task:
        call.require("Datastore.Rename", self)

        async def work(_: Any) -> None:
            await self._rename(new_name)

        return await self.inventory.tasks.start(call, self, "Datastore.rename", work)

    async def _rename(self, new_name: str) -> None:
        name = written_name(new_name, self.ref)
        for other in self.inventory.all(Datastore):
            if other is not self and other.name == name and other.parent is self.parent:
                raise vim.fault.DuplicateName(name=name, object=other.ref, msg=f"There is a datastore {name} already.")
        users = self.vms()
        before = self.name
        await self.rename(name)
        for vm in users:
            await vm.datastore_renamed(before, name)
        self.invalidate("summary", "info")

    # -- properties ----------------------------------------------------------------------------------------

    @property
    def told(self) -> HostDatastore:
        return HostDatastore.model_validate(self.facts["told"])

    def _summary(self) -> vim.Datastore.Summary:
        told = self.told
        connected = [host for host in self.hosts() if host.connection_state == "connected"]
        vms = self.vms()
        return vim.Datastore.Summary(
            datastore=self.ref,
            name=self.name,
            url=told.url,
            capacity=told.capacity,
            freeSpace=told.free,
            uncommitted=sum(vm.storage_uncommitted() for vm in vms if datastore_of(vm.state.vmx) == self.name),
            accessible=told.accessible and bool(connected),
            multipleHostAccess=len(self.facts["mounts"]) > 1,
            type=told.type,
            maintenanceMode="normal",
        )

    def _info(self) -> vim.Datastore.Info:
        told = self.told
        return vim.host.LocalDatastoreInfo(
            name=self.name,
            url=told.url,
            freeSpace=told.free,
            maxFileSize=_LARGEST_FILE,
            maxVirtualDiskCapacity=_LARGEST_FILE,
            maxMemoryFileSize=_LARGEST_FILE,
            timestamp=dt.datetime.now(dt.UTC),
            supportedVDiskFormats=["native_512"],
        )

    def _host(self) -> list[vim.Datastore.HostMount]:
        path = self.told.url.removeprefix("ds://")
        return [
            vim.Datastore.HostMount(
                key=host.ref,
                mountInfo=vim.host.MountInfo(path=path, accessMode="readWrite", mounted=True, accessible=True),
            )
            for host in self.hosts()
        ]

    def _vm(self) -> list[vim.VirtualMachine]:
        return [vm.ref for vm in self.vms()]


def find_datastore(inventory: Any, path: str, near: Entity | None) -> Datastore:
    """The datastore a path names, in the datacenter `near` is in; InvalidDatastorePath, InvalidDatastore if none."""
    name = datastore_of(path)
    if not name:
        raise vim.fault.InvalidDatastorePath(
            datastorePath=path, msg=f"{path!r} is not a datastore path like '[datastore1] folder/file'."
        )
    datacenter = near.ancestor(vim.Datacenter) if near is not None else None
    for datastore in inventory.all(Datastore):
        if datastore.name == name and (datacenter is None or datastore.ancestor(vim.Datacenter) is datacenter):
            found: Datastore = datastore
            return found
    raise vim.fault.InvalidDatastorePath(datastorePath=path, name=name, msg=f"There is no datastore called {name!r}.")
