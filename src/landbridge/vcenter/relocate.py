"""Moving VMs: RelocateVM_Task and MigrateVM_Task between hosts, between datastores, or both; copies to other hosts.

A specification becomes a plan (which host, datastores, networks, pool, folder), which is checked as a whole before
anything happens. What moves between hosts is a vMotion (`vmotion`); what moves on one host is the agent's job.
"""

import logging
import uuid
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl

from landbridge.esx.client import HostError, HostUnreachable
from landbridge.esx.model import ApiError, IncomingVm, Job, JobState, RelocateStorage, VmConfig, VmotionMode, VmState
from landbridge.vcenter import host_jobs, vmotion
from landbridge.vcenter.calls import Call
from landbridge.vcenter.hardware import spec as config_spec
from landbridge.vcenter.hardware.device_faults import invalid_argument, not_supported
from landbridge.vcenter.hardware.devices import datastore_of
from landbridge.vcenter.host_faults import agent_faults
from landbridge.vcenter.objects.network import InventoryNetworks
from landbridge.vcenter.placement import (
    choose_host,
    refuse_duplicate_vm,
    refuse_profiles,
    require_access,
    require_networks,
)
from landbridge.vcenter.tasks import TaskHandle, Tasks
from landbridge.vmodl.values import from_text, to_text

log = logging.getLogger(__name__)
RELOCATE, MIGRATE = "VirtualMachine.relocate", "VirtualMachine.migrate"
_RECONNECT = 120.0  # seconds hosts get to connect after a restart of vCenter before a move is looked for


@dataclass(frozen=True)
class Plan:
    """Where a VM goes. `home` and `disks` are Datastore objects; disks go with the home unless they are named."""

    host: Any
    pool: Any
    folder: Any
    home: Any
    disks: dict[int, Any]
    config: VmConfig
    moves_storage: bool


async def start(call: Call, vm: Any, spec: vim.vm.RelocateSpec, description_id: str = RELOCATE) -> vim.Task:
    """Start the task that makes the VM be where `spec` says."""

    async def work(task: TaskHandle) -> None:
        with vm.claimed(task), agent_faults(vm):
            await _relocate(task, vm, spec)
        vm.inventory.events.post(
            vim.event.VmMigratedEvent if description_id == MIGRATE else vim.event.VmRelocatedEvent,
            vm=vm,
            host=vm.host,
            user=call.user,
            message=f"{vm.name} is now on {vm.host.name}",
            template=False,
            sourceHost=vim.event.HostEventArgument(name=vm.host.name, host=vm.host.ref),
        )

    return await call.inventory.tasks.start(call, vm, description_id, work, cancelable=True, journal=_wish(spec))


def _wish(spec: vim.vm.RelocateSpec) -> dict[str, Any]:
    """What a move is begun from again: of the specification what is used here, and no login to another vCenter."""
    used = {name: getattr(spec, name) for name in ("host", "pool", "folder", "datastore", "disk", "deviceChange")}
    try:
        return {"spec": to_text(vim.vm.RelocateSpec(**used), "spec", vim.vm.RelocateSpec)}
    except TypeError as error:
        # Lacks what its type requires, though not what a move needs.
        log.info("a move that can not be begun again after a restart: %s", error)
        return {}


async def _relocate(task: TaskHandle, vm: Any, spec: vim.vm.RelocateSpec) -> None:
    source = vm.host
    told: VmState = await source.client().vm(vm.uuid)
    await vm.state_changed(told)
    plan = make_plan(vm, spec)
    await task.note(pool=plan.pool.moid if plan.pool is not None else None, folder=plan.folder.moid)
    if plan.host is source:
        task.allow_cancel(plan.moves_storage)
        if plan.config != vm.state.config:
            await vm.apply(plan.config, [], [])
        if plan.moves_storage:
            await _move_storage(task, vm, plan)
    else:
        with vm.inventory.hosts.expecting(vm.uuid):
            incoming = _incoming(vm, plan, told)
            shared = not plan.moves_storage
            await vmotion.run(task, vm.inventory, incoming, vm.uuid, source, plan.host, shared=shared)
            await _arrived(vm, plan.host)
    await _settle(vm, plan.pool, plan.folder)


async def _arrived(vm: Any, host: Any) -> None:
    """The target has the VM: from now on it is the VM's host."""
    told = await host.client().vm(vm.uuid)
    await vm.moved(host, told)


async def _settle(vm: Any, pool: Any, folder: Any) -> None:
    if pool is not None and vm.pool is not pool and not vm.state.config.template:
        await vm.enter_pool(pool)
    if folder is not None and folder is not vm.parent:
        await vm.move_to(folder)


# -- the plan ---------------------------------------------------------------------------------------------


