"""How VMs, hosts, clusters and switches come into the inventory: the work behind the folders' methods."""

import uuid
from typing import Any

from pyVmomi import vim

from landbridge.esx.model import CloneVm, CreateVm, PowerState, VmConfig
from landbridge.vcenter import host_jobs, relocate
from landbridge.vcenter.calls import Call
from landbridge.vcenter.datastore_paths import split_path
from landbridge.vcenter.hardware import spec as config_spec
from landbridge.vcenter.hardware.device_changes import generated_mac
from landbridge.vcenter.hardware.device_faults import invalid_argument, not_supported
from landbridge.vcenter.host_faults import agent_faults
from landbridge.vcenter.host_provisioning import add_standalone_host, create_cluster
from landbridge.vcenter.naming import written_name
from landbridge.vcenter.objects.datastore import find_datastore
from landbridge.vcenter.objects.distributed_switch import DistributedVirtualSwitch, refuse_unserved_switch
from landbridge.vcenter.objects.network import InventoryNetworks
from landbridge.vcenter.placement import (
    choose_host,
    refuse_duplicate_vm,
    refuse_profiles,
    require_access,
    require_networks,
    reserved_name,
)
from landbridge.vcenter.tasks import TaskHandle

__all__ = [
    "add_standalone_host",
    "clone_vm",
    "create_cluster",
    "create_dvs",
    "create_vm",
    "power_on_multi_vm",
    "refuse_duplicate_vm",
    "register_vm",
]


async def create_vm(call: Call, folder: Any, config: vim.vm.ConfigSpec, pool: Any, host: Any) -> vim.Task:
    """`Folder.CreateVM_Task`: a VM with its files, as the specification says."""
    inventory = call.inventory

    async def work(task: TaskHandle) -> Any:
        name = written_name(config.name, folder.ref)
        path = config.files.vmPathName if config.files is not None else None
        if not path:
            raise invalid_argument("configSpec.files.vmPathName", "it must name a datastore, as '[datastore1]'")
        datastore = find_datastore(inventory, path, folder)
        _refuse_other_directory(path, name)
        target_pool = inventory.get(pool, vim.ResourcePool)
        target = choose_host(target_pool, inventory.get(host) if host is not None else None, datastore)
        host_datastore = require_access(target, datastore)
        with reserved_name(folder, name):
            change = config_spec.new_vm(
                config, name, InventoryNetworks(inventory, folder), _mac_taken(inventory), datastore.name
            )
            require_networks(change.config, target, inventory)
            names = target.datastore_names()
            request = CreateVm(
                config=names.config_to_host(change.config),
                datastore=host_datastore,
                existing_disks=change.existing_disks,
            )
            with inventory.hosts.expecting(change.config.instance_uuid), agent_faults(folder):
                told = await target.client().create_vm(request)
                vm = await _made(inventory, target, told, folder, target_pool)
        inventory.events.post(
            vim.event.VmCreatedEvent,
            vm=vm,
            host=target,
            user=call.user,
            message=f"Created virtual machine {name} on {target.name}",
            template=False,
        )
        return vm.ref

    return await inventory.tasks.start(call, folder, "Folder.createVm", work)


def _refuse_other_directory(path: str, name: str) -> None:
    """The agent names a VM's directory after the VM: a path that says the same passes, another would be a lie."""
    rest = split_path(path)[1].strip("/")
    if rest not in {"", name, f"{name}/{name}.vmx"}:
        raise not_supported(f"A directory other than the VM's name (configSpec.files.vmPathName {path!r})")


def _mac_taken(inventory: Any) -> Any:
    return lambda mac: any(nic.mac == mac for vm in inventory.all(vim.VirtualMachine) for nic in vm.state.config.nics)


async def _made(inventory: Any, host: Any, told: Any, folder: Any, pool: Any) -> Any:
    from landbridge.vcenter.objects.virtual_machine import VirtualMachine

    return await VirtualMachine.made(inventory, host, told, folder, pool)


