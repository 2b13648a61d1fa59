"""The relay against real HAProxy processes."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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


@dataclass
class Chain:
    """Hosts `a` and `b` of two sites that do not trust each other, and the appliances between them."""

    source: Relay
    near: Relay
    far: Relay
    target: Relay
    source_authority: str
    target_authority: str

    async def open(self, stream: str = "disk") -> Endpoint:
        """Let the stream in at the target, and pass the appliances; where the source dials."""
        at_target = self.target.endpoint("remote", stream)
        at_far = await self.far.forward("wan", "site", at_target)
        return await self.near.forward("site", "wan", at_far)


@pytest.fixture
async def chain(make_relay: MakeRelay, tmp_path: Path) -> Chain:
    here, there = (Authority.create(tmp_path / name, f"site {name}") for name in ("here", "there"))
    between = ("site", "wan")
    return Chain(
        await make_relay("a", sides=("remote",), signed_by=here, foreign=True),
        await make_relay("ix1", sides=between, signed_by=here, passes=True),
        await make_relay("ix2", sides=between, signed_by=there, passes=True),
        await make_relay("b", sides=("remote",), signed_by=there, foreign=True),
        (tmp_path / "here" / "ca.pem").read_text(),
        (tmp_path / "there" / "ca.pem").read_text(),
    )


async def test_a_stream_passes_relays_that_hold_none_of_its_keys(chain: Chain, echo: Echo) -> None:
    await echo(await chain.target.expose("remote", "disk", chain.source_authority))
    way = await chain.open()
    assert way.name == "disk.remote.b"
    assert way.authority == chain.target_authority
    data = os.urandom(3_000_000)
    assert await answer_through(await chain.source.dial("remote", way), data) == data
    for _ in range(200):
        if (await chain.near.counters())[way.name].received >= len(data):
            break
        await asyncio.sleep(0.05)
    assert (await chain.far.counters())[way.name].received >= len(data)
    await chain.near.close("disk")
    assert await answer_through(await chain.source.dial("remote", way)) == b""
    assert await chain.near.streams() == set()
    assert await chain.far.streams() == {"disk.remote.b"}


async def test_a_passed_stream_is_refused_by_a_target_that_was_told_of_another_authority(
    chain: Chain, echo: Echo
) -> None:
    await echo(await chain.target.expose("remote", "disk", chain.target_authority))
    assert await answer_through(await chain.source.dial("remote", await chain.open())) == b""


async def test_a_passed_stream_is_refused_by_a_source_that_was_told_of_another_authority(
    chain: Chain, echo: Echo
) -> None:
    await echo(await chain.target.expose("remote", "disk", chain.source_authority))
    way = (await chain.open()).model_copy(update={"authority": chain.source_authority})
    assert await answer_through(await chain.source.dial("remote", way)) == b""


async def test_another_sites_authority_counts_for_as_long_as_its_streams_are_open(chain: Chain, echo: Echo) -> None:
    for stream in ("one", "two"):
        await echo(await chain.target.expose("remote", stream, chain.source_authority))
    ways = [await chain.source.dial("remote", await chain.open(stream)) for stream in ("one", "two")]
    await chain.target.close("one")
    assert await answer_through(ways[1]) == b"hello"
    await chain.target.close("two")
    # A stream that is open for somebody else does not let in who was trusted for the closed ones.
    await echo(await chain.target.expose("remote", "two", chain.target_authority))
    assert await answer_through(ways[1]) == b""


async def test_an_authority_left_by_a_killed_owner_no_longer_counts_when_it_is_back(chain: Chain, echo: Echo) -> None:
    await echo(await chain.target.expose("remote", "disk", chain.source_authority))
    way = await chain.source.dial("remote", await chain.open())
    assert await answer_through(way) == b"hello"
    # As if it had been killed in the middle of closing the stream: the route is gone, the authority not.
    layout = chain.target._layout
    await Admin(layout.admin).order(f"del map {layout.routes('remote')} disk.remote.b")
    await chain.target.start()
    await Admin(layout.admin).order(f"add map {layout.routes('remote')} disk.remote.b in000")
    assert await answer_through(way) == b""


async def test_what_is_no_authority_is_not_trusted(chain: Chain) -> None:
    leaf = chain.source._sides["remote"].identity.certificate.read_text()
    for wrong in (leaf, "show info", f"{chain.source_authority}\n\nshutdown frontend from-remote"[:40]):
        with pytest.raises(RelayError, match="not a certificate authority"):
            await chain.target.expose("remote", "disk", wrong)
    with pytest.raises(RelayError, match="needs an authority"):
        await chain.target.expose("remote", "disk")


async def test_a_name_that_nobody_announced_does_not_pass(chain: Chain, echo: Echo) -> None:
    await echo(await chain.target.expose("remote", "disk", chain.source_authority))
    way = await chain.open()
    await chain.far.close("disk")
    assert await answer_through(await chain.source.dial("remote", way)) == b""


async def test_what_is_no_tls_does_not_pass(chain: Chain, echo: Echo) -> None:
    await echo(await chain.target.expose("remote", "disk", chain.source_authority))
    way = await chain.open()
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(way.address, way.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n" * 20)
        with contextlib.suppress(ConnectionError):
            assert await reader.read(1) == b""
        writer.close()


async def test_a_relay_that_passes_streams_opens_its_own(make_relay: MakeRelay, echo: Echo) -> None:
    """As the probe of a tunnel needs it."""
    near = await make_relay("ix1", sides=("wan",), passes=True)
    far = await make_relay("ix2", sides=("wan",), passes=True)
    await echo(await far.expose("wan", "probe"))
    assert await answer_through(await near.dial("wan", far.endpoint("wan", "probe"))) == b"hello"
    assert await answer_through(await near.dial("wan", far.endpoint("wan", "nobody"))) == b""


async def test_streams_may_share_a_socket(make_relay: MakeRelay, echo: Echo) -> None:
    source, target = await make_relay("a"), await make_relay("b")
    path = await target.expose("site", "disk-1")
    await echo(path)
    assert await target.expose("site", "disk-2", beside="disk-1") == path
    for stream in ("disk-1", "disk-2"):
        way = target.endpoint("site", stream)
        assert await answer_through(await source.dial("site", way)) == b"hello"
        await counted(target, way.name, Counters(5, 5))


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
