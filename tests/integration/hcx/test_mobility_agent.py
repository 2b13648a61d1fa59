"""The mobility agents of paired sites, asked as vCenter and the managers ask them: streams from relay to relay."""

import asyncio
import os
import secrets
import signal
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from landbridge.esx.client import HostClient, HostError
from landbridge.esx.model import (
    ApiError,
    Disk,
    Endpoint,
    IncomingVm,
    OutgoingVm,
    PowerState,
    VmConfig,
    VmotionMode,
    VmotionPhase,
    VmState,
)
from landbridge.hcx.client import HcxClient
from landbridge.hcx.ix.model import Announcement
from landbridge.pki import Authority, PeerName
from landbridge.relay import Relay, Side
from landbridge.relay.admin import Admin
from tests.integration.hcx.sites import Pair, Site

CHANNELS = ("control", "ram", "disk-2000")


def _config() -> VmConfig:
    return VmConfig(
        name="web01",
        instance_uuid=str(uuid.uuid4()),
        uuid=str(uuid.uuid4()),
        memory_mib=64,
        disks=[Disk(key=2000, controller=1000, unit=0, capacity=1 << 20)],
    )


def _authority(site: Site) -> str:
    return (site.state / "ca" / "ca.pem").read_text()


async def _host_relay(site: Site, address: str) -> Relay:
    """What a host agent of the site would have."""
    name = f"esx01.{site.name}"
    directory = site.state / "pki" / "esx"
    who = PeerName(site.name, "esx", name)
    identity = Authority(site.state / "ca").issue(directory, who, dns=[f"*.vmotion.{name}"], addresses=[address])
    relay = Relay(site.run / "host", [Side("remote", address, 8001, identity, f"vmotion.{name}", foreign=True)])
    await relay.start()
    return relay


@dataclass
class Hosts:
    """A host's relay on each site."""

    source: Relay
    target: Relay


@pytest.fixture
async def hosts_relays(sites: Pair) -> AsyncIterator[Hosts]:
    made = Hosts(
        await _host_relay(sites.onprem, f"{sites.onprem.net}.201"),
        await _host_relay(sites.cloud, f"{sites.cloud.net}.201"),
    )
    yield made
    await made.source.stop()
    await made.target.stop()


async def _echo_on(socket: Path) -> asyncio.Server:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    await asyncio.to_thread(socket.unlink, missing_ok=True)
    return await asyncio.start_unix_server(echo, socket)


