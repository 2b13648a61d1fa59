"""What a site's vCenter holds, in the shapes of HCX's inventory calls, and VMs in the detail a migration needs."""

from typing import Any

from pydantic import BaseModel
from pyVmomi import vim, vmodl

from landbridge.vmodl.client import collect


class NicFacts(BaseModel):
    """A NIC: its device key, MAC and the network it is on (moRef and name; empty if on none)."""

    key: int
    mac: str
    network: str
    network_name: str


class VmFacts(BaseModel):
    """A VM as validation and migration look at it. `disks`: device key to capacity in bytes."""

    moid: str
    name: str
    instance_uuid: str
    power_state: str
    host: str
    template: bool
    connection_state: str
    snapshots: bool
    mounted: list[str] = []
    nics: list[NicFacts] = []
    disks: dict[int, int] = {}
    memory_mib: int = 0
    committed: int = 0
    hardware_version: str = ""


def find(instance: Any, kind: Any, moid: str = "", name: str = "") -> Any:
    """The object of that id, or else of that name; None if there is none."""
    objects = collect(instance, kind, ["name"])
    if moid:
        return next((item["obj"] for item in objects if item["obj"]._moId == moid), None)
    return next((item["obj"] for item in objects if item.get("name") == name), None)


_VM_PATHS = ["name", "config", "runtime", "snapshot", "summary.storage"]


def vm_facts(instance: Any, moid: str) -> VmFacts | None:
    """A VM in detail; None if vCenter has none of that id."""
    machine = vim.VirtualMachine(moid, instance._stub)
    try:
        config, runtime, name = machine.config, machine.runtime, machine.name
        snapshot, storage = machine.snapshot, machine.summary.storage
    except vmodl.fault.ManagedObjectNotFound:
        return None
    if config is None:
        return None
    names = {item["obj"]._moId: item.get("name", "") for item in collect(instance, vim.Network, ["name"])}
    keys = _port_group_ids(instance)
    devices = config.hardware.device
    return VmFacts(
        moid=moid,
        name=name,
        instance_uuid=config.instanceUuid,
        power_state=runtime.powerState,
        host=runtime.host._moId if runtime.host else "",
        template=bool(config.template),
        connection_state=runtime.connectionState,
        snapshots=snapshot is not None and bool(snapshot.rootSnapshotList),
        mounted=[_medium(device) for device in devices if _medium(device)],
        nics=[_nic(device, names, keys) for device in devices if isinstance(device, vim.vm.device.VirtualEthernetCard)],
        disks={d.key: _capacity(d) for d in devices if isinstance(d, vim.vm.device.VirtualDisk)},
        memory_mib=config.hardware.memoryMB,
        committed=storage.committed if storage else 0,
        hardware_version=config.version or "",
    )


def _capacity(disk: Any) -> int:
    return int(disk.capacityInBytes or disk.capacityInKB * 1024)


def _medium(device: Any) -> str:
    if not isinstance(device, vim.vm.device.VirtualCdrom):
        return ""
    if not isinstance(device.backing, vim.vm.device.VirtualCdrom.IsoBackingInfo):
        return ""
    return device.backing.fileName or "" if device.connectable is None or device.connectable.connected else ""


def _nic(device: Any, names: dict[str, str], keys: dict[str, str]) -> NicFacts:
    network = ""
    backing = device.backing
    if isinstance(backing, vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo):
        network = keys.get(backing.port.portgroupKey, backing.port.portgroupKey or "")
    elif isinstance(backing, vim.vm.device.VirtualEthernetCard.NetworkBackingInfo) and backing.network is not None:
        network = backing.network._moId
    return NicFacts(key=device.key, mac=device.macAddress or "", network=network, network_name=names.get(network, ""))


def _port_group_ids(instance: Any) -> dict[str, str]:
    """moRef of each distributed port group, by its key."""
    groups = collect(instance, vim.dvs.DistributedVirtualPortgroup, ["key"])
    return {item["key"]: item["obj"]._moId for item in groups if "key" in item}


def port_group_key(instance: Any, moid: str) -> tuple[str, str] | None:
    """Key and switch UUID of the distributed port group of that id or name; None if there is none."""
    for item in collect(
        instance, vim.dvs.DistributedVirtualPortgroup, ["key", "name", "config.distributedVirtualSwitch"]
    ):
        if moid in (item["obj"]._moId, item.get("name")):
            return item["key"], item["config.distributedVirtualSwitch"].uuid
    return None


