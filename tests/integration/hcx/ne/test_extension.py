"""Networks extended by a pair of appliances: who reaches whom, what is refused, what dies and comes back."""

import os
import re
import signal
from pathlib import Path

import pytest

from landbridge.esx.client import HostError
from landbridge.hcx.ne.client import NeClient
from landbridge.hcx.ne.config import NeConfig
from landbridge.hcx.ne.model import Extension, Forwarding, Status
from landbridge.hcx.ne.tunnel import Tunnel
from landbridge.pki import Identity
from tests.integration.hcx.ne.conftest import BLUE_VNI, RED_VNI, Guests
from tests.integration.hcx.ne.stage import Site, Stage, execute, reaches, silent


def up(status: Status) -> bool:
    return status.tunnel is not None and status.tunnel.up


def down(status: Status) -> bool:
    return status.tunnel is not None and not status.tunnel.up


def wireguard(site: Site) -> int | None:
    """The pid of the site's wireguard-go; None where the kernel does its work."""
    name = Tunnel(NeConfig.load(site.state / "ne.toml")).interface
    for directory in processes():
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:1] == [b"wireguard-go"] and name.encode() in words:
            return int(directory.name)
    return None


async def test_a_network_is_one_over_both_sites_and_apart_from_the_other_one(stage: Stage, guests: Guests) -> None:
    assert await reaches(guests.red_a, "10.50.0.2")
    assert await reaches(guests.blue_b, "10.50.0.3")
    assert await silent(guests.red_a, "10.50.0.4")
    assert await silent(guests.blue_b, "10.50.0.1")


async def test_the_status_shows_the_tunnel_as_measured_and_what_each_network_carried(
    stage: Stage, guests: Guests
) -> None:
    before = (await stage.a.network("red")).local.received_packets
    assert await reaches(guests.red_a, "10.50.0.2")

    status = await stage.a.until(lambda status: status.tunnel is not None and status.tunnel.rtt_ms is not None)
    assert status.tunnel is not None
    assert status.tunnel.handshake_age is not None
    assert status.tunnel.received_bytes > 0
    assert status.tunnel.loss is not None
    assert status.tunnel.loss < 1
    assert (await stage.a.network("red")).local.received_packets > before


def processes() -> list[Path]:
    return list(Path("/proc").glob("[0-9]*"))


async def test_the_private_key_is_in_one_file_of_its_owner_and_in_no_command_line(stage: Stage) -> None:
    for site in stage.sites:
        key = site.state / "appliance" / "wireguard.key"
        assert key.stat().st_mode & 0o777 == 0o600
        private = key.read_text().strip()
        assert await site.client.key() != private
        for process in processes():
            try:
                shown = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue
            assert private.encode() not in shown
        for file in site.state.rglob("*"):
            assert not file.is_file() or file == key or private not in file.read_text(errors="replace"), file


async def test_only_the_sites_hcx_manager_is_let_in(stage: Stage) -> None:
    async with NeClient(stage.a.management, 443, Identity(stage.a.state / "vcenter")) as client:
        with pytest.raises(HostError) as refused:
            await client.status()
    assert refused.value.status == 403


async def test_a_network_or_a_number_is_extended_once(stage: Stage) -> None:
    client = stage.a.client
    for name, extension, message in (
        ("green", Extension(vlan=100, vni=6000), "VLAN 100 is extended already, as red"),
        ("green", Extension(vlan=400, vni=RED_VNI), "VNI 5001 is red's"),
        ("red", Extension(vlan=400, vni=6000), "red is extended from VLAN 100"),
    ):
        with pytest.raises(HostError, match=message):
            await client.extend(name, extension)
    assert {network.id for network in (await client.status()).networks} == {"red", "blue"}


async def test_a_peer_is_kept_while_networks_are_extended_to_it(stage: Stage) -> None:
    with pytest.raises(HostError, match="still extended: blue, red"):
        await stage.a.client.remove_peer()


async def test_an_extension_that_ends_leaves_nothing_and_can_be_made_again(stage: Stage, guests: Guests) -> None:
    await stage.a.client.withdraw("blue")
    assert not re.findall(rf"n[bxlp]{BLUE_VNI}", await execute(stage.a.appliance, "ip", "-o", "link"))
    assert f"ext_{BLUE_VNI}" not in await execute(stage.a.appliance, "nft", "list", "tables")
    assert await silent(guests.blue_a, "10.50.0.4")
    assert await reaches(guests.red_a, "10.50.0.2")

    await stage.a.client.extend("blue", Extension(vlan=200, vni=BLUE_VNI))
    await stage.a.until(lambda status: all(n.state == Forwarding.FORWARDING for n in status.networks))
    assert await reaches(guests.blue_a, "10.50.0.4")


async def test_frames_flow_while_the_daemon_is_dead_and_the_next_one_takes_over(stage: Stage, guests: Guests) -> None:
    engine = wireguard(stage.a)
    stage.a.kill()
    assert await reaches(guests.red_a, "10.50.0.2")
    assert await reaches(guests.blue_b, "10.50.0.3")

    stage.a.start()
    await stage.a.until_up()
    status = await stage.a.until(up)
    assert {network.state for network in status.networks} == {Forwarding.FORWARDING}
    assert wireguard(stage.a) == engine
    assert await reaches(guests.red_a, "10.50.0.2")


async def test_a_tunnel_whose_engine_is_killed_comes_back(stage: Stage, guests: Guests) -> None:
    engine = wireguard(stage.b)
    interface = Tunnel(NeConfig.load(stage.b.state / "ne.toml")).interface
    if engine is not None:
        os.kill(engine, signal.SIGKILL)
    else:
        await execute(stage.b.appliance, "ip", "link", "delete", interface)

    assert await reaches(guests.red_a, "10.50.0.2")
    assert wireguard(stage.b) != engine or engine is None


async def test_a_cut_wan_is_reported_and_the_tunnel_comes_back_with_it(stage: Stage, guests: Guests) -> None:
    stage.cut_wan(True)
    try:
        status = await stage.a.until(down)
        assert "tunnel-down" in {alarm.kind for alarm in status.alarms}
        assert await silent(guests.red_a, "10.50.0.2")
    finally:
        stage.cut_wan(False)
    status = await stage.a.until(up)
    assert "tunnel-down" not in {alarm.kind for alarm in status.alarms}
    assert await reaches(guests.red_a, "10.50.0.2")


async def test_there_is_no_tunnel_to_who_has_another_key(stage: Stage, guests: Guests) -> None:
    right = stage.peer(stage.a, stage.b, await stage.b.client.key())
    wrong = stage.peer(stage.a, stage.b, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
    await stage.a.client.set_peer(wrong)
    try:
        await stage.a.until(down)
        assert await silent(guests.red_a, "10.50.0.2")
    finally:
        await stage.a.client.set_peer(right)
    await stage.a.until(up)
    assert await reaches(guests.red_a, "10.50.0.2")
