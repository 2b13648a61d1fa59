"""VirtualMachine: its configuration and life in the inventory. Power, snapshots and moves are in modules beside."""

import datetime as dt
from typing import Any

from pyVmomi import vim, vmodl

from landbridge.esx.model import PowerState, ReconfigureVm, VmConfig, VmState
from landbridge.vcenter import provisioning, relocate
from landbridge.vcenter.calls import Call
from landbridge.vcenter.hardware import spec as config_spec
from landbridge.vcenter.hardware.device_faults import not_supported
from landbridge.vcenter.hardware.devices import datastore_of
from landbridge.vcenter.host_faults import agent_faults
from landbridge.vcenter.naming import written_name
from landbridge.vcenter.objects.network import InventoryNetworks
from landbridge.vcenter.objects.virtual_machine_power import PowerMethods
from landbridge.vcenter.objects.virtual_machine_snapshots import SnapshotMethods
from landbridge.vcenter.objects.virtual_machine_state import renamed
from landbridge.vcenter.tasks import TaskHandle


class VirtualMachine(PowerMethods, SnapshotMethods):
    """A virtual machine or, with `config.template`, a template."""

    kind = vim.VirtualMachine

    @classmethod
    async def made(cls, inventory: Any, host: Any, told: VmState, folder: Any, pool: Any) -> "VirtualMachine":
        """A VM the host has, taken into the inventory; durable when this returns."""
        state = host.datastore_names().state_from_host(told)
        template = state.config.template
        facts = {
            "name": state.config.name,
            "parent": folder.moid,
            "host": host.moid,
            "pool": pool.moid if pool is not None and not template else None,
            "modified": dt.datetime.now(dt.UTC).timestamp(),
            "state": state.model_dump(mode="json", exclude={"stats", "guest", "storage_committed"}),
        }
        vm = cls(inventory, inventory.new_moid(cls.prefix), facts)
        vm.state = state
        vm._register()
        await inventory.add(vm)
        await vm._snapshots_changed([])
        for each in (host, pool):
            if each is not None:
                each.vms_changed()
        vm._tell_neighbours(state)
        return vm

    @classmethod
    async def discovered(cls, inventory: Any, host: Any, told: VmState) -> "VirtualMachine | None":
        """A VM nobody here made: it goes into the datacenter's VM folder, under a name that is free there."""
        datacenter = host.ancestor(vim.Datacenter)
        if datacenter is None:
            return None
        folder = inventory.get(datacenter.value("vmFolder"))
        vm = await cls.made(inventory, host, told, folder, host.parent.pool)
        inventory.events.post(
            vim.event.VmDiscoveredEvent,
            vm=vm,
            host=host,
            message=f"Discovered {vm.name} on {host.name}",
            template=False,
        )
        return vm

    # -- configuration --------------------------------------------------------------------------------------

    async def reconfig_vm_task(self, call: Call, spec: vim.vm.ConfigSpec) -> vim.Task:
        call.require("VirtualMachine.Config.Settings", self)

        async def work(task: TaskHandle) -> None:
            self.refuse_template()
            with self.exclusive(task):
                await self.reconfigure(spec)
            self.inventory.events.post(
                vim.event.VmReconfiguredEvent,
                vm=self,
                host=self.host,
                user=call.user,
                message=f"Reconfigured {self.name}",
                template=False,
                configSpec=spec,
            )

        return await self.inventory.tasks.start(call, self, "VirtualMachine.reconfigure", work)

    async def reconfigure(self, spec: vim.vm.ConfigSpec) -> None:
        """Make the VM what `spec` says."""
        await self.refresh()
        if spec.changeVersion and spec.changeVersion != self.change_version():
            raise vim.fault.ConcurrentAccess(msg=f"{self.name} has changed since version {spec.changeVersion}.")
        if spec.files is not None and spec.files.vmPathName not in (None, "", self.state.vmx):
            raise not_supported("Moving a VM's files by reconfiguring it")
        change = config_spec.changed(
            self.state.config,
            spec,
            InventoryNetworks(self.inventory, self),
            self.mac_taken,
            datastore_of(self.state.vmx),
            running=self.state.power_state is PowerState.ON,
        )
        config = change.config
        if spec.name is not None and written_name(spec.name) != self.name:
            provisioning.refuse_duplicate_vm(self.parent, written_name(spec.name), self)
            config = renamed(config, written_name(spec.name))
        await self.apply(config, change.existing_disks, change.destroy_disks)

    async def apply(self, config: VmConfig, existing: list[int], destroy: list[int]) -> None:
        """Give the host a new configuration for the VM, made from the state read last."""
        host = self.host
        request = ReconfigureVm(
            config=host.datastore_names().config_to_host(config),
            version=self.state.version,
            existing_disks=existing,
            destroy_disks=destroy,
        )
        before = self.uuid
        with agent_faults(self), self.inventory.hosts.expecting(before, config.instance_uuid):
            told = await host.client().reconfigure_vm(before, request)
            if told.config.instance_uuid != before:
                self.inventory.hosts.by_uuid.pop(before, None)
            await self.state_changed(told)

    def mac_taken(self, mac: str) -> bool:
        """Whether any VM of this vCenter has a MAC address."""
        return any(nic.mac == mac for vm in self.inventory.all(VirtualMachine) for nic in vm.state.config.nics)

    async def rename_task(self, call: Call, new_name: str) -> vim.Task:
        call.require("VirtualMachine.Config.Rename", self)

        async def work(task: TaskHandle) -> None:
            name = written_name(new_name, self.ref)
            with self.exclusive(task):
                await self.refresh()
                provisioning.refuse_duplicate_vm(self.parent, name, self)
                await self.apply(renamed(self.state.config, name), [], [])
            self.inventory.events.post(
                vim.event.VmRenamedEvent,
                vm=self,
                host=self.host,
                user=call.user,
                message=f"Renamed a VM to {name}",
                template=False,
                oldName=self.name,
                newName=name,
            )

        return await self.inventory.tasks.start(call, self, "VirtualMachine.rename", work)

    async def mark_as_template(self, call: Call) -> None:
        self.require_state(PowerState.OFF, PowerState.OFF)
        if not self.state.config.template:
            await self.refresh()
            await self.apply(self.state.config.model_copy(update={"template": True}), [], [])
            await self.enter_pool(None)

    async def mark_as_virtual_machine(
        self, call: Call, pool: vim.ResourcePool, host: vim.HostSystem | None = None
    ) -> None:
        if not self.state.config.template:
            raise vim.fault.InvalidState(msg=f"{self.name} is not a template.")
        if host is not None and host._moId != self.facts["host"]:
            raise not_supported("Making a VM of a template on another host than its own")
        target = self.inventory.get(pool, vim.ResourcePool)
        if target.owner is not self.host.parent:
            raise vmodl.fault.InvalidArgument(
                invalidProperty="pool", msg=f"The pool is not of the compute resource {self.host.name} belongs to."
            )
        await self.refresh()
        await self.apply(self.state.config.model_copy(update={"template": False}), [], [])
        await self.enter_pool(target)

    async def refresh_storage_info(self, call: Call) -> None:
        await self.refresh()

    async def reload(self, call: Call) -> None:
        await self.refresh()

    # -- copies and moves ---------------------------------------------------------------------------------

    async def clone_vm_task(self, call: Call, folder: vim.Folder, name: str, spec: vim.vm.CloneSpec) -> vim.Task:
        call.require("VirtualMachine.Provisioning.Clone", self)
        return await provisioning.clone_vm(call, self, folder, name, spec)

    async def relocate_vm_task(self, call: Call, spec: vim.vm.RelocateSpec, priority: Any = None) -> vim.Task:
        return await relocate.start(call, self, spec)

    async def migrate_vm_task(
        self,
        call: Call,
        pool: vim.ResourcePool | None = None,
        host: vim.HostSystem | None = None,
        priority: Any = None,
        state: Any = None,
    ) -> vim.Task:
        call.require("Resource.HotMigrate", self)
        if state is not None:
            self.require_state(PowerState(str(state)), PowerState(str(state)))
        return await relocate.start(call, self, vim.vm.RelocateSpec(pool=pool, host=host), "VirtualMachine.migrate")

    # -- the end --------------------------------------------------------------------------------------------

    async def unregister_vm(self, call: Call) -> None:
        self.require_state(PowerState.OFF, PowerState.OFF, PowerState.SUSPENDED)
        running = self.inventory.tasks.running(self)
        if self._busy is not None:
            raise vim.fault.TaskInProgress(task=running[0].ref if running else None, msg=f"{self.name} is busy.")
        with self.inventory.hosts.expecting(self.uuid):
            if not self._missing:
                with agent_faults(self):
                    await self.client().unregister_vm(self.uuid)
            await self._removed(call.user, "Unregistered")

    async def destroy_task(self, call: Call) -> vim.Task:
        call.require("VirtualMachine.Inventory.Delete", self)

        async def work(task: TaskHandle) -> None:
            self.require_state(PowerState.OFF, PowerState.OFF, PowerState.SUSPENDED)
            with self.exclusive(task) as client:
                with self.inventory.hosts.expecting(self.uuid):
                    if not self._missing:
                        await client.destroy_vm(self.uuid)
                    await self._removed(call.user, "Deleted")

        return await self.inventory.tasks.start(call, self, "VirtualMachine.destroy", work)

    async def _removed(self, user: str, verb: str) -> None:
        self.inventory.events.post(
            vim.event.VmRemovedEvent,
            vm=self,
            host=self.host,
            user=user,
            message=f"{verb} {self.name} on {self.host.name}",
            template=False,
        )
        await self.forget()
