"""Events: what happened, when and to whom, kept in the store and answered by the event manager."""

import asyncio
import datetime as dt
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from landbridge.vcenter.managed import Entity, Managed
from landbridge.vmodl.values import from_text, to_text

if TYPE_CHECKING:
    from landbridge.vcenter.inventory import Inventory

log = logging.getLogger(__name__)
# Events kept: the oldest go first.
_KEPT = 2000
_ARGUMENTS: dict[str, tuple[type, Any]] = {
    "vm": (vim.event.VmEventArgument, "vm"),
    "host": (vim.event.HostEventArgument, "host"),
    "datacenter": (vim.event.DatacenterEventArgument, "datacenter"),
    "compute_resource": (vim.event.ComputeResourceEventArgument, "computeResource"),
    "datastore": (vim.event.DatastoreEventArgument, "ds"),
    "network": (vim.event.NetworkEventArgument, "net"),
    "dvs": (vim.event.DvsEventArgument, "dvs"),
}


class Events:
    """Posts events and remembers them. Their order is the order of posting; keys grow without gaps."""

    def __init__(self, inventory: "Inventory") -> None:
        self._inventory = inventory
        self.kept: deque[vim.event.Event] = deque(maxlen=_KEPT)
        self._key = 0
        self._unwritten: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        self._writer: asyncio.Task[None] | None = None

    def post(
        self,
        kind: type,
        *,
        message: str,
        user: str = "",
        vm: Managed | None = None,
        host: Managed | None = None,
        datacenter: Managed | None = None,
        compute_resource: Managed | None = None,
        datastore: Managed | None = None,
        network: Managed | None = None,
        dvs: Managed | None = None,
        **fields: Any,
    ) -> Any:
        """Record an event of an API class (`vim.event.VmPoweredOnEvent`) about the given objects; returns it.

        `fields` are further fields of that class. The datacenter, host's cluster and so on are filled in from where
        the objects are when they are not given. It is visible at once and written to the store in the background.
        """
        subjects = {
            "vm": vm,
            "host": host,
            "datacenter": datacenter,
            "compute_resource": compute_resource,
            "datastore": datastore,
            "network": network,
            "dvs": dvs,
        }
        _fill_in(subjects)
        event = kind(**fields)
        for name, subject in subjects.items():
            if subject is not None:
                argument, field = _ARGUMENTS[name]
                reference = {"network": "network", "compute_resource": "computeResource"}.get(name, name)
                setattr(event, field, argument(name=str(subject.facts.get("name", "")), **{reference: subject.ref}))
        return self.keep(event, message=message, user=user)

    def keep(self, event: Any, *, message: str, user: str) -> Any:
        """Record an event that is complete but for its key, time, user and text; returns it."""
        self._key += 1
        event.key = event.chainId = self._key
        event.createdTime = dt.datetime.now(dt.UTC)
        event.userName = user
        event.fullFormattedMessage = message
        if "message" in event.__dict__ and not event.message:  # general events have their text a second time
            event.message = message
        try:
            text = to_text(event, "event", vim.event.Event)
        except TypeError:
            # What it is about has happened: an event that lacks a required field must not undo or hide that.
            log.exception("the event %s (%s) is incomplete and left out", type(event).__name__, message)
            return event
        self.kept.append(event)
        self._unwritten.put_nowait((self._key, text))
        if (manager := self._inventory.objects.get("EventManager")) is not None:
            manager.set(latestEvent=event)
        return event

    async def load(self) -> None:
        """Bring back the kept events and begin writing new ones."""
        for key, text in await self._inventory.store.events(_KEPT):
            self._key = key
            self.kept.append(from_text(text, vim.event.Event))
        self._writer = asyncio.create_task(self._write(), name="events to the store")

    async def stop(self) -> None:
        """Write what is left and end."""
        if self._writer is not None:
            await asyncio.wait_for(self._unwritten.join(), 10)
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    async def _write(self) -> None:
        while True:
            batch = [await self._unwritten.get()]
            while not self._unwritten.empty():
                batch.append(self._unwritten.get_nowait())
            try:
                await self._inventory.store.put_events(batch, keep=_KEPT)
            except Exception:
                log.exception("%d events could not be written", len(batch))
            finally:
                for _ in batch:
                    self._unwritten.task_done()


def _fill_in(subjects: dict[str, Managed | None]) -> None:
    for name, kind in (("compute_resource", vim.ComputeResource), ("datacenter", vim.Datacenter)):
        for subject in (subjects["host"], subjects["vm"], subjects["datastore"], subjects["network"]):
            if subjects[name] is None and isinstance(subject, Entity):
                subjects[name] = subject.ancestor(kind)