def make_plan(vm: Any, spec: vim.vm.RelocateSpec) -> Plan:
    """What a specification comes to; raises the fault for what can not be done."""
    inventory = vm.inventory
    refuse_profiles(spec, "spec")
    pool = inventory.get(spec.pool, vim.ResourcePool) if spec.pool is not None else vm.pool
    folder = inventory.get(spec.folder, vim.Folder) if spec.folder is not None else vm.parent
    if folder is not vm.parent:
        refuse_duplicate_vm(folder, vm.name)
    home = inventory.get(spec.datastore, vim.Datastore) if spec.datastore is not None else None
    host = _target_host(vm, spec, pool, home)
    if pool is None or pool.owner is not host.parent:
        if spec.pool is not None:
            raise invalid_argument("spec.pool", f"{host.name} is not a host of the pool's compute resource")
        pool = host.parent.pool
    config = _mapped(vm, spec)
    home, disks, moves = _storage(vm, spec, host, home)
    for datastore in (home, *disks.values()):
        require_access(host, datastore)
    if host is not vm.host:
        require_networks(config, host, inventory)
        _require_media(config, host)
    if moves and vm.state.snapshots and host is not vm.host:
        raise vim.fault.SnapshotCopyNotSupported(
            msg=f"{vm.name} has {len(vm.state.snapshots)} snapshots: remove them before its disks move to another host."
        )
    return Plan(host, pool, folder, home, disks, config, moves)


def _target_host(vm: Any, spec: vim.vm.RelocateSpec, pool: Any, home: Any) -> Any:
    if spec.host is not None:
        host = vm.inventory.get(spec.host, vim.HostSystem)
        if host is not vm.host:
            host.require_usable()
        return host
    if spec.pool is not None and pool.owner is not vm.host.parent:
        return choose_host(pool, None, home)
    return vm.host


def _mapped(vm: Any, spec: vim.vm.RelocateSpec) -> VmConfig:
    """The configuration with the adapters' networks changed as `deviceChange` says; nothing else may change."""
    config: VmConfig = vm.state.config
    for index, change in enumerate(spec.deviceChange or []):
        if change.operation != "edit" or not isinstance(change.device, vim.vm.device.VirtualEthernetCard):
            raise not_supported(f"spec.deviceChange[{index}]: anything but another network for a network adapter")
    if not spec.deviceChange:
        return config
    wanted = vim.vm.ConfigSpec(deviceChange=spec.deviceChange)
    running = vmotion.mode_of(vm) is VmotionMode.LIVE
    networks = InventoryNetworks(vm.inventory)
    change = config_spec.changed(config, wanted, networks, vm.mac_taken, "", running=running)
    return change.config


def _storage(vm: Any, spec: vim.vm.RelocateSpec, host: Any, home: Any) -> tuple[Any, dict[int, Any], bool]:
    """The datastores of the home directory and of disks, by key, and whether any file moves."""
    inventory = vm.inventory
    located = {locator.diskId: inventory.get(locator.datastore, vim.Datastore) for locator in spec.disk or []}
    unknown = located.keys() - {disk.key for disk in vm.state.config.disks}
    if unknown:
        raise invalid_argument("spec.disk.diskId", f"{vm.name} has no disk with key {sorted(unknown)[0]}")
    now = {disk.key: vm.find_datastore_object(datastore_of(disk.path)) for disk in vm.state.config.disks}
    home_now = vm.find_datastore_object(datastore_of(vm.state.vmx))
    if home is None and host.is_mobility_agent and host is not vm.host:
        # An appliance has one place to put things, and nothing stays there.
        home = next(iter(host.datastores()), None)
    # A disk goes with the home directory if that is told to move; else it stays where it is.
    moved = home is not None
    disks = {key: located.get(key) or (home if moved else now[key]) for key in now}
    home = home or home_now
    if home is None or None in disks.values():
        raise invalid_argument("spec.datastore", f"the files of {vm.name} are on a datastore the inventory has not")
    stays = home is home_now and all(disks[key] is now[key] for key in now)
    visible = all(host.moid in datastore.facts["mounts"] for datastore in {home, *disks.values()})
    return home, disks, not (stays and visible)


def _require_media(config: VmConfig, host: Any) -> None:
    """CannotAccessVmDevice for a CD that is on a datastore the other host does not see."""
    names = {datastore.name for datastore in host.datastores()}
    for index, cdrom in enumerate(config.cdroms, 1):
        if cdrom.iso and cdrom.connected and datastore_of(cdrom.iso) not in names:
            raise vim.fault.CannotAccessVmDevice(
                device=f"CD/DVD drive {index}",
                backing=cdrom.iso,
                connected=True,
                msg=f"CD/DVD drive {index} holds {cdrom.iso}, which {host.name} does not see: take it out first.",
            )


