"""The host's switch on real Open vSwitch: two hosts in namespaces, joined by a bridge, with endpoints plugged in."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from landbridge.esx.model import PortGroup
from landbridge.esx.switch import PortCounters, Switch, SwitchError, UnknownPortGroup

RED = PortGroup(key="dvportgroup-1", name="Red", vlan=100)
BLUE = PortGroup(key="dvportgroup-2", name="Blue 2", vlan=200)
PLAIN = PortGroup(key="dvportgroup-3", name="Untagged")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


class Wire:
    """Namespaces of two hosts whose uplinks meet on a bridge, and endpoints behind veth pairs."""

    def __init__(self, directory: Path) -> None:
        self.prefix = f"lbt{os.getpid()}x"
        self.directory = directory
        self.switches: dict[str, Switch] = {}
        self.namespaces: list[str] = []

    def namespace(self, name: str) -> str:
        full = f"{self.prefix}-{name}"
        run("ip", "netns", "add", full)
        self.namespaces.append(full)
        run("ip", "-n", full, "link", "set", "lo", "up")
        return full

    def build(self) -> None:
        middle = self.namespace("wire")
        run("ip", "-n", middle, "link", "add", "wire", "type", "bridge")
        run("ip", "-n", middle, "link", "set", "wire", "up")
        for host in ("h1", "h2"):
            inside = self.namespace(host)
            run("ip", "-n", middle, "link", "add", host, "type", "veth", "peer", "name", "uplink0", "netns", inside)
            run("ip", "-n", middle, "link", "set", host, "master", "wire", "up")
            self.switches[host] = self.switch(host)

    def switch(self, host: str) -> Switch:
        return Switch(
            run_dir=self.directory / host,
            state_dir=self.directory / f"{host}-state",
            uplink="uplink0",
            namespace=f"{self.prefix}-{host}",
        )

    async def endpoint(self, name: str, host: str, address: str, group: PortGroup | None) -> str:
        """A namespace with `address`, plugged into the host's switch as `name`."""
        space = self.namespace(name)
        inside = f"{self.prefix}-{host}"
        run("ip", "-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", inside)
        run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", space, "link", "set", "eth0", "up")
        run("ip", "netns", "exec", space, "ethtool", "-K", "eth0", "tx", "off")
        await self.switches[host].plug(name, group.key if group else None, "02:00:00:00:00:01")
        return space

    async def reaches(self, space: str, address: str, *, within: float = 8.0) -> bool:
        """Whether an answer comes before the deadline; asked again every second."""
        ping = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", space, "ping", "-q", "-c1", "-i1", f"-w{int(within)}", address),
            stdout=asyncio.subprocess.DEVNULL,
        )
        return await ping.wait() == 0

    async def restarted(self, host: str, daemon: str, old: int) -> None:
        """Wait for another process than `old` to be the daemon."""
        path = self.directory / host / f"{daemon}.pid"
        async with asyncio.timeout(30):
            while not path.exists() or path.read_text().strip() in ("", str(old)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def remove(self) -> None:
        for switch in self.switches.values():
            await switch.stop()
        for name in self.namespaces:
            run("ip", "netns", "delete", name)


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    directory = Path(tempfile.mkdtemp(prefix="lbt"))
    wire = Wire(directory)
    try:
        wire.build()
        for switch in wire.switches.values():
            await switch.start()
            await switch.set_port_groups([RED, BLUE, PLAIN])
        yield wire
    finally:
        await wire.remove()
        shutil.rmtree(directory)


def pid(wire: Wire, host: str, daemon: str) -> int:
    return int((wire.directory / host / f"{daemon}.pid").read_text())


async def test_a_port_group_is_one_network_over_all_hosts_and_apart_from_the_others(wire: Wire) -> None:
    red = await wire.endpoint("red1", "h1", "10.9.0.1", RED)
    await wire.endpoint("red2", "h2", "10.9.0.2", RED)
    await wire.endpoint("blue2", "h2", "10.9.0.3", BLUE)
    await wire.endpoint("plain2", "h2", "10.9.0.4", PLAIN)
    blue = await wire.endpoint("blue1", "h1", "10.9.0.5", BLUE)
    plain = await wire.endpoint("plain1", "h1", "10.9.0.6", PLAIN)

    assert await wire.reaches(red, "10.9.0.2")
    assert await wire.reaches(blue, "10.9.0.3")
    assert await wire.reaches(plain, "10.9.0.4")
    crossings = ((red, "10.9.0.3"), (red, "10.9.0.4"), (blue, "10.9.0.2"), (plain, "10.9.0.2"))
    assert await asyncio.gather(*(wire.reaches(*crossing, within=2) for crossing in crossings)) == [False] * 4


async def test_ports_follow_their_port_group(wire: Wire) -> None:
    one = await wire.endpoint("one", "h1", "10.9.0.1", RED)
    await wire.endpoint("two", "h2", "10.9.0.2", BLUE)
    assert not await wire.reaches(one, "10.9.0.2", within=1)

    await wire.switches["h1"].set_port_groups([RED.model_copy(update={"vlan": BLUE.vlan})])

    assert await wire.reaches(one, "10.9.0.2")
    await wire.switches["h1"].set_port_groups([])
    assert not await wire.reaches(one, "10.9.0.2", within=1)
    assert await wire.switches["h1"].ports() == {}


async def test_frames_flow_while_the_agent_is_gone_and_it_finds_its_switch_again(wire: Wire) -> None:
    one = await wire.endpoint("one", "h1", "10.9.0.1", RED)
    await wire.endpoint("two", "h2", "10.9.0.2", RED)
    process = pid(wire, "h1", "ovs-vswitchd")
    await wire.switches["h1"].close()
    assert await wire.reaches(one, "10.9.0.2")

    again = wire.switches["h1"] = wire.switch("h1")
    await again.start()

    assert pid(wire, "h1", "ovs-vswitchd") == process
    assert again.port_groups() == [RED, BLUE, PLAIN]
    assert await again.ports() == {"one": RED.key}
    assert await wire.reaches(one, "10.9.0.2")


@pytest.mark.parametrize("daemon", ["ovs-vswitchd", "ovsdb-server"])
async def test_ports_return_after_open_vswitch_was_killed(wire: Wire, daemon: str) -> None:
    one = await wire.endpoint("one", "h1", "10.9.0.1", RED)
    await wire.endpoint("two", "h2", "10.9.0.2", RED)
    killed = pid(wire, "h1", daemon)

    os.kill(killed, signal.SIGKILL)

    await wire.restarted("h1", daemon, killed)
    assert await wire.reaches(one, "10.9.0.2", within=20)
    await wire.switches["h1"].plug("one", BLUE.key, "02:00:00:00:00:01")
    assert not await wire.reaches(one, "10.9.0.2", within=1)


async def test_a_tap_is_made_counted_moved_and_removed(wire: Wire) -> None:
    switch = wire.switches["h1"]
    await switch.plug("tap-a", RED.key, "00:50:56:00:00:01")
    await switch.plug("tap-a", RED.key, "00:50:56:00:00:01")
    assert await switch.ports() == {"tap-a": RED.key}
    assert switch.counters("tap-a") == PortCounters()

    await switch.plug("tap-a", None, "00:50:56:00:00:01")
    assert await switch.ports() == {}
    run("ip", "-n", f"{wire.prefix}-h1", "link", "show", "tap-a")

    await switch.unplug("tap-a")
    await switch.unplug("tap-a")
    assert "tap-a" not in run("ip", "-n", f"{wire.prefix}-h1", "link", "show")


async def test_what_an_endpoint_sends_and_receives_is_counted_from_its_own_side(wire: Wire) -> None:
    one = await wire.endpoint("one", "h1", "10.9.0.1", RED)
    await wire.endpoint("two", "h2", "10.9.0.2", RED)
    assert await wire.reaches(one, "10.9.0.2")

    counters = wire.switches["h1"].counters("one")

    assert counters.tx_packets >= 1
    assert counters.rx_packets >= 1


async def test_bad_requests_are_refused_and_change_nothing(wire: Wire) -> None:
    switch = wire.switches["h1"]
    with pytest.raises(UnknownPortGroup, match=r"'dvportgroup-9'.*dvportgroup-1 \(Red\)"):
        await switch.plug("tap-a", "dvportgroup-9", "00:50:56:00:00:01")
    with pytest.raises(SwitchError, match="1 to 15"):
        await switch.plug("a-name-that-is-too-long", RED.key, "00:50:56:00:00:01")
    assert await switch.ports() == {}
    assert "tap-a" not in run("ip", "-n", f"{wire.prefix}-h1", "link", "show")


async def test_a_segment_is_refused_by_a_host_that_is_no_transport_node(wire: Wire) -> None:
    switch = wire.switches["h1"]
    segment = PortGroup(key="dvportgroup-4", name="web", segment="84c63d6f-1a7e-5a0f-8f5c-0c1a3d9b7e55")
    # A port group of the distributed switch is known to all its hosts; to plug into it is another matter.
    await switch.set_port_groups([RED, segment])
    with pytest.raises(SwitchError, match="'web' is a segment, and this host is no transport node: set tep"):
        await switch.plug("tap-a", segment.key, "00:50:56:00:00:01", vif="vif-1")
    assert await switch.ports() == {}
    assert "tap-a" not in run("ip", "-n", f"{wire.prefix}-h1", "link", "show")


async def test_an_uplink_that_is_not_there_is_named(wire: Wire) -> None:
    switch = Switch(
        run_dir=wire.directory / "h3", state_dir=wire.directory / "h3", uplink="uplink9", namespace=f"{wire.prefix}-h1"
    )
    try:
        with pytest.raises(SwitchError, match="uplink 'uplink9' does not exist"):
            await switch.start()
    finally:
        await switch.stop()
