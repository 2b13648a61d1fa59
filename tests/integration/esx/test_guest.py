"""A host with a switch, and a real guest on it: its tools, its network, its devices."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator

import pytest

from landbridge.esx.client import HostError
from landbridge.esx.model import (
    CreateVm,
    Disk,
    Nic,
    NicType,
    PortGroup,
    PowerOperation,
    PowerState,
    ReconfigureVm,
    VmState,
)
from landbridge.lab.image import DISK_BYTES, GuestSettings, base_image, guest_disk

from .hosts import MIB, Place, TestHost, powered_off, running_hosts, tool, vm_config

NETWORK = PortGroup(key="dvportgroup-1", name="VM Network")
GUEST, CLIENT = "10.99.0.10", "10.99.0.1"
_BOOT = 150.0  # seconds for a guest under software emulation on a busy machine


@pytest.fixture(scope="module")
async def wired_host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TestHost]:
    """A host in a network namespace of its own; its uplink ends in another, where a client has an address."""
    space = f"lbt{os.getpid()}g"
    number = os.getpid()
    outside, inside = (f"198.18.{number >> 6 & 0xFF}.{(number & 0x3F) * 4 + end}" for end in (1, 2))
    for command in (
        f"netns add {space}",
        f"netns add {space}c",
        f"link add {space}m type veth peer name mgmt netns {space}",
        f"addr add {outside}/30 dev {space}m",
        f"link set {space}m up",
        f"-n {space} addr add {inside}/30 dev mgmt",
        f"-n {space} link set mgmt up",
        f"-n {space} link set lo up",
        f"-n {space} link add uplink0 type veth peer name eth0 netns {space}c",
        f"-n {space}c addr add {CLIENT}/24 dev eth0",
        f"-n {space}c link set eth0 up",
    ):
        tool("ip", *command.split())
    tool("ip", "netns", "exec", f"{space}c", "ethtool", "-K", "eth0", "tx", "off")
    place = Place(inside, ("ip", "netns", "exec", space), "uplink0")
    try:
        async with running_hosts(tmp_path_factory.mktemp("wired"), "esx09.onprem", place=place) as (host,):
            await host.client.set_port_groups([NETWORK])
            yield host
            end_switch(host)
    finally:
        for name in (space, f"{space}c"):
            with contextlib.suppress(subprocess.CalledProcessError):
                tool("ip", "netns", "delete", name)


def end_switch(host: TestHost) -> None:
    """End the host's Open vSwitch, which outlives its agent."""
    for pid_file in (host.run / "switch").glob("*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid_file.read_text()), 9)


@pytest.fixture(scope="module")
async def guest(wired_host: TestHost, tmp_path_factory: pytest.TempPathFactory) -> VmState:
    """A running guest whose tools have reported its address."""
    base = await asyncio.to_thread(base_image)
    disk = tmp_path_factory.mktemp("guest") / "disk.qcow2"
    settings = GuestSettings(hostname="canary", address=f"{GUEST}/24", dirty_mib=4, dirty_mib_per_s=1)
    await asyncio.to_thread(guest_disk, base, disk, settings)
    await wired_host.client.make_directory("datastore1", "templates")
    await wired_host.client.upload("datastore1", "templates/guest.vmdk", disk)
    config = vm_config(
        "canary",
        memory_mib=256,
        disks=[Disk(key=2000, controller=1000, unit=0, capacity=DISK_BYTES)],
        nics=[Nic(key=4000, network=NETWORK.key)],
    )
    source = {2000: "[datastore1] templates/guest.vmdk"}
    vm = await wired_host.client.create_vm(CreateVm(config=config, datastore="datastore1", disk_sources=source))
    await wired_host.client.power(vm.config.instance_uuid, PowerOperation.ON)
    return await wired_host.wait_for(vm, reports_its_address, _BOOT)


def reports_its_address(state: VmState) -> bool:
    return any(GUEST in addresses for addresses in state.guest.ip_addresses.values())


async def answers(host: TestHost) -> bool:
    """Whether the client reaches the guest through the switch."""
    space = f"{host.place.prefix[-1]}c"
    command = ("ip", "netns", "exec", space, "ping", "-q", "-c1", "-w20", GUEST)
    ping = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    return await ping.wait() == 0


async def test_a_guest_says_who_it_is_and_is_reached(wired_host: TestHost, guest: VmState) -> None:
    assert guest.guest.tools_running
    assert guest.guest.hostname == "canary"
    assert "Debian" in guest.guest.os_full_name
    assert guest.config.nics[0].mac in guest.guest.ip_addresses
    assert await answers(wired_host)


async def test_an_unplugged_cable_is_silent_until_it_is_plugged_in(wired_host: TestHost, guest: VmState) -> None:
    async def connect(connected: bool) -> None:
        now = await wired_host.client.vm(guest.config.instance_uuid)
        nic = now.config.nics[0].model_copy(update={"connected": connected})
        config = now.config.model_copy(update={"nics": [nic]})
        await wired_host.client.reconfigure_vm(
            guest.config.instance_uuid, ReconfigureVm(config=config, version=now.version)
        )

    await connect(False)
    space = f"{wired_host.place.prefix[-1]}c"
    ping = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", space, "ping", "-q", "-c2", "-w3", GUEST), stdout=asyncio.subprocess.DEVNULL
    )
    assert await ping.wait() != 0
    await connect(True)
    assert await answers(wired_host)


