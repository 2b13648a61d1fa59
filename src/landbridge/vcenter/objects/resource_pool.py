"""ResourcePool: the root pool of a compute resource, and pools under it that group VMs.

Pools divide nothing here: no reservation, limit or share of theirs is enforced, and asking for one is NotSupported.
"""

from typing import Any

from pyVmomi import vim

from landbridge.vcenter.calls import Call
from landbridge.vcenter.discovery import vms_where
from landbridge.vcenter.hardware.config_info import unreserved
from landbridge.vcenter.hardware.device_faults import not_supported
from landbridge.vcenter.managed import Entity, Managed
from landbridge.vcenter.naming import written_name


class ResourcePool(Entity):
    """A resource pool. Facts: parent (a pool or its compute resource)."""

    kind = vim.ResourcePool
    prefix = "resgroup"

    def __init__(self, inventory: Any, moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        for name in ("owner", "vm", "summary", "runtime", "config", "childConfiguration"):
            self.lazy(name, getattr(self, f"_{name.lower()}"))
        self.lazy("resourcePool", lambda: [pool.ref for pool in self.pools()])

    @property
    def owner(self) -> Any:
        """The compute resource the pool belongs to."""
        return self.ancestor(vim.ComputeResource)

    def pools(self) -> list["ResourcePool"]:
        """The pools directly under this one."""
        return [child for child in self.inventory.children(self) if isinstance(child, ResourcePool)]

    def vms(self) -> list[Any]:
        """The VMs directly in this pool."""
        return vms_where(self.inventory, pool=self.moid)

    def vms_changed(self) -> None:
        self.invalidate("vm", "runtime", "summary")

    def child_added(self, child: Managed) -> None:
        self.invalidate("resourcePool")

    def child_removed(self, child: Managed) -> None:
        self.invalidate("resourcePool")

    # -- methods ----------------------------------------------------------------------------------------

    async def create_resource_pool(self, call: Call, name: str, spec: vim.ResourceConfigSpec | None = None) -> Any:
        _refuse_limits(spec)
        written = written_name(name)
        self._refuse_duplicate(written)
        pool = ResourcePool(
            self.inventory, self.inventory.new_moid(self.prefix), {"name": written, "parent": self.moid}
        )
        await self.inventory.add(pool)
        return pool.ref

    async def update_config(
        self, call: Call, name: str | None = None, config: vim.ResourceConfigSpec | None = None
    ) -> None:
        call.require("Resource.EditPool", self)
        _refuse_limits(config)
        if name and written_name(name) != self.name:
            self._refuse_root("renamed")
            parent = self.parent
            if isinstance(parent, ResourcePool):
                parent._refuse_duplicate(written_name(name))
            await self.rename(written_name(name))

    async def rename_task(self, call: Call, new_name: str) -> vim.Task:
        call.require("Resource.RenamePool", self)

        async def work(_: Any) -> None:
            await self.update_config(call, new_name)

        return await self.inventory.tasks.start(call, self, "ResourcePool.rename", work)

    async def move_into_resource_pool(self, call: Call, list_: list[vim.ManagedEntity]) -> None:
        call.require("Resource.AssignVMToPool", self)
        vms = [self.inventory.get(ref) for ref in list_]
        for vm in vms:
            if not isinstance(vm.ref, vim.VirtualMachine):
                raise not_supported("Moving pools into pools")
            if vm.pool is None or vm.pool.owner is not self.owner:
                raise not_supported("Moving a VM into a pool of another compute resource (RelocateVM_Task does that)")
        for vm in vms:
            await vm.enter_pool(self)

    async def destroy_task(self, call: Call) -> vim.Task:
        call.require("Resource.DeletePool", self)
        self._refuse_root("destroyed")

        async def work(_: Any) -> None:
            parent: Any = self.parent
            for vm in self.vms():
                await vm.enter_pool(parent)
            for pool in self.pools():
                await pool.move_to(parent)
            await self.inventory.remove(self)

        return await self.inventory.tasks.start(call, self, "ResourcePool.destroy", work)

    async def create_child_vm_task(
        self, call: Call, config: vim.vm.ConfigSpec, host: vim.HostSystem | None = None
    ) -> vim.Task:
        from landbridge.vcenter import provisioning

        return await provisioning.create_vm(call, self._vm_folder(), config, self.ref, host)

    async def register_child_vm_task(
        self, call: Call, path: str, name: str | None = None, host: vim.HostSystem | None = None
    ) -> vim.Task:
        from landbridge.vcenter import provisioning

        return await provisioning.register_vm(call, self._vm_folder(), path, name, False, self.ref, host)

    def _vm_folder(self) -> Any:
        datacenter = self.ancestor(vim.Datacenter)
        if datacenter is None:
            raise vim.fault.InvalidState(msg="The pool is in no datacenter.")
        return self.inventory.get(datacenter.value("vmFolder"))

    def _refuse_root(self, what: str) -> None:
        if not isinstance(self.parent, ResourcePool):
            raise not_supported(f"A root resource pool can not be {what}: that")

    def _refuse_duplicate(self, name: str) -> None:
        for pool in self.pools():
            if pool.name == name:
                raise vim.fault.DuplicateName(name=name, object=pool.ref, msg=f"There is a pool called {name} already.")

    # -- properties ---------------------------------------------------------------------------------------

    def _owner(self) -> vim.ComputeResource | None:
        return self.owner.ref if self.owner is not None else None

    def _vm(self) -> list[vim.VirtualMachine]:
        return [vm.ref for vm in self.vms()]

    def _config(self) -> vim.ResourceConfigSpec:
        return vim.ResourceConfigSpec(
            entity=self.ref, changeVersion="1", cpuAllocation=unreserved(), memoryAllocation=unreserved()
        )

    def _childconfiguration(self) -> list[vim.ResourceConfigSpec]:
        return [pool.value("config") for pool in self.pools()]

    def _runtime(self) -> vim.ResourcePool.RuntimeInfo:
        summary = self.owner.value("summary") if self.owner is not None else None
        states = [vm.state for vm in self.vms()]
        cpu = (summary.effectiveCpu if summary else 0, sum(state.stats.cpu_mhz for state in states))
        memory = (
            summary.effectiveMemory * (1 << 20) if summary else 0,
            sum(state.stats.memory_mib for state in states) << 20,
        )
        return vim.ResourcePool.RuntimeInfo(cpu=_usage(*cpu), memory=_usage(*memory), overallStatus="green")

    def _summary(self) -> vim.ResourcePool.Summary:
        return vim.ResourcePool.Summary(name=self.name, config=self._config(), runtime=self._runtime())


def _usage(most: int, used: int) -> vim.ResourcePool.ResourceUsage:
    return vim.ResourcePool.ResourceUsage(
        reservationUsed=0,
        reservationUsedForVm=0,
        unreservedForPool=most,
        unreservedForVm=most,
        overallUsage=used,
        maxUsage=most,
    )


def _refuse_limits(spec: vim.ResourceConfigSpec | None) -> None:
    if spec is None:
        return
    for allocation in (spec.cpuAllocation, spec.memoryAllocation):
        shares = allocation.shares if allocation is not None else None
        if allocation is not None and (
            allocation.reservation or allocation.limit not in (None, -1) or (shares and shares.level != "normal")
        ):
            raise not_supported("A resource pool with reservations, limits or shares")
