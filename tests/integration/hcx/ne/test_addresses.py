"""Loops, storms, and MAC addresses that are at both sides or moved."""

import asyncio
import sys

from landbridge.hcx.ne.model import Forwarding, Status
from tests.integration.hcx.ne.conftest import RED_VNI, Guests
from tests.integration.hcx.ne.stage import Site, Stage, execute, reaches, run, silent

_MAC = "02:00:00:00:77:01"
_MOVED = "02:00:00:00:77:02"
_SEND_FRAMES = """
import socket, sys
interface, destination, count = sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3])
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
packets.bind((interface, 0))
frame = destination + bytes.fromhex("020000005555") + bytes.fromhex("0801") + bytes(46)
for _ in range(count):
    packets.send(frame)
"""


def kinds(status: Status) -> set[str]:
    return {alarm.kind for alarm in status.alarms}


async def send(space: str, interface: str, destination: str, count: int) -> None:
    await execute(space, sys.executable, "-c", _SEND_FRAMES, interface, destination, str(count))


async def forget(site: Site) -> None:
    """What ports of hosts coming and going do to a site's own switch."""
    control = str(site.stage.directory / f"{site.name}-ovs" / "ovs-vswitchd.ctl")
    run("ovs-appctl", "-t", control, "fdb/flush", "dvs0")


async def connect(stage: Stage) -> None:
    """A cable between both sites' switches, in Red at either end."""
    run("ip", "-n", stage.a.fabric, "link", "add", "cable", "type", "veth", "peer", "cable", "netns", stage.b.fabric)
    for site in stage.sites:
        run("ip", "-n", site.fabric, "link", "set", "cable", "up")
        await site.switch.plug("cable", "red", "02:00:00:00:00:01")


async def blocking(stage: Stage) -> list[Site]:
    return [site for site in stage.sites if (await site.network("red")).state == Forwarding.BLOCKED]


async def test_a_cable_beside_the_extension_is_noticed_and_one_end_blocks(stage: Stage, guests: Guests) -> None:
    await connect(stage)
    try:
        statuses = await asyncio.gather(*(site.until(lambda status: "loop" in kinds(status)) for site in stage.sites))
        assert {alarm.network for status in statuses for alarm in status.alarms} == {"red"}
        async with asyncio.timeout(20):
            while len(blocked := await blocking(stage)) != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert "blocked here" in (await blocked[0].client.status()).alarms[0].message
        # Both ways are one network still, and a broadcast goes round no more.
        assert await reaches(guests.red_a, "10.50.0.2")
        before = (await stage.a.network("red")).local.received_packets
        await send(guests.red_a, "eth0", "ffffffffffff", 100)
        await asyncio.sleep(1)
        assert (await stage.a.network("red")).local.received_packets - before < 150
        assert await reaches(guests.blue_a, "10.50.0.4")
    finally:
        for site in stage.sites:
            await site.switch.unplug("cable")
    for site in stage.sites:
        await site.until(lambda status: "loop" not in kinds(status))
        await site.until(lambda status: all(n.state == Forwarding.FORWARDING for n in status.networks))
        await forget(site)
    assert await reaches(guests.red_a, "10.50.0.2")


async def test_broadcasts_above_the_limit_do_not_cross(stage: Stage, guests: Guests) -> None:
    # Behind Open vSwitch, which loses most of so many on a busy machine before they are above any limit.
    await send(stage.a.appliance, f"np{RED_VNI}", "ffffffffffff", 20000)
    await stage.a.until_network("red", lambda network: network.storm_dropped > 0)
    assert await reaches(guests.red_a, "10.50.0.2")


async def test_a_bpdu_ends_at_the_appliance(stage: Stage) -> None:
    before = await stage.a.network("red")
    # Open vSwitch keeps them too: this one is put in behind it.
    await send(stage.a.appliance, f"np{RED_VNI}", "0180c2000000", 5)
    after = await stage.a.network("red")
    assert after.control_dropped - before.control_dropped == 5


async def test_an_address_at_both_sites_is_reported(stage: Stage, guests: Guests) -> None:
    here = await stage.a.guest("da", "10.50.0.31", "red", mac=_MAC)
    there = await stage.b.guest("db", "10.50.0.32", "red", mac=_MAC)
    pings = [
        await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", space, "ping", "-q", "-i0.3", "-b", "10.50.0.255"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        for space in (here, there)
    ]
    try:
        for site in stage.sites:
            status = await site.until(lambda status: "duplicate-mac" in kinds(status), within=30)
            alarm = next(alarm for alarm in status.alarms if alarm.kind == "duplicate-mac")
            assert alarm.network == "red"
            assert _MAC in alarm.message
    finally:
        for ping in pings:
            ping.kill()
            await ping.wait()
        await stage.a.remove_guest("da")
        await stage.b.remove_guest("db")


async def test_a_silent_vm_that_crossed_is_reached_once_its_address_is_flushed(stage: Stage, guests: Guests) -> None:
    await stage.a.guest("ma", "10.50.0.9", "red", mac=_MOVED)
    for guest in (guests.red_a, guests.red_b):
        assert await reaches(guest, "10.50.0.9")
        run("ip", "-n", guest, "neigh", "replace", "10.50.0.9", "lladdr", _MOVED, "dev", "eth0", "nud", "permanent")
    await stage.a.remove_guest("ma")
    moved = await stage.b.guest("mb", "10.50.0.9", "red", mac=_MOVED)
    try:
        for site in stage.sites:
            await forget(site)
        assert await silent(guests.red_a, "10.50.0.9")
        for site in stage.sites:
            await site.client.flush([_MOVED])
            await forget(site)
        assert await reaches(guests.red_a, "10.50.0.9")
        assert await reaches(moved, "10.50.0.1")
    finally:
        await stage.b.remove_guest("mb")
        for guest in (guests.red_a, guests.red_b):
            run("ip", "-n", guest, "neigh", "del", "10.50.0.9", "dev", "eth0")
