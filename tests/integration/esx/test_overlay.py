"""Hosts as OVN chassis: VIFs on segments across real hosts, with the engines killed, and guests that move."""

import asyncio
import contextlib
import os
import signal
import uuid
from collections.abc import AsyncIterator
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from landbridge.esx.client import HostError
from landbridge.esx.model import (
    CreateVm,
    Disk,
    IncomingVm,
    Nic,
    OutgoingVm,
    OverlayConfig,
    PortGroup,
    PowerOperation,
    ReconfigureVm,
    Vmotion,
    VmotionMode,
    VmotionPhase,
    VmState,
    vif_id,
)
from landbridge.esx.overlay import TransportNode
from landbridge.esx.switch import Switch, SwitchError
from landbridge.lab.image import DISK_BYTES, GuestSettings, base_image, guest_disk
from landbridge.pki import Authority, Identity, PeerName

from .cloud import Cloud, Pings, run, running_cloud, transfer
from .hosts import SITE, TestHost, vm_config

WEB = PortGroup(key="dvportgroup-20", name="web", segment=str(uuid.uuid4()))
TRUNK = PortGroup(key="dvportgroup-21", name="VM Network", vlan=100)
GUEST = "10.77.0.10"
_FINAL = (VmotionPhase.SUCCEEDED, VmotionPhase.FAILED)
_BOOT = 100.0  # seconds for a guest under software emulation on a busy machine


@pytest.fixture(scope="module")
async def cloud() -> AsyncIterator[Cloud]:
    async with running_cloud() as one:
        one.central.nbctl("ls-add", WEB.name)
        for number in (1, 2, 3):
            one.on_segment(WEB.name, f"e{number}", number, f"10.77.0.{number}")
        for host in one.hosts:
            await host.client.set_port_groups([WEB, TRUNK])
        one.central.nbctl("--wait=hv", "sync")
        yield one


