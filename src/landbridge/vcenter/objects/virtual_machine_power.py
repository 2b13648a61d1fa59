"""VirtualMachine's methods that switch it on and off, and those that ask its guest to."""

from pyVmomi import vim

from landbridge.esx.model import PowerOperation, PowerState
from landbridge.vcenter.calls import Call
from landbridge.vcenter.hardware.device_faults import not_supported
from landbridge.vcenter.host_faults import agent_faults
from landbridge.vcenter.objects.virtual_machine_state import VirtualMachineState
from landbridge.vcenter.tasks import TaskHandle

_OFF, _ON, _SUSPENDED = PowerState.OFF, PowerState.ON, PowerState.SUSPENDED


class PowerMethods(VirtualMachineState):
    """Power operations. Each checks the state first, so that a wrong one fails with InvalidPowerState."""

    async def power_on_vm_task(self, call: Call, host: vim.HostSystem | None = None) -> vim.Task:
        if host is not None and host._moId != self.facts["host"]:
            raise not_supported("Powering a VM on on another host than its own (RelocateVM_Task moves it)")
        return await self.inventory.tasks.start(call, self, "VirtualMachine.powerOn", self.power_on)

    async def power_on(self, task: TaskHandle) -> None:
        """Power the VM on, or resume it if it is suspended."""
        self.refuse_template()
        self.require_state(_ON, _OFF, _SUSPENDED)
        self.host.require_usable()
        await self._power(task, PowerOperation.ON)

    async def power_off_vm_task(self, call: Call) -> vim.Task:
        async def work(task: TaskHandle) -> None:
            self.require_state(_OFF, _ON, _SUSPENDED)
            await self._power(task, PowerOperation.OFF)

        return await self.inventory.tasks.start(call, self, "VirtualMachine.powerOff", work)

    async def reset_vm_task(self, call: Call) -> vim.Task:
        async def work(task: TaskHandle) -> None:
            self.require_state(_ON, _ON)
            await self._power(task, PowerOperation.RESET)
            self.inventory.events.post(
                vim.event.VmResettingEvent, vm=self, host=self.host, message=f"{self.name} was reset", template=False
            )

        return await self.inventory.tasks.start(call, self, "VirtualMachine.reset", work)

    async def suspend_vm_task(self, call: Call) -> vim.Task:
        async def work(task: TaskHandle) -> None:
            self.require_state(_SUSPENDED, _ON)
            await self._power(task, PowerOperation.SUSPEND)

        return await self.inventory.tasks.start(call, self, "VirtualMachine.suspend", work)

    async def shutdown_guest(self, call: Call) -> None:
        await self._ask_guest(_OFF, PowerOperation.SHUTDOWN_GUEST)

    async def reboot_guest(self, call: Call) -> None:
        await self._ask_guest(_ON, PowerOperation.REBOOT_GUEST)

    async def standby_guest(self, call: Call) -> None:
        self.require_state(_SUSPENDED, _ON)
        raise not_supported("Putting the guest into standby")

    async def _power(self, task: TaskHandle, operation: PowerOperation) -> None:
        with self.exclusive(task) as client:
            state = await client.power(self.uuid, operation)
            await self.state_changed(state)

    async def _ask_guest(self, wanted: PowerState, operation: PowerOperation) -> None:
        self.require_state(wanted, _ON)
        if not self.state.guest.tools_running:
            # The host's view may be newer than ours.
            await self.refresh()
        with agent_faults(self):
            await self.state_changed(await self.client().power(self.uuid, operation))
