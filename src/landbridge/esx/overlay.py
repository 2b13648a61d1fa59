"""The host as a transport node: OVN's chassis on the host's Open vSwitch, with Geneve tunnels to the others.

    overlay = Overlay(ovs, TransportNode("esx01.cloud", identity, "tep0", IPv4Interface("10.20.3.139/25")), state_dir)
    await overlay.configure(OverlayConfig(southbound=["ssl:10.20.0.3:6642"]))

Two bridges: `br-int`, whose ports are VIFs and whose flows `ovn-controller` writes, and `br-tep` with the interface for
tunnels, whose address is the bridge's own: there the userspace datapath looks for the way to a tunnel's other end.
`ovn-controller` is one of the host's daemons (`landbridge.esx.openvswitch`): frames flow on without the agent, without
`ovn-controller`, and without the southbound database.
"""

import contextlib
import hashlib
import json
import logging
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from landbridge.esx.model import OverlayConfig, OverlayStatus, Tunnel
from landbridge.esx.openvswitch import OpenVSwitch, SwitchError
from landbridge.pki import Identity

_log = logging.getLogger(__name__)

_CONTROLLER = "ovn-controller"
# What NSX asks of a transport node's network: a full frame of 1500 bytes with Geneve's headers fits.
_LEAST_MTU = 1600
_PHYSICAL_NETWORK = "physnet"
# A controller that starts again leaves the old flows for as long, to reckon the new ones. It waits as well where there
# are none since vswitchd was started again, so not for longer.
_KEEP_FLOWS_MS = 1000


@dataclass(frozen=True)
class TransportNode:
    """A host's part in the overlay: its full name, its certificate, and where its tunnels end."""

    name: str
    identity: Identity
    tep: str
    address: IPv4Interface


