"""The relay against real HAProxy processes."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from landbridge.pki import Authority
from landbridge.relay import Counters, Endpoint, Relay, RelayError, stream_name
from landbridge.relay.admin import Admin
from tests.integration.relay.conftest import MakeRelay

Echo = Callable[[Path], Awaitable[None]]


async def answer_through(path: Path, data: bytes = b"hello") -> bytes:
    """What an echo server at the other end of `path` sends back; empty if the connection is closed."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            writer.write(data)
            await writer.drain()
            return await reader.readexactly(len(data))
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        finally:
            writer.close()


async def counted(relay: Relay, name: str, expected: Counters) -> None:
    """Wait until the relay counts `expected` bytes: it does so when a connection ends."""
    for _ in range(200):
        if (await relay.counters())[name] == expected:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"{(await relay.counters())[name]} instead of {expected}")


async def pid_of(relay: Relay) -> int:
    return await Admin(relay._layout.admin).pid()


async def test_a_stream_goes_from_a_unix_socket_to_a_unix_socket(make_relay: MakeRelay, echo: Echo) -> None:
    source, target = await make_relay("a"), await make_relay("b")
    stream = stream_name("move1", "ram")
    await echo(await target.expose("site", stream))
    path = await source.dial("site", target.endpoint("site", stream))
    data = os.urandom(3_000_000)
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.close()
        await counted(target, target.endpoint("site", stream).name, Counters(len(data), len(data)))


async def test_a_chain_of_relays_carries_a_stream(make_relay: MakeRelay, echo: Echo) -> None:
    source, target = await make_relay("a"), await make_relay("b")
    near, far = await make_relay("ix1", sides=("site", "wan")), await make_relay("ix2", sides=("site", "wan"))
    await echo(await target.expose("site", "t-disk"))
    at_far = await far.forward("wan", "f-disk", "site", target.endpoint("site", "t-disk"))
    at_near = await near.forward("site", "n-disk", "wan", at_far)
    assert at_near.name == "n-disk.site.ix1"
    assert await answer_through(await source.dial("site", at_near)) == b"hello"
    assert (await near.counters())["n-disk.site.ix1"].received == 5
    await near.close("n-disk")
    assert await answer_through(await source.dial("site", at_near)) == b""
    assert await near.streams() == set()


async def test_an_unknown_stream_is_refused(make_relay: MakeRelay) -> None:
    source, target = await make_relay("a"), await make_relay("b")
    path = await source.dial("site", target.endpoint("site", "nobody"))
    assert await answer_through(path) == b""


async def test_a_dialler_of_another_authority_is_refused(make_relay: MakeRelay, echo: Echo, tmp_path: Path) -> None:
    target = await make_relay("b")
    stranger = await make_relay("a", signed_by=Authority.create(tmp_path / "other", "other site"))
    await echo(await target.expose("site", "s"))
    assert await answer_through(await stranger.dial("site", target.endpoint("site", "s"))) == b""


async def test_a_server_of_another_authority_is_refused(make_relay: MakeRelay, echo: Echo, tmp_path: Path) -> None:
    """The server trusts the dialler, and still the dialler does not trust the server."""
    source = await make_relay("a")
    other = Authority.create(tmp_path / "other", "other site")
    target = await make_relay("b", signed_by=other)
    target_side = target._sides["site"]
    target_side.identity.ca.write_bytes((tmp_path / "ca" / "ca.pem").read_bytes())
    await target.start()
    await echo(await target.expose("site", "s"))
    assert await answer_through(await source.dial("site", target.endpoint("site", "s"))) == b""


async def test_a_server_whose_certificate_has_another_name_is_refused(make_relay: MakeRelay, echo: Echo) -> None:
    """A component of the same authority can not take another's streams."""
    source, target = await make_relay("a"), await make_relay("b")
    there = target.endpoint("site", "s")
    await echo(await target.expose("site", "s"))
    assert await answer_through(await source.dial("site", there)) == b"hello"
    # The same port asked for a stream of host c: b even opens a route for it, but can not show c's certificate.
    claimed = Endpoint(address=there.address, port=there.port, name="s.site.c")
    await Admin(target._layout.admin).order(f"add map {target._layout.routes('site')} s.site.c in000")
    assert await answer_through(await source.dial("site", claimed)) == b""


async def test_the_relay_outlives_its_owner_and_is_found_again(make_relay: MakeRelay, echo: Echo) -> None:
    source, target = await make_relay("a"), await make_relay("b")
    await echo(await target.expose("site", "s"))
    path = await source.dial("site", target.endpoint("site", "s"))
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        again = Relay(source._layout.directory, list(source._sides.values()))
        process = await pid_of(source)
        await again.start()
        assert await pid_of(again) == process
        writer.write(b"after.")
        assert await reader.readexactly(6) == b"after."
        assert await again.dial("site", target.endpoint("site", "s")) == path
        assert await again.streams() == {"s.site.b"}
        writer.close()


async def test_the_relay_has_a_session_of_its_own(make_relay: MakeRelay) -> None:
    relay = await make_relay("a")
    assert os.getsid(await pid_of(relay)) != os.getsid(0)


async def test_a_killed_relay_is_started_again(make_relay: MakeRelay, echo: Echo) -> None:
    source, target = await make_relay("a"), await make_relay("b")
    os.kill(await pid_of(source), signal.SIGKILL)
    await source.start()
    await echo(await target.expose("site", "s"))
    assert await answer_through(await source.dial("site", target.endpoint("site", "s"))) == b"hello"


async def test_closing_a_stream_ends_its_connections_and_no_others(make_relay: MakeRelay, echo: Echo) -> None:
    source, target = await make_relay("a"), await make_relay("b")
    connections = {}
    async with asyncio.timeout(20):
        for stream in ("one", "two"):
            await echo(await target.expose("site", stream))
            path = await source.dial("site", target.endpoint("site", stream))
            connections[stream] = await asyncio.open_unix_connection(path)
            connections[stream][1].write(b"x")
            assert await connections[stream][0].readexactly(1) == b"x"
        await target.close("one")
        assert await connections["one"][0].read(1) == b""
        connections["two"][1].write(b"y")
        assert await connections["two"][0].readexactly(1) == b"y"
        for _, writer in connections.values():
            writer.close()
    assert await target.streams() == {"two.site.b"}


async def test_streams_beyond_the_slots_are_refused_with_what_to_do(make_relay: MakeRelay) -> None:
    relay = await make_relay("a")
    for number in range(64):
        await relay.expose("site", f"s{number}")
    with pytest.raises(RelayError, match="wait until another move ends"):
        await relay.expose("site", "one-too-many")
    await relay.close("s7")
    await relay.expose("site", "fits-now")


async def test_a_name_that_is_no_dns_label_is_refused(make_relay: MakeRelay) -> None:
    relay = await make_relay("a")
    with pytest.raises(RelayError, match="no stream name"):
        await relay.expose("site", "a; shutdown frontend from-site")


async def test_nobody_else_can_read_the_relays_files(make_relay: MakeRelay) -> None:
    relay = await make_relay("a")
    assert relay._layout.directory.stat().st_mode & 0o077 == 0
    assert relay._layout.admin.stat().st_mode & 0o077 == 0
