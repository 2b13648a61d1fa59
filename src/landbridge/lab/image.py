"""The lab's guest: a small disk that boots by BIOS and by EFI from its own boot loader, as VMware's VMs do.

`base_image()` builds the disk once from Debian packages and the sources in `guest/`, and keeps it under
/var/cache/landbridge, named by what it was made from. `guest_disk()` makes one VM's disk of it: a copy with the VM's
settings on the boot partition.

The disk (1 GiB, GPT): `landbridge-grub` (GRUB's core for BIOS), `landbridge-boot` (FAT: EFI loader, kernel, initramfs,
settings), `landbridge-data` (1 MiB of the counter's records, then data that does not compress, then nothing).
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from landbridge.lab.boot_disk import BOOT_START, DATA_START, make_bootable, partition
from landbridge.lab.debian import ImageError, kernel_modules, kernel_package, libraries, run_tool, unpack

CACHE = Path("/var/cache/landbridge")
GUEST_SOURCES = Path(__file__).parents[3] / "guest"
DISK_BYTES = 1 << 30
READY = "ready at"  # in the line that the guest prints on its console when it serves

_MIB = 1 << 20
_PACKAGES = (
    "busybox-static",
    "qemu-guest-agent",
    "libc6",
    "libgcc-s1",
    "libglib2.0-0",
    "libnuma1",
    "libpcre2-8-0",
    "libudev1",
    "liburing2",
)
# Every disk controller and network adapter a VM may have here, and the channel of the guest agent.
_MODULES = (
    *("virtio_pci", "virtio_console", "vmxnet3", "e1000", "e1000e"),
    *("vmw_pvscsi", "mptspi", "mptsas", "sym53c8xx", "ahci", "ata_piix", "nvme", "sd_mod", "sr_mod"),
    *("vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1"),
)
_KERNEL_OPTIONS = "console=tty0 console=ttyS0,115200 quiet loglevel=3 panic=10 no_timer_check mitigations=off"
_OS_RELEASE = (
    'ID=debian\nNAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12, landbridge guest"\nVERSION_ID="12"\n'
)


class Kernel(StrEnum):
    """Debian's package of the guest's kernel.

    CLOUD boots in half the time under software emulation (its image is LZ4, not XZ) and drives pvscsi, NVMe, IDE and
    vmxnet3; GENERIC drives every controller and adapter that a VM may have.
    """

    CLOUD = "linux-image-cloud-amd64"
    GENERIC = "linux-image-amd64"


@dataclass(frozen=True)
class GuestSettings:
    """What one VM's guest is told, in `landbridge.cfg`."""

    hostname: str = "guest"
    address: str = ""  # with prefix length, 10.100.0.10/24; empty: no address
    gateway: str = ""
    write_interval_ms: int = 10
    dirty_mib: int = 32
    dirty_mib_per_s: int = 10

    def text(self, data_mib: int) -> str:
        """The file's content."""
        values = {**asdict(self), "data_mib": data_mib}
        for key, value in values.items():
            if "\n" in str(value) or "\r" in str(value):
                raise ImageError(f"the setting {key} is {value!r}; it must be one line")
        return "".join(f"{key}={value}\n" for key, value in values.items())


@dataclass(frozen=True)
class BaseImage:
    """The built disk, raw and sparse, and what its guest must answer to `checksum`."""

    path: Path
    data_mib: int
    checksum: str


def base_image(
    data_mib: int = 200,
    *,
    kernel: Kernel = Kernel.CLOUD,
    cache: Path = CACHE,
    sources: Path = GUEST_SOURCES,
) -> BaseImage:
    """Build the disk, or find the one that was built from the same sources. Blocks: 20 s and a download the first time.

    `data_mib` of the data partition hold data that does not compress.
    """
    if not 1 <= data_mib <= (DISK_BYTES - DATA_START) // _MIB - 2:
        raise ImageError(f"{data_mib} MiB of data do not fit into a disk of {DISK_BYTES // _MIB} MiB")
    path = cache / f"guest-{_fingerprint(data_mib, kernel, sources)}.raw"
    checksum = path.with_suffix(".checksum")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as work:
                raw = Path(work) / "disk.raw"
                checksum.write_text(_build(raw, Path(work), sources, kernel, data_mib))
                raw.rename(path)
    return BaseImage(path, data_mib, checksum.read_text())


