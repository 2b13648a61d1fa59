"""VMs and their NICs, as the fabric knows them, with the tags that people give them here."""

from collections.abc import Iterable
from typing import Any, Protocol

from pydantic import ValidationError

from landbridge.nsx.policy import faults
from landbridge.nsx.policy.contents import Contents, Draft, MachineTags
from landbridge.nsx.policy.membership import Membership, associations, group
from landbridge.nsx.policy.model.base import Tag
from landbridge.nsx.policy.model.security import VirtualMachineTags
from landbridge.nsx.policy.store import Store
from landbridge.nsx.snapshot import Machine, Vif

_MOST_TAGS = 30
UPDATE, ADD, REMOVE = "update_tags", "add_tags", "remove_tags"


class Fabric(Protocol):
    """What knows the VMs. Asked often, and on the event loop: it answers from memory."""

    def machines(self) -> Iterable[Machine]:
        """All VMs at this moment."""
        ...


class Machines:
    """The inventory of VMs, and their tags."""

    def __init__(self, store: Store, fabric: Fabric) -> None:
        self._store = store
        self._fabric = fabric

    async def all(self) -> list[dict[str, Any]]:
        """VMs as the API shows them."""
        contents = await self._store.contents()
        return [_machine(contents, machine) for machine in self._fabric.machines()]

    async def get(self, identity: str) -> dict[str, Any]:
        """The VM of that instance UUID; Fault 404 if there is none."""
        for machine in self._fabric.machines():
            if machine.id == identity:
                return _machine(await self._store.contents(), machine)
        raise faults.missing(f"VirtualMachine/{identity}")

    async def of_group(self, path: str) -> list[dict[str, Any]]:
        """The VMs of a group; Fault 404 if there is no such group."""
        contents, known = await self._store.contents(), list(self._fabric.machines())
        members = Membership(contents, known).of(group(contents, path).path)
        return [_machine(contents, machine) for machine in known if machine.id in members]

    async def groups_of(self, identity: str) -> list[dict[str, Any]]:
        """References to the groups of a VM; Fault 404 if there is no such VM."""
        contents, known = await self._store.contents(), list(self._fabric.machines())
        if all(machine.id != identity for machine in known):
            raise faults.missing(f"VirtualMachine/{identity}")
        return associations(contents, Membership(contents, known), identity)

    def vifs(self) -> list[dict[str, Any]]:
        """The NICs of all VMs."""
        return [_vif(machine, vif) for machine in self._fabric.machines() for vif in machine.vifs]

    async def tag(self, action: str, body: dict[str, Any], user: str) -> None:
        """`update_tags` (the body's are all), `add_tags` or `remove_tags`; Fault 404 for an unknown VM."""
        try:
            asked = VirtualMachineTags.model_validate(body)
        except ValidationError as error:
            first = error.errors()[0]
            raise faults.invalid(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        if all(machine.id != asked.external_id for machine in self._fabric.machines()):
            raise faults.missing(f"VirtualMachine/{asked.external_id}")
        given = [(tag.scope, tag.tag) for tag in asked.tags]

        def work(draft: Draft) -> None:
            now = draft.before.machine_tags.get(asked.external_id, ())
            wanted = {
                UPDATE: given,
                ADD: [*now, *given],
                REMOVE: [pair for pair in now if pair not in given],
            }[action]
            distinct = list(dict.fromkeys(wanted))
            if len(distinct) > _MOST_TAGS:
                raise faults.invalid(f"tags: a VM may have {_MOST_TAGS}")
            if tuple(distinct) != now:
                tags = [Tag(scope=scope, tag=tag) for scope, tag in distinct]
                draft.put(MachineTags.of_machine(asked.external_id, tags))

        await self._store.change(work, user)


def _machine(contents: Contents, machine: Machine) -> dict[str, Any]:
    tags = contents.machine_tags.get(machine.id, ())
    guest = {"os_name": machine.os_name, "computer_name": machine.computer_name}
    shown: dict[str, Any] = {
        "resource_type": "VirtualMachine",
        "external_id": machine.id,
        "display_name": machine.name,
        "host_id": machine.host,
        "power_state": "VM_RUNNING" if machine.powered_on else "VM_STOPPED",
        "type": "REGULAR",
        "compute_ids": [f"instanceUuid:{machine.id}"],
        "source": {"target_type": "HostNode", "target_display_name": machine.host, "is_valid": True},
        "guest_info": {key: value for key, value in guest.items() if value},
    }
    if tags:
        shown["tags"] = [{"scope": scope, "tag": tag} for scope, tag in tags]
    return shown


def _vif(machine: Machine, vif: Vif) -> dict[str, Any]:
    return {
        "resource_type": "VirtualNetworkInterface",
        "external_id": f"{machine.id}-{vif.device_key}",
        "owner_vm_id": machine.id,
        "owner_vm_type": "REGULAR",
        "host_id": machine.host,
        "device_key": str(vif.device_key),
        "mac_address": vif.mac,
        "lport_attachment_id": vif.id,
        "ip_address_info": [{"source": "VM_TOOLS", "ip_addresses": list(vif.addresses)}] if vif.addresses else [],
    }