@pytest.fixture(scope="module")
async def guest(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> VmState:
    """A guest on the first host that begins to boot, with its NIC on the segment."""
    host = cloud.hosts[0]
    base = await asyncio.to_thread(base_image, 8)
    disk = tmp_path_factory.mktemp("guest") / "disk.qcow2"
    settings = GuestSettings(hostname="web01", address=f"{GUEST}/24", dirty_mib=1, dirty_mib_per_s=1)
    await asyncio.to_thread(guest_disk, base, disk, settings)
    await host.client.make_directory("datastore1", "templates")
    await host.client.upload("datastore1", "templates/guest.vmdk", disk)
    config = vm_config(
        "web01",
        memory_mib=128,
        disks=[Disk(key=2000, controller=1000, unit=0, capacity=DISK_BYTES)],
        nics=[Nic(key=4000, network=WEB.key, mac="00:50:56:00:00:10")],
    )
    cloud.central.nbctl(
        *("lsp-add", WEB.name, vif(config.instance_uuid), "--"),
        *("lsp-set-addresses", vif(config.instance_uuid), f"00:50:56:00:00:10 {GUEST}"),
    )
    source = {2000: "[datastore1] templates/guest.vmdk"}
    vm = await host.client.create_vm(CreateVm(config=config, datastore="datastore1", disk_sources=source))
    return await host.client.power(vm.config.instance_uuid, PowerOperation.ON)


def vif(instance_uuid: str) -> str:
    return vif_id(instance_uuid, 4000)


# ---------------------------------------------------------------------------------------------- the chassis


async def test_a_segment_carries_full_frames_and_tcp_from_host_to_host(cloud: Cloud, guest: VmState) -> None:
    assert await cloud.reaches("e1", "10.77.0.2", "-s1472", "-Mdo")
    assert await cloud.reaches("e3", "10.77.0.1", "-s1472", "-Mdo")
    sent, received = await transfer(cloud, "e1", "e2", "10.77.0.2", 4_000_000)
    assert sent == received
    status = await cloud.managers[0].overlay()
    assert (status.chassis, status.running, status.connected) == ("esx01.onprem", True, True)
    assert {(tunnel.chassis, tunnel.address, tunnel.state) for tunnel in status.tunnels} == {
        ("esx02.onprem", "10.66.0.2", "up"),
        ("esx03.onprem", "10.66.0.3", "up"),
    }


async def test_frames_flow_on_without_ovn_controller_which_comes_back(cloud: Cloud) -> None:
    async with cloud.pinging("e1", "10.77.0.2") as pings:
        await kill(cloud.hosts[0], "ovn-controller")
        await cloud.connected(cloud.managers[0])
    print(f"ovn-controller killed: {pings.lost} of {pings.sent} lost, silent for {pings.silence:.0f} ms")
    assert pings.lost < 20


async def test_frames_flow_on_without_the_agent_which_finds_its_chassis_again(cloud: Cloud) -> None:
    host = cloud.hosts[0]
    before = pid(host, "ovn-controller")
    async with cloud.pinging("e1", "10.77.0.2") as pings:
        await host.restart()
        status = await cloud.managers[0].overlay()
    assert (status.configured, status.running, status.connected) == (True, True, True)
    assert pid(host, "ovn-controller") == before
    print(f"agent killed: {pings.lost} of {pings.sent} lost, silent for {pings.silence:.0f} ms")
    assert pings.lost < 20


async def test_tunnels_come_back_after_open_vswitch_was_killed(cloud: Cloud) -> None:
    await kill(cloud.hosts[2], "ovs-vswitchd")
    assert await cloud.reaches("e3", "10.77.0.1", within=20)


async def test_a_chassis_with_a_certificate_of_another_authority_is_not_let_in(cloud: Cloud, tmp_path: Path) -> None:
    space = cloud.host_namespace(4)
    foreign = Authority.create(tmp_path / "ca", "another site")
    identity = foreign.issue(tmp_path / "pki", PeerName(SITE, "esx", "esx04.onprem"))
    # It trusts the database; the database must not trust it.
    identity.ca.write_bytes(Identity(cloud.hosts[0].identity.directory).ca.read_bytes())
    node = TransportNode("esx04.onprem", identity, "tep0", IPv4Interface("10.66.0.4/24"))
    switch = Switch(
        run_dir=cloud.directory / "esx04" / "switch", state_dir=tmp_path, uplink="uplink0", namespace=space, node=node
    )
    await switch.start()
    try:
        assert switch.overlay is not None
        await switch.overlay.configure(OverlayConfig(southbound=[cloud.central.southbound]))
        async with asyncio.timeout(20):
            while "certificate verify failed" not in cloud.central.log():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            # By TLS 1.3 it is in for a moment, until it hears that it is not.
            while (await switch.overlay.status()).connected:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert "esx04" not in cloud.central.sbctl("--bare", "--columns=name", "list", "chassis")
    finally:
        await switch.stop()


async def test_a_tunnel_network_too_small_for_full_frames_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    space = cloud.host_namespace(5)
    run("ip", "-n", space, "link", "set", "tep0", "mtu", "1500")
    node = TransportNode("esx05.onprem", cloud.hosts[0].identity, "tep0", IPv4Interface("10.66.0.5/24"))
    switch = Switch(
        run_dir=cloud.directory / "esx05" / "switch", state_dir=tmp_path, uplink="uplink0", namespace=space, node=node
    )
    await switch.start()
    try:
        assert switch.overlay is not None
        with pytest.raises(SwitchError, match=r"tep0 has an MTU of 1500: .* need 1600 or more"):
            await switch.overlay.configure(OverlayConfig(southbound=[cloud.central.southbound]))
        status = await switch.overlay.status()
        assert (status.mtu, status.configured, status.running) == (1500, False, False)
    finally:
        await switch.stop()


async def test_each_manager_keeps_to_its_part_of_the_api(cloud: Cloud, guest: VmState) -> None:
    nsx, vcenter = cloud.managers[0], cloud.hosts[0].client
    assert guest.config.instance_uuid in [vm.config.instance_uuid for vm in await nsx.vms()]
    refused = (
        nsx.power(guest.config.instance_uuid, PowerOperation.OFF),
        nsx.set_port_groups([]),
        nsx.abort_vmotion("any"),
        vcenter.configure_overlay(OverlayConfig(southbound=[cloud.central.southbound])),
        vcenter.remove_overlay(),
    )
    for call in refused:
        with pytest.raises(HostError) as error:
            await call
        assert error.value.type == "NoPermission"
    assert (await vcenter.overlay()).connected


async def test_a_database_that_is_not_asked_for_by_tls_is_refused(cloud: Cloud) -> None:
    body = {"southbound": ["tcp:127.0.0.1:6642"]}
    with pytest.raises(HostError, match="southbound") as error:
        await cloud.managers[0]._call("PUT", "/overlay", None, body)
    assert error.value.type == "InvalidArgument"


async def test_a_host_that_is_removed_leaves_its_ovn_and_may_join_again(cloud: Cloud) -> None:
    def chassis() -> str:
        return cloud.central.sbctl("--bare", "--columns=name", "list", "chassis")

    manager = cloud.managers[2]
    await manager.remove_overlay()
    status = await manager.overlay()
    assert (status.transport_node, status.configured, status.running) == (True, False, False)
    assert "esx03" not in chassis()
    assert not await cloud.reaches("e3", "10.77.0.1", within=1)
    await manager.configure_overlay(OverlayConfig(southbound=[cloud.central.southbound]))
    assert await cloud.reaches("e3", "10.77.0.1")
    assert "esx03" in chassis()


# ---------------------------------------------------------------------------------------------- networks


async def test_a_vlan_segment_leaves_by_the_distributed_switch(cloud: Cloud) -> None:
    cloud.central.nbctl(
        *("ls-add", "vlan", "--", "lsp-add", "vlan", "vlan-out", "--", "lsp-set-type", "vlan-out", "localnet"),
        *("--", "lsp-set-addresses", "vlan-out", "unknown", "--", "set", "logical_switch_port", "vlan-out", "tag=200"),
        *("--", "lsp-set-options", "vlan-out", "network_name=physnet"),
    )
    cloud.on_segment("vlan", "v1", 1, "10.78.0.1")
    cloud.endpoint("v2", 2, "10.78.0.2", "tag=200", bridge="dvs0")
    cloud.endpoint("v3", 3, "10.78.0.3", "tag=100", bridge="dvs0")
    assert await cloud.reaches("v1", "10.78.0.2")
    assert not await cloud.reaches("v1", "10.78.0.3", within=1)


async def test_a_running_guests_nic_goes_from_segment_to_vlan_and_back(cloud: Cloud, guest: VmState) -> None:
    host = cloud.hosts[0]
    cloud.endpoint("p2", 2, "10.77.0.20", "tag=100", bridge="dvs0")
    assert await cloud.reaches("e3", GUEST, within=_BOOT)
    assert not await cloud.reaches("p2", GUEST, within=1)
    (port,) = [port for port in await cloud.managers[0].overlay_ports() if port.vm == guest.config.instance_uuid]
    assert (port.vif, port.network, port.segment) == (vif(guest.config.instance_uuid), WEB.key, WEB.segment)
    assert (port.mac, port.active, port.installed) == ("00:50:56:00:00:10", True, True)
    assert port.tx_packets > 0
    assert port.rx_bytes > port.rx_packets > 0

    await reconnect(host, guest, TRUNK)
    assert await cloud.reaches("p2", GUEST)
    assert not await cloud.reaches("e3", GUEST, within=1)
    assert await cloud.managers[0].overlay_ports() == []

    await reconnect(host, guest, WEB)
    assert await cloud.reaches("e3", GUEST)
    assert not await cloud.reaches("p2", GUEST, within=1)


async def test_vifs_come_and_go_with_their_vm_and_its_nics(cloud: Cloud) -> None:
    host, nsx = cloud.hosts[2], cloud.managers[2]
    vm = await host.create_running("empty", nics=[Nic(key=4000, network=WEB.key)])
    uuid = vm.config.instance_uuid
    config = vm.config.model_copy(update={"nics": [*vm.config.nics, Nic(key=4001, network=WEB.key)]})
    now = await host.client.vm(uuid)
    await host.client.reconfigure_vm(uuid, ReconfigureVm(config=config, version=now.version))
    ports = await nsx.overlay_ports()
    assert {port.vif for port in ports} == {vif_id(uuid, 4000), vif_id(uuid, 4001)}
    assert {(port.vm, port.active) for port in ports} == {(uuid, True)}

    await host.client.power(uuid, PowerOperation.OFF)
    assert await nsx.overlay_ports() == []
    await host.client.destroy_vm(uuid)


async def test_a_port_group_in_use_can_not_turn_from_segment_to_vlan(cloud: Cloud, guest: VmState) -> None:
    with pytest.raises(HostError, match="is used by VM 'web01'") as error:
        await cloud.hosts[0].client.set_port_groups([WEB.model_copy(update={"segment": "", "vlan": 7}), TRUNK])
    assert error.value.type == "ResourceInUse"
    assert await cloud.reaches("e3", GUEST)


# ---------------------------------------------------------------------------------------------- moves


async def test_a_guest_moves_with_both_chassis_requested_and_loses_little_but_its_pause(
    cloud: Cloud, guest: VmState
) -> None:
    assert await cloud.reaches("e3", GUEST, within=_BOOT)
    here, there = await ends(cloud, guest)
    following = asyncio.create_task(follow_as_nsx(cloud, guest, here, there))
    async with cloud.pinging("e3", GUEST) as pings:
        move = await move_vm(cloud, guest, here, there)
        await asyncio.wait_for(following, 20)
    judge("both chassis requested", pings, move)
    assert await cloud.reaches("e3", GUEST)
    request_chassis(cloud, vif(guest.config.instance_uuid), "")
    assert await cloud.reaches("e2", GUEST)
    assert await cloud.managers[here].overlay_ports() == []


async def test_a_guest_moves_when_no_nsx_manager_is_there(cloud: Cloud, guest: VmState) -> None:
    here, there = await ends(cloud, guest)
    async with cloud.pinging("e3", GUEST) as pings:
        move = await move_vm(cloud, guest, here, there)
    judge("no manager", pings, move, bound=100)
    assert await cloud.reaches("e3", GUEST)


async def test_a_guest_keeps_its_network_while_the_agent_it_came_from_is_dead(cloud: Cloud, guest: VmState) -> None:
    assert await cloud.reaches("e3", GUEST, within=_BOOT)
    here, there = await ends(cloud, guest)
    source, target = cloud.hosts[here], cloud.hosts[there]
    await source.kill()
    await source.start(dies="landbridge.esx.vmotion_memory MemoryStream.proceed after")
    incoming = await prepare(cloud, guest, here, there)
    await source.client.start_outgoing(outgoing(guest, incoming))
    assert (await ended(target, incoming.id)).phase is VmotionPhase.SUCCEEDED
    assert await cloud.reaches("e3", GUEST)
    # What is left of the VM at the source has a port there still.
    async with cloud.pinging("e3", GUEST) as pings:
        await asyncio.sleep(2)
    print(f"source's agent dead: {pings.lost} of {pings.sent} lost, silent for {pings.silence:.0f} ms")
    assert pings.lost < 20

    await source.start()
    assert (await ended(source, incoming.id)).phase is VmotionPhase.SUCCEEDED


async def test_a_move_that_fails_at_the_switchover_leaves_the_vif_where_it_was(cloud: Cloud, guest: VmState) -> None:
    here, there = await ends(cloud, guest)
    source, target = cloud.hosts[here], cloud.hosts[there]
    await target.kill()
    await target.start(dies="landbridge.esx.vmotion_target Target._close_exports before")
    incoming = await prepare(cloud, guest, here, there)
    await source.client.start_outgoing(outgoing(guest, incoming))
    assert (await ended(source, incoming.id)).phase is VmotionPhase.FAILED
    assert await cloud.reaches("e3", GUEST)
    (port,) = await cloud.managers[here].overlay_ports()
    assert (port.vif, port.active) == (vif(guest.config.instance_uuid), True)
    await target.start()
    assert (await ended(target, incoming.id)).phase is VmotionPhase.FAILED
    assert await cloud.managers[there].overlay_ports() == []


async def test_a_move_that_is_given_up_leaves_the_vif_where_it_was(cloud: Cloud, guest: VmState) -> None:
    here, there = await ends(cloud, guest)
    target, nsx = cloud.hosts[there], cloud.managers[there]
    since = (await nsx.events(0, 0)).events[-1].seq
    incoming = await prepare(cloud, guest, here, there)
    assert (incoming.vifs, incoming.vifs_active) == ([vif(guest.config.instance_uuid)], False)
    (port,) = await nsx.overlay_ports()
    assert (port.vif, port.active) == (vif(guest.config.instance_uuid), False)
    opened = await nsx.open_vmotion_ports(incoming.id)
    assert opened.vifs_active
    (port,) = await nsx.overlay_ports()
    assert port.active

    assert (await target.client.abort_vmotion(incoming.id)).phase is VmotionPhase.FAILED
    assert await nsx.overlay_ports() == []
    assert await cloud.reaches("e3", GUEST)
    heard = (await nsx.events(since, 0)).events
    assert [one.vmotion for one in heard if one.type == "vmotion-changed"] == [incoming.id, incoming.id]
    with pytest.raises(HostError, match="has no ports here"):
        await nsx.open_vmotion_ports(incoming.id)


# ---------------------------------------------------------------------------------------------- how it is done


def pid(host: TestHost, daemon: str) -> int:
    return int((host.run / "switch" / f"{daemon}.pid").read_text())


async def kill(host: TestHost, daemon: str) -> None:
    """SIGKILL for a daemon; returns when there is another."""
    before = pid(host, daemon)
    os.kill(before, signal.SIGKILL)
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError, ValueError):  # the file is gone for a moment, or empty
                if pid(host, daemon) != before:
                    return
            await asyncio.sleep(0.05)