def guest_disk(base: BaseImage, target: Path, settings: GuestSettings) -> None:
    """Write one VM's disk to `target` as qcow2. Blocks for about a second."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".guest-") as work:
        raw, text = Path(work) / "disk.raw", Path(work) / "landbridge.cfg"
        run_tool("cp", "--sparse=always", "--reflink=auto", base.path, raw)
        text.write_text(settings.text(base.data_mib))
        run_tool("mcopy", "-o", "-i", f"{raw}@@{BOOT_START}", text, "::/landbridge.cfg")
        run_tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, Path(work) / "disk.qcow2")
        (Path(work) / "disk.qcow2").rename(target)


def _fingerprint(data_mib: int, kernel: Kernel, sources: Path) -> str:
    digest = hashlib.sha256(f"{kernel} {data_mib}".encode())
    here = Path(__file__)
    for path in (
        here,
        *(here.with_name(name) for name in ("boot_disk.py", "debian.py")),
        *(sources / name for name in ("init", "shutdown", "workload.c")),
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _build(raw: Path, work: Path, sources: Path, kernel: Kernel, data_mib: int) -> str:
    kernel_tree, tree = work / "kernel", work / "tree"
    unpack([kernel_package(kernel)], kernel_tree)
    unpack(_PACKAGES, tree)
    initrd = _initramfs(work, tree, kernel_tree, sources)
    with raw.open("wb") as file:
        file.truncate(DISK_BYTES)
    partition(raw, "landbridge-data")
    make_bootable(raw, work, next(kernel_tree.glob("boot/vmlinuz-*")), initrd, _KERNEL_OPTIONS)
    return _fill_data(raw, data_mib)


def _initramfs(work: Path, tree: Path, kernel_tree: Path, sources: Path) -> Path:
    """The whole guest: it runs from memory, and its disk holds only the boot files and data."""
    root = work / "root"
    for directory in ("bin", "sbin", "dev", "proc", "sys", "etc", "lib/modules", "lib64"):
        (root / directory).mkdir(parents=True)
    shutil.copy(next(tree.rglob("bin/busybox")), root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    agent = next(tree.rglob("sbin/qemu-ga"))
    shutil.copy(agent, root / "sbin/qemu-ga")
    for library in libraries(agent, tree):
        place = "lib64" if library.name.startswith("ld-") else "lib"
        shutil.copy(library, root / place / library.name)
    run_tool("gcc", "-O2", "-static", "-pthread", "-o", root / "bin/workload", sources / "workload.c")
    for script, place in (("init", "init"), ("shutdown", "sbin/shutdown")):
        shutil.copy(sources / script, root / place)
        (root / place).chmod(0o755)
    modules = kernel_modules(_MODULES, kernel_tree)
    for module in modules:
        shutil.copy(module, root / "lib/modules" / module.name)
    (root / "modules").write_text("".join(f"{module.name}\n" for module in modules))
    (root / "etc/os-release").write_text(_OS_RELEASE)
    (root / "etc/passwd").write_text("root::0:0:root:/:/bin/sh\n")
    archive = work / "initrd"
    run_tool("sh", "-c", 'find . | cpio --quiet -o -H newc -R 0:0 | gzip -1 >"$0"', archive, cwd=root)
    return archive


def _fill_data(raw: Path, data_mib: int) -> str:
    """Random bytes after the records' MiB; returns their BLAKE2b-256 as the guest prints it."""
    digest = hashlib.blake2b(digest_size=32)
    with raw.open("r+b") as file:
        file.seek(DATA_START + _MIB)
        for _ in range(data_mib):
            block = os.urandom(_MIB)
            digest.update(block)
            file.write(block)
    return digest.hexdigest()
