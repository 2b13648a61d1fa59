"""SearchIndex: VMs and hosts by path, UUID, name, address."""

from collections.abc import Callable, Iterable
from typing import Any

from pyVmomi import vim

from landbridge.vcenter.calls import Call
from landbridge.vcenter.managed import Entity, Managed

_ROOT = "group-d1"


class SearchIndex(Managed):
    kind = vim.SearchIndex
    durable = False

    async def find_by_inventory_path(self, call: Call, inventory_path: str) -> Any:
        here: Entity = self.inventory.get(_ROOT)
        names = [name for name in inventory_path.split("/") if name]
        if names and names[0] == here.name:
            names = names[1:]
        for name in names:
            child = _child(here, name)
            if child is None:
                return None
            here = child
        return here.ref

    async def find_child(self, call: Call, entity: Any, name: str) -> Any:
        child = _child(self.inventory.get(entity), name)
        return child.ref if child is not None else None

    # -- UUIDs --------------------------------------------------------------------------------------------

    async def find_by_uuid(
        self, call: Call, uuid: str, vm_search: bool, datacenter: Any = None, instance_uuid: bool | None = None
    ) -> Any:
        return _first(self._by_uuid(uuid, vm_search, datacenter, bool(instance_uuid)))

    async def find_all_by_uuid(
        self, call: Call, uuid: str, vm_search: bool, datacenter: Any = None, instance_uuid: bool | None = None
    ) -> list[Any]:
        return list(self._by_uuid(uuid, vm_search, datacenter, bool(instance_uuid)))

    def _by_uuid(self, uuid: str, vm_search: bool, datacenter: Any, instance: bool) -> Iterable[Any]:
        wanted = uuid.lower()

        def vm(entity: Any) -> bool:
            config = entity.state.config
            return bool(wanted == (config.instance_uuid if instance else config.uuid))

        def host(entity: Any) -> bool:
            return wanted == str(entity.value("summary").hardware.uuid).lower()

        return self._found(vm_search, datacenter, vm, host)

    # -- names and addresses ------------------------------------------------------------------------------

    async def find_by_dns_name(self, call: Call, dns_name: str, vm_search: bool, datacenter: Any = None) -> Any:
        return _first(self._by_dns_name(dns_name, vm_search, datacenter))

    async def find_all_by_dns_name(
        self, call: Call, dns_name: str, vm_search: bool, datacenter: Any = None
    ) -> list[Any]:
        return list(self._by_dns_name(dns_name, vm_search, datacenter))

    def _by_dns_name(self, dns_name: str, vm_search: bool, datacenter: Any) -> Iterable[Any]:
        wanted = dns_name.casefold()

        def vm(entity: Any) -> bool:
            return bool(entity.state.guest.hostname.casefold() == wanted)

        def host(entity: Any) -> bool:
            return bool(entity.name.casefold() == wanted)

        return self._found(vm_search, datacenter, vm, host)

    async def find_by_ip(self, call: Call, ip: str, vm_search: bool, datacenter: Any = None) -> Any:
        return _first(self._by_ip(ip, vm_search, datacenter))

    async def find_all_by_ip(self, call: Call, ip: str, vm_search: bool, datacenter: Any = None) -> list[Any]:
        return list(self._by_ip(ip, vm_search, datacenter))

    def _by_ip(self, ip: str, vm_search: bool, datacenter: Any) -> Iterable[Any]:
        def vm(entity: Any) -> bool:
            return any(ip in addresses for addresses in entity.state.guest.ip_addresses.values())

        def host(entity: Any) -> bool:
            return bool(entity.facts.get("address") == ip)

        return self._found(vm_search, datacenter, vm, host)

    async def find_by_datastore_path(self, call: Call, datacenter: Any, path: str) -> Any:
        def vm(entity: Any) -> bool:
            return bool(entity.state.vmx == path)

        return _first(self._found(True, datacenter, vm, lambda _: False))

    def _found(
        self, vm_search: bool, datacenter: Any, vm: Callable[[Any], bool], host: Callable[[Any], bool]
    ) -> Iterable[Any]:
        within = self.inventory.get(datacenter) if datacenter is not None else None
        matches = vm if vm_search else host
        for entity in self.inventory.all(vim.VirtualMachine if vm_search else vim.HostSystem):
            if matches(entity) and (within is None or entity.ancestor(vim.Datacenter) is within):
                yield entity.ref


def _child(entity: Entity, name: str) -> Entity | None:
    return next((child for child in entity.inventory.children(entity) if child.name == name), None)


def _first(found: Iterable[Any]) -> Any:
    return next(iter(found), None)
