"""The connections to host agents: one per host, kept up, following the agent's events.

A connection lists everything once and then follows the agent's event stream; an agent that started anew (another
epoch), or forgot events we had not read, is listed again. A host that does not answer is `notResponding` and tried
again, ever more slowly. What a host tells ends up in its HostSystem, in Datastore and in VirtualMachine objects.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from landbridge.esx.client import HostClient, HostError, HostUnreachable
from landbridge.esx.model import Event, Events, VmState
from landbridge.vcenter import discovery
from landbridge.vcenter.managed import Managed

if TYPE_CHECKING:
    from landbridge.vcenter.inventory import Inventory
    from landbridge.vcenter.objects.host_system import HostSystem

log = logging.getLogger(__name__)
_EVENTS_WAIT = 30.0  # seconds an agent may keep an event request open
_FIRST_RETRY, _LAST_RETRY = 0.25, 15.0  # seconds between attempts to reach a host
_STATS_INTERVAL = 20.0  # seconds between readings of a host's own counters
# From so many changed VMs on, one listing is cheaper than a request for each.
_LIST_FROM = 8


class HostConnection:
    """One host's agent: its client, and the task that follows it."""

    def __init__(self, inventory: "Inventory", host: "HostSystem") -> None:
        self._inventory = inventory
        self.host = host
        self.client = HostClient(host.facts["address"], host.facts["port"], inventory.identity)
        self.listed = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._list_again = False

    def start(self) -> None:
        self._follower = asyncio.create_task(self._follow(), name=f"follow {self.host.name}")

    async def stop(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        await self.client.close()

    def list_again(self) -> None:
        """Something may be there that no event told us of: list at the next round of the event loop."""
        self._list_again = True

    async def _follow(self) -> None:
        retry = _FIRST_RETRY
        while True:
            try:
                await self._follow_once()
            except (HostUnreachable, HostError) as error:
                if self.listed.is_set():
                    log.warning("%s does not respond: %s", self.host.name, error)
                self.listed.clear()
                self.host.connection_changed("notResponding")
            except Exception:
                # A host that tells what we can not take in must not end the following of it.
                log.exception("following %s failed", self.host.name)
            else:
                retry = _FIRST_RETRY
                continue
            await asyncio.sleep(retry)
            retry = min(retry * 2, _LAST_RETRY)

    async def _follow_once(self) -> None:
        """List all, then follow until the agent is another or we lost events."""
        start = await self.client.events(since=0, wait=0)
        since = start.events[-1].seq if start.events else 0
        await self.list_all()
        while not self._list_again:
            answer = await self._next_events(since)
            if answer.epoch != start.epoch or answer.truncated:
                return
            if answer.events:
                since = answer.events[-1].seq
                await self._take(answer.events)
        self._list_again = False

    async def _next_events(self, since: int) -> Events:
        """The next events; meanwhile the host's counters are read now and then."""
        waiting = asyncio.ensure_future(self.client.events(since, _EVENTS_WAIT))
        try:
            while not (await asyncio.wait({waiting}, timeout=_STATS_INTERVAL))[0]:
                self.host.stats_changed(await self.client.host_stats())
            return await waiting
        finally:
            waiting.cancel()

    async def list_all(self) -> None:
        """Read all there is of the host and make the inventory say so."""
        client, host = self.client, self.host
        info = await client.host()
        datastores = await client.datastores()
        await host.info_changed(info)
        await discovery.datastores_listed(self._inventory, host, datastores)
        states = await client.vms()
        await discovery.vms_listed(self._inventory, host, states)
        host.stats_changed(await client.host_stats())
        await host.push_port_groups(client)
        first = not self.listed.is_set()
        self.listed.set()
        host.connection_changed("connected")
        if first:
            log.info("%s is connected, with %d VMs", host.name, len(states))

    async def _take(self, events: list[Event]) -> None:
        inventory, host = self._inventory, self.host
        # The last event of a VM says what to do: its state is read once however often it changed.
        latest: dict[str, Event] = {event.vm: event for event in events if event.vm is not None}
        for event in latest.values():
            if event.type == "vm-removed":
                await discovery.vm_gone(inventory, host, str(event.vm))
        changed = {uuid for uuid, event in latest.items() if event.type != "vm-removed"}
        if changed:
            for state in await self._states(changed):
                await discovery.vm_seen(inventory, host, state)
        kinds = {event.type for event in events}
        if "datastore-changed" in kinds:
            await discovery.datastores_listed(inventory, host, await self.client.datastores())
        if "host-changed" in kinds:
            await host.info_changed(await self.client.host())
        if "vm-stats" in kinds:
            host.stats_changed(await self.client.host_stats())

    async def _states(self, uuids: set[str]) -> list[VmState]:
        if len(uuids) >= _LIST_FROM:
            return [state for state in await self.client.vms() if state.config.instance_uuid in uuids]
        states = []
        for uuid in uuids:
            try:
                states.append(await self.client.vm(uuid))
            except HostError as error:
                # Gone since the event: its removal is the next event.
                if error.type not in ("ManagedObjectNotFound", "NotFound"):
                    raise
        return states


class Hosts:
    """All connections, and where to find a VM's object by its instance UUID."""

    def __init__(self, inventory: "Inventory") -> None:
        self._inventory = inventory
        self._connections: dict[str, HostConnection] = {}
        # Instance UUIDs and host paths of VMs an operation of ours is creating or moving right now.
        self._expected: dict[str, int] = {}
        self.by_uuid: dict[str, Any] = {}

    async def start(self) -> None:
        """After the inventory was loaded: connect to every host that is not disconnected on purpose."""
        for vm in self._inventory.all(vim.VirtualMachine):
            self.by_uuid[vm.uuid] = vm
        for host in self._inventory.all(vim.HostSystem):
            if host.facts.get("connect", True):
                self.open(host)

    async def stop(self) -> None:
        connections = list(self._connections.values())
        self._connections.clear()
        await asyncio.gather(*(connection.stop() for connection in connections))

    def open(self, host: "HostSystem") -> HostConnection:
        """Connect to a host, or answer the connection there is."""
        connection = self._connections.get(host.moid)
        if connection is None:
            connection = self._connections[host.moid] = HostConnection(self._inventory, host)
            connection.start()
        return connection

    async def close(self, host: "HostSystem") -> None:
        """End a host's connection."""
        if (connection := self._connections.pop(host.moid, None)) is not None:
            await connection.stop()

    def connection(self, host: Managed) -> HostConnection | None:
        return self._connections.get(host.moid)

    def client(self, host: Managed | None) -> HostClient:
        """The client of a connected host; HostNotConnected if vCenter is not connected to it now."""
        connection = self._connections.get(host.moid) if host is not None else None
        if connection is None or not connection.listed.is_set():
            name = host.facts.get("name") if host is not None else "the VM's host"
            raise vmodl.fault.HostNotConnected(
                msg=f"Unable to communicate with {name}: it is not connected. Reconnect it or wait until it responds."
            )
        return connection.client

    async def client_soon(self, host: Managed, timeout: float) -> HostClient:
        """As `client`, but waits up to `timeout` seconds for the host to be connected."""
        connection = self._connections.get(host.moid)
        if connection is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(connection.listed.wait(), timeout)
        return self.client(host)

    # -- VMs in the making ------------------------------------------------------------------------------

    @contextmanager
    def expecting(self, *names: str) -> Iterator[None]:
        """While an operation of ours makes or moves VMs, what hosts tell of these (by instance UUID, or by the path of
        the VMX file on the host) is left to the operation."""
        for name in names:
            self._expected[name] = self._expected.get(name, 0) + 1
        try:
            yield
        finally:
            for name in names:
                self._expected[name] -= 1
                if not self._expected[name]:
                    del self._expected[name]

    def is_expected(self, state: VmState) -> bool:
        return state.config.instance_uuid in self._expected or state.vmx in self._expected

    def expects(self, uuid: str) -> bool:
        return uuid in self._expected
