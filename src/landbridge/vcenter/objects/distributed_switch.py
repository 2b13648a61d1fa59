"""VmwareDistributedVirtualSwitch: port groups that all its member hosts' switches have."""

import datetime as dt
import logging
import uuid
from collections.abc import Iterable
from typing import Any, ClassVar

from pyVmomi import vim

from landbridge.esx.model import PortGroup
from landbridge.vcenter.calls import Call
from landbridge.vcenter.hardware.config_info import moment
from landbridge.vcenter.hardware.device_faults import invalid_argument, not_supported
from landbridge.vcenter.managed import Entity
from landbridge.vcenter.naming import written_name
from landbridge.vcenter.objects.network import DistributedVirtualPortgroup, segment_of, vlan_of

log = logging.getLogger(__name__)
_vmware = vim.dvs.VmwareDistributedVirtualSwitch
_PRODUCT = vim.dvs.ProductSpec(
    name="DVS", vendor="landbridge (Open vSwitch)", version="8.0.3", build="1", forwardingClass="etherswitch"
)


class DistributedVirtualSwitch(Entity):
    """Facts: uuid, hosts (moIds of the members), created, description, mtu."""

    kind = vim.dvs.VmwareDistributedVirtualSwitch
    prefix = "dvs"
    defaults: ClassVar[dict[str, Any]] = {
        "capability": vim.DistributedVirtualSwitch.Capability(
            dvsOperationSupported=True, dvPortGroupOperationSupported=True, dvPortOperationSupported=False
        )
    }

    def __init__(self, inventory: Any, moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self._properties["uuid"] = self.facts.get("uuid")
        self.lazy("portgroup", lambda: [group.ref for group in self.groups()])
        for name in ("summary", "config", "runtime"):
            self.lazy(name, getattr(self, f"_{name}"))

    @classmethod
    async def made(cls, inventory: Any, folder: Entity, name: str, description: str) -> "DistributedVirtualSwitch":
        """A new switch in a network folder, without hosts."""
        digits = uuid.uuid4().hex
        pairs = [digits[i : i + 2] for i in range(0, 32, 2)]
        facts = {
            "name": name,
            "parent": folder.moid,
            "uuid": " ".join(pairs[:8]) + "-" + " ".join(pairs[8:]),
            "hosts": [],
            "created": dt.datetime.now(dt.UTC).timestamp(),
            "description": description,
        }
        switch = cls(inventory, inventory.new_moid(cls.prefix), facts)
        await inventory.add(switch)
        return switch

    @property
    def uuid(self) -> str:
        """Its UUID as NICs' backings name it."""
        return str(self.facts["uuid"])

    def groups(self) -> list[DistributedVirtualPortgroup]:
        """Its port groups."""
        return [g for g in self.inventory.all(DistributedVirtualPortgroup) if g.facts["switch"] == self.moid]

    def port_groups(self) -> list[PortGroup]:
        """Its port groups as hosts know them."""
        return [group.model() for group in self.groups()]

    def hosts(self) -> list[Any]:
        """Its member hosts."""
        objects = self.inventory.objects
        return [objects[moid] for moid in self.facts["hosts"] if moid in objects]

    async def push(self) -> None:
        """Tell all connected members what port groups there are; the others are told when they connect."""
        for host in self.hosts():
            if host.connection_state == "connected":
                await host.push_port_groups(host.client())

    def groups_changed(self) -> None:
        """Port groups came, went or changed."""
        self.invalidate("portgroup", "summary", "config")
        for host in self.hosts():
            host.networks_changed()

    def refuse_duplicate(self, name: str) -> None:
        """DuplicateName if a network of the folder is called so."""
        parent = self.parent
        for other in self.inventory.children(parent) if parent is not None else []:
            if other.name == name:
                raise vim.fault.DuplicateName(name=name, object=other.ref, msg=f"{name} exists already.")

    # -- members ------------------------------------------------------------------------------------------

    async def change_members(self, specs: Iterable[vim.dvs.HostMember.ConfigSpec]) -> None:
        """Add and remove member hosts; AlreadyExists, NotFound or ResourceInUse."""
        for spec in specs:
            host = self.inventory.get(spec.host, vim.HostSystem)
            if spec.operation == "add":
                await self._join(host)
            elif spec.operation == "remove":
                self._refuse_used(host)
                await self.leave(host)
            elif spec.operation != "edit":
                raise invalid_argument("spec.host.operation", f"{spec.operation!r} is not an operation")

    async def _join(self, host: Any) -> None:
        if host.moid in self.facts["hosts"]:
            raise vim.fault.AlreadyExists(name=host.name, msg=f"{host.name} is a member of {self.name} already.")
        others = host.switches()
        if others:
            raise vim.fault.ResourceInUse(
                type=vim.HostSystem,
                name=host.name,
                msg=f"The uplink of {host.name} belongs to {others[0].name}; a host is a member of one switch.",
            )
        self.facts["hosts"].append(host.moid)
        await self.save()
        self._members_changed([host])
        if host.connection_state == "connected":
            await host.push_port_groups(host.client())

    def _refuse_used(self, host: Any) -> None:
        keys = {group.moid for group in self.groups()}
        for vm in host.vms():
            if any(nic.network in keys for nic in vm.state.config.nics):
                raise vim.fault.ResourceInUse(
                    type=vim.HostSystem, name=host.name, msg=f"{vm.name} on {host.name} is connected to {self.name}."
                )

    async def leave(self, host: Any) -> None:
        """A host is no member any more."""
        if host.moid in self.facts["hosts"]:
            self.facts["hosts"].remove(host.moid)
            await self.save()
            self._members_changed([host])

    def _members_changed(self, hosts: list[Any]) -> None:
        self.invalidate("summary", "config", "runtime")
        for group in self.groups():
            group.invalidate("host")
        for host in hosts:
            host.networks_changed()

    # -- methods ------------------------------------------------------------------------------------------

    async def add_dv_portgroup_task(
        self, call: Call, spec: list[vim.dvs.DistributedVirtualPortgroup.ConfigSpec]
    ) -> vim.Task:
        async def work(_: Any) -> None:
            await self._add_groups(list(spec))

        return await self.inventory.tasks.start(call, self, "DistributedVirtualSwitch.addPortgroups", work)

    async def create_dv_portgroup_task(
        self, call: Call, spec: vim.dvs.DistributedVirtualPortgroup.ConfigSpec
    ) -> vim.Task:
        async def work(_: Any) -> Any:
            return (await self._add_groups([spec]))[0].ref

        return await self.inventory.tasks.start(call, self, "DistributedVirtualSwitch.addPortgroup", work)

    async def _add_groups(self, specs: list[Any]) -> list[DistributedVirtualPortgroup]:
        wanted = [
            {
                "name": written_name(spec.name),
                "parent": self.facts["parent"],
                "switch": self.moid,
                "vlan": vlan_of(spec),
                "description": spec.description or "",
                "segment": segment_of(spec),
            }
            for spec in specs
        ]
        for facts in wanted:
            if facts["segment"] and facts["vlan"]:
                raise invalid_argument("spec.defaultPortConfig.vlan", f"{facts['name']} is an NSX segment: no VLAN")
            self.refuse_duplicate(facts["name"])
        if len({facts["name"] for facts in wanted}) < len(wanted):
            raise invalid_argument("spec.name", "two of the port groups have one name")
        added = []
        for facts in wanted:
            group = DistributedVirtualPortgroup(
                self.inventory, self.inventory.new_moid(DistributedVirtualPortgroup.prefix), facts
            )
            await self.inventory.add(group)
            added.append(group)
        self.groups_changed()
        await self.push()
        return added

    async def reconfigure_dvs_task(self, call: Call, spec: vim.DistributedVirtualSwitch.ConfigSpec) -> vim.Task:
        call.require("DVSwitch.Modify", self)
        refuse_unserved_switch(spec)

        async def work(_: Any) -> None:
            if spec.name and written_name(spec.name) != self.name:
                self.refuse_duplicate(written_name(spec.name))
                await self.rename(written_name(spec.name))
            if spec.description is not None:
                self.facts["description"] = spec.description
            await self.change_members(spec.host or [])
            await self.save()
            self.invalidate("summary", "config")

        return await self.inventory.tasks.start(call, self, "DistributedVirtualSwitch.reconfigure", work)

    async def rename_task(self, call: Call, new_name: str) -> vim.Task:
        return await self.reconfigure_dvs_task(call, _vmware.ConfigSpec(name=new_name))

    async def destroy_task(self, call: Call) -> vim.Task:
        call.require("DVSwitch.Delete", self)

        async def work(_: Any) -> None:
            for host in self.hosts():
                self._refuse_used(host)
            hosts = self.hosts()
            for group in self.groups():
                await self.inventory.remove(group)
            await self.inventory.remove(self)
            for host in hosts:
                host.networks_changed()
                if host.connection_state == "connected":
                    await host.client().set_port_groups([])

        return await self.inventory.tasks.start(call, self, "DistributedVirtualSwitch.destroy", work)

    async def fetch_dv_ports(self, call: Call, criteria: Any = None) -> list[Any]:
        """Ports have no identity of their own here."""
        raise not_supported("Listing single distributed ports")

    # -- properties ---------------------------------------------------------------------------------------

    def _summary(self) -> vim.DistributedVirtualSwitch.Summary:
        groups = self.groups()
        hosts = [host.ref for host in self.hosts()]
        return vim.DistributedVirtualSwitch.Summary(
            name=self.name,
            uuid=self.uuid,
            numPorts=sum(len(group.vms()) for group in groups),
            productInfo=_PRODUCT,
            hostMember=hosts,
            host=hosts,
            portgroupName=[group.name for group in groups],
            description=self.facts.get("description", ""),
            numHosts=len(hosts),
        )

    def _config(self) -> vim.dvs.VmwareDistributedVirtualSwitch.ConfigInfo:
        vlan = _vmware.VlanIdSpec(inherited=False, vlanId=0)
        members = [
            vim.dvs.HostMember(
                config=vim.dvs.HostMember.ConfigInfo(
                    host=host.ref,
                    maxProxySwitchPorts=1024,
                    backing=vim.dvs.HostMember.PnicBacking(
                        pnicSpec=[vim.dvs.HostMember.PnicSpec(pnicDevice="uplink0")]
                    ),
                ),
                status="up" if host.connection_state == "connected" else "disconnected",
            )
            for host in self.hosts()
        ]
        return _vmware.ConfigInfo(
            uuid=self.uuid,
            name=self.name,
            numStandalonePorts=0,
            numPorts=sum(len(group.vms()) for group in self.groups()),
            maxPorts=2147483647,
            uplinkPortPolicy=vim.DistributedVirtualSwitch.NameArrayUplinkPortPolicy(uplinkPortName=["uplink0"]),
            defaultPortConfig=_vmware.VmwarePortConfigPolicy(vlan=vlan),
            host=members,
            productInfo=_PRODUCT,
            description=self.facts.get("description", ""),
            configVersion="1",
            contact=vim.DistributedVirtualSwitch.ContactInfo(),
            createTime=moment(self.facts["created"]),
            networkResourceManagementEnabled=False,
            maxMtu=1500,
        )

    def _runtime(self) -> vim.DistributedVirtualSwitch.RuntimeInfo:
        member = vim.dvs.HostMember.RuntimeInfo
        return vim.DistributedVirtualSwitch.RuntimeInfo(
            hostMemberRuntime=[
                member(host=host.ref, status="up" if host.connection_state == "connected" else "disconnected")
                for host in self.hosts()
            ]
        )


def refuse_unserved_switch(spec: vim.DistributedVirtualSwitch.ConfigSpec) -> None:
    """NotSupported for what the hosts' switches do not do."""
    if getattr(spec, "maxMtu", None) not in (None, 0, 1500):
        raise not_supported("An MTU other than 1500")
    for name in ("pvlanConfigSpec", "vspanConfigSpec", "ipfixConfig"):
        if getattr(spec, name, None):
            raise not_supported(f"spec.{name}")
