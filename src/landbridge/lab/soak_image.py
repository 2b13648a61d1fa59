"""A whole Debian with PostgreSQL, for the long test: systemd, ext4, a database under load.

`soak_image()` builds the disk once with mmdebstrap and keeps it under /var/cache/landbridge. Its guest takes its
address from `landbridge.cfg` on the boot partition, as the small guest does, and lets the VM network's clients into
the database `bench` without a password: the network is the lab's own and leads nowhere else.
"""

import fcntl
import hashlib
import tempfile
from pathlib import Path

from landbridge.lab.boot_disk import BOOT_START, DATA_START, make_bootable, partition
from landbridge.lab.debian import ImageError, run_tool
from landbridge.lab.image import CACHE

SOAK_DISK_BYTES = 4 << 30
_BUILD_TIMEOUT = 1800.0  # seconds; two minutes with a mirror nearby
_KERNEL_OPTIONS = "root=PARTLABEL=landbridge-root rw console=ttyS0,115200 quiet no_timer_check mitigations=off"
_PACKAGES = (
    *("linux-image-cloud-amd64", "initramfs-tools", "systemd-sysv", "udev", "kmod", "iproute2"),
    *("postgresql", "qemu-guest-agent"),
)
_SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
_FSTAB = """\
PARTLABEL=landbridge-root / ext4 errors=remount-ro 0 1
PARTLABEL=landbridge-boot /boot/landbridge vfat ro,nofail 0 0
"""
_NETWORK_SCRIPT = """\
#!/bin/sh
address=$(sed -n 's/^address=//p' /boot/landbridge/landbridge.cfg)
for interface in /sys/class/net/e*; do
    ip link set "${interface##*/}" up
    ip addr add "$address" dev "${interface##*/}"
done
"""
_NETWORK_UNIT = """\
[Unit]
Description=The address that the boot partition says
RequiresMountsFor=/boot/landbridge
Before=postgresql.service network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-network
[Install]
WantedBy=multi-user.target
"""
_HOOK = """\
set -e
root=$1
mkdir -p "$root/boot/landbridge"
cp "$files/fstab" "$root/etc/fstab"
cp "$files/lab-network" "$root/usr/local/sbin/lab-network"
cp "$files/lab-network.service" "$root/etc/systemd/system/lab-network.service"
chmod 0755 "$root/usr/local/sbin/lab-network"
echo soak >"$root/etc/hostname"
printf 'vfat\\nvmxnet3\\n' >"$root/etc/modules-load.d/landbridge.conf"
chroot "$root" systemctl enable lab-network.service
chroot "$root" passwd -d root
etc="$root/etc/postgresql/15/main"
echo "listen_addresses = '*'" >"$etc/conf.d/landbridge.conf"
echo 'host bench bench 10.0.0.0/8 trust' >>"$etc/pg_hba.conf"
chroot "$root" pg_ctlcluster 15 main start
chroot "$root" runuser -u postgres -- createuser bench
chroot "$root" runuser -u postgres -- createdb -O bench bench
chroot "$root" pg_ctlcluster 15 main stop
"""


def soak_image(cache: Path = CACHE) -> Path:
    """Build the disk (raw, sparse), or find the one built from the same recipe. Blocks: minutes the first time."""
    recipe = Path(__file__).read_bytes() + Path(__file__).with_name("boot_disk.py").read_bytes()
    path = cache / f"soak-{hashlib.sha256(recipe).hexdigest()[:16]}.raw"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as work:
                raw = Path(work) / "disk.raw"
                _build(raw, Path(work))
                raw.rename(path)
    return path


def soak_disk(base: Path, target: Path, address: str) -> None:
    """Write one VM's disk to `target` as qcow2; the guest takes `address` (with prefix length)."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".soak-") as work:
        raw, text = Path(work) / "disk.raw", Path(work) / "landbridge.cfg"
        run_tool("cp", "--sparse=always", "--reflink=auto", base, raw)
        text.write_text(f"address={address}\n")
        run_tool("mcopy", "-o", "-i", f"{raw}@@{BOOT_START}", text, "::/landbridge.cfg")
        run_tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, target)


def _build(raw: Path, work: Path) -> None:
    tree = work / "root"
    _install(tree, work)
    root_bytes = SOAK_DISK_BYTES - DATA_START - (1 << 20)
    file_system = work / "root.ext4"
    run_tool("mke2fs", "-q", "-t", "ext4", "-d", tree, file_system, f"{root_bytes // 1024}k", timeout=_BUILD_TIMEOUT)
    with raw.open("wb") as file:
        file.truncate(SOAK_DISK_BYTES)
    partition(raw, "landbridge-root")
    kernel, initrd = (next(tree.glob(f"boot/{name}-*")) for name in ("vmlinuz", "initrd.img"))
    make_bootable(raw, work, kernel, initrd, _KERNEL_OPTIONS)
    place = ("bs=1M", f"seek={DATA_START >> 20}", "conv=notrunc,sparse")
    run_tool("dd", f"if={file_system}", f"of={raw}", *place, timeout=_BUILD_TIMEOUT)


def _install(tree: Path, work: Path) -> None:
    files = work / "files"
    files.mkdir()
    texts = {"fstab": _FSTAB, "lab-network": _NETWORK_SCRIPT, "lab-network.service": _NETWORK_UNIT}
    for name, text in texts.items():
        (files / name).write_text(text)
    hook = work / "hook"
    hook.write_text(f"#!/bin/sh\nfiles={files}\n{_HOOK}")
    hook.chmod(0o755)
    sources = next((path for path in _SOURCES if path.exists()), None)
    if sources is None:
        raise ImageError("this machine has no Debian sources to build a guest from")
    run_tool(
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(_PACKAGES)}"),
        *(f"--customize-hook={hook}", "bookworm", tree, sources),
        timeout=_BUILD_TIMEOUT,
    )