def _incoming(vm: Any, plan: Plan, told: VmState) -> IncomingVm:
    """What the target is asked to receive. `told` is the VM in the source host's own words."""
    names = plan.host.datastore_names()
    home = names.to_host[plan.home.name]
    shared: dict[str, Any] = {}
    if not plan.moves_storage:
        shared = {
            "shared_disks": {disk.key: names.path_to_host(disk.path) for disk in vm.state.config.disks},
            "shared_vmx": names.path_to_host(vm.state.vmx),
        }
    return IncomingVm(
        id=uuid.uuid4().hex,
        mode=vmotion.mode_of(vm),
        source=told.config,
        sender_authority=told.sender_authority,
        config=names.config_to_host(plan.config),
        datastore=home,
        disk_datastores={key: name for key, d in plan.disks.items() if (name := names.to_host[d.name]) != home},
        **shared,
    )


# -- what moves on one host, and copies --------------------------------------------------------------------


async def _move_storage(task: TaskHandle, vm: Any, plan: Plan) -> None:
    names = plan.host.datastore_names()
    request = RelocateStorage(
        home=names.to_host[plan.home.name], disks={key: names.to_host[d.name] for key, d in plan.disks.items()}
    )
    client = plan.host.client()
    job = await client.relocate_storage(vm.uuid, request)
    await task.note(job=job.id)
    await host_jobs.follow(task, client, job)
    await vm.refresh()


async def copy(task: TaskHandle, vm: Any, host: Any, config: VmConfig, datastore: str) -> None:
    """Copy a VM to another host, under the UUIDs and the name of `config`; `datastore` is the host's name for it."""
    told = await vm.client().vm(vm.uuid)
    if told.snapshots:
        raise vim.fault.SnapshotCopyNotSupported(
            msg=f"{vm.name} has snapshots: remove them before it is cloned to another host."
        )
    names = host.datastore_names()
    incoming = IncomingVm(
        id=uuid.uuid4().hex,
        mode=VmotionMode.COPY,
        source=told.config,
        config=names.config_to_host(config),
        datastore=datastore,
    )
    await vmotion.run(task, vm.inventory, incoming, vm.uuid, vm.host, host, shared=False)


# -- after a restart of vCenter -----------------------------------------------------------------------------


def resumes(tasks: Tasks) -> None:
    """Moves that were under way when vCenter died are watched again."""
    tasks.on_resume(RELOCATE, _resume)
    tasks.on_resume(MIGRATE, _resume)


async def _resume(task: TaskHandle) -> None:
    inventory = task.task.inventory
    vm = inventory.get(task.entity)
    journal = task.journal
    with vm.claimed(task), agent_faults(vm):
        if "vmotion" in journal:
            await _resume_vmotion(task, vm, inventory)
        elif "job" in journal:
            client = await inventory.hosts.client_soon(vm.host, _RECONNECT)
            await host_jobs.follow(task, client, await _job(client, journal["job"]))
            await vm.refresh()
        else:
            await _begin_again(task, vm, inventory)
            return
        found: list[Any] = [inventory.objects.get(journal.get(name) or "") for name in ("pool", "folder")]
        pool, folder = found
        await _settle(vm, pool if pool is not None and pool.owner is vm.host.parent else None, folder)


async def _begin_again(task: TaskHandle, vm: Any, inventory: Any) -> None:
    """No host was asked anything yet: begin, once those it is about are connected."""
    if "spec" not in task.journal:
        raise HostError(
            ApiError(type="SystemError", message="vCenter was restarted before the move began: start it again.")
        )
    spec = from_text(task.journal["spec"], vim.vm.RelocateSpec)
    target = inventory.get(spec.host, vim.HostSystem) if spec.host is not None else vm.host
    for host in (vm.host, target):
        await inventory.hosts.client_soon(host, _RECONNECT)
    task.check_cancelled()
    await _relocate(task, vm, spec)


async def _resume_vmotion(task: TaskHandle, vm: Any, inventory: Any) -> None:
    journal = task.journal
    source, target = inventory.get(journal["source"]), inventory.get(journal["target"])
    with inventory.hosts.expecting(vm.uuid):
        for host in (source, target):
            try:
                await inventory.hosts.client_soon(host, _RECONNECT)
            except vmodl.MethodFault as error:
                log.warning("resuming a move: %s", error.msg)
        if vm.facts["host"] != target.moid:
            watch = vmotion.Watch(task, inventory, journal["vmotion"], source, target)
            await watch.outcome()
        await inventory.hosts.client_soon(target, _RECONNECT)
        await _arrived(vm, target)


async def _job(client: Any, job: str) -> Job:
    try:
        found: Job = await client.job(job)
    except HostUnreachable:
        # `follow` waits for the agent; the state is whatever it says when it is back.
        return Job(id=job, state=JobState.RUNNING)
    return found
