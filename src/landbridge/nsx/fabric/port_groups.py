"""Segments as networks of vCenter: each is a distributed port group that VMs can be connected to."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pyVim.task import WaitForTask
from pyVmomi import vim, vmodl

from landbridge.nsx.fabric.compute_manager import SegmentGroup
from landbridge.vmodl.client import VCenter, VCenterUnreachable, collect, fault_text

_log = logging.getLogger(__name__)
_RETRY = 5.0  # seconds
TRANSPORT_ZONE = "nsx-overlay-transportzone"


@dataclass(frozen=True)
class WantedGroup:
    """A segment that is to have a port group."""

    name: str
    path: str
    logical_switch: str  # the segment's unique id


class PortGroups:
    """Keeps vCenter's port groups in step with the segments, on the distributed switch `switch` (empty: the first)."""

    def __init__(self, vcenter: VCenter, switch: str) -> None:
        self._vcenter = vcenter
        self._switch = switch
        self._news = asyncio.Event()

    def look(self) -> None:
        """Something changed on either side."""
        self._news.set()

    async def run(
        self, wanted: Callable[[], Iterable[WantedGroup]], present: Callable[[], Iterable[SegmentGroup] | None]
    ) -> None:
        """Bring them in step, again after each `look`. `present` is None while vCenter was not heard yet."""
        while True:
            await self._news.wait()
            self._news.clear()
            found = present()
            if found is None:
                continue
            try:
                await self._bring(list(wanted()), list(found))
            except VCenterUnreachable as error:
                _log.warning("port groups of segments: %s", error)
                self._again()
            except vmodl.MethodFault as fault:
                _log.warning("port groups of segments: %s", fault_text(fault))
                self._again()

    def _again(self) -> None:
        asyncio.get_running_loop().call_later(_RETRY, self._news.set)

    async def _bring(self, wanted: list[WantedGroup], present: list[SegmentGroup]) -> None:
        there = {group.logical_switch: group for group in present}
        kept = {group.logical_switch for group in wanted}
        missing = [group for group in wanted if group.logical_switch not in there]
        if missing:
            await self._vcenter.run(_add, self._switch, missing)
        for group in wanted:
            found = there.get(group.logical_switch)
            if found is not None and found.name != group.name:
                await self._vcenter.run(_rename, found.moid, group.name)
        for known in present:
            if known.logical_switch not in kept:
                await self._vcenter.run(_remove, known.moid)


def _add(instance: Any, switch: str, groups: list[WantedGroup]) -> None:
    switches = collect(instance, vim.dvs.VmwareDistributedVirtualSwitch, ["name"])
    found = next((each["obj"] for each in switches if switch in ("", each["name"])), None)
    if found is None:
        raise vim.fault.NotFound(msg=f"vCenter has no distributed switch {switch!r} to put segments on")
    taken = {each["name"] for each in collect(instance, vim.Network, ["name"])}
    specs = []
    for group in groups:
        # Two networks of a folder can not have one name; two segments can.
        name = group.name if group.name not in taken else f"{group.name} ({group.path.rpartition('/')[2]})"
        taken.add(name)
        specs.append(
            vim.dvs.DistributedVirtualPortgroup.ConfigSpec(
                name=name,
                type="earlyBinding",
                backingType="nsx",
                logicalSwitchUuid=group.logical_switch,
                segmentId=group.path,
                transportZoneName=TRANSPORT_ZONE,
            )
        )
    WaitForTask(found.AddDVPortgroup_Task(specs))


def _rename(instance: Any, moid: str, name: str) -> None:
    if not any(each["name"] == name for each in collect(instance, vim.Network, ["name"])):
        WaitForTask(vim.dvs.DistributedVirtualPortgroup(moid, instance._stub).Rename_Task(name))


def _remove(instance: Any, moid: str) -> None:
    try:
        WaitForTask(vim.dvs.DistributedVirtualPortgroup(moid, instance._stub).Destroy_Task())
    except vmodl.fault.ManagedObjectNotFound:
        return
