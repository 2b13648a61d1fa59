"""Network: what VMs' adapters connect to. Here every network is a distributed port group."""

from typing import Any

from pyVmomi import vim

from landbridge.esx.model import PortGroup
from landbridge.vcenter.calls import Call
from landbridge.vcenter.hardware.device_faults import invalid_argument, not_supported
from landbridge.vcenter.hardware.networks import PortGroupView
from landbridge.vcenter.managed import Entity
from landbridge.vcenter.naming import written_name

_vmware = vim.dvs.VmwareDistributedVirtualSwitch


class DistributedVirtualPortgroup(Entity):
    """A distributed port group. Its key, by which hosts know it, is its moId.

    Facts: switch, vlan, description; for a group that NSX realises `segment`, a dict of what NSX said of it.
    """

    kind = vim.dvs.DistributedVirtualPortgroup
    prefix = "dvportgroup"

    def __init__(self, inventory: Any, moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        for name in ("summary", "host", "vm", "config"):
            self.lazy(name, getattr(self, f"_{name}"))
        self._properties["key"] = moid
        self._properties["portKeys"] = []

    @property
    def switch(self) -> Any:
        """The distributed switch it is on."""
        return self.inventory.get(self.facts["switch"])

    @property
    def segment(self) -> dict[str, str]:
        """What NSX said of the segment behind it, by the API's names; empty if there is none."""
        found: dict[str, str] = self.facts.get("segment") or {}
        return found

    def model(self) -> PortGroup:
        """As hosts know it."""
        segment = self.segment.get("logicalSwitchUuid", "")
        return PortGroup(key=self.moid, name=self.name, vlan=self.facts["vlan"], segment=segment)

    def view(self) -> PortGroupView:
        """As NICs' backings name it."""
        return PortGroupView(self.moid, self.name, self.switch.uuid, segment=bool(self.segment))

    def vms(self) -> list[Any]:
        """VMs with an adapter on it."""
        return [
            vm
            for vm in self.inventory.all(vim.VirtualMachine)
            if any(nic.network == self.moid for nic in vm.state.config.nics)
        ]

    # -- methods ------------------------------------------------------------------------------------------

    async def reconfigure_dv_portgroup_task(
        self, call: Call, spec: vim.dvs.DistributedVirtualPortgroup.ConfigSpec
    ) -> vim.Task:
        call.require("DVPortgroup.Modify", self)
        vlan = vlan_of(spec, self.facts["vlan"])
        if segment_of(spec) != self.segment and spec.backingType is not None:
            raise not_supported("To give a port group another segment")
        if self.segment and vlan:
            raise invalid_argument("spec.defaultPortConfig.vlan", f"{self.name} is an NSX segment: it has no VLAN")

        async def work(_: Any) -> None:
            if spec.name and written_name(spec.name) != self.name:
                await self._take_name(spec.name)
            if spec.description is not None:
                self.facts["description"] = spec.description
            self.facts["vlan"] = vlan
            await self.save()
            self.invalidate("config", "summary")
            await self.switch.push()

        return await self.inventory.tasks.start(call, self, "DistributedVirtualPortgroup.reconfigure", work)

    async def rename_task(self, call: Call, new_name: str) -> vim.Task:
        call.require("DVPortgroup.Modify", self)

        async def work(_: Any) -> None:
            await self._take_name(new_name)
            await self.switch.push()

        return await self.inventory.tasks.start(call, self, "DistributedVirtualPortgroup.rename", work)

    async def _take_name(self, new_name: str) -> None:
        name = written_name(new_name, self.ref)
        self.switch.refuse_duplicate(name)
        await self.rename(name)
        self.invalidate("config", "summary")
        self.switch.groups_changed()

    async def destroy_task(self, call: Call) -> vim.Task:
        call.require("DVPortgroup.Delete", self)

        async def work(_: Any) -> None:
            users = self.vms()
            if users:
                names = ", ".join(vm.name for vm in users[:5])
                raise vim.fault.ResourceInUse(
                    type=self.kind, name=self.name, msg=f"The port group {self.name} is in use by {names}."
                )
            switch = self.switch
            await self.inventory.remove(self)
            switch.groups_changed()
            await switch.push()

        return await self.inventory.tasks.start(call, self, "DistributedVirtualPortgroup.destroy", work)

    # -- properties -----------------------------------------------------------------------------------------

    def _summary(self) -> vim.Network.Summary:
        return vim.Network.Summary(network=self.ref, name=self.name, accessible=True, ipPoolName="", ipPoolId=0)

    def _host(self) -> list[vim.HostSystem]:
        return [host.ref for host in self.switch.hosts()]

    def _vm(self) -> list[vim.VirtualMachine]:
        return [vm.ref for vm in self.vms()]

    def _config(self) -> vim.dvs.DistributedVirtualPortgroup.ConfigInfo:
        vlan = _vmware.VlanIdSpec(inherited=False, vlanId=self.facts["vlan"])
        segment = self.segment
        return vim.dvs.DistributedVirtualPortgroup.ConfigInfo(
            key=self.moid,
            name=self.name,
            numPorts=len(self.vms()),
            distributedVirtualSwitch=self.switch.ref,
            defaultPortConfig=_vmware.VmwarePortConfigPolicy(vlan=vlan),
            description=self.facts.get("description", ""),
            type="earlyBinding",
            backingType="nsx" if segment else "standard",
            **segment,
            policy=vim.dvs.DistributedVirtualPortgroup.PortgroupPolicy(
                blockOverrideAllowed=False,
                shapingOverrideAllowed=False,
                vendorConfigOverrideAllowed=False,
                livePortMovingAllowed=False,
                portConfigResetAtDisconnect=True,
            ),
            configVersion="1",
            autoExpand=True,
            uplink=False,
        )


def vlan_of(spec: vim.dvs.DistributedVirtualPortgroup.ConfigSpec, default: int = 0) -> int:
    """The VLAN a port group's specification asks for; InvalidArgument if there is no such VLAN, NotSupported for
    trunks and private VLANs."""
    if spec.type not in (None, "earlyBinding", "ephemeral"):
        raise not_supported(f"A port group of type {spec.type}")
    config = spec.defaultPortConfig
    vlan = getattr(config, "vlan", None) if config is not None else None
    if vlan is None:
        return default
    if not isinstance(vlan, _vmware.VlanIdSpec):
        raise not_supported(f"A port group with a {type(vlan).__name__.rpartition('.')[2]}")
    if not 0 <= vlan.vlanId <= 4094:
        raise invalid_argument("spec.defaultPortConfig.vlan", f"{vlan.vlanId} is not a VLAN from 0 to 4094")
    return int(vlan.vlanId)


_SEGMENT_FIELDS = ("logicalSwitchUuid", "segmentId", "transportZoneUuid", "transportZoneName")


def segment_of(spec: vim.dvs.DistributedVirtualPortgroup.ConfigSpec) -> dict[str, str]:
    """The NSX segment a specification names, by the API's field names; empty for a standard port group.

    InvalidArgument for one without the logical switch, or a standard one with it.
    """
    named = {name: value for name in _SEGMENT_FIELDS if (value := getattr(spec, name))}
    if spec.backingType in (None, "standard"):
        if named:
            raise invalid_argument("spec.backingType", f"{', '.join(named)} need a port group of backing type nsx")
        return {}
    if spec.backingType != "nsx":
        raise invalid_argument("spec.backingType", f"{spec.backingType!r} is neither standard nor nsx")
    if not {"logicalSwitchUuid", "segmentId"} <= named.keys():
        raise invalid_argument("spec.logicalSwitchUuid", "a port group of NSX names its logical switch and segment")
    return named


class InventoryNetworks:
    """Port groups of an inventory, for the conversions (`hardware.networks.Networks`)."""

    def __init__(self, inventory: Any, near: Entity | None = None) -> None:
        self._inventory = inventory
        self._near = near

    def by_key(self, key: str) -> PortGroupView | None:
        found = self._inventory.objects.get(key)
        return found.view() if isinstance(found, DistributedVirtualPortgroup) else None

    def by_name(self, name: str) -> PortGroupView | None:
        datacenter = self._near.ancestor(vim.Datacenter) if self._near is not None else None
        for group in self._inventory.all(DistributedVirtualPortgroup):
            if group.name == name and (datacenter is None or group.ancestor(vim.Datacenter) is datacenter):
                view: PortGroupView = group.view()
                return view
        return None