class Overlay:
    """`br-int`, `br-tep` and `ovn-controller`. VLAN segments leave by the bridge `physical`, if there is one."""

    bridge = "br-int"
    tunnel_bridge = "br-tep"

    def __init__(self, ovs: OpenVSwitch, node: TransportNode, state_dir: Path, *, physical: str | None = None) -> None:
        self._ovs = ovs
        self._node = node
        self._physical = physical
        self._file = state_dir / "overlay.json"
        self.config: OverlayConfig | None = None

    # -- life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """The bridges, and the chassis as it was configured last. With the switch's lock held."""
        if not await self._ovs.has_interface(self._node.tep):
            raise SwitchError(f"the TEP's interface {self._node.tep!r} does not exist here; create it before the start")
        if self._file.exists():
            self.config = OverlayConfig.model_validate_json(self._file.read_bytes())
        await self._build_bridges()
        await self._give_address()
        if self._give_address not in self._ovs.on_restart:
            self._ovs.on_restart.append(self._give_address)
        if self.config is not None:
            await self._apply(self.config)

    async def configure(self, config: OverlayConfig) -> None:
        """Be a chassis of the OVN whose southbound database is named; kept, and applied again after a restart."""
        async with self._ovs.lock:
            mtu = await self._mtu()
            if mtu < _LEAST_MTU:
                raise SwitchError(
                    f"the TEP's interface {self._node.tep} has an MTU of {mtu}: frames of 1500 bytes need "
                    f"{_LEAST_MTU} or more in the tunnel"
                )
            await self._apply(config)
            temporary = self._file.with_suffix(".new")
            temporary.write_text(config.model_dump_json())
            temporary.replace(self._file)
            self.config = config

    async def remove(self) -> None:
        """Be no chassis any more. VIFs' ports stay where they are, without connection."""
        async with self._ovs.lock:
            self._file.unlink(missing_ok=True)
            self.config = None
            self._ovs.let_go(_CONTROLLER)
            await self._say_farewell()
            await self._ovs.vsctl("--no-wait", "remove", "open_vswitch", ".", "external_ids", "ovn-remote")

    # -- what is to be seen -----------------------------------------------------------------------------------

    async def status(self) -> OverlayStatus:
        """The chassis as it stands."""
        return OverlayStatus(
            transport_node=True,
            chassis=self._node.name,
            tep_address=str(self._node.address),
            mtu=await self._mtu(),
            configured=self.config is not None,
            southbound=self.config.southbound if self.config else [],
            running=self._ovs.pid(_CONTROLLER) is not None,
            connected=await self._connected(),
            tunnels=await self._tunnels(),
        )

    async def interfaces(self) -> dict[str, dict[str, str]]:
        """The external ids of every interface, by its name."""
        return {row["name"]: row["external_ids"] for row in await self._rows("interface", "name", "external_ids")}

    async def _connected(self) -> bool:
        with contextlib.suppress(SwitchError):
            return (await self._ask("connection-status")).strip() == "connected"
        return False

    async def _tunnels(self) -> list[Tunnel]:
        chassis = {
            row["name"]: row["external_ids"]["ovn-chassis-id"].rpartition("@")[0]
            for row in await self._rows("port", "name", "external_ids")
            if "ovn-chassis-id" in row["external_ids"]
        }
        columns = ("name", "options", "bfd_status", "link_state", "statistics")
        return [
            Tunnel(
                chassis=chassis[row["name"]],
                address=row["options"].get("remote_ip", ""),
                # Only tunnels that a gateway's failover rests on are probed (BFD).
                state=row["bfd_status"].get("state") or row["link_state"] or "unknown",
                probed=row["bfd_status"].get("state") is not None,
                rx_packets=row["statistics"].get("rx_packets", 0),
                tx_packets=row["statistics"].get("tx_packets", 0),
            )
            for row in await self._rows("interface", *columns)
            if row["name"] in chassis
        ]

    async def _rows(self, table: str, *columns: str) -> list[dict[str, Any]]:
        """Rows of a table of Open vSwitch's, maps and empty sets as Python has them."""
        answer = json.loads(
            await self._ovs.vsctl("--no-wait", "--format=json", f"--columns={','.join(columns)}", "list", table)
        )
        return [dict(zip(answer["headings"], map(_plain, row), strict=True)) for row in answer["data"]]

    # -- the chassis ------------------------------------------------------------------------------------------

    async def _build_bridges(self) -> None:
        # Of its own, and always the same: others know the way to the address by it.
        mac = bytes.fromhex("0250" + hashlib.sha256(self._node.name.encode()).hexdigest()[:8])
        datapath = f"datapath_type={self._ovs.datapath}"
        tep, tunnels = self._node.tep, self.tunnel_bridge
        await self._ovs.vsctl(
            *("--may-exist", "add-br", tunnels, "--", "set", "bridge", tunnels, datapath, "fail_mode=standalone"),
            f'other_config:hwaddr="{mac.hex(":")}"',
            *("--", "--may-exist", "add-port", tunnels, tep),
            *("--", "set", "interface", tunnels, f"mtu_request={await self._mtu()}"),
            # Secure: nothing passes without ovn-controller's flows. It would make the bridge, but ports may come first.
            *("--", "--may-exist", "add-br", self.bridge, "--", "set", "bridge", self.bridge, datapath),
            *("fail_mode=secure", "other_config:disable-in-band=true"),
        )

    async def _give_address(self) -> None:
        """The tunnels' address: in the kernel, so nothing that comes back from the database."""
        address = str(self._node.address)
        with contextlib.suppress(SwitchError):  # it is not there, as a rule
            await self._ovs.execute("ip", "address", "delete", address, "dev", self._node.tep)
        await self._ovs.execute("ip", "link", "set", "dev", self._node.tep, "up")
        await self._ovs.execute("ip", "address", "replace", address, "dev", self.tunnel_bridge)
        await self._ovs.execute("ip", "link", "set", "dev", self.tunnel_bridge, "up")

    async def _apply(self, config: OverlayConfig) -> None:
        mappings = (
            [f'external_ids:ovn-bridge-mappings="{_PHYSICAL_NETWORK}:{self._physical}"'] if self._physical else []
        )
        await self._ovs.vsctl(
            *("set", "open_vswitch", "."),
            f'external_ids:system-id="{self._node.name}"',
            f'external_ids:hostname="{self._node.name}"',
            f'external_ids:ovn-remote="{",".join(config.southbound)}"',
            f'external_ids:ovn-encap-type="{config.encapsulation}"',
            f'external_ids:ovn-encap-ip="{self._node.address.ip}"',
            f'external_ids:ovn-bridge="{self.bridge}"',
            f'external_ids:ovn-bridge-datapath-type="{self._ovs.datapath}"',
            'external_ids:ovn-remote-probe-interval="10000"',
            'external_ids:ovn-openflow-probe-interval="30"',
            f'external_ids:ovn-ofctrl-wait-before-clear="{_KEEP_FLOWS_MS}"',
            *mappings,
        )
        await self._ovs.keep(_CONTROLLER, self._start_controller)

    async def _start_controller(self) -> None:
        for stale in self._ovs.run_dir.glob(f"{_CONTROLLER}.*.ctl"):
            stale.unlink(missing_ok=True)
        identity = self._node.identity
        await self._ovs.daemon(
            _CONTROLLER,
            f"unix:{self._ovs.socket}",
            f"--private-key={identity.key}",
            f"--certificate={identity.certificate}",
            f"--ca-cert={identity.ca}",
        )

    async def _say_farewell(self) -> None:
        """End ovn-controller; one that has its database takes its chassis out of it first."""
        pid = self._ovs.pid(_CONTROLLER)
        if pid is None:
            return
        with contextlib.suppress(SwitchError):
            await self._ask("exit")
            if await self._ovs.ended(pid):
                return
        _log.warning("ovn-controller could not take its chassis out of the database: nobody else will")
        await self._ovs.end(_CONTROLLER)

    async def _ask(self, command: str) -> str:
        pid = self._ovs.pid(_CONTROLLER)
        if pid is None:
            raise SwitchError("ovn-controller does not run")
        socket = self._ovs.run_dir / f"{_CONTROLLER}.{pid}.ctl"
        return await self._ovs.execute("ovn-appctl", "--timeout=5", f"--target={socket}", command)

    async def _mtu(self) -> int:
        (link,) = json.loads(await self._ovs.execute("ip", "-json", "link", "show", "dev", self._node.tep))
        return int(link["mtu"])


def _plain(value: Any) -> Any:
    """A value of OVSDB's JSON: a map as a dict, an empty set as an empty string."""
    match value:
        case ["map", pairs]:
            return dict(pairs)
        case ["set", []]:
            return ""
    return value
