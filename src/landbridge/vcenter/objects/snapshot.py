"""VirtualMachineSnapshot: a point in time a VM can go back to."""

from typing import Any

from pyVmomi import vim

from landbridge.esx.model import Snapshot as HostSnapshot
from landbridge.vcenter.calls import Call
from landbridge.vcenter.hardware.device_faults import not_supported
from landbridge.vcenter.host_faults import agent_faults
from landbridge.vcenter.managed import Managed
from landbridge.vcenter.tasks import TaskHandle


def snapshot_moid(vm: Managed, snapshot: int) -> str:
    """The moId of a VM's snapshot: the same as long as the VM is in the inventory."""
    return f"snapshot-{vm.moid.removeprefix('vm-')}-{snapshot}"


class Snapshot(Managed):
    """Facts: vm (moId), id (the snapshot's number at the host)."""

    kind = vim.vm.Snapshot
    prefix = "snapshot"

    def __init__(self, inventory: Any, moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self.lazy("vm", lambda: self.vm.ref)
        # The configuration at the time of the snapshot is not kept apart: clients get the VM's.
        self.lazy("config", lambda: self.vm.value("config"))
        self.lazy("childSnapshot", self._children)

    @property
    def vm(self) -> Any:
        """The VirtualMachine it is of."""
        return self.inventory.get(self.facts["vm"])

    @property
    def id(self) -> int:
        return int(self.facts["id"])

    @property
    def told(self) -> HostSnapshot:
        """What the host tells of it."""
        found: HostSnapshot | None = next((s for s in self.vm.state.snapshots if s.id == self.id), None)
        if found is None:
            raise vim.fault.NotFound(msg=f"{self.vm.name} has the snapshot {self.id} no more.")
        return found

    def _children(self) -> list[vim.vm.Snapshot]:
        children = [snapshot.id for snapshot in self.vm.state.snapshots if snapshot.parent == self.id]
        return [vim.vm.Snapshot(snapshot_moid(self.vm, child), None) for child in children]

    async def rename_snapshot(self, call: Call, name: str | None = None, description: str | None = None) -> None:
        if name is not None and not name.strip():
            raise vim.fault.InvalidName(name=name, msg="A snapshot's name can not be empty.")
        told = self.told
        with agent_faults(self.vm):
            await self.vm.client().rename_snapshot(
                self.vm.uuid,
                self.id,
                told.name if name is None else name,
                told.description if description is None else description,
            )
        await self.vm.refresh()

    async def revert_to_snapshot_task(
        self, call: Call, host: vim.HostSystem | None = None, suppress_power_on: bool | None = None
    ) -> vim.Task:
        if host is not None and host._moId != self.vm.facts["host"]:
            raise not_supported("Reverting to a snapshot on another host")

        async def work(task: TaskHandle) -> None:
            await self.vm.revert(task, self.id, suppress_power_on=bool(suppress_power_on))

        return await self.inventory.tasks.start(call, self.vm, "VirtualMachineSnapshot.revert", work)

    async def remove_snapshot_task(
        self, call: Call, remove_children: bool = False, consolidate: bool | None = None
    ) -> vim.Task:
        if consolidate is False:
            raise not_supported("Removing a snapshot without consolidating its disks")

        async def work(task: TaskHandle) -> None:
            with self.vm.exclusive(task) as client:
                job = await client.remove_snapshot(self.vm.uuid, self.id, bool(remove_children))
                await self.vm.follow_job(task, client, job)
            await self.vm.refresh()

        return await self.inventory.tasks.start(call, self.vm, "VirtualMachineSnapshot.remove", work)
