"""How a network reaches the site: Open vSwitch, with a port for each network.

The one seam to the site's side: `attach` makes an interface a port of the extension's place, be that a VLAN on the
trunk or a VIF of a segment, for which the appliance is a chassis of OVN as hosts are.
"""

from landbridge.esx.model import OverlayConfig, OverlayStatus, PortGroup
from landbridge.esx.overlay import Overlay, TransportNode
from landbridge.esx.switch import Switch
from landbridge.hcx.ne.commands import run
from landbridge.hcx.ne.config import NeConfig
from landbridge.hcx.ne.model import Extension, NeError
from landbridge.pki import Identity


class LocalSide:
    """The appliance's legs into its site."""

    def __init__(self, config: NeConfig) -> None:
        self._run = config.run_dir / "switch"
        self._trunk = config.trunk.interface if config.trunk else None
        node = None
        if config.overlay is not None:
            overlay = config.overlay
            node = TransportNode(config.name, Identity(config.pki_dir), overlay.interface, overlay.address)
        self._switch = Switch(run_dir=self._run, state_dir=config.state_dir, uplink=self._trunk, node=node)

    async def start(self) -> None:
        """Find Open vSwitch, or start it; from then on it is started again when it dies."""
        await self._switch.start()

    async def close(self) -> None:
        """Let go; frames flow on."""
        await self._switch.close()

    @property
    def overlay(self) -> Overlay:
        """The appliance as a transport node; NeError if it is none."""
        if self._switch.overlay is None:
            raise NeError("NotSupported", "this appliance is no transport node: it has no [overlay] leg", 501)
        return self._switch.overlay

    async def join_overlay(self, config: OverlayConfig) -> OverlayStatus:
        """Be a chassis of the OVN whose southbound database is named."""
        await self.overlay.configure(config)
        return await self.overlay.status()

    def check(self, extension: Extension) -> None:
        """NeError for a place that can not be reached from here."""
        if extension.vif is not None and self.overlay.config is None:
            raise NeError("InvalidState", "the NSX manager has not made this appliance a transport node yet")
        if extension.vlan is not None and self._trunk is None:
            raise NeError("NotSupported", "this appliance reaches networks by VIF only: it has no [trunk] leg", 501)

    async def attach(self, port: str, network: str, extension: Extension) -> None:
        """Make the interface `port` a port of the network's place."""
        # OVN knows a segment's port by its VIF alone; which segment that is, it knows itself.
        wanted = PortGroup(key=network, name=network, vlan=extension.vlan or 0, segment=extension.vif or "")
        groups = {group.key: group for group in self._switch.port_groups()}
        if groups.get(network) != wanted:
            await self._switch.set_port_groups(list({**groups, network: wanted}.values()))
        # It has no address of its own: others' pass.
        await self._switch.plug(port, network, "00:00:00:00:00:00", vif=extension.vif or "")
        if extension.vlan is not None:
            # Each VLAN has two ports, so there is nothing to learn; and of an address that moves within half a second
            # Open vSwitch may believe the older place.
            await self._control("ovs-vsctl", "add", "bridge", Switch.bridge, "flood_vlans", str(extension.vlan))

    async def detach(self, port: str, network: str) -> None:
        """Take the port off, and its interface away."""
        await self._switch.unplug(port)
        groups = {group.key: group for group in self._switch.port_groups()}
        ended = groups.pop(network, None)
        await self._switch.set_port_groups(list(groups.values()))
        if ended is not None and not ended.segment:
            await self._control("ovs-vsctl", "remove", "bridge", Switch.bridge, "flood_vlans", str(ended.vlan))

    async def forget(self) -> None:
        """Drop what Open vSwitch learnt: it can not forget a single address, and learns all anew in a frame each."""
        await run("ovs-appctl", "--timeout=10", "-t", str(self._run / "ovs-vswitchd.ctl"), "fdb/flush", Switch.bridge)

    async def _control(self, program: str, *command: str) -> str:
        return await run(program, f"--db=unix:{self._run / 'db.sock'}", "--timeout=15", *command)