async def reconnect(host: TestHost, vm: VmState, group: PortGroup) -> None:
    now = await host.client.vm(vm.config.instance_uuid)
    nics = [nic.model_copy(update={"network": group.key}) for nic in now.config.nics]
    request = ReconfigureVm(config=now.config.model_copy(update={"nics": nics}), version=now.version)
    await host.client.reconfigure_vm(vm.config.instance_uuid, request)


async def ends(cloud: Cloud, vm: VmState) -> tuple[int, int]:
    """Of the first two hosts the one that a VM is on, and the other."""
    found = [state.config.instance_uuid for state in await cloud.hosts[0].client.vms()]
    return (0, 1) if vm.config.instance_uuid in found else (1, 0)


async def prepare(cloud: Cloud, vm: VmState, source: int, target: int) -> Vmotion:
    state = await cloud.hosts[source].client.vm(vm.config.instance_uuid)
    request = IncomingVm(
        id=str(uuid.uuid4()),
        mode=VmotionMode.LIVE,
        source=state.config,
        config=state.config,
        datastore="datastore1",
    )
    return await cloud.hosts[target].client.prepare_incoming(request)


async def move_vm(cloud: Cloud, vm: VmState, source: int, target: int) -> Vmotion:
    """Move a VM; the end of the move at the source."""
    incoming = await prepare(cloud, vm, source, target)
    await cloud.hosts[source].client.start_outgoing(outgoing(vm, incoming))
    view = await ended(cloud.hosts[source], incoming.id)
    assert view.phase is VmotionPhase.SUCCEEDED, view.error
    return view


