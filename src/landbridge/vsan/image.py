"""Disk images through qemu-img: create, convert, resize, look at.

An image's content is guests' and users' data and never trusted: formats are told, not guessed by qemu-img (a raw disk
in which a guest wrote a qcow2 header must stay raw), and headers that name other files are looked at before use.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from landbridge.vsan.faults import FileLocked, FileNotFound, InvalidDisk, NoDiskSpace, StorageFault

_QCOW2_MAGIC = b"QFI\xfb"
_VMDK_MAGIC = b"KDMV"
_HEADER = 104
_QCOW2_EXTERNAL_DATA = 1 << 2  # incompatible feature: guest data lies in another file
_QUICK = 60.0  # seconds, for what touches only metadata


@dataclass(frozen=True)
class ImageHeader:
    """What the first bytes of a qcow2 image say. `capacity` in bytes; `backing` as written in the image."""

    capacity: int
    backing: str | None


def image_format(path: Path) -> str:
    """`qcow2`, `vmdk` (sparse or stream-optimised) or `raw`, by the first bytes. For files a user names as a source."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER)
    except OSError as error:
        raise FileNotFound(f"can not read {path.name}: {error.strerror}") from error
    # A VMDK of capacity 0 holds but a description, which may name any file as its content.
    if header[:4] == _VMDK_MAGIC and not any(header[12:20]):
        raise InvalidDisk(f"{path.name} keeps its data in another file, which is not allowed")
    return {_QCOW2_MAGIC: "qcow2", _VMDK_MAGIC: "vmdk"}.get(header[:4], "raw")


def read_header(path: Path) -> ImageHeader:
    """Read a qcow2 image's header (docs/interop/qcow2.txt of QEMU). InvalidDisk if it is not one we may open."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER)
            if len(header) < 72 or header[:4] != _QCOW2_MAGIC:
                raise InvalidDisk(f"{path.name} is not a qcow2 image")
            version = int.from_bytes(header[4:8], "big")
            if version >= 3 and int.from_bytes(header[72:80], "big") & _QCOW2_EXTERNAL_DATA:
                raise InvalidDisk(f"{path.name} keeps its data in another file, which is not allowed")
            offset, length = int.from_bytes(header[8:16], "big"), int.from_bytes(header[16:20], "big")
            backing = None
            if offset:
                file.seek(offset)
                backing = file.read(min(length, 1023)).decode(errors="surrogateescape")
    except OSError as error:
        raise FileNotFound(f"can not read {path.name}: {error.strerror}") from error
    return ImageHeader(int.from_bytes(header[24:32], "big"), backing)


async def create(path: Path, capacity: int, *, thin: bool = True, backing: Path | None = None) -> None:
    """Create a blank qcow2 of `capacity` bytes, or an overlay of `backing` (named relative to the new image)."""
    options = [] if thin or backing else ["-o", "preallocation=falloc"]
    if backing is not None:
        name = backing.name if backing.parent == path.parent else str(backing)
        options = ["-F", "qcow2", "-b", name, *options]
    await _making(path, "create", "-q", "-f", "qcow2", *options, str(path), str(capacity), cwd=path.parent)


async def convert(
    source: Path,
    target: Path,
    *,
    thin: bool = True,
    source_format: str = "qcow2",
    progress: Callable[[float], None] | None = None,
) -> None:
    """Copy an image (with what backs it) into a new qcow2; zeroes are not written. Progress as 0.0 to 1.0."""
    options = [] if thin else ["-o", "preallocation=falloc"]
    arguments = ["convert", "-f", source_format, "-O", "qcow2", *options]
    if progress is None:
        await _making(target, *arguments, str(source), str(target), timeout=None)
        return
    try:
        await _run_with_progress(progress, *arguments, "-p", str(source), str(target))
    except BaseException:
        _drop(target)
        raise


async def resize(path: Path, capacity: int) -> None:
    """Grow an image that no VM has open to `capacity` bytes."""
    await _run("resize", "-q", "-f", "qcow2", str(path), str(capacity))


async def commit(path: Path) -> None:
    """Write what an overlay holds into the image it stands on; the overlay itself stays as it is."""
    await _run("commit", "-q", "-d", "-f", "qcow2", str(path), timeout=None)


async def rebase(path: Path, backing: Path) -> None:
    """Let an overlay stand on another image that reads the same; nothing is copied."""
    name = backing.name if backing.parent == path.parent else str(backing)
    await _run("rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", name, str(path), cwd=path.parent)


async def virtual_size(path: Path, image: str) -> int:
    """The capacity in bytes of an image of format `image`. InvalidDisk if it leans on other files."""
    answer = json.loads(await _run("info", "-U", "-f", image, "--output=json", str(path)))
    if answer.get("backing-filename") or (answer.get("format-specific") or {}).get("data", {}).get("data-file"):
        raise InvalidDisk(f"{path.name} leans on another file; flatten it first")
    return int(answer["virtual-size"])


async def _making(target: Path, *arguments: str, timeout: float | None = _QUICK, cwd: Path | None = None) -> None:
    """Run a command that makes `target`, which is gone again if the command fails or is cancelled."""
    try:
        await _run(*arguments, timeout=timeout, cwd=cwd)
    except BaseException:
        _drop(target)
        raise


async def _run(*arguments: str, timeout: float | None = _QUICK, cwd: Path | None = None) -> str:
    process = await asyncio.create_subprocess_exec(
        "qemu-img",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout)
    except TimeoutError as error:
        raise StorageFault(f"qemu-img {arguments[0]} did not end within {timeout:g} s") from error
    finally:
        await _end(process)
    if process.returncode != 0:
        raise _fault(arguments[0], err.decode(errors="replace"))
    return out.decode()


async def _run_with_progress(progress: Callable[[float], None], *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "qemu-img",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        # qemu-img draws `    (12.34/100%)` and a carriage return, about a hundred times in all.
        while chunk := await process.stdout.read(4096):
            last = chunk.decode(errors="replace").rpartition("/100%")[0].rpartition("(")[2]
            try:
                progress(float(last) / 100)
            except ValueError:
                continue
        err = await process.stderr.read()
        await process.wait()
    finally:
        await _end(process)
    if process.returncode != 0:
        raise _fault(arguments[0], err.decode(errors="replace"))


def _drop(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


def _fault(command: str, message: str) -> StorageFault:
    text = f"qemu-img {command}: {message.strip() or 'failed without a word'}"
    if "No space left" in message or "File too large" in message:
        return NoDiskSpace(text)
    if "No such file" in message:
        return FileNotFound(text)
    if "lock" in message:
        return FileLocked(text)
    return StorageFault(text)
