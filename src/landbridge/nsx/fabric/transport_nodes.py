"""Hosts as transport nodes: each is made a chassis, and its moves are followed so that ports are at both ends.

While a VM comes to a host its VIFs are requested at the chassis it leaves and at the one it comes to; then the host may
tell OVN that they are there. A moment after the move they are the new chassis' alone, and then nobody's request
counts: OVN goes by where they are.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from landbridge.esx.client import HostClient, HostError, HostUnreachable
from landbridge.esx.model import OverlayConfig, Vmotion, VmotionPhase
from landbridge.nsx.fabric.compute_manager import Host
from landbridge.pki import Identity

_log = logging.getLogger(__name__)
_PORT = 443
_WAIT = 30.0  # seconds a long poll may last
_RETRY = 3.0
_EDGE_LOOK = 15.0  # seconds between looks whether an edge is still set up: no VM comes to it
_NO_TRANSPORT_NODE = 60.0  # seconds until such a host is asked again
# OVN hands a port over within tenths of a second; a request that stays would bind it to a host it might leave unheard.
_SETTLING = 5.0
_NOT_OURS = (403, 404)
_FINAL = (VmotionPhase.SUCCEEDED, VmotionPhase.FAILED)


class TransportNodes:
    """All hosts of the compute manager. `moves` is for the snapshot; `changed` is called when it changed."""

    def __init__(
        self,
        identity: Identity,
        southbound: str,
        edges: Mapping[str, str],
        changed: Callable[[], None],
        settled: Callable[[], Awaitable[None]],
    ) -> None:
        """`edges`: name by address. `settled()` waits until what `moves` says now is realised."""
        self._edges = edges
        self._identity = identity
        self._southbound = southbound
        self._changed = changed
        self._settled = settled
        self._nodes: dict[str, asyncio.Task[None]] = {}
        self._where: dict[str, str] = {}
        self._moves: dict[str, tuple[str, ...]] = {}
        self._loose: set[asyncio.Task[None]] = set()
        self.foreign: set[str] = set()  # addresses of hosts that stand for another site
        self.chassis: dict[str, str] = {}  # name of the chassis by the address of its host

    @property
    def moves(self) -> Mapping[str, tuple[str, ...]]:
        """VIFs under way: the chassis that are requested."""
        return dict(self._moves)

    def follow(self, hosts: Iterable[Host], where: Mapping[str, str]) -> None:
        """These are the hosts now; `where` says at which host's address each VIF is."""
        self._where = dict(where)
        wanted = {host.address for host in hosts if host.connected} | self._edges.keys()
        for address in wanted - self._nodes.keys():
            self._nodes[address] = asyncio.create_task(self._node(address), name=f"transport node {address}")
        for address in self._nodes.keys() - wanted:
            self._nodes.pop(address).cancel()

    async def close(self) -> None:
        """Let go of the hosts, which go on as they are."""
        tasks = [*self._nodes.values(), *self._loose]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._nodes.clear()

    async def _node(self, address: str) -> None:
        """One host, through its restarts."""
        while True:
            pause = _RETRY
            try:
                async with HostClient(address, _PORT, self._identity) as client:
                    if not await self._prepare(client, address):
                        pause = _NO_TRANSPORT_NODE
                    elif address in self._edges:
                        pause = _EDGE_LOOK
                    else:
                        await self._watch(client, address)
            except (HostError, HostUnreachable) as error:
                _log.warning("transport node %s: %s", address, error)
            await asyncio.sleep(pause)

    async def _prepare(self, client: HostClient, address: str) -> bool:
        """Make the host a chassis; False if it can not be one."""
        try:
            status = await client.overlay()
        except HostError as error:
            if error.status in _NOT_OURS:  # HCX's mobility agent is a host of vCenter, and none of NSX
                self.foreign.add(address)
                self._changed()
                return False
            raise
        if not status.transport_node:
            return False
        if status.southbound != [self._southbound]:
            status = await client.configure_overlay(OverlayConfig(southbound=[self._southbound]))
            _log.info("host %s is transport node %s", address, status.chassis)
        self.chassis[address] = status.chassis
        return True

    async def _watch(self, client: HostClient, address: str) -> None:
        # What the agent tells from here on, then what is there: nothing is missed in between.
        seen = await client.events(0, 0)
        epoch, number = seen.epoch, seen.events[-1].seq if seen.events else 0
        for vmotion in await client.vmotions():
            if vmotion.phase not in _FINAL or self._moves.keys() & set(vmotion.vifs):
                await self._look(client, address, vmotion.id)
        while True:
            news = await client.events(number, _WAIT)
            if news.epoch != epoch or news.truncated:
                return  # the agent was started again, or we were too slow: look at everything anew
            for event in news.events:
                number = event.seq
                if event.type == "vmotion-changed" and event.vmotion is not None:
                    await self._look(client, address, event.vmotion)

    async def _look(self, client: HostClient, address: str, vmotion: str) -> None:
        try:
            await self._take(client, address, await client.vmotion(vmotion))
        except HostError as error:
            # It ended meanwhile, and its record may be gone: the port is activated by the host at the switchover.
            _log.info("transport node %s, vMotion %s: %s", address, vmotion, error)

    async def _take(self, client: HostClient, address: str, vmotion: Vmotion) -> None:
        if vmotion.direction != "incoming" or not vmotion.vifs:
            return
        here = self.chassis[address]
        if vmotion.phase in _FINAL:
            self._settle(vmotion, here)
        elif not vmotion.vifs_active:
            for vif in vmotion.vifs:
                leaves = self.chassis.get(self._where.get(vif, ""), here)
                self._moves[vif] = tuple(dict.fromkeys((leaves, here)))
            self._changed()
            await self._settled()
            await client.open_vmotion_ports(vmotion.id)

    def _settle(self, vmotion: Vmotion, here: str) -> None:
        """The move is over: the VIFs are here, or they stayed where they were."""
        moved = {vif: (here,) for vif in vmotion.vifs if here in self._moves.get(vif, ())}
        if not moved:
            return
        if vmotion.phase is VmotionPhase.SUCCEEDED:
            self._moves.update(moved)
            task = asyncio.create_task(self._release(moved), name=f"release {vmotion.id}")
            self._loose.add(task)
            task.add_done_callback(self._loose.discard)
        else:
            for vif in moved:
                self._moves.pop(vif, None)
        self._changed()

    async def _release(self, moved: Mapping[str, tuple[str, ...]]) -> None:
        await asyncio.sleep(_SETTLING)
        for vif, where in moved.items():
            if self._moves.get(vif) == where:
                del self._moves[vif]
        self._changed()
