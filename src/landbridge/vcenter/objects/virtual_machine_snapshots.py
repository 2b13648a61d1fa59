"""VirtualMachine's methods that make, revert to and remove snapshots."""

from pyVmomi import vim

from landbridge.esx.client import HostClient
from landbridge.esx.model import CreateSnapshot, Job, PowerOperation, PowerState
from landbridge.vcenter import host_jobs
from landbridge.vcenter.calls import Call
from landbridge.vcenter.hardware.device_faults import not_supported
from landbridge.vcenter.objects.snapshot import snapshot_moid
from landbridge.vcenter.objects.virtual_machine_state import VirtualMachineState
from landbridge.vcenter.tasks import TaskHandle


class SnapshotMethods(VirtualMachineState):
    """Snapshots of a VM."""

    async def create_snapshot_task(
        self, call: Call, name: str, description: str | None = None, memory: bool = False, quiesce: bool = False
    ) -> vim.Task:
        async def work(task: TaskHandle) -> vim.vm.Snapshot:
            return await self._create_snapshot(task, name, description or "", memory=memory, quiesce=quiesce)

        return await self.inventory.tasks.start(call, self, "VirtualMachine.createSnapshot", work)

    async def create_snapshot_ex_task(
        self,
        call: Call,
        name: str,
        description: str | None = None,
        memory: bool = False,
        quiesce_spec: vim.vm.GuestQuiesceSpec | None = None,
    ) -> vim.Task:
        return await self.create_snapshot_task(call, name, description, memory, quiesce_spec is not None)

    async def _create_snapshot(
        self, task: TaskHandle, name: str, description: str, *, memory: bool, quiesce: bool
    ) -> vim.vm.Snapshot:
        if not name.strip() or any(ord(letter) < 32 for letter in name):
            raise vim.fault.InvalidName(name=name.strip(), msg=f"{name!r} can not be a snapshot's name.")
        running = self.state.power_state is PowerState.ON
        with self.exclusive(task) as client:
            # Memory and quiescing mean something for a running VM only; vSphere ignores them otherwise.
            request = CreateSnapshot(
                name=name,
                description=description,
                memory=memory and running,
                quiesce=quiesce and running and not memory,
            )
            snapshot = await client.create_snapshot(self.uuid, request)
            await self.state_changed(await client.vm(self.uuid))
        return vim.vm.Snapshot(snapshot_moid(self, snapshot.id), None)

    async def revert_to_current_snapshot_task(
        self, call: Call, host: vim.HostSystem | None = None, suppress_power_on: bool | None = None
    ) -> vim.Task:
        if host is not None and host._moId != self.facts["host"]:
            raise not_supported("Reverting to a snapshot on another host")

        async def work(task: TaskHandle) -> None:
            current = self.state.current_snapshot
            if current is None:
                raise vim.fault.NotFound(msg=f"{self.name} has no current snapshot.")
            await self.revert(task, current, suppress_power_on=bool(suppress_power_on))

        return await self.inventory.tasks.start(call, self, "VirtualMachine.revertToCurrentSnapshot", work)

    async def revert(self, task: TaskHandle, snapshot: int, *, suppress_power_on: bool) -> None:
        """Go back to a snapshot; a VM whose memory was kept runs again unless that is suppressed."""
        with self.exclusive(task) as client:
            state = await client.revert_snapshot(self.uuid, snapshot)
            if suppress_power_on and state.power_state is PowerState.ON:
                state = await client.power(self.uuid, PowerOperation.OFF)
            await self.state_changed(state)

    async def remove_all_snapshots_task(
        self, call: Call, consolidate: bool | None = None, spec: vim.vm.SnapshotSelectionSpec | None = None
    ) -> vim.Task:
        if consolidate is False:
            raise not_supported("Removing snapshots without consolidating their disks")
        if spec is not None and spec.retentionDays is not None:
            raise not_supported("Selecting snapshots by age")

        async def work(task: TaskHandle) -> None:
            if not self.state.snapshots:
                return
            with self.exclusive(task) as client:
                await self.follow_job(task, client, await client.remove_all_snapshots(self.uuid))
            await self.refresh()

        return await self.inventory.tasks.start(call, self, "VirtualMachine.removeAllSnapshots", work)

    async def consolidate_vm_disks_task(self, call: Call) -> vim.Task:
        """Nothing is ever left to consolidate: removing a snapshot ends when its disks are."""

        async def work(_: TaskHandle) -> None:
            return None

        return await self.inventory.tasks.start(call, self, "VirtualMachine.consolidateDisks", work)

    async def follow_job(self, task: TaskHandle, client: HostClient, job: Job) -> Job:
        """Wait for an agent's job, its progress shown as the task's."""
        return await host_jobs.follow(task, client, job)
