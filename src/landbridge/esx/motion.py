"""What of a host has to do with moving and copying VMs: its relay, its moves, its long operations."""

from landbridge.esx.inventory import Inventory
from landbridge.esx.jobs import Jobs
from landbridge.esx.vmotion import Vmotions
from landbridge.pki import Identity
from landbridge.relay import Relay, Side


class Motion:
    """`start` once the inventory is loaded. The relay goes on after `close`, with whatever passes through it."""

    def __init__(self, inventory: Inventory, identity: Identity) -> None:
        settings = inventory.host.settings
        side = Side("site", settings.vmotion.address, settings.vmotion.port, identity, f"vmotion.{settings.name}")
        self.inventory = inventory
        self.relay = Relay(settings.run_dir / "relay", [side])
        self.vmotions = Vmotions(inventory, self.relay)
        self.jobs = Jobs()

    async def start(self) -> None:
        """Find the relay or start it, and take up the moves that were under way."""
        await self.relay.start()
        await self.vmotions.start()

    async def close(self) -> None:
        """Let go of moves, which go on; jobs are taken back."""
        await self.vmotions.close()
        await self.jobs.close()
