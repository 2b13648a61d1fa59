"""A site with an authority, and relays in it on loopback addresses of their own."""

import asyncio
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from landbridge.pki import Authority, PeerName
from landbridge.relay import Relay, Side

MakeRelay = Callable[..., Awaitable[Relay]]


def free_port(address: str) -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", "test site")


@pytest.fixture
async def make_relay(tmp_path: Path, authority: Authority) -> AsyncIterator[MakeRelay]:
    made: list[Relay] = []
    directories: list[Path] = []

    async def make(
        name: str,
        *,
        sides: tuple[str, ...] = ("site",),
        signed_by: Authority | None = None,
        foreign: bool = False,
        passes: bool = False,
    ) -> Relay:
        built = []
        for number, side in enumerate(sides):
            suffix = f"{side}.{name}"
            identity = (signed_by or authority).issue(
                tmp_path / f"{name}-{side}", PeerName("test", "esx", name), dns=[f"*.{suffix}"]
            )
            address = f"127.0.{number + 1}.{len(made) + 1}"
            built.append(Side(side, address, free_port(address), identity, suffix, foreign, passes))
        # UNIX sockets need a short path, and tmp_path is not.
        directory = Path(tempfile.mkdtemp(prefix="lbr", dir="/tmp"))
        directories.append(directory)
        relay = Relay(directory, built)
        made.append(relay)
        await relay.start()
        return relay

    yield make
    for relay in made:
        await relay.stop()
    for directory in directories:
        shutil.rmtree(directory)


@pytest.fixture
async def echo() -> AsyncIterator[Callable[[Path], Awaitable[None]]]:
    """Listen on a UNIX socket and send back what comes."""
    servers: list[asyncio.Server] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def listen(path: Path) -> None:
        servers.append(await asyncio.start_unix_server(serve, path))

    yield listen
    for server in servers:
        server.close()
