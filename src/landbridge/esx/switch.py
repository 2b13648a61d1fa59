"""The host's part of the distributed switch: an uplink, and a TAP for each virtual NIC, on Open vSwitch of its own.

    switch = Switch(run_dir=Path("/run/landbridge/esx01/switch"), state_dir=state, uplink="uplink0")
    await switch.start()
    await switch.set_port_groups([PortGroup(key="dvportgroup-7", name="VM Network", vlan=100)])
    await switch.plug("t3a91c0-0", "dvportgroup-7", "00:50:56:00:00:01")

Ports of VLAN port groups are on bridge `dvs0`, those of segments on OVN's `br-int` (`landbridge.esx.overlay`). Open
vSwitch goes on when the agent ends, and ports come back from its database when it died (`landbridge.esx.openvswitch`).

The kernel's datapath is used where the `openvswitch` module is loaded or can be, the userspace datapath elsewhere.
In userspace frames come through packet sockets, which do not see a checksum that the sender left to hardware: who
is plugged in must compute its own. QEMU does with `vnet_hdr=off`; a veth needs `ethtool -K PEER tx off` at its other
end.
"""

import contextlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from landbridge.esx.model import PortGroup, PortState
from landbridge.esx.openvswitch import OpenVSwitch
from landbridge.esx.openvswitch import SwitchError as SwitchError
from landbridge.esx.overlay import Overlay, TransportNode

_log = logging.getLogger(__name__)

_NAME_LIMIT = 15  # the kernel's for interface names
_PORT_GROUPS = TypeAdapter(list[PortGroup])


class UnknownPortGroup(SwitchError):  # noqa: N818 - named as the condition
    """A port group key that was never pushed to this host."""


@dataclass(frozen=True)
class PortCounters:
    """Since the TAP was made, as the guest sees it: `rx` is what the guest received."""

    rx_bytes: int = 0
    rx_packets: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    rx_drops: int = 0
    tx_drops: int = 0


