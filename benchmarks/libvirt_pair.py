"""The peer: `virsh migrate --live --copy-storage-all` between two libvirtd, each in a namespace of its own.

Both share this machine's kernel and packages; directories and network are their own. Both TAPs hang on bridges that a
veth pair joins, and the client sits on the source's, as it does at landbridge's source site.
"""

import subprocess
import time
import uuid
from contextlib import suppress
from pathlib import Path

from benchmarks.rig import CLIENT_ADDRESS, GUEST_MAC, MEMORY_MIB, in_namespace, make_disk, run
from landbridge.lab.image import DISK_BYTES

_PRIVATE = ("/run/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt", "/etc/libvirt")
_LINK = {"a": "192.168.200.1", "b": "192.168.200.2"}
_CONFIGURATION = {
    "qemu.conf": """
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
""",
    "libvirtd.conf": 'host_uuid = "{host}"\nauth_unix_rw = "none"\n',
}


class LibvirtPair:
    """Two libvirtd (`a`, `b`), and a guest that boots at `a`."""

    def __init__(self, directory: Path, prefix: str) -> None:
        self._directory = directory
        self._prefix = prefix
        self._daemons: list[subprocess.Popen[bytes]] = []

    def namespace(self, side: str) -> str:
        return f"{self._prefix}{side}"

    def start(self) -> None:
        """Namespaces, bridges and both daemons."""
        for side in _LINK:
            self._network(side)
        one, other = (f"netns {self.namespace(side)}" for side in _LINK)
        run("ip", *f"link add data0 {one} type veth peer name data0 {other}".split())
        run("ip", *f"link add link0 {one} type veth peer name link0 {other}".split())
        for side, address in _LINK.items():
            for words in (
                "link set data0 master br0 up",
                f"addr add {address}/24 dev link0",
                "link set link0 up",
            ):
                run("ip", "-n", self.namespace(side), *words.split())
        run("ip", "-n", self.namespace("a"), *f"addr add {CLIENT_ADDRESS}/24 dev br0".split())
        for side in _LINK:
            self._daemon(side)

    def _network(self, side: str) -> None:
        run("ip", "netns", "add", self.namespace(side))
        for words in (
            "link set lo up",
            "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            "link set br0 up",
            "tuntap add tap0 mode tap",
            "link set tap0 master br0 up",
        ):
            run("ip", "-n", self.namespace(side), *words.split())

    def _daemon(self, side: str) -> None:
        home = self._directory / side
        mounts = []
        for path in _PRIVATE:
            own = home / path.strip("/").replace("/", "-")
            own.mkdir(parents=True)
            mounts.append(f"mkdir -p {path} && mount --bind {own} {path}")
        for name, text in _CONFIGURATION.items():
            (home / "etc-libvirt" / name).write_text(text.format(host=uuid.uuid4()))
        script = " && ".join([*mounts, f"hostname bench-{side}", f"exec libvirtd --pid-file {home / 'libvirtd.pid'}"])
        log = (home / "libvirtd.log").open("wb")
        argv = in_namespace(self.namespace(side), "unshare", "--uts", "sh", "-c", script)
        self._daemons.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(subprocess.CalledProcessError):
                self.virsh(side, "list")
                return
            time.sleep(0.2)
        raise RuntimeError(f"libvirtd did not start: {(home / 'libvirtd.log').read_text()[-2000:]}")

    def uri(self, side: str) -> str:
        return f"qemu:///system?socket={self._directory / side / 'run-libvirt' / 'libvirt-sock'}"

    def virsh(self, side: str, *words: str) -> str:
        return run("virsh", "-q", "-c", self.uri(side), *words)

    def boot(self, dirty_mib_per_s: int) -> None:
        """A fresh disk at `a`, a blank one at `b`, and the guest started."""
        make_disk(self._disk("a"), dirty_mib_per_s)
        self._disk("b").unlink(missing_ok=True)
        run("qemu-img", "create", "-q", "-f", "qcow2", self._disk("b"), str(DISK_BYTES))
        domain = self._directory / "domain.xml"
        domain.write_text(_domain(Path("/var/lib/libvirt/bench.qcow2")))
        self.virsh("a", "create", str(domain))

    def _disk(self, side: str) -> Path:
        return self._directory / side / "var-lib-libvirt" / "bench.qcow2"

    def migrate(self) -> float:
        """Move the guest from `a` to `b`; seconds."""
        began = time.perf_counter()
        self.virsh(
            *("a", "migrate", "--live", "--copy-storage-all", "--bandwidth", "10000", "bench", self.uri("b")),
            *(
                "--migrateuri",
                f"tcp://{_LINK['b']}",
                "--listen-address",
                _LINK["b"],
                "--disks-uri",
                f"tcp://{_LINK['b']}",
            ),
        )
        return time.perf_counter() - began

    def destroy(self) -> None:
        """Stop the guest, wherever it is."""
        for side in _LINK:
            with suppress(subprocess.CalledProcessError):
                self.virsh(side, "destroy", "bench")

    def close(self) -> None:
        self.destroy()
        for daemon in self._daemons:
            daemon.terminate()
        for daemon in self._daemons:
            daemon.wait(30)
        for side in _LINK:
            with suppress(subprocess.CalledProcessError):
                run("ip", "netns", "del", self.namespace(side))


def _domain(disk: Path) -> str:
    return f"""<domain type="qemu">
  <name>bench</name>
  <memory unit="MiB">{MEMORY_MIB}</memory>
  <vcpu>1</vcpu>
  <os><type arch="x86_64" machine="q35">hvm</type><boot dev="hd"/></os>
  <features><acpi/></features>
  <cpu mode="custom"><model>qemu64</model></cpu>
  <on_poweroff>destroy</on_poweroff>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type="scsi" index="0" model="vmpvscsi"/>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2" discard="unmap" detect_zeroes="unmap"/>
      <source file="{disk}"/><target dev="sda" bus="scsi"/>
    </disk>
    <interface type="ethernet">
      <mac address="{GUEST_MAC}"/><target dev="tap0" managed="no"/><model type="vmxnet3"/>
    </interface>
    <serial type="pty"/><console type="pty"/>
    <memballoon model="none"/>
  </devices>
</domain>
"""