async def _ask(socket: Path, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    writer.write(data)
    await writer.drain()
    try:
        async with asyncio.timeout(10):
            return await reader.readexactly(len(data))
    finally:
        writer.close()


def _vcenter(site: Site) -> HostClient:
    return HostClient(site.ix_address, 443, site.identity("vcenter"))


async def _open(sites: Pair, hosts_relays: Hosts, config: VmConfig, migration: str) -> dict[str, Endpoint]:
    """All that managers and vCenters do until bytes may flow; where the source host connects to."""
    shadow = VmState(config=config, vmx=f"[hcx-ix.cloud] {config.instance_uuid}/vm.vmx", power_state=PowerState.ON)
    async with sites.onprem.ix() as ours, sites.cloud.ix() as theirs:
        await ours.announce(migration, Announcement(end="source", vm=config.instance_uuid))
        await theirs.announce(migration, Announcement(end="target", vm=config.instance_uuid, shadow=shadow))
        async with _vcenter(sites.onprem) as source, _vcenter(sites.cloud) as target:
            request = IncomingVm(
                id=f"{migration}-s", mode=VmotionMode.LIVE, source=config, config=config, datastore="hcx-ix.onprem"
            )
            incoming = asyncio.create_task(source.prepare_incoming(request))
            assert (await target.register_vm(shadow.vmx)).power_state is PowerState.ON
            endpoints = {
                channel: hosts_relays.target.endpoint("remote", f"{migration}-{channel}") for channel in CHANNELS
            }
            outgoing = OutgoingVm(
                id=f"{migration}-t", mode=VmotionMode.LIVE, vm=config.instance_uuid, endpoints=endpoints
            )
            await target.start_outgoing(outgoing)
            asked = await ours.move(migration, seen=1, wait=10)
            assert asked.incoming is not None
            await ours.join(migration, (await theirs.move(migration)).endpoints)
            return (await incoming).endpoints


async def test_what_the_source_host_sends_arrives_at_the_target_host(
    sites: Pair, paired: HcxClient, hosts_relays: Hosts
) -> None:
    config, migration = _config(), f"m-{secrets.token_hex(4)}"
    endpoints = await _open(sites, hosts_relays, config, migration)
    assert set(endpoints) == set(CHANNELS)
    for channel in CHANNELS:
        server = await _echo_on(
            await hosts_relays.target.expose("remote", f"{migration}-{channel}", _authority(sites.onprem))
        )
        data = secrets.token_bytes(300_000)
        assert await _ask(await hosts_relays.source.dial("remote", endpoints[channel]), data) == data
        server.close()
    async with sites.onprem.ix() as ours, sites.cloud.ix() as theirs:
        await theirs.finish(migration, None)
        await ours.finish(migration, None)
        async with _vcenter(sites.onprem) as source, _vcenter(sites.cloud) as target:
            assert (await source.vmotion(f"{migration}-s")).phase is VmotionPhase.SUCCEEDED
            # At the source the VM is on the appliance, off, until it is unregistered; at the target it is gone.
            [left] = await source.vms()
            assert left.power_state is PowerState.OFF
            assert await target.vms() == []
            await source.unregister_vm(config.instance_uuid)
            assert await source.vms() == []
        for ix in (ours, theirs):
            await ix.forget(migration)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await _ask(await hosts_relays.source.dial("remote", endpoints["ram"]), b"x")


async def test_a_move_that_failed_closes_its_streams_and_switches_the_shadow_off(
    sites: Pair, paired: HcxClient, hosts_relays: Hosts
) -> None:
    config, migration = _config(), f"m-{secrets.token_hex(4)}"
    endpoints = await _open(sites, hosts_relays, config, migration)
    reason = ApiError(type="OperationAborted", message="the target's host is full")
    async with sites.onprem.ix() as ours, sites.cloud.ix() as theirs:
        await theirs.finish(migration, reason)
        await ours.finish(migration, reason)
        async with _vcenter(sites.onprem) as source, _vcenter(sites.cloud) as target:
            told = await source.vmotion(f"{migration}-s")
            assert told.phase is VmotionPhase.FAILED
            assert told.error == reason
            assert await source.vms() == []
            [shadow] = await target.vms()
            assert shadow.power_state is PowerState.OFF
            await target.unregister_vm(config.instance_uuid)
        for ix in (ours, theirs):
            await ix.forget(migration)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await _ask(await hosts_relays.source.dial("remote", endpoints["ram"]), b"x")


async def test_an_appliance_killed_under_a_move_knows_it_again(
    sites: Pair, paired: HcxClient, hosts_relays: Hosts
) -> None:
    config, migration = _config(), f"m-{secrets.token_hex(4)}"
    endpoints = await _open(sites, hosts_relays, config, migration)
    for site in (sites.onprem, sites.cloud):
        site.kill("ix")
        site.start("ix")
        await site.until("ix", site.ix_address)
    server = await _echo_on(await hosts_relays.target.expose("remote", f"{migration}-ram", _authority(sites.onprem)))
    assert await _ask(await hosts_relays.source.dial("remote", endpoints["ram"]), b"still there") == b"still there"
    server.close()
    async with sites.onprem.ix() as ours, sites.cloud.ix() as theirs:
        assert (await ours.move(migration)).phase is VmotionPhase.PREPARED
        for ix in (ours, theirs):
            await ix.finish(migration, ApiError(type="OperationAborted", message="enough"))
            await ix.forget(migration)


async def test_a_relay_that_died_comes_back_with_its_streams(
    sites: Pair, paired: HcxClient, hosts_relays: Hosts
) -> None:
    config, migration = _config(), f"m-{secrets.token_hex(4)}"
    endpoints = await _open(sites, hosts_relays, config, migration)
    os.kill(await Admin(sites.cloud.run / "ix" / "relay" / "admin").pid(), signal.SIGKILL)
    server = await _echo_on(
        await hosts_relays.target.expose("remote", f"{migration}-control", _authority(sites.onprem))
    )
    async with asyncio.timeout(30):
        while True:
            try:
                answer = await _ask(await hosts_relays.source.dial("remote", endpoints["control"]), b"in doubt?")
            except (asyncio.IncompleteReadError, ConnectionError):
                await asyncio.sleep(0.1)
            else:
                break
    assert answer == b"in doubt?"
    server.close()
    async with sites.onprem.ix() as ours, sites.cloud.ix() as theirs:
        assert (await ours.probe((await theirs.info()).uplink)).up
        for ix in (ours, theirs):
            await ix.finish(migration, ApiError(type="OperationAborted", message="enough"))
            await ix.forget(migration)


async def test_vcenter_can_not_move_a_vm_to_an_appliance_by_hand(sites: Pair, paired: HcxClient) -> None:
    config = _config()
    async with _vcenter(sites.onprem) as vcenter:
        with pytest.raises(HostError) as caught:
            await vcenter.prepare_incoming(
                IncomingVm(id="by-hand", mode=VmotionMode.LIVE, source=config, config=config, datastore="hcx-ix.onprem")
            )
    assert caught.value.type == "NotSupported"


async def test_what_a_mobility_agent_does_not_do_is_not_supported(sites: Pair) -> None:
    async with _vcenter(sites.onprem) as vcenter:
        with pytest.raises(HostError) as caught:
            await vcenter.destroy_vm(str(uuid.uuid4()))
    assert caught.value.type == "NotSupported"


async def test_only_the_manager_reaches_the_appliances_own_routes(sites: Pair) -> None:
    from landbridge.hcx.ix.client import IxClient

    async with IxClient(sites.onprem.ix_address, 443, sites.onprem.identity("vcenter")) as intruder:
        with pytest.raises(HostError) as caught:
            await intruder.info()
    assert caught.value.status == 403
