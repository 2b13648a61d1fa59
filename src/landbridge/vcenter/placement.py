"""Where a VM goes: the host in a pool, the datastore of a host, the name in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyVmomi import vim, vmodl

from landbridge.vcenter.hardware.device_faults import invalid_argument, not_supported
from landbridge.vcenter.managed import Managed

# Names that VMs in the making will have, by folder.
_reserved: set[tuple[int, str, str]] = set()


def refuse_duplicate_vm(folder: Managed | None, name: str, but: Managed | None = None) -> None:
    """DuplicateName if something in the folder is called so."""
    if folder is None:
        return
    for other in folder.inventory.children(folder):
        if other is not but and other.name == name:
            raise vim.fault.DuplicateName(
                name=name, object=other.ref, msg=f"The name '{name}' already exists in this folder."
            )
    if (id(folder.inventory), folder.moid, name) in _reserved:
        raise vim.fault.DuplicateName(
            name=name, object=folder.ref, msg=f"A VM called '{name}' is being made in this folder."
        )


@contextmanager
def reserved_name(folder: Managed, name: str) -> Iterator[None]:
    """Keep a name free in a folder while a VM with it is in the making; DuplicateName if it is not free."""
    refuse_duplicate_vm(folder, name)
    key = (id(folder.inventory), folder.moid, name)
    _reserved.add(key)
    try:
        yield
    finally:
        _reserved.discard(key)


def choose_host(pool: Any, host: Any, datastore: Any = None) -> Any:
    """The host a VM in `pool` is placed on: the given one, or the one with the fewest VMs that sees `datastore`.

    InvalidArgument if host and pool do not fit, InvalidState or HostNotConnected if no host is fit for use.
    """
    owner = pool.owner if pool is not None else None
    if host is not None:
        if owner is not None and host.parent is not owner:
            raise invalid_argument("host", f"{host.name} is not a host of the pool's compute resource")
        host.require_usable()
        return host
    if owner is None:
        raise invalid_argument("pool", "neither a pool nor a host says where the VM goes")
    fit = [each for each in owner.hosts() if each.is_usable and not each.is_mobility_agent]
    if datastore is not None:
        fit = [each for each in fit if each.moid in datastore.facts["mounts"]]
    if not fit:
        where = f" that sees {datastore.name}" if datastore is not None else ""
        raise vmodl.fault.HostNotConnected(
            msg=f"{owner.name} has no host{where} that is connected and not in maintenance."
        )
    return min(fit, key=lambda each: len(each.vms()))


def require_access(host: Any, datastore: Any) -> str:
    """The datastore's name at the host; InvalidDatastorePath if the host does not see it."""
    name = datastore.facts["mounts"].get(host.moid)
    if name is None:
        raise vim.fault.InvalidDatastorePath(
            datastorePath=f"[{datastore.name}]",
            datastore=datastore.ref,
            name=datastore.name,
            msg=f"{host.name} does not see the datastore {datastore.name}.",
        )
    return str(name)


def require_networks(config: Any, host: Any, inventory: Any) -> None:
    """CannotAccessNetwork for the first NIC whose port group the host does not have.

    A mobility agent hands a VM on to another site and plugs no NIC in: it has every network.
    """
    if host.is_mobility_agent:
        return
    keys = {group.moid for switch in host.switches() for group in switch.groups()}
    for index, nic in enumerate(config.nics, 1):
        if nic.network is None or nic.network in keys:
            continue
        group = inventory.objects.get(nic.network)
        name = group.facts.get("name") if group is not None else nic.network
        raise vim.fault.CannotAccessNetwork(
            device=f"Network adapter {index}",
            backing=str(name),
            connected=nic.connected,
            network=group.ref if group is not None else None,
            msg=f"Network adapter {index} is connected to {name}, which {host.name} does not have: "
            "make the host a member of its switch, or choose another network.",
        )


def refuse_profiles(spec: Any, path: str) -> None:
    """NotSupported for storage policies, encryption and other site-wide machinery in a relocation's specification."""
    for name in ("service", "profile", "cryptoSpec", "tagSpecs", "vmPlacementPolicies"):
        if getattr(spec, name, None):
            raise not_supported(f"{path}.{name}")