def outgoing(vm: VmState, to: Vmotion) -> OutgoingVm:
    return OutgoingVm(id=to.id, mode=VmotionMode.LIVE, vm=vm.config.instance_uuid, endpoints=to.endpoints)


async def ended(host: TestHost, move: str) -> Vmotion:
    """A move at one end, once it has ended there."""
    seen = -1
    async with asyncio.timeout(60):
        while (view := await host.client.vmotion(move, seen, 10)).phase not in _FINAL:
            seen = view.seq
    return view


async def follow_as_nsx(cloud: Cloud, vm: VmState, source: int, target: int) -> None:
    """What the NSX manager does in a move: both chassis requested while it lasts, ports opened, then the new one."""
    client, names = cloud.managers[target], [cloud.hosts[number].name for number in (source, target)]
    since = (await client.events(0, 0)).events[-1].seq
    while True:
        heard = await client.events(since, 10)
        for event in heard.events:
            since = event.seq
            if event.vmotion is None:
                continue
            move = await client.vmotion(event.vmotion)
            assert move.vifs == [vif(vm.config.instance_uuid)]
            if move.phase in _FINAL:
                await asyncio.to_thread(request_chassis, cloud, move.vifs[0], names[1])
                return
            await asyncio.to_thread(request_chassis, cloud, move.vifs[0], ",".join(names))
            assert (await client.open_vmotion_ports(move.id)).vifs_active


def request_chassis(cloud: Cloud, port: str, chassis: str) -> None:
    """What the reconciler writes; an empty text takes the option away."""
    options = [f"requested-chassis={chassis}"] if chassis else []
    cloud.central.nbctl("--wait=sb", "lsp-set-options", port, *options)


def judge(what: str, pings: Pings, move: Vmotion, bound: int = 10) -> None:
    """Print what a move cost and hold it to its bound: what is lost beyond the pause of the guest."""
    pause = move.progress.downtime_ms
    assert pause is not None
    beyond = max(0, pings.lost - round(pause / 10))
    print(
        f"{what}: {pings.lost} of {pings.sent} pings lost, {beyond} beyond the guest's pause of {pause:.0f} ms; "
        f"silent for {pings.silence:.0f} ms, {pings.twice} answered twice"
    )
    assert beyond < bound
