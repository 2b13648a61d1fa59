"""Open vSwitch on a host: its daemons, which outlive the agent, and the way to give it commands.

ovs = OpenVSwitch(run_dir=Path("/run/landbridge/esx01/switch"))
await ovs.start()
await ovs.vsctl("--may-exist", "add-br", "dvs0")
ovs.watch()
"""

import contextlib
from pathlib import Path

from landbridge.esx.daemons import Daemons

_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
_VSCTL_TIMEOUT = 15  # seconds


class SwitchError(Exception):
    """The switch could not do what was asked: what, and what Open vSwitch or the kernel said."""


def _kernel_datapath() -> bool:
    """Whether the kernel has (not merely could be built with) its own Open vSwitch datapath."""
    return Path("/sys/module/openvswitch").exists()


class OpenVSwitch(Daemons):
    """`ovsdb-server`, `ovs-vswitchd`, and what else is given to `keep`."""

    def __init__(self, *, run_dir: Path, namespace: str | None = None) -> None:
        """`run_dir` holds sockets, so its path must be short."""
        super().__init__("Open vSwitch", run_dir, SwitchError, namespace=namespace)
        # `system` is the kernel's datapath, `netdev` the one in userspace; known after `start`.
        self.datapath = "netdev"
        self.add("ovsdb-server", self._start_database)
        self.add("ovs-vswitchd", self._start_switch)

    async def start(self) -> None:
        """Start the daemons, or find those that run."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        if not _kernel_datapath():
            with contextlib.suppress(SwitchError, FileNotFoundError):
                await self.execute("modprobe", "--quiet", "openvswitch")
        self.datapath = "system" if _kernel_datapath() else "netdev"
        await super().start()

    async def _start_database(self) -> None:
        database = self.run_dir / "conf.db"
        if not database.exists():
            await self.execute("ovsdb-tool", "create", str(database), str(_SCHEMA))
        await self.daemon("ovsdb-server", str(database), f"--remote=punix:{self.socket}", self.unixctl("ovsdb-server"))
        await self.vsctl("--no-wait", "init")

    async def _start_switch(self) -> None:
        userspace = [] if self.datapath == "system" else ["--disable-system"]
        await self.daemon("ovs-vswitchd", f"unix:{self.socket}", *userspace, self.unixctl("ovs-vswitchd"))

    @property
    def socket(self) -> Path:
        """Where the database listens."""
        return self.run_dir / "db.sock"

    async def vsctl(self, *arguments: str) -> str:
        """Run `ovs-vsctl` and return what it prints; SwitchError if it fails."""
        return await self.execute("ovs-vsctl", f"--db=unix:{self.socket}", f"--timeout={_VSCTL_TIMEOUT}", *arguments)

    async def has_interface(self, name: str) -> bool:
        """Whether the kernel has an interface of that name where the switch is."""
        try:
            await self.execute("ip", "link", "show", "dev", name)
        except SwitchError:
            return False
        return True
