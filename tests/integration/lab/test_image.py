"""The guest's disk under real QEMU: it boots from its own boot loader, by both firmwares, and its workload is true."""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from landbridge.lab.debian import ImageError
from landbridge.lab.image import READY, BaseImage, GuestSettings, base_image, guest_disk

BOOT_TIMEOUT = 150.0
DISK = ("-blockdev", "driver=qcow2,node-name=disk,file.driver=file,file.filename=disk.qcow2")
PVSCSI = (*DISK, "-device", "pvscsi,id=scsi", "-device", "scsi-hd,drive=disk,bus=scsi.0,bootindex=0")
# Debian's OVMF has no driver for pvscsi.
NVME = (*DISK, "-device", "nvme,drive=disk,serial=1,bootindex=0")


@pytest.fixture(scope="module")
def base() -> BaseImage:
    return base_image(data_mib=8)


@asynccontextmanager
async def booted(base: BaseImage, *hardware: str) -> AsyncIterator[Path]:
    """A QEMU with the guest, once it said that it serves; yields the directory with its disk and console."""
    directory = Path(tempfile.mkdtemp(prefix="lbt"))
    guest_disk(base, directory / "disk.qcow2", GuestSettings(hostname="probe", address="10.0.2.15/24"))
    stream, commands = ports()
    forwards = f"hostfwd=tcp:127.0.0.1:{stream}-:7000,hostfwd=tcp:127.0.0.1:{commands}-:7001"
    process = await asyncio.create_subprocess_exec(
        *("qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", "256", "-nodefaults", "-display", "none"),
        *("-serial", "file:console", "-netdev", f"user,id=net,{forwards}"),
        *("-device", "vmxnet3,netdev=net,romfile=", *hardware),
        cwd=directory,
    )
    try:
        console = directory / "console"
        async with asyncio.timeout(BOOT_TIMEOUT):
            while READY not in (console.read_text(errors="replace") if console.exists() else ""):
                assert process.returncode is None, "QEMU ended"
                await asyncio.sleep(0.2)
        yield directory
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        shutil.rmtree(directory)


def ports() -> tuple[int, int]:
    """Two ports of this test run's own."""
    first = 20000 + os.getpid() % 10000 * 2
    return first, first + 1


async def ask(command: str) -> dict[str, object]:
    reader, writer = await asyncio.open_connection("127.0.0.1", ports()[1])
    writer.write(f"{command}\n".encode())
    answer = json.loads(await asyncio.wait_for(reader.readline(), 60))
    writer.close()
    assert isinstance(answer, dict)
    return answer


async def test_the_guest_boots_by_bios_and_what_it_says_of_its_disk_is_true(base: BaseImage) -> None:
    async with booted(base, *PVSCSI) as directory:
        assert await ask("checksum") == {"checksum": base.checksum}
        assert (await ask("status"))["write_errors"] == 0
        reader, writer = await asyncio.open_connection("127.0.0.1", ports()[0])
        counters = [int(await asyncio.wait_for(reader.readline(), 30)) for _ in range(20)]
        writer.close()
        assert counters == sorted(counters)
        assert counters[-1] > counters[0]
        verified = await ask("verify")
        assert verified["broken"] == 0
        assert isinstance(verified["last"], int)
        assert verified["last"] >= counters[-1]
        assert "hostname=probe" in settings(directory)


def settings(directory: Path) -> str:
    """The settings file, read from the disk image itself."""
    raw = directory / "copy.raw"
    subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", directory / "disk.qcow2", raw], check=True, timeout=60)
    listed = subprocess.run(
        ["mtype", "-i", f"{raw}@@2M", "::/landbridge.cfg"], check=True, timeout=60, capture_output=True, text=True
    )
    return listed.stdout


async def test_the_guest_boots_by_efi(base: BaseImage, tmp_path: Path) -> None:
    variables = tmp_path / "variables.fd"
    shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", variables)
    firmware = (
        *("-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"),
        *("-drive", f"if=pflash,format=raw,file={variables}"),
    )
    async with booted(base, *NVME, *firmware):
        assert await ask("checksum") == {"checksum": base.checksum}


def test_an_image_is_built_once(base: BaseImage) -> None:
    built = base.path.stat().st_ino
    assert base_image(data_mib=8).path.stat().st_ino == built


def test_what_does_not_fit_or_would_break_the_settings_is_refused(base: BaseImage, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="do not fit"):
        base_image(data_mib=4096)
    with pytest.raises(ImageError, match="must be one line"):
        guest_disk(base, tmp_path / "disk.qcow2", GuestSettings(hostname="a\naddress=b"))
    assert not (tmp_path / "disk.qcow2").exists()
