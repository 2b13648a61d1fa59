"""The NSX manager: its parts, put together, and the order in which they start and end."""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from aiohttp import web

from landbridge.nsx.config import ManagerConfig
from landbridge.nsx.fabric.compute_manager import ComputeManager, SegmentGroup
from landbridge.nsx.fabric.port_groups import PortGroups, WantedGroup
from landbridge.nsx.fabric.transport_nodes import TransportNodes
from landbridge.nsx.ovn.central import Central
from landbridge.nsx.ovn.northbound import Northbound
from landbridge.nsx.ovn.reconcile import Reconciler
from landbridge.nsx.policy.model.segments import Segment
from landbridge.nsx.policy.server import application
from landbridge.nsx.policy.store import Store
from landbridge.nsx.snapshot import Machine, Realized
from landbridge.nsx.snapshots import Snapshots
from landbridge.pki import Identity
from landbridge.vmodl.client import VCenter

_log = logging.getLogger(__name__)
_POLL = 60.0  # seconds; changes wake at once


class Manager:
    """One manager, with OVN's central part beside it."""

    def __init__(self, config: ManagerConfig) -> None:
        config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.config = config
        self._identity = Identity(config.pki_dir)
        self.store = Store(config.policy().database_url())
        self.central = Central(
            run_dir=config.run_dir / "ovn",
            state_dir=config.state_dir / "ovn",
            identity=self._identity,
            listen=config.listen.address,
        )
        self.vcenter = VCenter(config.vcenter)
        self.compute = ComputeManager(self.vcenter, self._fabric_changed)
        self.groups = PortGroups(self.vcenter, config.switch)
        self.snapshots = Snapshots(self.store)
        self.reconciler = Reconciler(Northbound(self.central.northbound), self.snapshots.newer)
        remote = self.central.southbound_remote
        assert remote is not None  # there is an address to listen on
        edges = {node.address: node.name for node in (*config.edges, *config.appliances)}
        self.nodes = TransportNodes(self._identity, remote, edges, self._fabric_changed, self._settled)
        self._runner: web.AppRunner | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._wanted: list[WantedGroup] | None = None  # None: the intents were not read yet

    async def start(self) -> None:
        """Bring up OVN's central part, or find it; listen; then follow everything."""
        await self.central.start()
        served = await application(self.config.policy(), self.store, self, self)
        self._runner = web.AppRunner(served, access_log=None)
        await self._runner.setup()
        where = self.config.listen
        tls = self._identity.server_context(require_client=False)
        await web.TCPSite(self._runner, where.address, where.port, ssl_context=tls).start()
        self._tasks = [
            asyncio.create_task(self.reconciler.run(), name="reconciler"),
            asyncio.create_task(self.compute.run(), name="compute manager"),
            asyncio.create_task(self.groups.run(lambda: self._wanted or (), self._present_groups), name="port groups"),
            asyncio.create_task(self._follow_intents(), name="intents"),
        ]
        self.nodes.follow((), {})  # the edges need no vCenter
        _log.info("NSX manager %s listens on %s:%s", self.config.name, where.address, where.port)

    async def failed(self) -> None:
        """Return when a part ended that should not have."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            with contextlib.suppress(asyncio.CancelledError):
                if task.exception() is not None:
                    _log.critical("%s ended", task.get_name(), exc_info=task.exception())

    async def stop(self) -> None:
        """Stop listening and following. Databases, chassis and frames go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
        await self.nodes.close()
        await self.central.close()
        await self.vcenter.close()
        self.store.close()

    # -- what the Policy API asks: Realization and Fabric -----------------------------------------------------

    def realized(self, path: str) -> list[Realized]:
        return self.reconciler.realized(path)

    def sequence(self) -> int:
        return self.snapshots.store_sequence(self.reconciler.compiled)

    def machines(self) -> Iterable[Machine]:
        return self.compute.seen.machines.values()

    # -- what one part tells another --------------------------------------------------------------------------

    def _fabric_changed(self) -> None:
        seen = self.compute.seen
        where = {vif.id: machine.host for machine in seen.machines.values() for vif in machine.vifs}
        self.nodes.follow(seen.hosts.values(), where)
        self.snapshots.fabric(_placed(seen.machines, self.nodes.foreign), self.nodes.moves)
        self.groups.look()

    async def _settled(self) -> None:
        await self.reconciler.settled(self.snapshots.sequence)

    async def _follow_intents(self) -> None:
        """Port groups follow the segments."""
        seen = -1
        while True:
            contents = await self.store.newer(seen, _POLL)
            if contents.sequence != seen:
                seen = contents.sequence
                segments = (intent for intent in contents.intents.values() if isinstance(intent, Segment))
                self._wanted = [WantedGroup(one.display_name or one.id, one.path, one.unique_id) for one in segments]
                self.groups.look()

    def _present_groups(self) -> Iterable[SegmentGroup] | None:
        ready = self.compute.seen.complete and self._wanted is not None
        return self.compute.seen.groups.values() if ready else None


def _placed(machines: Mapping[str, Machine], foreign: Collection[str]) -> dict[str, Machine]:
    """VIFs of VMs at hosts that stand for another site are not here: their VMs run there."""
    return {
        key: replace(machine, vifs=tuple(replace(vif, present=False) for vif in machine.vifs))
        if machine.host in foreign
        else machine
        for key, machine in machines.items()
    }