class Switch:
    """One Open vSwitch with bridge `dvs0`. All methods may be called again with the same effect."""

    bridge = "dvs0"

    def __init__(
        self,
        *,
        run_dir: Path,
        state_dir: Path,
        uplink: str | None,
        namespace: str | None = None,
        node: TransportNode | None = None,
    ) -> None:
        """`run_dir` holds sockets, so its path must be short; `state_dir` keeps the port groups.

        `uplink` is an interface that exists in the namespace, or None for a switch with no way out. Without `node` the
        host has no part in the overlay, and segments are refused.
        """
        self._ovs = OpenVSwitch(run_dir=run_dir, namespace=namespace)
        self._uplink = uplink
        self._groups_file = state_dir / "portgroups.json"
        self._groups: dict[str, PortGroup] = {}
        self.overlay: Overlay | None = None
        if node is not None:
            self.overlay = Overlay(self._ovs, node, state_dir, physical=self.bridge if uplink else None)

    # -- life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring the switch up, or find the one that runs, and keep it up until `close` or `stop`."""
        self._groups_file.parent.mkdir(parents=True, exist_ok=True)
        if self._groups_file.exists():
            groups = _PORT_GROUPS.validate_json(self._groups_file.read_bytes())
            self._groups = {group.key: group for group in groups}
        await self._ovs.start()
        async with self._ovs.lock:
            await self._configure()
            if self.overlay is not None:
                await self.overlay.start()
        self._ovs.watch()

    async def close(self) -> None:
        """Let go of the switch; frames go on flowing."""
        await self._ovs.close()

    async def stop(self) -> None:
        """End Open vSwitch. TAPs and port groups stay."""
        await self._ovs.stop()

    # -- ports ----------------------------------------------------------------------------------------------

    async def plug(
        self, tap: str, port_group: str | None, mac: str, *, vif: str = "", vm: str = "", active: bool = True
    ) -> None:
        """Make `tap` a port of `port_group`, creating a persistent TAP where there is no such interface.

        With no port group the TAP exists and leads nowhere. UnknownPortGroup names those there are. On a segment the
        port is `vif`'s, of the VM `vm`. One that is not `active` is there, but unknown to OVN until `activate`, and its
        TAP is down until `bring_up`: frames that come before the guest would wait in the TAP's queue, and for it all at
        once.
        """
        if not tap or len(tap) > _NAME_LIMIT:
            raise SwitchError(f"{tap!r} can not be an interface's name: 1 to {_NAME_LIMIT} characters")
        group = self._group(port_group) if port_group is not None else None
        if group is not None and group.segment:
            self._require_overlay(group)
            if not vif:
                raise SwitchError(f"a port of the segment {group.name!r} needs the id of its VIF")
        async with self._ovs.lock:
            await self._ensure_interface(tap)
            bridge = None if group is None else self._bridge(group)
            commands: list[str] = []
            present = await self._bridge_of(tap)
            if present is not None and present != bridge:
                commands += ["--", "del-port", present, tap]
            if group is not None and bridge is not None:
                commands += ["--", "--may-exist", "add-port", bridge, tap, "--", "set", "port", tap, *_columns(group)]
                commands += ["--", "set", "interface", tap, f'external_ids:attached-mac="{mac}"']
                if group.segment:
                    commands += [f'external_ids:vm-id="{vm}"', f'external_ids:landbridge-vif="{vif}"']
                    known = ["set", "interface", tap, _iface_id(vif)]
                    unknown = ["remove", "interface", tap, "external_ids", "iface-id"]
                    commands += ["--", *(known if active else unknown)]
            if commands:
                await self._ovs.vsctl(*commands[1:])
            if group is not None and group.segment and not active:
                await self._ovs.execute("ip", "link", "set", "dev", tap, "down")

    # No lock and no waiting in these three: a guest may stand still meanwhile.

    async def activate(self, tap: str, vif: str) -> None:
        """Tell OVN that the VIF is at this port. Does not wait until it has taken note."""
        await self._ovs.vsctl("--no-wait", "set", "interface", tap, _iface_id(vif))

    async def deactivate(self, tap: str) -> None:
        """Tell OVN that the VIF is not at this port any more. Does not wait until it has taken note."""
        await self._ovs.vsctl("--no-wait", "remove", "interface", tap, "external_ids", "iface-id")

    async def bring_up(self, tap: str) -> None:
        """Let frames through to a TAP."""
        await self._ovs.execute("ip", "link", "set", "dev", tap, "up")

    async def unplug(self, tap: str) -> None:
        """Remove the port and its TAP."""
        async with self._ovs.lock:
            await self._ovs.vsctl("--if-exists", "del-port", tap)
            if await self._ovs.has_interface(tap):
                await self._ovs.execute("ip", "link", "delete", "dev", tap)

    async def ports(self) -> dict[str, str]:
        """The port group's key of each port, by TAP; the uplink is not among them."""
        answer = json.loads(await self._ovs.vsctl("--format=json", "--columns=name,external_ids", "list", "port"))
        ports = {}
        for name, (_, identifiers) in answer["data"]:
            key = dict(identifiers).get("port-group")
            if key is not None:
                ports[name] = key
        return ports

    async def segment_ports(self) -> list[PortState]:
        """The ports that are on segments, with what went through them."""
        if self.overlay is None:
            return []
        keys, found = await self.ports(), []
        counters = self._all_counters()
        for name, identifiers in (await self.overlay.interfaces()).items():
            group = self._groups.get(keys.get(name, ""))
            if group is None or "landbridge-vif" not in identifiers:
                continue
            found.append(
                PortState(
                    vif=identifiers["landbridge-vif"],
                    vm=identifiers.get("vm-id") or None,
                    mac=identifiers.get("attached-mac") or None,
                    network=group.key,
                    segment=group.segment,
                    active="iface-id" in identifiers,
                    installed=identifiers.get("ovn-installed") == "true",
                    **vars(counters.get(name, PortCounters())),
                )
            )
        return found

    def counters(self, tap: str) -> PortCounters:
        """What went through `tap`; zeros where there is none. Reads one file of /proc."""
        return self._all_counters().get(tap, PortCounters())

    def _all_counters(self) -> dict[str, PortCounters]:
        process = os.getpid() if self._ovs.namespace is None else self._ovs.pid("ovs-vswitchd")
        found = {}
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/net/dev").read_text().splitlines()[2:]:
                name, _, values = line.partition(":")
                # What the kernel received on a TAP is what the guest sent.
                number = [int(value) for value in values.split()]
                found[name.strip()] = PortCounters(number[8], number[9], number[0], number[1], number[11], number[3])
        return found

    # -- port groups ----------------------------------------------------------------------------------------

    def port_groups(self) -> list[PortGroup]:
        return list(self._groups.values())

    def on_segment(self, port_group: str | None) -> bool:
        """Whether a port group is a segment."""
        group = self._groups.get(port_group or "")
        return group is not None and bool(group.segment)

    async def set_port_groups(self, groups: list[PortGroup]) -> None:
        """Know exactly these port groups; ports of one whose VLAN changed follow at once.

        A port of a group that is gone, or is a segment now and was none (or the other way round), is taken off
        the bridge: nothing may stay on a network nobody defined.
        """
        async with self._ovs.lock:
            before, self._groups = self._groups, {group.key: group for group in groups}
            temporary = self._groups_file.with_suffix(".new")
            temporary.write_bytes(_PORT_GROUPS.dump_json(list(groups), indent=1))
            temporary.replace(self._groups_file)
            turned = {key for key, group in before.items() if bool(group.segment) != self.on_segment(key)}
            await self._follow_groups(turned)

    def _group(self, key: str) -> PortGroup:
        group = self._groups.get(key)
        if group is None:
            known = ", ".join(f"{g.key} ({g.name})" for g in self._groups.values()) or "none"
            raise UnknownPortGroup(f"port group {key!r} is not on this host's switch, which knows: {known}")
        return group

    def _bridge(self, group: PortGroup) -> str:
        return Overlay.bridge if group.segment else self.bridge

    def _require_overlay(self, group: PortGroup) -> None:
        if self.overlay is None:
            raise SwitchError(
                f"port group {group.name!r} is a segment, and this host is no transport node: "
                "set tep and tep_address in [switch] of its configuration"
            )

    async def _follow_groups(self, turned: set[str]) -> None:
        commands: list[str] = []
        for tap, key in (await self.ports()).items():
            group = self._groups.get(key)
            if group is None or key in turned:
                commands += ["--", "--if-exists", "del-port", tap]
            else:
                commands += ["--", "set", "port", tap, *_columns(group)]
        if commands:
            await self._ovs.vsctl(*commands[1:])

    # -- the bridge -----------------------------------------------------------------------------------------

    async def _configure(self) -> None:
        """The bridge with its uplink, and no port whose interface went away with a reboot."""
        commands = ["--may-exist", "add-br", self.bridge]
        commands += ["--", "set", "bridge", self.bridge, f"datapath_type={self._ovs.datapath}", "fail_mode=standalone"]
        if self._uplink is not None:
            if not await self._ovs.has_interface(self._uplink):
                raise SwitchError(
                    f"the uplink {self._uplink!r} does not exist here; create it before the switch starts"
                )
            await self._ovs.execute("ip", "link", "set", "dev", self._uplink, "up")
            commands += ["--", "--may-exist", "add-port", self.bridge, self._uplink]
        for tap in await self.ports():
            if not await self._ovs.has_interface(tap):
                commands += ["--", "--if-exists", "del-port", tap]
        await self._ovs.vsctl(*commands)
        await self._follow_groups(set())

    async def _bridge_of(self, tap: str) -> str | None:
        with contextlib.suppress(SwitchError):
            return (await self._ovs.vsctl("port-to-br", tap)).strip()
        return None

    async def _ensure_interface(self, tap: str) -> None:
        if not await self._ovs.has_interface(tap):
            # Persistent: one that QEMU makes comes back under a new index, which Open vSwitch does not notice.
            await self._ovs.execute("ip", "tuntap", "add", "dev", tap, "mode", "tap")
            # The guest must not see the host's own IPv6 chatter.
            await self._ovs.execute("ip", "link", "set", "dev", tap, "addrgenmode", "none")
        await self._ovs.execute("ip", "link", "set", "dev", tap, "up")


def _columns(group: PortGroup) -> list[str]:
    """A port's columns for the group: an access port's. VLAN 0 too: without a tag it would be a trunk."""
    key = f'external_ids:port-group="{group.key}"'
    # On br-int OVN's flows decide; a tag would be in their way.
    return [key] if group.segment else ["vlan_mode=access", f"tag={group.vlan}", key]


def _iface_id(vif: str) -> str:
    return f'external_ids:iface-id="{vif}"'
