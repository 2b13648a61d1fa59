"""A disk that boots by BIOS and by EFI from its own boot loader, made in a file: no loop device, no root.

The layout (GPT): `landbridge-grub` (GRUB's core for BIOS), `landbridge-boot` (FAT: EFI loader, kernel, initramfs), and
one partition for whatever the guest is about, from `DATA_START` on.
"""

import struct
from pathlib import Path

from landbridge.lab.debian import ImageError, run_tool

_MIB = 1 << 20
_SECTOR = 512
GRUB_START, BOOT_START, DATA_START = 1 * _MIB, 2 * _MIB, 98 * _MIB
_GRUB_MODULES = ("part_gpt", "fat", "linux", "normal", "search", "search_label")
_GRUB_CONFIGURATION = """
search --no-floppy --label LANDBRIDGE --set=root
linux /vmlinuz {options}
initrd /initrd
boot
"""


def partition(raw: Path, data_name: str) -> None:
    """Write the partition table; `data_name` is the partition's name by which the guest finds it."""
    sector = {name: start // _SECTOR for name, start in (("boot", BOOT_START), ("data", DATA_START))}
    partitions = (
        ("EF02", "landbridge-grub", GRUB_START // _SECTOR, sector["boot"] - 1),
        ("EF00", "landbridge-boot", sector["boot"], sector["data"] - 1),
        ("8300", data_name, sector["data"], 0),
    )
    layout: list[str] = []
    for number, (kind, name, first, last) in enumerate(partitions, 1):
        layout += ["-n", f"{number}:{first}:{last}", "-t", f"{number}:{kind}", "-c", f"{number}:{name}"]
    run_tool("sgdisk", "-o", *layout, raw)


def make_bootable(raw: Path, work: Path, kernel: Path, initrd: Path, options: str) -> None:
    """Fill the boot partition and install both loaders; `options` is the kernel's command line."""
    configuration = work / "grub.cfg"
    configuration.write_text(_GRUB_CONFIGURATION.format(options=options))
    _fill_boot_partition(raw, work, kernel, initrd)
    _install_bios_loader(raw, work)


def _fill_boot_partition(raw: Path, work: Path, kernel: Path, initrd: Path) -> None:
    volume = f"{raw}@@{BOOT_START}"
    sectors = (DATA_START - BOOT_START) // _SECTOR
    run_tool("mformat", "-i", volume, "-T", str(sectors), "-c", "64", "-v", "LANDBRIDGE", "::")
    loader = _grub_image(work, "x86_64-efi", "BOOTX64.EFI")
    run_tool("mmd", "-i", volume, "::/EFI", "::/EFI/BOOT")
    for source, name in ((loader, "EFI/BOOT/BOOTX64.EFI"), (kernel, "vmlinuz"), (initrd, "initrd")):
        run_tool("mcopy", "-i", volume, source, f"::/{name}")


def _grub_image(work: Path, platform: str, name: str, *modules: str) -> Path:
    image = work / name
    run_tool(
        *("grub-mkimage", "-O", platform, "-c", work / "grub.cfg", "-p", "/grub", "-o", image),
        *(*_GRUB_MODULES, *modules),
    )
    return image


def _install_bios_loader(raw: Path, work: Path) -> None:
    """What grub-bios-setup does, on a file: the core where its partition is, its place in the first sectors.

    Offsets are of GRUB's include/grub/i386/pc/boot.h: 0x5c in the boot sector is the core's sector; the core's own
    first sector ends in a block list, at 0x1f4, that says where the rest of it is.
    """
    core = bytearray(_grub_image(work, "i386-pc", "core.img", "biosdisk").read_bytes())
    if len(core) > BOOT_START - GRUB_START:
        raise ImageError(f"GRUB's core has {len(core)} bytes, more than its partition")
    start = GRUB_START // _SECTOR
    struct.pack_into("<Q", core, 0x1F4, start + 1)
    boot = Path("/usr/lib/grub/i386-pc/boot.img").read_bytes()
    with raw.open("r+b") as file:
        # The partition table of the protective MBR, from 0x1b8 on, stays.
        file.write(boot[:0x1B8])
        file.seek(0x5C)
        file.write(struct.pack("<Q", start))
        file.seek(GRUB_START)
        file.write(core)
