"""The host's part of the distributed switch: Open vSwitch of its own, an uplink, and a TAP for each virtual NIC.

    switch = Switch(run_dir=Path("/run/landbridge/esx01/switch"), state_dir=state, uplink="uplink0")
    await switch.start()
    await switch.set_port_groups([PortGroup(key="dvportgroup-7", name="VM Network", vlan=100)])
    await switch.plug("t3a91c0-0", "dvportgroup-7", "00:50:56:00:00:01")

`ovsdb-server` and `ovs-vswitchd` run detached in the network namespace of the caller (or in `namespace`), find their
configuration in `run_dir`, and go on when the agent ends; a new `Switch` on the same directories finds them again.
While a `Switch` is open it starts what died: ports come back from the database.

The kernel's datapath is used where the `openvswitch` module is loaded or can be, the userspace datapath elsewhere.
In userspace frames come through packet sockets, which do not see a checksum that the sender left to hardware: who
is plugged in must compute its own. QEMU does with `vnet_hdr=off`; a veth needs `ethtool -K PEER tx off` at its other
end.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from landbridge.esx.model import PortGroup

_log = logging.getLogger(__name__)

_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
_COMMAND_TIMEOUT = 20.0  # seconds; a vsctl waits for vswitchd, which takes up to 2 s on a busy machine
_RESTART_PAUSE = 1.0  # seconds between attempts to start a daemon that does not come up
_STOP_TIMEOUT = 5.0  # seconds between SIGTERM and SIGKILL
_DAEMONS = ("ovsdb-server", "ovs-vswitchd")
_NAME_LIMIT = 15  # the kernel's for interface names
_PORT_GROUPS = TypeAdapter(list[PortGroup])


class SwitchError(Exception):
    """The switch could not do what was asked: what, and what Open vSwitch or the kernel said."""


class UnknownPortGroup(SwitchError):  # noqa: N818 - named as the condition
    """A port group key that was never pushed to this host."""


@dataclass(frozen=True)
class PortCounters:
    """Since the TAP was made, as the guest sees it: `rx` is what the guest received."""

    rx_bytes: int = 0
    rx_packets: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0


def _kernel_datapath() -> bool:
    """Whether the kernel has (not merely could be built with) its own Open vSwitch datapath."""
    return Path("/sys/module/openvswitch").exists()


class Switch:
    """One Open vSwitch with bridge `dvs0`. All methods may be called again with the same effect."""

    bridge = "dvs0"

    def __init__(self, *, run_dir: Path, state_dir: Path, uplink: str | None, namespace: str | None = None) -> None:
        """`run_dir` holds sockets, so its path must be short; `state_dir` keeps the port groups.

        `uplink` is an interface that exists in the namespace, or None for a switch with no way out.
        """
        self._run = run_dir
        self._uplink = uplink
        self._namespace = namespace
        self._groups_file = state_dir / "portgroups.json"
        self._groups: dict[str, PortGroup] = {}
        self._datapath = "netdev"
        self._lock = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._environment = {
            **os.environ,
            **{f"OVS_{what}": str(run_dir) for what in ("RUNDIR", "LOGDIR", "DBDIR", "SYSCONFDIR")},
        }

    # -- life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring the switch up, or find the one that runs, and keep it up until `close` or `stop`."""
        self._run.mkdir(parents=True, exist_ok=True)
        self._groups_file.parent.mkdir(parents=True, exist_ok=True)
        if self._groups_file.exists():
            groups = _PORT_GROUPS.validate_json(self._groups_file.read_bytes())
            self._groups = {group.key: group for group in groups}
        if not _kernel_datapath():
            with contextlib.suppress(SwitchError, FileNotFoundError):
                await self._execute("modprobe", "--quiet", "openvswitch")
        self._datapath = "system" if _kernel_datapath() else "netdev"
        async with self._lock:
            await self._start_daemons()
            await self._configure()
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._keep_up(), name="switch watcher")

    async def close(self) -> None:
        """Let go of the switch; frames go on flowing."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None

    async def stop(self) -> None:
        """End Open vSwitch. TAPs and port groups stay."""
        await self.close()
        async with self._lock:
            for daemon in reversed(_DAEMONS):
                await self._end(daemon)

    # -- ports ----------------------------------------------------------------------------------------------

    async def plug(self, tap: str, port_group: str | None, mac: str) -> None:
        """Make `tap` a port of `port_group`, creating a persistent TAP where there is no such interface.

        With no port group the TAP exists and leads nowhere. UnknownPortGroup names those there are.
        """
        if not tap or len(tap) > _NAME_LIMIT:
            raise SwitchError(f"{tap!r} can not be an interface's name: 1 to {_NAME_LIMIT} characters")
        group = self._group(port_group) if port_group is not None else None
        async with self._lock:
            await self._ensure_interface(tap)
            if group is None:
                await self._vsctl("--if-exists", "del-port", self.bridge, tap)
                return
            await self._vsctl(
                *("--may-exist", "add-port", self.bridge, tap),
                *("--", "set", "port", tap, *_access(group)),
                *("--", "set", "interface", tap, f'external_ids:attached-mac="{mac}"'),
            )

    async def unplug(self, tap: str) -> None:
        """Remove the port and its TAP."""
        async with self._lock:
            await self._vsctl("--if-exists", "del-port", self.bridge, tap)
            if await self._has_interface(tap):
                await self._execute("ip", "link", "delete", "dev", tap)

    async def ports(self) -> dict[str, str]:
        """The port group's key of each port, by TAP; the uplink is not among them."""
        answer = json.loads(await self._vsctl("--format=json", "--columns=name,external_ids", "list", "port"))
        ports = {}
        for name, (_, identifiers) in answer["data"]:
            key = dict(identifiers).get("port-group")
            if key is not None:
                ports[name] = key
        return ports

    def counters(self, tap: str) -> PortCounters:
        """What went through `tap`; zeros where there is none. Reads one file of /proc."""
        process = os.getpid() if self._namespace is None else self._pid("ovs-vswitchd")
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/net/dev").read_text().splitlines():
                name, _, values = line.partition(":")
                if name.strip() == tap:
                    # What the kernel received on a TAP is what the guest sent.
                    number = [int(value) for value in values.split()]
                    return PortCounters(number[8], number[9], number[0], number[1])
        return PortCounters()

    # -- port groups ----------------------------------------------------------------------------------------

    def port_groups(self) -> list[PortGroup]:
        return list(self._groups.values())

    async def set_port_groups(self, groups: list[PortGroup]) -> None:
        """Know exactly these port groups; ports of one whose VLAN changed follow at once.

        A port of a group that is gone is taken off the bridge: nothing may stay on a network nobody defined.
        """
        async with self._lock:
            self._groups = {group.key: group for group in groups}
            temporary = self._groups_file.with_suffix(".new")
            temporary.write_bytes(_PORT_GROUPS.dump_json(list(groups), indent=1))
            temporary.replace(self._groups_file)
            await self._follow_groups()

    def _group(self, key: str) -> PortGroup:
        group = self._groups.get(key)
        if group is None:
            known = ", ".join(f"{g.key} ({g.name})" for g in self._groups.values()) or "none"
            raise UnknownPortGroup(f"port group {key!r} is not on this host's switch, which knows: {known}")
        return group

    async def _follow_groups(self) -> None:
        commands: list[str] = []
        for tap, key in (await self.ports()).items():
            group = self._groups.get(key)
            if group is None:
                commands += ["--", "--if-exists", "del-port", self.bridge, tap]
            else:
                commands += ["--", "set", "port", tap, *_access(group)]
        if commands:
            await self._vsctl(*commands[1:])

    # -- Open vSwitch ---------------------------------------------------------------------------------------

    async def _start_daemons(self) -> None:
        database, socket = self._run / "conf.db", self._run / "db.sock"
        if not database.exists():
            await self._execute("ovsdb-tool", "create", str(database), str(_SCHEMA))
        if self._pid("ovsdb-server") is None:
            await self._daemon("ovsdb-server", str(database), f"--remote=punix:{socket}")
            await self._vsctl("--no-wait", "init")
        if self._pid("ovs-vswitchd") is None:
            userspace = [] if self._datapath == "system" else ["--disable-system"]
            await self._daemon("ovs-vswitchd", f"unix:{socket}", *userspace)

    async def _daemon(self, name: str, *arguments: str) -> None:
        await self._execute(
            name,
            *arguments,
            f"--pidfile={self._run / name}.pid",
            f"--unixctl={self._run / name}.ctl",
            f"--log-file={self._run / name}.log",
            "-vconsole:off",
            "-vfile:warn",
            "--detach",
            "--no-chdir",
        )

    async def _configure(self) -> None:
        """The bridge with its uplink, and no port whose interface went away with a reboot."""
        commands = ["--may-exist", "add-br", self.bridge]
        commands += ["--", "set", "bridge", self.bridge, f"datapath_type={self._datapath}", "fail_mode=standalone"]
        if self._uplink is not None:
            if not await self._has_interface(self._uplink):
                raise SwitchError(
                    f"the uplink {self._uplink!r} does not exist here; create it before the switch starts"
                )
            await self._execute("ip", "link", "set", "dev", self._uplink, "up")
            commands += ["--", "--may-exist", "add-port", self.bridge, self._uplink]
        for tap in await self.ports():
            if not await self._has_interface(tap):
                commands += ["--", "--if-exists", "del-port", self.bridge, tap]
        await self._vsctl(*commands)
        await self._follow_groups()

    async def _keep_up(self) -> None:
        """Sleep until a daemon dies, start it again, and so on. Nothing is polled."""
        while True:
            try:
                async with self._lock:
                    await self._start_daemons()
                    pids = [pid for daemon in _DAEMONS if (pid := self._pid(daemon)) is not None]
            except (SwitchError, OSError) as error:
                _log.error("Open vSwitch does not start: %s", error)
                await asyncio.sleep(_RESTART_PAUSE)
                continue
            await _first_exit(pids)
            _log.warning("Open vSwitch in %s lost a process; starting it again", self._run)

    def _pid(self, daemon: str) -> int | None:
        """The process of `daemon`, if it is the one of this switch: its command line names our directory."""
        try:
            pid = int((self._run / f"{daemon}.pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if f"--pidfile={self._run / daemon}.pid".encode() in words else None

    async def _end(self, daemon: str) -> None:
        pid = self._pid(daemon)
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            try:
                await asyncio.wait_for(_first_exit([pid]), _STOP_TIMEOUT)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                await asyncio.wait_for(_first_exit([pid]), _STOP_TIMEOUT)

    # -- commands -------------------------------------------------------------------------------------------

    async def _has_interface(self, name: str) -> bool:
        try:
            await self._execute("ip", "link", "show", "dev", name)
        except SwitchError:
            return False
        return True

    async def _ensure_interface(self, tap: str) -> None:
        if not await self._has_interface(tap):
            # Persistent: one that QEMU makes comes back under a new index, which Open vSwitch does not notice.
            await self._execute("ip", "tuntap", "add", "dev", tap, "mode", "tap")
            # The guest must not see the host's own IPv6 chatter.
            await self._execute("ip", "link", "set", "dev", tap, "addrgenmode", "none")
        await self._execute("ip", "link", "set", "dev", tap, "up")

    async def _vsctl(self, *arguments: str) -> str:
        limit = f"--timeout={int(_COMMAND_TIMEOUT) - 5}"
        return await self._execute("ovs-vsctl", f"--db=unix:{self._run / 'db.sock'}", limit, *arguments)

    async def _execute(self, *arguments: str) -> str:
        command = [*(("ip", "netns", "exec", self._namespace) if self._namespace else ()), *arguments]
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(), _COMMAND_TIMEOUT)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise SwitchError(f"{' '.join(command)}: no answer in {_COMMAND_TIMEOUT:.0f} s") from None
        if process.returncode != 0:
            raise SwitchError(f"{' '.join(command)}: {errors.decode(errors='replace').strip() or process.returncode}")
        return output.decode(errors="replace")


def _access(group: PortGroup) -> list[str]:
    """A port's columns for an access port of the group. VLAN 0 too: without a tag it would be a trunk."""
    return ["vlan_mode=access", f"tag={group.vlan}", f'external_ids:port-group="{group.key}"']


async def _first_exit(pids: list[int]) -> None:
    """Wait until one of these processes has ended, without polling."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptors = []
    try:
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                return
            descriptors.append(descriptor)
            loop.add_reader(descriptor, ended.set)
        await ended.wait()
    finally:
        for descriptor in descriptors:
            loop.remove_reader(descriptor)
            os.close(descriptor)
