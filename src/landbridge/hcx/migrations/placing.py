"""Where a VM goes at the target: placement, datastore and networks, by id or by name, resolved in its vCenter."""

from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl

from landbridge.hcx.inventory import find, port_group_key
from landbridge.hcx.mesh import Transit
from landbridge.hcx.migrations.model import Findings, Placement, TargetOrder
from landbridge.vmodl.client import collect


class NoPlace(Exception):  # noqa: N818 - what validation finds
    """The VM can not go where it was to go; the message names what, why and what to do."""


@dataclass(frozen=True)
class Place:
    """moRefs of where the VM will be. `port_groups`: NIC key to the key of a distributed port group."""

    host: str
    pool: str
    folder: str
    datastore: str
    port_groups: dict[int, str]


_KINDS = {
    "host": vim.HostSystem,
    "hostsystem": vim.HostSystem,
    "cluster": vim.ComputeResource,
    "clustercomputeresource": vim.ComputeResource,
    "computeresource": vim.ComputeResource,
    "resourcepool": vim.ResourcePool,
    "folder": vim.Folder,
    "datacenter": vim.Datacenter,
}


def resolve(instance: Any, order: TargetOrder, transit: Transit) -> Place:
    """Find everything the order names; NoPlace says what is missing."""
    chosen = _containers(instance, order.placement)
    pool = chosen.get("pool")
    compute = chosen.get("compute") or (pool.owner if pool is not None else None)
    host = chosen.get("host")
    hosts = [host] if host is not None else _hosts(instance, compute, chosen.get("datacenter"), transit)
    datastore, host = _storage(order, hosts, transit)
    owner = host.parent
    folder = chosen.get("folder") or _datacenter_of(host).vmFolder
    return Place(
        host=host._moId,
        pool=(pool or owner.resourcePool)._moId,
        folder=folder._moId,
        datastore=datastore._moId,
        port_groups=_port_groups(instance, order),
    )


def check(instance: Any, order: TargetOrder, transit: Transit) -> tuple[Findings, Place | None]:
    """What would keep the VM from going there, and where it would be."""
    findings = Findings()
    try:
        place = resolve(instance, order, transit)
    except NoPlace as error:
        findings.errors.append(f"{order.name}: {error}")
        return findings, None
    for item in collect(instance, vim.VirtualMachine, ["name", "config.instanceUuid"]):
        if item.get("config.instanceUuid") == order.instance_uuid:
            findings.errors.append(
                f"{order.name}: the target has a VM with the same instance UUID ({item['obj']._moId}): is it a copy "
                "of this VM? Remove one of them"
            )
        elif item.get("name") == order.name:
            findings.errors.append(
                f"{order.name}: the target has a VM of this name already ({item['obj']._moId}): rename one of them"
            )
    free = vim.Datastore(place.datastore, instance._stub).summary.freeSpace
    if order.space > free:
        findings.errors.append(
            f"{order.name}: its disks take {order.space} bytes, the target's datastore has {free} free: choose another"
        )
    problem = _hardware_problem(vim.HostSystem(place.host, instance._stub), order)
    if problem:
        findings.errors.append(problem)
    return findings, place


def _hardware_problem(host: Any, order: TargetOrder) -> str:
    """Why the target can not present the VM's virtual hardware; empty if it can, or does not say what it can."""
    try:
        browser = host.parent.environmentBrowser
        supported = {item.key for item in browser.QueryConfigOptionDescriptor()} if browser is not None else set()
    except vmodl.fault.NotSupported:
        return ""
    if supported and order.hardware_version and order.hardware_version not in supported:
        offered = ", ".join(sorted(supported))
        return f"{order.name}: virtual hardware {order.hardware_version} is unknown at the target, which has {offered}"
    return ""


def _containers(instance: Any, placement: list[Placement]) -> dict[str, Any]:
    names = {
        vim.HostSystem: "host",
        vim.ComputeResource: "compute",
        vim.ResourcePool: "pool",
        vim.Folder: "folder",
        vim.Datacenter: "datacenter",
    }
    chosen: dict[str, Any] = {}
    for item in placement:
        kind = _KINDS.get(item.containerType.lower())
        if kind is None:
            raise NoPlace(
                f"placement knows no containerType {item.containerType!r}: give host, cluster, "
                "resourcePool, folder or dataCenter"
            )
        found = find(instance, kind, item.containerId, item.containerName)
        if found is None:
            raise NoPlace(
                f"the target has no {item.containerType} {item.containerId or item.containerName!r}: "
                "look it up with service/inventory/vc/list"
            )
        chosen[names[kind]] = found
    return chosen


def _hosts(instance: Any, compute: Any, datacenter: Any, transit: Transit) -> list[Any]:
    """Hosts that may take a VM, those with the most free memory first."""
    if compute is not None:
        candidates = list(compute.host)
    else:
        candidates = [item["obj"] for item in collect(instance, vim.HostSystem, ["name"])]
        if datacenter is not None:
            candidates = [host for host in candidates if _datacenter_of(host)._moId == datacenter._moId]
    usable = []
    for host in candidates:
        runtime = host.runtime
        if host._moId != transit.host and runtime.connectionState == "connected" and not runtime.inMaintenanceMode:
            summary = host.summary
            free = (summary.hardware.memorySize >> 20) - (summary.quickStats.overallMemoryUsage or 0)
            usable.append((free, host))
    if not usable:
        raise NoPlace("no host of the target's placement is connected and out of maintenance mode")
    return [host for _, host in sorted(usable, key=lambda pair: -pair[0])]


def _storage(order: TargetOrder, hosts: list[Any], transit: Transit) -> tuple[Any, Any]:
    """The datastore and a host that sees it; without a choice, the one with the most room."""
    wanted = {order.storage.datastoreId, order.storage.datastoreName} - {""}
    best: tuple[int, Any, Any] | None = None
    for host in hosts:
        for datastore in host.datastore:
            summary = datastore.summary
            if datastore._moId == transit.datastore or not summary.accessible:
                continue
            if wanted and not wanted & {datastore._moId, summary.name}:
                continue
            if best is None or summary.freeSpace > best[0]:
                best = (summary.freeSpace, datastore, host)
        if best is not None:
            break  # hosts come in the order of their free memory
    if best is None:
        raise NoPlace(
            f"no usable host of the target sees datastore {' / '.join(sorted(wanted))}: choose one with "
            "service/inventory/vc/datastores/query"
            if wanted
            else "no usable host of the target has a datastore"
        )
    return best[1], best[2]


def _datacenter_of(host: Any) -> Any:
    entity = host
    while entity is not None and not isinstance(entity, vim.Datacenter):
        entity = entity.parent
    if entity is None:
        raise NoPlace(f"host {host._moId} is in no datacenter")
    return entity


def _port_groups(instance: Any, order: TargetOrder) -> dict[int, str]:
    keys = {}
    for nic, network in order.networks.items():
        found = port_group_key(instance, network)
        if found is None:
            raise NoPlace(
                f"NIC {nic} is to go to network {network!r}, which is no distributed port group of the target: "
                "choose one with service/inventory/networks"
            )
        keys[nic] = found[0]
    return keys
