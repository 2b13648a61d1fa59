"""HostSystem: a host agent (or a mobility agent) in the inventory, its connection state and maintenance mode."""

import asyncio
import logging
from typing import Any, ClassVar

from pyVmomi import vim, vmodl

from landbridge.esx.client import HostClient, HostError
from landbridge.esx.model import HostInfo, HostStats, PowerState
from landbridge.vcenter.calls import Call
from landbridge.vcenter.datastore_paths import DatastoreNames
from landbridge.vcenter.discovery import vms_where
from landbridge.vcenter.hardware import host_info
from landbridge.vcenter.host_faults import agent_faults
from landbridge.vcenter.managed import Entity
from landbridge.vcenter.tasks import TaskHandle

log = logging.getLogger(__name__)
# The role of a mobility agent's certificate: an appliance that answers as a host.
MOBILITY_AGENT = "ix"


class HostSystem(Entity):
    """A host. Facts: address, port, thumbprint, role (esx or ix), info (HostInfo), connect (False: disconnected on
    purpose), parent (its compute resource)."""

    kind = vim.HostSystem
    prefix = "host"
    defaults: ClassVar[dict[str, Any]] = {
        "configManager": vim.host.ConfigManager(),
        "capability": host_info.CAPABILITY,
        "overallStatus": "gray",
    }

    def __init__(self, inventory: Any, moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self.connection_state = "disconnected" if not self.facts.get("connect", True) else "notResponding"
        self.stats: HostStats | None = None
        self._entering: asyncio.Event | None = None
        for name in ("runtime", "summary", "hardware", "config", "vm", "datastore", "network", "datastoreBrowser"):
            self.lazy(name, getattr(self, f"_{name.lower()}"))

    # -- what others ask ----------------------------------------------------------------------------------

    @property
    def info(self) -> HostInfo:
        """What the agent told last about the machine."""
        return HostInfo.model_validate(self.facts["info"])

    @property
    def is_mobility_agent(self) -> bool:
        return bool(self.facts.get("role") == MOBILITY_AGENT)

    @property
    def in_maintenance(self) -> bool:
        return bool(self.facts["info"].get("maintenance"))

    @property
    def is_usable(self) -> bool:
        """Whether VMs may be placed and started here."""
        return self.connection_state == "connected" and not self.in_maintenance and self._entering is None

    def client(self) -> HostClient:
        """The agent's client; HostNotConnected if it is not connected."""
        client: HostClient = self.inventory.hosts.client(self)
        return client

    def vms(self) -> list[Any]:
        """The VirtualMachine objects of this host."""
        return vms_where(self.inventory, host=self.moid)

    def datastores(self) -> list[Any]:
        """The Datastore objects this host sees."""
        return [d for d in self.inventory.all(vim.Datastore) if self.moid in d.facts["mounts"]]

    def switches(self) -> list[Any]:
        """The distributed switches this host is a member of."""
        return [s for s in self.inventory.all(vim.DistributedVirtualSwitch) if self.moid in s.facts["hosts"]]

    def datastore_names(self) -> DatastoreNames:
        """Names of datastores here and in the inventory."""
        names = DatastoreNames()
        for datastore in self.datastores():
            names.add(datastore.name, datastore.facts["mounts"][self.moid])
        return names

    def require_usable(self) -> None:
        """HostNotConnected or InvalidState if no VM can be placed or started here now."""
        self.client()
        if not self.is_usable:
            raise vim.fault.InvalidState(msg=f"{self.name} is in maintenance mode, or entering it.")

    # -- what the connection tells --------------------------------------------------------------------------

    async def info_changed(self, info: HostInfo) -> None:
        facts = info.model_dump(mode="json")
        if facts != self.facts.get("info"):
            self.facts["info"] = facts
            await self.save()
            self.invalidate("hardware", "config", "runtime", "summary")
            self._parent_changed()

    def connection_changed(self, state: str) -> None:
        """`connected`, `notResponding` or `disconnected`."""
        if state == self.connection_state:
            return
        before, self.connection_state = self.connection_state, state
        self.set(overallStatus={"connected": "green", "notResponding": "red"}.get(state, "gray"))
        self.invalidate("runtime", "summary")
        for vm in self.vms():
            vm.connection_changed()
        self._parent_changed()
        if state == "notResponding" and before == "connected":
            self.inventory.events.post(
                vim.event.HostConnectionLostEvent, host=self, message=f"Host {self.name} is not responding"
            )
        elif state == "connected":
            self.inventory.events.post(vim.event.HostConnectedEvent, host=self, message=f"Connected to {self.name}")

    def stats_changed(self, stats: HostStats) -> None:
        if self.stats is None or (stats.cpu_mhz, stats.memory_mib) != (self.stats.cpu_mhz, self.stats.memory_mib):
            self.stats = stats
            self.invalidate("summary")

    def storage_changed(self) -> None:
        self.invalidate("datastore")
        if (parent := self.parent) is not None:
            parent.invalidate("datastore")

    def networks_changed(self) -> None:
        self.invalidate("network")
        if (parent := self.parent) is not None:
            parent.invalidate("network")

    def vms_changed(self) -> None:
        self.invalidate("vm")

    async def push_port_groups(self, client: HostClient) -> None:
        """Make the host's switch have the port groups of the distributed switches it belongs to."""
        switches = self.switches()
        if not switches:
            return
        groups = [group for switch in switches for group in switch.port_groups()]
        try:
            await client.set_port_groups(groups)
        except HostError as error:
            # A VM may still use one that went away meanwhile; the host keeps what it has and is told again later.
            log.warning("%s does not take its port groups: %s", self.name, error)

    # -- methods ----------------------------------------------------------------------------------------------

    async def enter_maintenance_mode_task(
        self,
        call: Call,
        timeout: int = 0,
        evacuate_powered_off_vms: bool | None = None,
        maintenance_spec: vim.host.MaintenanceSpec | None = None,
    ) -> vim.Task:
        if evacuate_powered_off_vms:
            raise vmodl.fault.NotSupported(
                msg="Evacuation of powered-off VMs needs DRS: move them with RelocateVM_Task."
            )

        async def work(task: TaskHandle) -> None:
            await self._enter_maintenance(task, timeout or None)

        return await self.inventory.tasks.start(call, self, "HostSystem.enterMaintenanceMode", work, cancelable=True)

    async def _enter_maintenance(self, task: TaskHandle, timeout: float | None) -> None:
        """Waits, as vSphere without DRS does, until no VM runs here: somebody has to move them or stop them."""
        client = self.client()
        if self.in_maintenance:
            raise vim.fault.InvalidState(msg=f"{self.name} is in maintenance mode already.")
        if self._entering is not None:
            raise vim.fault.InvalidState(msg=f"{self.name} is entering maintenance mode already.")
        self._entering = task.cancel_requested
        try:
            async with asyncio.timeout(timeout):
                while self._running_vms():
                    task.check_cancelled()
                    await self.inventory.changed(self.inventory.version, 1.0)
                task.check_cancelled()
            with agent_faults(self):
                await self.info_changed(await client.set_maintenance(True))
        except TimeoutError:
            names = ", ".join(vm.name for vm in self._running_vms()[:5])
            raise vim.fault.Timedout(
                msg=f"VMs still run on {self.name}: {names}. Move them or power them off."
            ) from None
        finally:
            self._entering = None
        self.inventory.events.post(
            vim.event.EnteredMaintenanceModeEvent, host=self, message=f"{self.name} has entered maintenance mode"
        )

    def _running_vms(self) -> list[Any]:
        return [vm for vm in self.vms() if vm.state.power_state is PowerState.ON]

    async def exit_maintenance_mode_task(self, call: Call, timeout: int = 0) -> vim.Task:
        async def work(_: TaskHandle) -> None:
            client = self.client()
            if not self.in_maintenance:
                raise vim.fault.InvalidState(msg=f"{self.name} is not in maintenance mode.")
            with agent_faults(self):
                await self.info_changed(await client.set_maintenance(False))
            self.inventory.events.post(
                vim.event.ExitMaintenanceModeEvent, host=self, message=f"{self.name} has left maintenance mode"
            )

        return await self.inventory.tasks.start(call, self, "HostSystem.exitMaintenanceMode", work)

    async def disconnect_host_task(self, call: Call) -> vim.Task:
        async def work(_: TaskHandle) -> None:
            self.facts["connect"] = False
            await self.save()
            await self.inventory.hosts.close(self)
            self.connection_changed("disconnected")
            self.inventory.events.post(
                vim.event.HostDisconnectedEvent, host=self, user=call.user, message=f"{self.name} was disconnected"
            )

        return await self.inventory.tasks.start(call, self, "HostSystem.disconnect", work)

    async def reconnect_host_task(
        self,
        call: Call,
        cnx_spec: vim.host.ConnectSpec | None = None,
        reconnect_spec: vim.HostSystem.ReconnectSpec | None = None,
    ) -> vim.Task:
        if cnx_spec is not None and (cnx_spec.hostName or cnx_spec.sslThumbprint):
            raise vmodl.fault.NotSupported(msg="A host's address can not change: remove the host and add it again.")

        async def work(_: TaskHandle) -> None:
            self.facts["connect"] = True
            await self.save()
            connection = self.inventory.hosts.open(self)
            try:
                await asyncio.wait_for(connection.listed.wait(), 30)
            except TimeoutError:
                raise vim.fault.NoHost(name=self.name, msg=f"{self.name} does not answer.") from None

        return await self.inventory.tasks.start(call, self, "HostSystem.reconnect", work)

    async def destroy_task(self, call: Call) -> vim.Task:
        call.require("Host.Inventory.RemoveHostFromCluster", self)

        async def work(_: TaskHandle) -> None:
            vms = self.vms()
            if vms and self.connection_state == "connected" and not self.in_maintenance:
                raise vim.fault.InvalidState(
                    msg=f"{self.name} has {len(vms)} VMs: disconnect it or put it into maintenance mode first."
                )
            await self.remove(call.user)

        return await self.inventory.tasks.start(call, self, "HostSystem.destroy", work)

    async def remove(self, user: str) -> None:
        """Take the host out of the inventory, with its VMs and the datastores nobody else sees; it stays as it is."""
        await self.inventory.hosts.close(self)
        self.inventory.events.post(
            vim.event.HostRemovedEvent, host=self, user=user, message=f"Removed host {self.name}"
        )
        for vm in self.vms():
            await vm.forget()
        for switch in self.switches():
            await switch.leave(self)
        for datastore in self.datastores():
            await datastore.unmounted(self)
        parent: Any = self.parent
        await self.inventory.remove(self)
        if parent is not None:
            await parent.host_removed(self)

    # -- properties -----------------------------------------------------------------------------------------

    def _parent_changed(self) -> None:
        if (parent := self.parent) is not None:
            parent.invalidate("summary")

    def _runtime(self) -> vim.host.RuntimeInfo:
        return host_info.runtime(self.info, self.connection_state)

    def _summary(self) -> vim.host.Summary:
        return host_info.summary(
            self.ref,
            self.info,
            self._runtime(),
            self.stats,
            name=self.name,
            port=self.facts["port"],
            thumbprint=self.facts.get("thumbprint"),
            status=self.value("overallStatus"),
        )

    def _hardware(self) -> vim.host.HardwareInfo:
        return host_info.hardware(self.info)

    def _config(self) -> vim.host.ConfigInfo:
        return host_info.config(self.ref, self.info)

    def _vm(self) -> list[vim.VirtualMachine]:
        return [vm.ref for vm in self.vms()]

    def _datastore(self) -> list[vim.Datastore]:
        return [datastore.ref for datastore in self.datastores()]

    def _network(self) -> list[vim.Network]:
        return [group.ref for switch in self.switches() for group in switch.groups()]

    def _datastorebrowser(self) -> vim.host.DatastoreBrowser | None:
        return next((d.value("browser") for d in self.datastores()), None)
