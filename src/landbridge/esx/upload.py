"""Files that come in over the network: complete or not at all, and as sparse as they were."""

import asyncio
import errno
import os
import secrets
from pathlib import Path

from aiohttp import StreamReader

from landbridge.esx.faults import Fault
from landbridge.vsan.local import LocalDatastore

_BLOCK = 1 << 20
_ZEROES = bytes(_BLOCK)
_STALLED = 120.0  # seconds without a byte


async def receive(content: StreamReader, datastore: LocalDatastore, path: Path, length: int | None) -> None:
    """Write a request's body to `path`, which appears (or is replaced) when all of it is there and synced.

    Fault `NoDiskSpace` if it does not fit, `InvalidRequest` if it ends early. Blocks of zeroes take no space.
    """
    if length is not None:
        datastore.require_capacity(length, path.name)
    temporary = path.with_name(f".{secrets.token_hex(6)}.upload")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            received = await _write(content, descriptor)
        finally:
            os.close(descriptor)
        if length is not None and received != length:
            raise Fault("InvalidRequest", f"{path.name}: {received} bytes came of {length} announced")
        temporary.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise Fault("NoDiskSpace", f"{path.name} does not fit into datastore {datastore.name}") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


async def _write(content: StreamReader, descriptor: int) -> int:
    offset, pending = 0, bytearray()
    while True:
        async with asyncio.timeout(_STALLED):
            chunk = await content.readany()
        pending += chunk
        while len(pending) >= _BLOCK or (pending and not chunk):
            block = bytes(pending[:_BLOCK])
            del pending[:_BLOCK]
            if block != _ZEROES[: len(block)]:
                await asyncio.to_thread(os.pwrite, descriptor, block, offset)
            offset += len(block)
        if not chunk:
            break
    os.ftruncate(descriptor, offset)
    await asyncio.to_thread(os.fsync, descriptor)
    return offset