async def register_vm(
    call: Call, folder: Any, path: str, name: str | None, as_template: bool, pool: Any, host: Any
) -> vim.Task:
    """`Folder.RegisterVM_Task`: a VM whose files are on a datastore already."""
    inventory = call.inventory

    async def work(task: TaskHandle) -> Any:
        datastore = find_datastore(inventory, path, folder)
        if not path.endswith((".vmx", ".vmtx")):
            raise vim.fault.InvalidDatastorePath(datastorePath=path, msg=f"{path!r} is not the path of a VMX file.")
        target_host = inventory.get(host) if host is not None else None
        target_pool = inventory.get(pool, vim.ResourcePool) if pool is not None else None
        if target_pool is None and target_host is not None and not as_template:
            target_pool = target_host.parent.pool
        target = choose_host(target_pool, target_host, datastore)
        require_access(target, datastore)
        for vm in inventory.all(vim.VirtualMachine):
            if vm.state.vmx == path and vm.host is target:
                raise vim.fault.AlreadyExists(name=path, msg=f"{path} is registered already, as {vm.name}.")
        if name is not None:
            refuse_duplicate_vm(folder, written_name(name, folder.ref))
        host_path = target.datastore_names().path_to_host(path)
        with inventory.hosts.expecting(host_path), agent_faults(folder):
            client = target.client()
            told = await client.register_vm(host_path)
            try:
                wanted = written_name(name or told.config.name, folder.ref)
                with reserved_name(folder, wanted):
                    vm = await _made(inventory, target, told, folder, target_pool)
                    await _settle_registered(vm, wanted, template=as_template)
            except BaseException:
                if inventory.hosts.by_uuid.get(told.config.instance_uuid) is None:
                    await client.unregister_vm(told.config.instance_uuid)
                raise
        inventory.events.post(
            vim.event.VmRegisteredEvent,
            vm=vm,
            host=target,
            user=call.user,
            message=f"Registered {vm.name} on {target.name}",
            template=as_template,
        )
        return vm.ref

    return await inventory.tasks.start(call, folder, "Folder.registerVm", work)


async def _settle_registered(vm: Any, name: str, *, template: bool) -> None:
    """A registered VM takes the name and the kind it was registered as."""
    config: VmConfig = vm.state.config
    if config.name != name or config.template != template:
        wanted = VmConfig.model_validate({**config.model_dump(), "name": name, "template": template})
        await vm.apply(wanted, [], [])
        if template:
            await vm.enter_pool(None)


async def clone_vm(call: Call, source: Any, folder: vim.Folder, name: str, spec: vim.vm.CloneSpec) -> vim.Task:
    """`VirtualMachine.CloneVM_Task`: a full copy, on the VM's host or on another."""
    inventory = call.inventory
    if spec.customization is not None:
        raise not_supported("spec.customization")
    if spec.memory:
        raise not_supported("spec.memory")
    linked = "createNewChildDiskBacking"
    if spec.location.diskMoveType == linked or any(d.diskMoveType == linked for d in spec.location.disk or []):
        raise not_supported("A linked clone")
    refuse_profiles(spec.location, "spec.location")
    if spec.location.disk:
        raise not_supported("spec.location.disk")

    async def work(task: TaskHandle) -> Any:
        target_folder = inventory.get(spec.location.folder or folder, vim.Folder)
        written = written_name(name, target_folder.ref)
        with reserved_name(target_folder, written):
            vm = await _clone(task, call, source, target_folder, written, spec)
        inventory.events.post(
            vim.event.VmClonedEvent,
            vm=vm,
            host=vm.host,
            user=call.user,
            message=f"{source.name} was cloned to {vm.name}",
            template=False,
            sourceVm=vim.event.VmEventArgument(name=source.name, vm=source.ref),
        )
        if spec.powerOn and not spec.template:
            await vm.power_on(task)
        return vm.ref

    return await inventory.tasks.start(call, source, "VirtualMachine.clone", work, cancelable=True)


async def _clone(task: TaskHandle, call: Call, source: Any, folder: Any, name: str, spec: vim.vm.CloneSpec) -> Any:
    inventory, location = call.inventory, spec.location
    pool = inventory.get(location.pool, vim.ResourcePool) if location.pool is not None else source.pool
    if pool is None and not spec.template:
        raise invalid_argument("spec.location.pool", "a clone of a template needs a pool to run in")
    datastore = inventory.get(location.datastore) if location.datastore is not None else None
    if datastore is None:
        datastore = find_datastore(inventory, source.state.vmx, source)
    host = inventory.get(location.host) if location.host is not None else None
    if host is None:
        stays = pool is None or pool.owner is source.host.parent
        host = source.host if stays and source.host.moid in datastore.facts["mounts"] else None
    host = choose_host(pool, host, datastore)
    await source.refresh()
    config = _clone_config(source, name, spec, InventoryNetworks(inventory, folder), _mac_taken(inventory))
    require_networks(config, host, inventory)
    host_datastore = require_access(host, datastore)
    with inventory.hosts.expecting(config.instance_uuid), agent_faults(source):
        if host is source.host:
            names = host.datastore_names()
            request = CloneVm(
                config=names.config_to_host(config), datastore=host_datastore, snapshot=_snapshot_of(source, spec)
            )
            client = host.client()
            await host_jobs.follow(task, client, await client.clone_vm(source.uuid, request))
        else:
            if spec.snapshot is not None:
                raise not_supported("Cloning a snapshot to another host")
            await relocate.copy(task, source, host, config, host_datastore)
        told = await host.client().vm(config.instance_uuid)
        return await _made(inventory, host, told, folder, pool)


