"""The vCenter that NSX serves, followed: its VMs with their NICs, its hosts, its port groups of segments.

One property collector with a long poll; each update is applied to what is known, so a change costs what changed.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyVmomi import vim, vmodl

from landbridge.nsx.snapshot import Machine, Vif
from landbridge.vmodl.client import VCenter, VCenterUnreachable, fault_text

_log = logging.getLogger(__name__)
_WAIT = 30  # seconds a long poll may last
_RETRY = 2.0
_PATHS: dict[Any, list[str]] = {
    vim.VirtualMachine: [
        "name",
        "config.instanceUuid",
        "config.hardware.device",
        "config.guestFullName",
        "guest.hostName",
        "guest.net",
        "runtime.host",
        "runtime.powerState",
    ],
    vim.HostSystem: ["name", "runtime.connectionState"],
    vim.dvs.DistributedVirtualPortgroup: ["key", "name", "config"],
}


@dataclass(frozen=True)
class Host:
    """A host of the vCenter: `address` is where its agent answers."""

    moid: str
    address: str
    connected: bool


@dataclass(frozen=True)
class SegmentGroup:
    """A port group that stands for a segment."""

    moid: str
    key: str
    name: str
    segment: str  # path
    logical_switch: str


@dataclass
class Seen:
    """What is known of vCenter at the moment. `complete` after its first answer."""

    machines: dict[str, Machine] = field(default_factory=dict)  # by instance UUID
    hosts: dict[str, Host] = field(default_factory=dict)  # by moId
    groups: dict[str, SegmentGroup] = field(default_factory=dict)  # by key
    complete: bool = False


class ComputeManager:
    """Follows one vCenter; `run` until cancelled. `changed` is called after each update."""

    def __init__(self, vcenter: VCenter, changed: Callable[[], None]) -> None:
        self._vcenter = vcenter
        self._changed = changed
        self._objects: dict[str, tuple[Any, dict[str, Any]]] = {}
        self.seen = Seen()

    async def run(self) -> None:
        """Follow vCenter through its restarts and ours. While it is away, what was known stays."""
        while True:
            try:
                await self._follow()
            except VCenterUnreachable as error:
                _log.warning("compute manager: %s", error)
            except vmodl.MethodFault as fault:
                _log.warning("compute manager: %s", fault_text(fault))
            await asyncio.sleep(_RETRY)

    async def _follow(self) -> None:
        collector, view = await self._vcenter.run(_watcher)
        try:
            version, fresh = "", True
            while True:
                update = await self._vcenter.run(_next, collector, version)
                if update is None:
                    continue
                if fresh:
                    self._objects.clear()
                    fresh = False
                version = update.version
                self._take(update)
                if not update.truncated:
                    self._interpret()
        finally:
            # They end with the session anyway.
            await asyncio.gather(
                self._vcenter.run(_destroy, collector), self._vcenter.run(_destroy_view, view), return_exceptions=True
            )

    def _take(self, update: Any) -> None:
        for group in update.filterSet:
            for change in group.objectSet:
                moid = change.obj._moId
                if change.kind == "leave":
                    self._objects.pop(moid, None)
                    continue
                _, known = self._objects.setdefault(moid, (type(change.obj), {}))
                for item in change.changeSet:
                    if item.op in ("remove", "indirectRemove"):
                        known.pop(item.name, None)
                    else:
                        known[item.name] = item.val

    def _interpret(self) -> None:
        of: dict[Any, dict[str, dict[str, Any]]] = {kind: {} for kind in _PATHS}
        for moid, (kind, values) in self._objects.items():
            of[next(each for each in _PATHS if issubclass(kind, each))][moid] = values
        hosts = {
            moid: Host(moid, values["name"], values.get("runtime.connectionState") == "connected")
            for moid, values in of[vim.HostSystem].items()
            if "name" in values
        }
        groups = _groups(of[vim.dvs.DistributedVirtualPortgroup])
        machines = [_machine(values, hosts, groups) for values in of[vim.VirtualMachine].values()]
        seen = Seen({each.id: each for each in machines if each is not None}, hosts, groups, complete=True)
        if seen != self.seen:
            self.seen = seen
            self._changed()


def _groups(objects: Mapping[str, dict[str, Any]]) -> dict[str, SegmentGroup]:
    found = {}
    for moid, values in objects.items():
        config = values.get("config")
        if config is not None and config.backingType == "nsx":
            found[values["key"]] = SegmentGroup(
                moid, values["key"], values["name"], config.segmentId, config.logicalSwitchUuid
            )
    return found


def _machine(
    values: Mapping[str, Any], hosts: Mapping[str, Host], groups: Mapping[str, SegmentGroup]
) -> Machine | None:
    uuid = values.get("config.instanceUuid")
    if not uuid:
        return None  # a VM whose files are away
    nics = [nic for nic in values.get("guest.net") or () if nic.macAddress]
    reported = {nic.macAddress.lower(): tuple(nic.ipAddress or ()) for nic in nics}
    vifs = []
    for device in values.get("config.hardware.device") or ():
        group = _group_of(device, groups)
        if group is not None and device.externalId:
            mac = (device.macAddress or "").lower()
            vifs.append(Vif(device.externalId, uuid, device.key, mac, group.segment, reported.get(mac, ())))
    host = values.get("runtime.host")
    return Machine(
        id=uuid,
        name=values.get("name", ""),
        host=hosts[host._moId].address if host is not None and host._moId in hosts else "",
        powered_on=values.get("runtime.powerState") == "poweredOn",
        os_name=values.get("config.guestFullName") or "",
        computer_name=values.get("guest.hostName") or "",
        vifs=tuple(vifs),
    )


def _group_of(device: Any, groups: Mapping[str, SegmentGroup]) -> SegmentGroup | None:
    if not isinstance(device, vim.vm.device.VirtualEthernetCard):
        return None
    backing = device.backing
    if not isinstance(backing, vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo):
        return None
    return groups.get(backing.port.portgroupKey)


def _watcher(instance: Any) -> tuple[Any, Any]:
    content = instance.content
    view = content.viewManager.CreateContainerView(content.rootFolder, list(_PATHS), True)
    collector = content.propertyCollector.CreatePropertyCollector()
    query = vmodl.query.PropertyCollector
    traversal = query.TraversalSpec(name="view", path="view", skip=False, type=vim.view.ContainerView)
    spec = query.FilterSpec(
        objectSet=[query.ObjectSpec(obj=view, skip=True, selectSet=[traversal])],
        propSet=[query.PropertySpec(type=kind, pathSet=paths) for kind, paths in _PATHS.items()],
    )
    collector.CreateFilter(spec, False)
    return collector, view


def _next(_instance: Any, collector: Any, version: str) -> Any:
    return collector.WaitForUpdatesEx(version, vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=_WAIT))


def _destroy(_instance: Any, collector: Any) -> None:
    collector.DestroyPropertyCollector()


def _destroy_view(_instance: Any, view: Any) -> None:
    view.DestroyView()
