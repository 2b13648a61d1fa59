"""What hosts tell, taken into the inventory: their datastores and their VMs.

A VM is known by its instance UUID. One that appears on a host and that nobody here made is added to the datacenter's
VM folder; one that moved without us is followed; one that is gone from its host is removed when the host says so, and
`orphaned` when it is merely missing from a listing.
"""

import logging
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from landbridge.esx.model import Datastore as HostDatastore
from landbridge.esx.model import VmState
from landbridge.vcenter.datastore_paths import DatastoreNames
from landbridge.vcenter.managed import Managed

if TYPE_CHECKING:
    from landbridge.vcenter.inventory import Inventory
    from landbridge.vcenter.objects.host_system import HostSystem

log = logging.getLogger(__name__)


async def datastores_listed(inventory: "Inventory", host: "HostSystem", listed: list[HostDatastore]) -> None:
    """Make the inventory have exactly the datastores the host sees, each once however many hosts see it."""
    from landbridge.vcenter.objects.datastore import Datastore

    known: list[Datastore] = inventory.all(Datastore)
    datacenter = host.ancestor(vim.Datacenter)
    seen = set()
    for found in listed:
        datastore = next((d for d in known if d.facts["url"] == found.url), None)
        if datastore is None and datacenter is not None:
            datastore = await Datastore.discovered(inventory, datacenter, found)
        if datastore is not None:
            seen.add(datastore.moid)
            await datastore.mounted(host, found)
    for datastore in known:
        if host.moid in datastore.facts["mounts"] and datastore.moid not in seen:
            await datastore.unmounted(host)
    host.storage_changed()


async def vms_listed(inventory: "Inventory", host: "HostSystem", states: list[VmState]) -> None:
    """The host has exactly these VMs."""
    names = host.datastore_names()
    for state in states:
        await vm_seen(inventory, host, state, names)
    present = {state.config.instance_uuid for state in states}
    for vm in host.vms():
        if vm.uuid not in present and not inventory.hosts.expects(vm.uuid):
            vm.orphaned()


async def vm_seen(
    inventory: "Inventory", host: "HostSystem", state: VmState, names: DatastoreNames | None = None
) -> None:
    """A VM is on the host, in this state."""
    from landbridge.vcenter.objects.virtual_machine import VirtualMachine

    hosts = inventory.hosts
    vm = hosts.by_uuid.get(state.config.instance_uuid)
    if vm is not None and vm.facts["host"] == host.moid:
        await vm.state_changed(state, names)
    elif hosts.is_expected(state):
        return
    elif vm is None:
        await VirtualMachine.discovered(inventory, host, state)
    elif vm.value("runtime").connectionState == "orphaned":
        log.info("%s is now on %s", vm.name, host.name)
        await vm.moved(host, state)


async def vm_gone(inventory: "Inventory", host: "HostSystem", uuid: str) -> None:
    """The host says it has the VM no more."""
    vm = inventory.hosts.by_uuid.get(uuid)
    if vm is None or vm.facts["host"] != host.moid or inventory.hosts.expects(uuid):
        return
    inventory.events.post(vim.event.VmRemovedEvent, vm=vm, host=host, message=f"{vm.name} was removed on {host.name}")
    await vm.forget()


def vms_where(inventory: "Inventory", **facts: Any) -> list[Any]:
    """VMs with these facts (`host`, `pool`)."""
    return [vm for vm in inventory.all(vim.VirtualMachine) if all(vm.facts.get(k) == v for k, v in facts.items())]


def references(objects: list[Any]) -> list[Any]:
    """The references of managed objects, in order."""
    return [managed.ref for managed in objects if isinstance(managed, Managed)]