# ------------------------------------------------------------------------------- HCX's inventory calls


def networks(instance: Any, origin: dict[str, str]) -> list[dict[str, Any]]:
    items = []
    for item in collect(instance, vim.Network, ["name"]):
        moid, kind = item["obj"]._moId, type(item["obj"]).__name__.rpartition(".")[2]
        items.append(
            {
                "entity_id": moid,
                "name": item.get("name", ""),
                "displayName": item.get("name", ""),
                "entityType": kind,
                "type": kind,
                "href": moid,
                "value": moid,
                "_origin": origin,
            }
        )
    return items


def virtual_machines(instance: Any, origin: dict[str, str]) -> list[dict[str, Any]]:
    names = {item["obj"]._moId: item.get("name", "") for item in collect(instance, vim.Network, ["name"])}
    paths = ["name", "runtime.powerState", "config.instanceUuid", "config.hardware.memoryMB", "network", "runtime.host"]
    items = []
    for item in collect(instance, vim.VirtualMachine, paths):
        attached = [
            {
                "value": net._moId,
                "name": names.get(net._moId, ""),
                "displayName": names.get(net._moId, ""),
                "type": type(net).__name__.rpartition(".")[2],
            }
            for net in item.get("network", [])
        ]
        items.append(
            {
                "id": item["obj"]._moId,
                "entity_id": item["obj"]._moId,
                "name": item.get("name", ""),
                "entityType": "VirtualMachine",
                "powerState": item.get("runtime.powerState", ""),
                "instanceUuid": item.get("config.instanceUuid", ""),
                "memoryMB": item.get("config.hardware.memoryMB", 0),
                "hostId": item["runtime.host"]._moId if item.get("runtime.host") else "",
                "network": attached,
                "_origin": origin,
            }
        )
    return items


def datastores(instance: Any, compute: list[str]) -> list[dict[str, Any]]:
    """Datastores; with `compute`, those of these clusters, hosts' compute resources or hosts."""
    wanted: set[str] | None = None
    if compute:
        wanted = set()
        for kind in (vim.ComputeResource, vim.HostSystem):
            for item in collect(instance, kind, ["datastore"]):
                if item["obj"]._moId in compute:
                    wanted |= {store._moId for store in item.get("datastore", [])}
    items = []
    for item in collect(instance, vim.Datastore, ["name", "summary"]):
        if wanted is None or item["obj"]._moId in wanted:
            summary = item["summary"]
            items.append(
                {
                    "id": item["obj"]._moId,
                    "entity_id": item["obj"]._moId,
                    "name": item.get("name", ""),
                    "entity_type": "Datastore",
                    "entityType": "Datastore",
                    "capacity": summary.capacity,
                    "freeSpace": summary.freeSpace,
                    "type": summary.type,
                }
            )
    return items


def containers(instance: Any) -> list[dict[str, Any]]:
    """The vCenter as a tree: datacenters, their compute resources, those's hosts and resource pools."""
    uuid = instance.content.about.instanceUuid

    def entry(obj: Any, name: str, children: list[dict[str, Any]]) -> dict[str, Any]:
        kind = type(obj).__name__.rpartition(".")[2]
        return {
            "vcenter_instanceId": uuid,
            "entity_id": obj._moId,
            "name": name,
            "entityType": kind,
            "children": children,
        }

    trees = []
    for center in collect(instance, vim.Datacenter, ["name", "hostFolder", "vmFolder"]):
        children = []
        for compute in _descendants(center["hostFolder"], vim.ComputeResource):
            hosts = [entry(host, host.name, []) for host in compute.host]
            children.append(entry(compute, compute.name, [*hosts, entry(compute.resourcePool, "Resources", [])]))
        children += [entry(f, f.name, []) for f in _descendants(center["vmFolder"], vim.Folder)]
        trees.append(entry(center["obj"], center["name"], children))
    return trees


def _descendants(folder: Any, kind: Any) -> list[Any]:
    found = []
    for child in folder.childEntity:
        if isinstance(child, kind):
            found.append(child)
        if isinstance(child, vim.Folder):
            found += _descendants(child, kind)
    return found


def about(instance: Any) -> dict[str, str]:
    """The vCenter itself."""
    info = instance.content.about
    return {
        "vcuuid": info.instanceUuid or "",
        "name": info.name,
        "version": info.version,
        "buildNumber": info.build,
        "osType": info.osType,
    }