def _snapshot_of(source: Any, spec: vim.vm.CloneSpec) -> int | None:
    if spec.snapshot is None:
        return None
    snapshot = source.inventory.get(spec.snapshot, vim.vm.Snapshot)
    if snapshot.vm is not source:
        raise invalid_argument("spec.snapshot", f"it is not a snapshot of {source.name}")
    return int(snapshot.id)


def _clone_config(source: Any, name: str, spec: vim.vm.CloneSpec, networks: Any, mac_taken: Any) -> VmConfig:
    """The clone's configuration: the source's, with its own name, UUIDs and addresses, changed as the spec says."""
    config: VmConfig = source.state.config.model_copy(deep=True)
    config = VmConfig.model_validate(
        {
            **config.model_dump(),
            "name": name,
            "instance_uuid": str(uuid.uuid4()),
            "uuid": str(uuid.uuid4()),
            "template": bool(spec.template),
        }
    )
    for nic in config.nics:
        nic.mac = generated_mac(mac_taken)
    for disk in config.disks:
        disk.uuid = None
    changes = vim.vm.ConfigSpec() if spec.config is None else spec.config
    if spec.location.deviceChange:
        config = config_spec.changed(
            config, vim.vm.ConfigSpec(deviceChange=spec.location.deviceChange), networks, mac_taken, ""
        ).config
    change = config_spec.changed(config, changes, networks, mac_taken, "")
    if change.existing_disks or change.destroy_disks or len(change.config.disks) != len(config.disks):
        raise not_supported("Adding or removing disks while cloning (reconfigure the clone)")
    return change.config


async def create_dvs(call: Call, folder: Any, spec: vim.DistributedVirtualSwitch.CreateSpec) -> vim.Task:
    """`Folder.CreateDVS_Task`: a distributed switch, and its member hosts."""
    inventory = call.inventory

    async def work(task: TaskHandle) -> Any:
        wanted = spec.configSpec
        refuse_unserved_switch(wanted)
        name = written_name(wanted.name, folder.ref)
        for other in inventory.children(folder):
            if other.name == name:
                raise vim.fault.DuplicateName(name=name, object=other.ref, msg=f"{name} exists already.")
        switch = await DistributedVirtualSwitch.made(inventory, folder, name, wanted.description or "")
        try:
            await switch.change_members(wanted.host or [])
        except BaseException:
            for host in switch.hosts():
                await switch.leave(host)
            await inventory.remove(switch)
            raise
        inventory.events.post(
            vim.event.DvsCreatedEvent,
            dvs=switch,
            user=call.user,
            message=f"Created the distributed switch {name}",
            parent=vim.event.FolderEventArgument(folder=folder.ref, name=folder.name),
        )
        return switch.ref

    return await inventory.tasks.start(call, folder, "Folder.createDistributedVirtualSwitch", work)


async def power_on_multi_vm(call: Call, datacenter: Any, vm: list[Any], option: Any = None) -> vim.Task:
    """`Datacenter.PowerOnMultiVM_Task`: VMs powered on; which were, which could not be and why is in the result."""
    inventory = call.inventory
    machines = [inventory.get(ref, vim.VirtualMachine) for ref in vm]
    for machine in machines:
        call.require("VirtualMachine.Interact.PowerOn", machine)

    async def work(task: TaskHandle) -> Any:
        attempted, refused = [], []
        for index, machine in enumerate(machines):
            task.progress(index * 100 // len(machines))
            if machine.state.power_state is PowerState.ON:
                on = vim.VirtualMachine.PowerState.poweredOn
                fault = vim.fault.InvalidPowerState(requestedState=on, existingState=on)
                refused.append(vim.cluster.NotAttemptedVmInfo(vm=machine.ref, fault=fault))
                continue
            reference = await machine.power_on_vm_task(call)
            attempted.append(vim.cluster.AttemptedVmInfo(vm=machine.ref, task=reference))
        return vim.cluster.PowerOnVmResult(attempted=attempted, notAttempted=refused)

    return await inventory.tasks.start(call, datacenter, "Datacenter.powerOnVm", work)