async def test_a_guest_lets_go_of_a_nic_and_takes_another(wired_host: TestHost, guest: VmState) -> None:
    uuid = guest.config.instance_uuid
    now = await wired_host.client.vm(uuid)
    more = now.config.model_copy(
        update={
            "nics": [*now.config.nics, Nic(key=4001, type=NicType.VMXNET3, network=NETWORK.key)],
            "disks": [*now.config.disks, Disk(key=2001, controller=1000, unit=1, capacity=32 * MIB)],
        }
    )
    plugged = await wired_host.client.reconfigure_vm(uuid, ReconfigureVm(config=more, version=now.version))
    assert len(plugged.config.nics) == 2
    fewer = plugged.config.model_copy(update={"nics": plugged.config.nics[:1], "disks": plugged.config.disks[:1]})
    request = ReconfigureVm(config=fewer, version=plugged.version, destroy_disks=[2001])
    for attempt in range(10):
        try:
            unplugged = await wired_host.client.reconfigure_vm(uuid, request)
            break
        except HostError as error:
            # A guest that is still taking a device in does not let go of it yet.
            if error.type != "InvalidState" or attempt == 9:
                raise
    assert [nic.key for nic in unplugged.config.nics] == [4000]
    assert not (wired_host.datastore / "canary" / "canary_1.vmdk").exists()
    assert await answers(wired_host)


async def test_a_guest_that_was_suspended_goes_on_where_it_was(wired_host: TestHost, guest: VmState) -> None:
    uuid = guest.config.instance_uuid
    await wired_host.client.power(uuid, PowerOperation.SUSPEND)
    assert (wired_host.datastore / "canary" / "canary.vmss").stat().st_size > 16 * MIB
    await wired_host.client.power(uuid, PowerOperation.ON)
    assert await answers(wired_host)
    console = (wired_host.datastore / "canary" / "serial.log") if guest.config.serial_ports else None
    assert console is None or console.read_text().count("ready at") == 1


async def test_a_restarted_agent_reaches_the_guest_and_its_tools(wired_host: TestHost, guest: VmState) -> None:
    await wired_host.restart()
    assert [group.key for group in await wired_host.client.port_groups()] == [NETWORK.key]
    found = await wired_host.wait_for(guest, reports_its_address, 60)
    assert found.power_state is PowerState.ON
    assert await answers(wired_host)
    with pytest.raises(HostError) as error:
        await wired_host.client.set_port_groups([])
    assert error.value.type == "ResourceInUse"


async def test_counters_count(wired_host: TestHost, guest: VmState) -> None:
    def counted(state: VmState) -> bool:
        stats = state.stats
        return stats.cpu_seconds > 0 and stats.disk_writes > 0 and stats.net_tx_bytes > 0 and stats.memory_mib > 32

    state = await wired_host.wait_for(guest, counted, 60)
    assert state.stats.uptime_seconds > 0
    assert state.storage_committed > 200 * MIB
    assert (await wired_host.client.host_stats()).memory_mib > 0


async def test_a_guest_shuts_down_when_it_is_asked(wired_host: TestHost, guest: VmState) -> None:
    seen = (await wired_host.client.events(0, 0)).events[-1].seq
    await wired_host.client.power(guest.config.instance_uuid, PowerOperation.SHUTDOWN_GUEST)
    off = await wired_host.wait_for(guest, powered_off, 60)
    assert not off.guest.tools_running
    events = (await wired_host.client.events(seen, 5)).events
    assert "shut down by the guest" in [event.message for event in events]
    # Its ports are gone with it.
    links = tool(*wired_host.place.prefix, "ip", "-o", "link")
    assert not [line for line in links.splitlines() if ": t" in line and "tun" not in line]


async def test_a_network_the_host_does_not_know_is_named(wired_host: TestHost) -> None:
    vm = await wired_host.create("stranger", nics=[Nic(key=4000, network="dvportgroup-99")])
    with pytest.raises(HostError, match="dvportgroup-99") as error:
        await wired_host.client.power(vm.config.instance_uuid, PowerOperation.ON)
    assert error.value.type == "InvalidDeviceBacking"
    assert (await wired_host.client.vm(vm.config.instance_uuid)).power_state is PowerState.OFF
    await wired_host.client.destroy_vm(vm.config.instance_uuid)
    shutil.rmtree(wired_host.datastore / "templates", ignore_errors=True)
