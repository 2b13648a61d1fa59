"""What the conversions need to know about networks: port groups by key and by name, and the switch they are on."""

from dataclasses import dataclass
from typing import Protocol

from pyVmomi import vim


@dataclass(frozen=True)
class PortGroupView:
    """A distributed port group as a NIC's backing names it: its key is the one hosts know it by."""

    key: str
    name: str
    switch_uuid: str
    # Whether NSX realises it: then a NIC on it has a VIF.
    segment: bool = False


class Networks(Protocol):
    """Finds port groups. Methods answer None for what is not there."""

    def by_key(self, key: str) -> PortGroupView | None:
        """The port group hosts know as `key`."""

    def by_name(self, name: str) -> PortGroupView | None:
        """The port group called `name`: a client that knows only standard networks names it so."""


def nic_backing(key: str | None, networks: Networks) -> vim.vm.device.VirtualDevice.BackingInfo | None:
    """A NIC's backing: a distributed port, or by its bare name a network this vCenter does not know; None if none."""
    if key is None:
        return None
    group = networks.by_key(key)
    if group is None:
        return vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName=key)
    port = vim.dvs.PortConnection(switchUuid=group.switch_uuid, portgroupKey=group.key)
    return vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(port=port)


def network_key(backing: vim.vm.device.VirtualDevice.BackingInfo | None, networks: Networks) -> str | None:
    """The port group a NIC's backing asks for: its key, or None for no network. LookupError names what is missing."""
    card = vim.vm.device.VirtualEthernetCard
    if backing is None:
        return None
    if isinstance(backing, card.DistributedVirtualPortBackingInfo):
        key = backing.port.portgroupKey
        group = networks.by_key(key) if key else None
        if group is None or (backing.port.switchUuid and backing.port.switchUuid != group.switch_uuid):
            raise LookupError(f"no distributed port group {key!r} on switch {backing.port.switchUuid!r}")
        return group.key
    if isinstance(backing, card.NetworkBackingInfo):
        if backing.network is not None:
            group = networks.by_key(backing.network._moId)
        else:
            group = networks.by_name(backing.deviceName or "")
        if group is None:
            raise LookupError(f"no network called {backing.deviceName!r}")
        return group.key
    raise LookupError(f"a network adapter can not be backed by {type(backing).__name__}")
