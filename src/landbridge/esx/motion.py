"""What of a host has to do with moving and copying VMs: its relay, its moves, its long operations."""

import asyncio
import logging

from landbridge.esx.inventory import Inventory
from landbridge.esx.jobs import Jobs
from landbridge.esx.vmotion import Vmotions
from landbridge.esx.vmotion_sides import REMOTE, SITE
from landbridge.pki import Identity
from landbridge.relay import Relay, RelayError, Side

_log = logging.getLogger(__name__)
_LOOK_AFTER_RELAY = 5.0  # seconds


class Motion:
    """`start` once the inventory is loaded. The relay goes on after `close`, with whatever passes through it."""

    def __init__(self, inventory: Inventory, identity: Identity) -> None:
        settings = inventory.host.settings
        address, suffix = settings.vmotion.address, f"vmotion.{settings.name}"
        sides = [
            Side(SITE, address, settings.vmotion.port, identity, suffix),
            Side(REMOTE, address, settings.vmotion.remote_port, identity, suffix, foreign=True),
        ]
        self.inventory = inventory
        self.relay = Relay(settings.run_dir / "relay", sides)
        self.vmotions = Vmotions(inventory, self.relay)
        self.jobs = Jobs()
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Find the relay or start it, and take up the moves that were under way."""
        await self.relay.start()
        await self.vmotions.start()
        self._looking = asyncio.create_task(self._look_after_relay(), name="relay")

    async def close(self) -> None:
        """Let go of moves, which go on; jobs are taken back."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self.vmotions.close()
        await self.jobs.close()

    async def _look_after_relay(self) -> None:
        """Start a relay that died again; the moves whose streams it carried have failed, new ones find it there."""
        while True:
            await asyncio.sleep(_LOOK_AFTER_RELAY)
            try:
                if not await self.relay.alive():
                    _log.warning("the relay died and is started again")
                    await self.relay.start()
                    await self.vmotions.relay_restarted()
            except (RelayError, OSError):
                _log.exception("the relay can not be started")
