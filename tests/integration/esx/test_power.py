"""Power operations, and that a VM and its agent live and die apart."""

import asyncio
import os
import signal

import pytest

from landbridge.esx.client import HostError
from landbridge.esx.model import Firmware, PowerOperation, PowerState

from .hosts import TestHost, exists, powered_off, powered_on, read


async def refused(call: object, fault: str) -> HostError:
    with pytest.raises(HostError) as error:
        await call  # type: ignore[misc]
    assert error.value.type == fault, error.value.message
    return error.value


async def test_a_vm_goes_on_and_off(host: TestHost) -> None:
    vm = await host.create("on and off")
    on = await host.client.power(vm.config.instance_uuid, PowerOperation.ON)
    assert on.power_state is PowerState.ON
    assert on.boot_time is not None
    pid = host.qemu_pid(vm)
    assert pid is not None
    off = await host.client.power(vm.config.instance_uuid, PowerOperation.OFF)
    assert off.power_state is PowerState.OFF
    assert host.qemu_pid(vm) is None
    assert not exists(f"/proc/{pid}")


async def test_an_operation_that_does_not_fit_the_power_state_is_refused(host: TestHost) -> None:
    vm = await host.create("states")
    for operation in (PowerOperation.OFF, PowerOperation.RESET, PowerOperation.SUSPEND, PowerOperation.SHUTDOWN_GUEST):
        error = await refused(host.client.power(vm.config.instance_uuid, operation), "InvalidPowerState")
        assert error.details["existingState"] == "poweredOff"
    await host.client.power(vm.config.instance_uuid, PowerOperation.ON)
    await refused(host.client.power(vm.config.instance_uuid, PowerOperation.ON), "InvalidPowerState")
    await refused(host.client.destroy_vm(vm.config.instance_uuid), "InvalidPowerState")
    await refused(host.client.unregister_vm(vm.config.instance_uuid), "InvalidPowerState")


async def test_guest_operations_without_a_guest_agent_say_so(host: TestHost) -> None:
    vm = await host.create_running("no tools")
    await refused(host.client.power(vm.config.instance_uuid, PowerOperation.SHUTDOWN_GUEST), "ToolsUnavailable")
    await refused(host.client.power(vm.config.instance_uuid, PowerOperation.REBOOT_GUEST), "ToolsUnavailable")
    assert (await host.client.vm(vm.config.instance_uuid)).power_state is PowerState.ON


async def test_a_suspended_vm_resumes_and_its_memory_file_goes(host: TestHost) -> None:
    vm = await host.create_running("sleeper")
    suspended = await host.client.power(vm.config.instance_uuid, PowerOperation.SUSPEND)
    assert suspended.power_state is PowerState.SUSPENDED
    assert host.qemu_pid(vm) is None
    memory = host.datastore / "sleeper" / "sleeper.vmss"
    assert memory.stat().st_size > 0
    resumed = await host.client.power(vm.config.instance_uuid, PowerOperation.ON)
    assert resumed.power_state is PowerState.ON
    assert not memory.exists()


async def test_power_off_drops_a_suspended_vms_memory(host: TestHost) -> None:
    vm = await host.create_running("dropped")
    await host.client.power(vm.config.instance_uuid, PowerOperation.SUSPEND)
    off = await host.client.power(vm.config.instance_uuid, PowerOperation.OFF)
    assert off.power_state is PowerState.OFF
    assert not (host.datastore / "dropped" / "dropped.vmss").exists()


async def test_a_suspended_vm_is_suspended_after_registration_too(host: TestHost) -> None:
    vm = await host.create_running("frozen")
    await host.client.power(vm.config.instance_uuid, PowerOperation.SUSPEND)
    await host.client.unregister_vm(vm.config.instance_uuid)
    again = await host.client.register_vm(vm.vmx)
    assert again.power_state is PowerState.SUSPENDED
    assert (await host.client.power(vm.config.instance_uuid, PowerOperation.ON)).power_state is PowerState.ON


async def test_a_vm_outlives_its_agent_and_is_found_again(private_host: TestHost) -> None:
    vm = await private_host.create_running("survivor")
    before = private_host.qemu_pid(vm)
    epoch = (await private_host.client.host()).epoch
    info = await private_host.restart()
    assert info.epoch != epoch
    found = await private_host.client.vm(vm.config.instance_uuid)
    assert found.power_state is PowerState.ON
    assert private_host.qemu_pid(vm) == before
    # It is attached, not only seen: what needs QMP works.
    await private_host.client.power(vm.config.instance_uuid, PowerOperation.RESET)
    off = await private_host.client.power(vm.config.instance_uuid, PowerOperation.OFF)
    assert off.power_state is PowerState.OFF


async def test_a_vm_that_ended_while_the_agent_was_dead_is_off(private_host: TestHost) -> None:
    vm = await private_host.create_running("ended")
    pid = private_host.qemu_pid(vm)
    assert pid is not None
    await private_host.kill()
    os.kill(pid, signal.SIGKILL)
    await private_host.start()
    assert (await private_host.client.vm(vm.config.instance_uuid)).power_state is PowerState.OFF
    assert powered_on(await private_host.client.power(vm.config.instance_uuid, PowerOperation.ON))


async def test_a_killed_qemu_is_noticed_and_told(host: TestHost) -> None:
    vm = await host.create_running("victim")
    seen = (await host.client.events(0, 0)).events[-1].seq
    pid = host.qemu_pid(vm)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await host.wait_for(vm, powered_off)
    events = (await host.client.events(seen, 5)).events
    assert any(event.vm == vm.config.instance_uuid and "unexpectedly" in event.message for event in events)


async def test_an_event_wakes_who_waits_for_it(host: TestHost) -> None:
    vm = await host.create("awaited")
    seen = (await host.client.events(0, 0)).events[-1].seq
    waiting = asyncio.create_task(host.client.events(seen, 60))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await host.client.power(vm.config.instance_uuid, PowerOperation.ON)
    events = await asyncio.wait_for(waiting, 20)
    assert [(event.vm, event.message) for event in events.events] == [(vm.config.instance_uuid, "powered on")]


async def test_efi_variables_are_kept(host: TestHost) -> None:
    vm = await host.create("efi", firmware=Firmware.EFI)
    await host.client.power(vm.config.instance_uuid, PowerOperation.ON)
    nvram = host.datastore / "efi" / "efi.nvram"
    template = read("/usr/share/OVMF/OVMF_VARS_4M.fd")
    for _ in range(600):
        # The firmware writes its variables soon after it starts.
        if nvram.read_bytes() != template:
            break
        await asyncio.sleep(0.1)
    await host.client.power(vm.config.instance_uuid, PowerOperation.OFF)
    written = nvram.read_bytes()
    assert written != template
    await host.client.unregister_vm(vm.config.instance_uuid)
    await host.client.register_vm(vm.vmx)
    assert nvram.read_bytes() == written


async def test_maintenance_mode_waits_for_vms_to_go_and_starts_none(private_host: TestHost) -> None:
    vm = await private_host.create_running("in the way")
    await refused(private_host.client.set_maintenance(True), "InvalidState")
    await private_host.client.power(vm.config.instance_uuid, PowerOperation.OFF)
    assert (await private_host.client.set_maintenance(True)).maintenance
    assert (await private_host.restart()).maintenance
    await refused(private_host.client.power(vm.config.instance_uuid, PowerOperation.ON), "InvalidState")
    await private_host.client.set_maintenance(False)
    await private_host.client.power(vm.config.instance_uuid, PowerOperation.ON)
