"""Disk images made by the real qemu-img."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from landbridge.vsan import image
from landbridge.vsan.faults import FileLocked, NoDiskSpace, StorageFault

MIB = 1 << 20


def write(path: Path, pattern: int, offset: int, length: int) -> None:
    command = ["qemu-io", "-f", "qcow2", "-c", f"write -P {pattern} {offset} {length}", str(path)]
    subprocess.run(command, check=True, capture_output=True)


def same(one: Path, other: Path) -> bool:
    command = ["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", str(one), str(other)]
    return subprocess.run(command, check=False).returncode == 0


def taken(path: Path) -> int:
    return path.stat().st_blocks * 512


async def test_a_thin_disk_takes_no_space_and_a_thick_one_all(tmp_path: Path) -> None:
    thin, thick = tmp_path / "thin", tmp_path / "thick"
    await image.create(thin, 64 * MIB)
    await image.create(thick, 64 * MIB, thin=False)
    assert image.read_header(thin).capacity == image.read_header(thick).capacity == 64 * MIB
    assert taken(thin) < MIB
    assert taken(thick) >= 64 * MIB


async def test_a_copy_has_what_its_source_and_all_that_backs_it_has(tmp_path: Path) -> None:
    base, top, copy = tmp_path / "base", tmp_path / "top", tmp_path / "copy"
    await image.create(base, 64 * MIB)
    write(base, 0x11, MIB, 2 * MIB)
    await image.create(top, 64 * MIB, backing=base)
    assert image.read_header(top).backing == "base"
    write(top, 0x22, 2 * MIB, 2 * MIB)
    steps: list[float] = []
    await image.convert(top, copy, progress=steps.append)
    assert same(top, copy)
    assert image.read_header(copy).backing is None
    assert taken(copy) < 8 * MIB
    assert steps
    assert steps == sorted(steps)


async def test_a_raw_source_stays_raw_though_a_guest_wrote_a_header_into_it(tmp_path: Path) -> None:
    raw, copy = tmp_path / "raw", tmp_path / "copy"
    raw.write_bytes(bytes([7]) * MIB)
    assert image.image_format(raw) == "raw"
    await image.convert(raw, copy, source_format="raw")
    assert image.read_header(copy).capacity == MIB


async def test_a_disk_grows(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    await image.create(disk, MIB)
    await image.resize(disk, 2 * MIB)
    assert image.read_header(disk).capacity == 2 * MIB


async def test_a_disk_in_use_is_locked(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    await image.create(disk, MIB)
    user = await asyncio.create_subprocess_exec(
        *("qemu-io", "-f", "qcow2", str(disk)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert user.stdin is not None
    assert user.stdout is not None
    try:
        user.stdin.write(b"length\n")
        await user.stdout.readuntil(b"MiB")
        with pytest.raises(FileLocked):
            await image.resize(disk, 2 * MIB)
    finally:
        user.stdin.close()
        await user.wait()


async def test_a_failed_command_leaves_no_file(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(StorageFault):
        await image.convert(tmp_path / "missing", target)
    assert not target.exists()
    with pytest.raises((NoDiskSpace, StorageFault)):
        await image.create(target, 1 << 62, thin=False)
    assert not target.exists()
