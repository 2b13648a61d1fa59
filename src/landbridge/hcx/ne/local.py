"""How a network reaches the site: Open vSwitch with the trunk as its uplink, and a port a network.

The one seam to the site's side: `attach` makes an interface a port of the extension's place (a VLAN).
"""

from landbridge.esx.model import PortGroup
from landbridge.esx.switch import Switch
from landbridge.hcx.ne.commands import run
from landbridge.hcx.ne.config import NeConfig
from landbridge.hcx.ne.model import Extension, NeError


class LocalSide:
    """The appliance's leg into its site's switch."""

    def __init__(self, config: NeConfig) -> None:
        self._run = config.run_dir / "switch"
        self._switch = Switch(run_dir=self._run, state_dir=config.state_dir, uplink=config.trunk.interface)

    async def start(self) -> None:
        """Find Open vSwitch, or start it; from then on it is started again when it dies."""
        await self._switch.start()

    async def close(self) -> None:
        """Let go; frames flow on."""
        await self._switch.close()

    def check(self, extension: Extension) -> None:
        """NeError for a place that can not be reached from here."""
        if extension.vlan is None:
            raise NeError("NotSupported", "this appliance reaches networks by VLAN only, not by VIF", 501)

    async def attach(self, port: str, network: str, extension: Extension, mac: str) -> None:
        """Make the interface `port` a port of the network's place."""
        self.check(extension)
        wanted = PortGroup(key=network, name=network, vlan=extension.vlan or 0)
        groups = {group.key: group for group in self._switch.port_groups()}
        if groups.get(network) != wanted:
            await self._switch.set_port_groups(list({**groups, network: wanted}.values()))
        await self._switch.plug(port, network, mac)

    async def detach(self, port: str, network: str) -> None:
        """Take the port off, and its interface away."""
        await self._switch.unplug(port)
        groups = [group for group in self._switch.port_groups() if group.key != network]
        await self._switch.set_port_groups(groups)

    async def attached(self) -> dict[str, str]:
        """The network of each port, by interface."""
        return await self._switch.ports()

    async def forget(self) -> None:
        """Drop what Open vSwitch learnt: it can not forget a single address, and learns all anew in a frame each."""
        await run("ovs-appctl", "--timeout=10", "-t", str(self._run / "ovs-vswitchd.ctl"), "fdb/flush", Switch.bridge)
