"""Paths smaller and larger than Ethernet's 1,500 bytes."""

from collections.abc import AsyncIterator

import pytest

from landbridge.esx.client import HostError
from landbridge.hcx.ne.model import VXLAN_OVERHEAD, WIREGUARD_OVERHEAD, Extension, Forwarding
from tests.integration.hcx.ne.conftest import Guests
from tests.integration.hcx.ne.stage import Stage, execute, reaches, transfer

_SENT = 3_000_000  # bytes


@pytest.fixture(scope="module")
async def wan(stage: Stage, guests: Guests) -> AsyncIterator[Stage]:
    """A WAN whose MTU each of these tests sets to what it needs; 1,500 afterwards."""
    yield stage
    stage.set_wan_mtu(1500)
    await measured(stage, 1500)
    for guest in (guests.red_a, guests.red_b):
        await execute(guest, "ip", "route", "flush", "cache")


async def measured(stage: Stage, mtu: int) -> None:
    """Wait until both appliances found the path to be so; being told of the peer makes them look at once."""
    await stage.pair()
    for site in stage.sites:
        await site.until(lambda status: status.path_mtu == mtu, within=40)


async def test_the_path_is_measured_and_a_packet_too_large_for_it_is_answered(stage: Stage, guests: Guests) -> None:
    await measured(stage, 1500)
    inner = 1500 - WIREGUARD_OVERHEAD - VXLAN_OVERHEAD
    assert (await stage.a.network("red")).effective_mtu == inner

    assert await reaches(guests.red_a, "10.50.0.2", "-M", "do", "-s", str(inner - 28))
    answer = await execute(guests.red_a, "ping", "-c1", "-w1", "-M", "do", "-s", str(inner - 27), "10.50.0.2")
    assert f"mtu = {inner}" in answer or f"mtu={inner}" in answer, answer


async def test_packets_that_may_be_fragmented_pass_whole(stage: Stage, guests: Guests) -> None:
    assert await reaches(guests.blue_a, "10.50.0.4", "-M", "dont", "-s", "1472")


async def test_over_1350_bytes_connections_fit_themselves_to_the_path_from_the_start(
    wan: Stage, guests: Guests
) -> None:
    wan.set_wan_mtu(1350)
    await measured(wan, 1350)
    inner = 1350 - WIREGUARD_OVERHEAD - VXLAN_OVERHEAD

    for sender, receiver, address in (
        (guests.red_a, guests.red_b, "10.50.0.2"),
        (guests.red_b, guests.red_a, "10.50.0.1"),
    ):
        total, mss = await transfer(sender, receiver, address, _SENT)
        assert total == _SENT
        assert mss <= inner - 40
    assert await reaches(guests.red_a, "10.50.0.2", "-M", "do", "-s", str(inner - 28))


async def test_a_path_too_small_for_an_extension_is_said_and_nothing_is_left(wan: Stage) -> None:
    wan.set_wan_mtu(1200)
    await measured(wan, 1200)
    with pytest.raises(HostError, match="carries packets of 1200 bytes; 1280 are needed"):
        await wan.a.client.extend("green", Extension(vlan=400, vni=6000))
    status = await wan.a.client.status()
    assert "green" not in {network.id for network in status.networks}
    assert "path-too-small" in {alarm.kind for alarm in status.alarms}


async def test_jumbo_frames_pass_where_the_path_carries_them(wan: Stage) -> None:
    wan.set_wan_mtu(9000)
    await measured(wan, 9000)
    inner = 9000 - WIREGUARD_OVERHEAD - VXLAN_OVERHEAD
    for site, vlan in ((wan.a, 400), (wan.b, 500)):
        await site.client.extend("jumbo", Extension(vlan=vlan, vni=6001, mtu=inner))
    try:
        for site, vlan in ((wan.a, 400), (wan.b, 500)):
            await site.until(lambda status: all(n.state == Forwarding.FORWARDING for n in status.networks))
            await site.add_group("jumbo", vlan)
        here = await wan.a.guest("ja", "10.60.0.1", "jumbo", mtu=inner)
        there = await wan.b.guest("jb", "10.60.0.2", "jumbo", mtu=inner)
        assert await reaches(here, "10.60.0.2", "-M", "do", "-s", str(inner - 28))
        assert (await transfer(there, here, "10.60.0.1", _SENT))[0] == _SENT
    finally:
        for site in wan.sites:
            await site.client.withdraw("jumbo")
