"""ComputeResource (a host by itself) and ClusterComputeResource: hosts that share a root resource pool."""

from typing import Any

from pyVmomi import vim

from landbridge.vcenter.calls import Call
from landbridge.vcenter.hardware.device_faults import not_supported
from landbridge.vcenter.hardware.spec import refuse_unserved
from landbridge.vcenter.managed import Entity, Managed
from landbridge.vcenter.naming import written_name
from landbridge.vcenter.objects.environment_browser import EnvironmentBrowser
from landbridge.vcenter.objects.host_system import HostSystem
from landbridge.vcenter.objects.resource_pool import ResourcePool


class ComputeResource(Entity):
    """A standalone host's compute resource. Facts: pool (its root pool's moId), browser."""

    kind = vim.ComputeResource
    prefix = "domain-s"

    def __init__(self, inventory: Any, moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self.lazy("host", lambda: [host.ref for host in self.hosts()])
        self.lazy("datastore", self._datastores)
        self.lazy("network", self._networks)
        self.lazy("resourcePool", lambda: self.pool.ref)
        self.lazy("environmentBrowser", lambda: self.inventory.objects[self.facts["browser"]].ref)
        for name in ("summary", "configurationEx"):
            self.lazy(name, getattr(self, f"_{name.lower()}"))

    @classmethod
    async def made(cls, inventory: Any, parent: Managed, name: str) -> Any:
        """A new compute resource in a host folder, with its root pool and environment browser."""
        browser = EnvironmentBrowser(inventory, inventory.new_moid(EnvironmentBrowser.prefix))
        moid = inventory.new_moid(cls.prefix)
        pool = ResourcePool(inventory, inventory.new_moid(ResourcePool.prefix), {"name": "Resources", "parent": moid})
        resource = cls(
            inventory,
            moid,
            {"name": name, "parent": parent.moid, "pool": pool.moid, "browser": browser.moid},
        )
        browser.facts["owner"] = moid
        await inventory.add(browser)
        await inventory.add(resource)
        await inventory.add(pool)
        pool.set(parent=resource.ref)
        return resource

    @property
    def pool(self) -> ResourcePool:
        """The root resource pool."""
        pool: ResourcePool = self.inventory.get(self.facts["pool"])
        return pool

    def hosts(self) -> list[HostSystem]:
        return [child for child in self.inventory.children(self) if isinstance(child, HostSystem)]

    def child_added(self, child: Managed) -> None:
        self._hosts_changed()

    def child_removed(self, child: Managed) -> None:
        self._hosts_changed()

    def _hosts_changed(self) -> None:
        self.invalidate("host", "datastore", "network", "summary")

    async def host_removed(self, host: Managed) -> None:
        """A standalone host's compute resource goes with its host."""
        await self._remove()

    async def _remove(self) -> None:
        for pool in [p for p in self.inventory.all(ResourcePool) if p.owner is self and p is not self.pool]:
            await self.inventory.remove(pool)
        await self.inventory.remove(self.pool)
        await self.inventory.remove(self.inventory.get(self.facts["browser"]))
        await self.inventory.remove(self)

    # -- methods ------------------------------------------------------------------------------------------

    async def rename_task(self, call: Call, new_name: str) -> vim.Task:
        call.require("Host.Inventory.RenameCluster", self)

        async def work(_: Any) -> None:
            name = written_name(new_name, self.ref)
            siblings = self.inventory.children(self.parent) if self.parent is not None else []
            for other in siblings:
                if other is not self and other.name == name:
                    raise vim.fault.DuplicateName(name=name, object=other.ref, msg=f"{name} exists already.")
            await self.rename(name)

        return await self.inventory.tasks.start(call, self, "ComputeResource.rename", work)

    async def destroy_task(self, call: Call) -> vim.Task:
        call.require("Host.Inventory.DeleteCluster", self)

        async def work(_: Any) -> None:
            for host in self.hosts():
                if host.vms() and host.connection_state == "connected" and not host.in_maintenance:
                    raise vim.fault.InvalidState(
                        msg=f"{host.name} has VMs: disconnect it or put it into maintenance mode first."
                    )
            hosts = self.hosts()
            for host in hosts:
                await host.remove(call.user)
            if self.moid in self.inventory.objects:
                await self._remove()

        return await self.inventory.tasks.start(call, self, "ComputeResource.destroy", work)

    async def reconfigure_compute_resource_task(
        self, call: Call, spec: vim.ComputeResource.ConfigSpec, modify: bool = True
    ) -> vim.Task:
        """Takes what changes nothing; swap placement, DRS, HA and vSAN are not served."""
        refuse_unserved_cluster(spec)

        async def work(_: Any) -> None:
            return None

        return await self.inventory.tasks.start(call, self, "ComputeResource.reconfigureEx", work)

    # -- properties -----------------------------------------------------------------------------------------

    def _totals(self) -> dict[str, Any]:
        infos = [(host.info, host.is_usable) for host in self.hosts()]
        effective = [info for info, usable in infos if usable]
        return {
            "totalCpu": sum(info.cpu_mhz * info.cpu_cores for info, _ in infos),
            "totalMemory": sum(info.memory for info, _ in infos),
            "numCpuCores": sum(info.cpu_cores for info, _ in infos),
            "numCpuThreads": sum(info.cpu_threads for info, _ in infos),
            "effectiveCpu": sum(info.cpu_mhz * info.cpu_cores for info in effective),
            "effectiveMemory": sum(info.memory for info in effective) >> 20,
            "numHosts": len(infos),
            "numEffectiveHosts": len(effective),
            "overallStatus": vim.ManagedEntity.Status.green if len(effective) == len(infos) else "yellow",
        }

    def _summary(self) -> vim.ComputeResource.Summary:
        return vim.ComputeResource.Summary(**self._totals())

    def _configurationex(self) -> vim.ComputeResource.ConfigInfo:
        return vim.ComputeResource.ConfigInfo(vmSwapPlacement="vmDirectory", spbmEnabled=False)

    def _datastores(self) -> list[vim.Datastore]:
        moids = {host.moid for host in self.hosts()}
        return [d.ref for d in self.inventory.all(vim.Datastore) if moids & set(d.facts["mounts"])]

    def _networks(self) -> list[vim.Network]:
        seen: dict[str, vim.Network] = {}
        for host in self.hosts():
            seen.update((ref._moId, ref) for ref in host.value("network"))
        return list(seen.values())


class ClusterComputeResource(ComputeResource):
    """A cluster: hosts without DRS and HA, which are switched off and can not be switched on."""

    kind = vim.ClusterComputeResource
    prefix = "domain-c"

    def __init__(self, inventory: Any, moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self.lazy("configuration", self._configuration)

    async def host_removed(self, host: Managed) -> None:
        """A cluster stays when its hosts go."""

    async def add_host_task(
        self,
        call: Call,
        spec: vim.host.ConnectSpec,
        as_connected: bool = True,
        resource_pool: vim.ResourcePool | None = None,
        license_: str | None = None,
    ) -> vim.Task:
        from landbridge.vcenter import host_provisioning

        return await host_provisioning.add_host(call, self, spec, connect=as_connected)

    async def reconfigure_cluster_task(self, call: Call, spec: vim.cluster.ConfigSpec, modify: bool = True) -> vim.Task:
        return await self.reconfigure_compute_resource_task(call, spec, modify)

    def _summary(self) -> vim.ComputeResource.Summary:
        return vim.ClusterComputeResource.Summary(**self._totals(), currentFailoverLevel=0, numVmotions=0)

    def _configuration(self) -> vim.cluster.ConfigInfo:
        return vim.cluster.ConfigInfo(
            dasConfig=vim.cluster.DasConfigInfo(enabled=False), drsConfig=vim.cluster.DrsConfigInfo(enabled=False)
        )

    def _configurationex(self) -> vim.ComputeResource.ConfigInfo:
        return vim.cluster.ConfigInfoEx(
            vmSwapPlacement="vmDirectory",
            spbmEnabled=False,
            dasConfig=vim.cluster.DasConfigInfo(enabled=False),
            drsConfig=vim.cluster.DrsConfigInfo(enabled=False),
        )


def refuse_unserved_cluster(spec: Any) -> None:
    """NotSupported for a cluster specification that asks for more than a plain cluster."""
    if spec is None:
        return
    served = {"dynamicType", "dynamicProperty"}
    for name in ("dasConfig", "drsConfig", "dpmConfig"):
        part = getattr(spec, name, None)
        if part is not None and part.enabled:
            raise not_supported(f"A cluster with {name}.enabled")
        served.add(name)
    if getattr(spec, "vmSwapPlacement", None) in (None, "vmDirectory"):
        served.add("vmSwapPlacement")
    refuse_unserved(spec, frozenset(served), "spec")
