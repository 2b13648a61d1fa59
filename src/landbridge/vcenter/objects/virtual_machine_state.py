"""What a VirtualMachine object is: its state as the host told it, and the properties clients read from it."""

import datetime as dt
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from pyVmomi import vim

from landbridge.esx.client import HostClient
from landbridge.esx.model import PowerState, VmConfig, VmState
from landbridge.esx.model import Snapshot as HostSnapshot
from landbridge.vcenter.datastore_paths import DatastoreNames
from landbridge.vcenter.hardware import config_info
from landbridge.vcenter.hardware.devices import datastore_of
from landbridge.vcenter.host_faults import agent_faults
from landbridge.vcenter.managed import Entity
from landbridge.vcenter.objects.datastore import Datastore
from landbridge.vcenter.objects.network import InventoryNetworks
from landbridge.vcenter.objects.snapshot import Snapshot, snapshot_moid
from landbridge.vcenter.tasks import TaskHandle

# Properties that follow from the configuration, and from power state and snapshots; the rest change with counters.
_LAZY = ("config", "layoutEx", "storage", "datastore", "network", "snapshot", "rootSnapshot")


class VirtualMachineState(Entity):
    """Facts: host (moId), pool (moId, None for a template), state (VmState in the inventory's names of datastores)."""

    prefix = "vm"
    defaults: ClassVar[dict[str, Any]] = {"capability": config_info.CAPABILITY}

    def __init__(self, inventory: Any, moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self.state = VmState.model_validate(self.facts["state"])
        self._busy: TaskHandle | None = None
        self._missing = False
        for name in _LAZY:
            self.lazy(name, getattr(self, f"_{name.lower()}"))
        self.lazy("guest", lambda: config_info.guest_info(self.state, InventoryNetworks(self.inventory)))
        self.lazy("runtime", self._runtime)
        self.lazy("summary", self._summary)
        self.lazy("resourcePool", lambda: self.pool.ref if self.pool is not None else None)
        self.lazy("environmentBrowser", self._environmentbrowser)
        self.lazy("guestHeartbeatStatus", lambda: vim.ManagedEntity.Status(config_info.heartbeat(self.state)))
        self.lazy("resourceConfig", self._resourceconfig)

    # -- what others ask -----------------------------------------------------------------------------------

    @property
    def uuid(self) -> str:
        """The instance UUID, by which hosts know the VM."""
        return self.state.config.instance_uuid

    @property
    def host(self) -> Any:
        """Its HostSystem."""
        return self.inventory.objects.get(self.facts["host"])

    @property
    def pool(self) -> Any:
        """Its ResourcePool, None for a template."""
        return self.inventory.objects.get(self.facts.get("pool") or "")

    def client(self) -> HostClient:
        """The client of its host; HostNotConnected if that is away."""
        client: HostClient = self.inventory.hosts.client(self.host)
        return client

    def datastore_names_used(self) -> set[str]:
        """Names of the datastores its files are on."""
        paths = [self.state.vmx, *(disk.path for disk in self.state.config.disks)]
        return {datastore_of(path) for path in paths} - {""}

    def find_datastore(self, path: str) -> vim.Datastore | None:
        """The datastore a path of this VM is in: one of its host's."""
        name = datastore_of(path)
        host = self.host
        found = host.datastores() if host is not None else []
        return next((datastore.ref for datastore in found if datastore.name == name), None)

    def storage_uncommitted(self) -> int:
        """Bytes its disks may still grow by."""
        return config_info.uncommitted(self.state)

    def require_state(self, wanted: PowerState, *allowed: PowerState) -> None:
        """InvalidPowerState (asked for `wanted`) unless the VM is in one of the `allowed` states."""
        if self.state.power_state not in allowed:
            raise vim.fault.InvalidPowerState(
                requestedState=config_info.power_state(wanted),
                existingState=config_info.power_state(self.state.power_state),
                msg="The attempted operation cannot be performed in the current state "
                f"({self.state.power_state.value}).",
            )

    def refuse_template(self) -> None:
        """A template can not run or be changed."""
        if self.state.config.template:
            raise vim.fault.InvalidState(msg=f"{self.name} is a template: mark it as a virtual machine first.")

    @contextmanager
    def claimed(self, task: TaskHandle) -> Iterator[None]:
        """For the one task that changes the VM; TaskInProgress for a second one."""
        if self._busy is not None and self._busy is not task:
            other = self._busy.task
            raise vim.fault.TaskInProgress(
                task=other.ref, msg=f"Another task is already in progress: {other.info.descriptionId} ({other.moid})."
            )
        self._busy = task
        try:
            yield
        finally:
            self._busy = None

    @contextmanager
    def exclusive(self, task: TaskHandle) -> Iterator[HostClient]:
        """As `claimed`, with the host's client; what the agent refuses in here becomes the task's fault."""
        with self.claimed(task), agent_faults(self):
            yield self.client()

    # -- what hosts tell -----------------------------------------------------------------------------------

    async def state_changed(self, told: VmState, names: DatastoreNames | None = None) -> None:
        """The host told the VM's state, in the host's names of datastores (`names`, if the caller has them)."""
        state = (names or self.host.datastore_names()).state_from_host(told)
        before, self.state = self.state, state
        self._missing = False
        if _durable(before) != _durable(state):
            self.facts["state"] = _durable(state)
            if before.config != state.config:
                self.facts["modified"] = dt.datetime.now(dt.UTC).timestamp()
            if state.config.name != self.name:
                await self.rename(state.config.name)
            else:
                await self.save()
            self._register()
            self.invalidate(*_LAZY, "guest", "runtime", "summary", "guestHeartbeatStatus")
            await self._snapshots_changed(before.snapshots)
            self._tell_neighbours(before)
            self._post_changes(before)
        elif state != before:
            stale = ["summary"]
            if state.guest != before.guest:
                stale += ["guest", "guestHeartbeatStatus"]
            if state.storage_committed != before.storage_committed:
                stale.append("storage")
            if self.value("runtime").connectionState != self._connection():
                stale.append("runtime")
            self.invalidate(*stale)

    async def refresh(self) -> None:
        """Read the VM's state from its host now."""
        with agent_faults(self):
            await self.state_changed(await self.client().vm(self.uuid))

    async def moved(self, host: Any, told: VmState) -> None:
        """The VM is on another host now, in this state; durable when this returns."""
        old = self.host
        self.facts["host"] = host.moid
        self._missing = False
        elsewhere = self.pool is None or self.pool.owner is not host.parent
        if elsewhere and not self.state.config.template:
            await self._set_pool(host.parent.pool if host.parent is not None else None)
        await self.state_changed(told)
        await self.save()
        self.invalidate(*_LAZY, "runtime", "summary", "environmentBrowser", "resourcePool")
        for each in {old, host} - {None}:
            each.vms_changed()

    def orphaned(self) -> None:
        """The host does not list the VM any more, and nobody said it was removed."""
        self._missing = True
        self.invalidate("runtime", "summary")

    def connection_changed(self) -> None:
        """The host's connection is another."""
        self.invalidate("runtime", "summary")

    async def datastore_renamed(self, before: str, name: str) -> None:
        """A datastore has another name in the inventory: the VM's paths follow."""
        if self.host.connection_state == "connected":
            await self.refresh()

    async def enter_pool(self, pool: Any) -> None:
        """Become a VM of a pool of the same compute resource."""
        await self._set_pool(pool)
        await self.save()

    async def _set_pool(self, pool: Any) -> None:
        before = self.pool
        self.facts["pool"] = pool.moid if pool is not None else None
        self.invalidate("resourcePool")
        for each in {before, pool} - {None}:
            each.vms_changed()

    async def forget(self) -> None:
        """Take the VM out of the inventory; its files stay."""
        self.inventory.hosts.by_uuid.pop(self.uuid, None)
        for snapshot in self.state.snapshots:
            found = self.inventory.objects.get(snapshot_moid(self, snapshot.id))
            if found is not None:
                await self.inventory.remove(found)
        host, pool = self.host, self.pool
        before = self.state
        await self.inventory.remove(self)
        for each in (host, pool):
            if each is not None:
                each.vms_changed()
        self._tell_neighbours(before)

    def _register(self) -> None:
        self.inventory.hosts.by_uuid[self.uuid] = self

    def _tell_neighbours(self, before: VmState) -> None:
        """Datastores and networks list the VMs that use them."""
        objects = self.inventory.objects
        for key in {nic.network for config in (before.config, self.state.config) for nic in config.nics}:
            if key in objects:
                objects[key].invalidate("vm")
        host = self.host
        for datastore in host.datastores() if host is not None else []:
            datastore.invalidate("vm", "summary")

    async def _snapshots_changed(self, before: list[HostSnapshot]) -> None:
        objects = self.inventory.objects
        wanted = {snapshot_moid(self, snapshot.id): snapshot for snapshot in self.state.snapshots}
        present = {moid for snapshot in before if (moid := snapshot_moid(self, snapshot.id)) in objects}
        for moid in present - wanted.keys():
            await self.inventory.remove(objects[moid])
        for moid in wanted.keys() - objects.keys():
            facts = {"vm": self.moid, "id": wanted[moid].id}
            await self.inventory.add(Snapshot(self.inventory, moid, facts))
        for moid in wanted:
            objects[moid].invalidate("config", "childSnapshot")

    def _post_changes(self, before: VmState) -> None:
        kinds = {
            PowerState.ON: (vim.event.VmPoweredOnEvent, "powered on"),
            PowerState.OFF: (vim.event.VmPoweredOffEvent, "powered off"),
            PowerState.SUSPENDED: (vim.event.VmSuspendedEvent, "suspended"),
        }
        if before.power_state is not self.state.power_state:
            kind, words = kinds[self.state.power_state]
            message = f"{self.name} on {self.host.name} is {words}"
            self.inventory.events.post(kind, vm=self, host=self.host, message=message, template=False)

    # -- properties -----------------------------------------------------------------------------------------

    def _connection(self) -> str:
        host = self.host
        if host is None or host.connection_state != "connected":
            return "disconnected"
        if self._missing:
            return "orphaned"
        return "inaccessible" if self.state.invalid else "connected"

    def _runtime(self) -> vim.vm.RuntimeInfo:
        host = self.host
        return config_info.runtime_info(
            self.state, host.ref if host is not None else None, self._connection(), host.info.cpu_mhz if host else 0
        )

    def _summary(self) -> vim.vm.Summary:
        return config_info.summary(self.ref, self.state, self.value("runtime"), self.value("overallStatus"))

    def change_version(self) -> str:
        """Changes with every change of the configuration, wherever the VM is."""
        text = self.state.config.model_dump_json()
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def _config(self) -> vim.vm.ConfigInfo:
        return config_info.config_info(
            self.state,
            self.change_version(),
            self.facts.get("modified", 0.0),
            InventoryNetworks(self.inventory),
            self.find_datastore,
        )

    def _layoutex(self) -> vim.vm.FileLayoutEx:
        return config_info.layout_ex(self.state)

    def _storage(self) -> vim.vm.StorageInfo:
        return config_info.storage_info(self.state, self.find_datastore(self.state.vmx))

    def _datastore(self) -> list[vim.Datastore]:
        found = (self.find_datastore(f"[{name}] ") for name in sorted(self.datastore_names_used()))
        return [datastore for datastore in found if datastore is not None]

    def _network(self) -> list[vim.Network]:
        objects = self.inventory.objects
        keys = dict.fromkeys(nic.network for nic in self.state.config.nics if nic.network)
        return [objects[key].ref for key in keys if key in objects]

    def _snapshot(self) -> vim.vm.SnapshotInfo | None:
        if not self.state.snapshots:
            return None
        current = self.state.current_snapshot
        return vim.vm.SnapshotInfo(
            currentSnapshot=self._snapshot_ref(current) if current is not None else None,
            rootSnapshotList=config_info.snapshot_tree(self.ref, self.state.snapshots, self._snapshot_ref),
        )

    def _rootsnapshot(self) -> list[vim.vm.Snapshot]:
        return [self._snapshot_ref(snapshot.id) for snapshot in self.state.snapshots if snapshot.parent is None]

    def _snapshot_ref(self, snapshot: int) -> vim.vm.Snapshot:
        return vim.vm.Snapshot(snapshot_moid(self, snapshot), None)

    def _environmentbrowser(self) -> vim.EnvironmentBrowser | None:
        resource = self.host.parent if self.host is not None else None
        return resource.value("environmentBrowser") if resource is not None else None

    def _resourceconfig(self) -> vim.ResourceConfigSpec:
        allocation = config_info.unreserved()
        return vim.ResourceConfigSpec(
            entity=self.ref,
            changeVersion="1",
            lastModified=dt.datetime.fromtimestamp(0, dt.UTC),
            cpuAllocation=allocation,
            memoryAllocation=allocation,
        )

    def find_datastore_object(self, name: str) -> Datastore | None:
        """A datastore of its host by its name in the inventory."""
        return next((d for d in self.host.datastores() if d.name == name), None)


def _durable(state: VmState) -> dict[str, Any]:
    """The part of a state worth writing: counters and what the guest says go stale at once."""
    return state.model_dump(mode="json", exclude={"stats", "guest", "storage_committed"})


def renamed(config: VmConfig, name: str) -> VmConfig:
    """The same VM under another name."""
    return VmConfig.model_validate({**config.model_dump(), "name": name})
