"""All managed objects of this vCenter: found by reference, written through to the store, watched for changes."""

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from pyVmomi import vmodl
from pyVmomi.VmomiSupport import ManagedObject

from landbridge.pki import Identity
from landbridge.vcenter.config import Config
from landbridge.vcenter.managed import IMPLEMENTATIONS, Entity, Managed
from landbridge.vcenter.store import Store

if TYPE_CHECKING:
    from landbridge.vcenter.events import Events
    from landbridge.vcenter.sessions import Sessions
    from landbridge.vcenter.tasks import Tasks

_M = TypeVar("_M", bound=Managed)
log = logging.getLogger(__name__)


class Inventory:
    """The live objects by moId.

    `tasks`, `events` and `sessions` hang here so that every object reaches them; `hosts` are the connections to host
    agents (`vcenter.hosts.Hosts`).
    """

    tasks: "Tasks"
    events: "Events"
    sessions: "Sessions"
    hosts: Any

    def __init__(self, store: Store, config: Config, identity: Identity) -> None:
        self.store = store
        self.config = config
        self.identity = identity
        self.objects: dict[str, Managed] = {}
        # Grows with every change of any property, and with every object that comes or goes.
        self.version = 0
        self._counter = 0
        # Told when entities come, go or move: container views.
        self.watchers: set[Managed] = set()
        self._waiters: set[asyncio.Event] = set()
        self._changes: deque[tuple[int, str]] = deque(maxlen=4096)
        self._children: dict[str, dict[str, Entity]] = {}

    # -- finding ------------------------------------------------------------------------------------------

    def get(self, what: ManagedObject | str, kind: type | None = None) -> Any:
        """The live object of a reference or moId; ManagedObjectNotFound if absent or not of `kind`."""
        moid = what if isinstance(what, str) else what._moId
        managed = self.objects.get(moid)
        wanted = kind if kind is not None else (None if isinstance(what, str) else type(what))
        if managed is None or (wanted is not None and not _matches(managed, wanted)):
            ref = (kind or ManagedObject)(what, None) if isinstance(what, str) else what
            raise vmodl.fault.ManagedObjectNotFound(
                obj=ref,
                msg=f"The object '{type(ref).__name__}:{moid}' has already been deleted or has not been completely "
                "created",
            )
        return managed

    def all(self, kind: type[_M] | type) -> list[Any]:
        """All live objects of an API type (`vim.VirtualMachine`) or of a class of ours."""
        if issubclass(kind, Managed):
            return [managed for managed in self.objects.values() if isinstance(managed, kind)]
        return [managed for managed in self.objects.values() if issubclass(managed.kind, kind)]

    def children(self, parent: Managed) -> list[Entity]:
        """The entities whose parent is `parent`, in the order they were added."""
        return list(self._children.get(parent.moid, {}).values())

    # -- changing -----------------------------------------------------------------------------------------

    def new_moid(self, prefix: str) -> str:
        """A moId nobody had before, not even an object that is gone: `vm-1007`."""
        self._counter += 1
        return f"{prefix}-{self._counter}"

    async def add(self, managed: Managed) -> None:
        """Make an object part of the inventory; it is durable when this returns, and its parent knows of it."""
        if managed.moid in self.objects:
            raise ValueError(f"{managed!r} is in the inventory already")
        if managed.durable:
            await self.store.put_object(managed.moid, managed.kind.__name__, managed.facts, self._counter)
        self.objects[managed.moid] = managed
        self.touch(managed)
        if isinstance(managed, Entity):
            self.attach(managed)

    async def remove(self, managed: Managed) -> None:
        """Take an object out of the inventory and the store; what clients hold of it is not found from now on."""
        if managed.durable:
            await self.store.delete_object(managed.moid)
        if self.objects.pop(managed.moid, None) is None:
            return
        self.touch(managed)
        if isinstance(managed, Entity):
            self.detach(managed)

    async def save(self, managed: Managed) -> None:
        """Write an object's facts through, if it is (still) part of the inventory."""
        if managed.durable and managed.moid in self.objects:
            await self.store.put_object(managed.moid, managed.kind.__name__, managed.facts, self._counter)

    async def load(self) -> None:
        """Bring back what the store holds. Types nobody implements any more are reported and left in the store."""
        rows, self._counter = await self.store.objects()
        classes = {kind.__name__: implementation for kind, implementation in IMPLEMENTATIONS.items()}
        for moid, kind, facts in rows:
            implementation = classes.get(kind)
            if implementation is None:
                log.error("object %s is a %s, which this version does not implement: left out", moid, kind)
                continue
            self.objects[moid] = implementation(self, moid, facts)
        for managed in list(self.objects.values()):
            if isinstance(managed, Entity):
                self.attach(managed)
        for managed in list(self.objects.values()):
            await managed.restored()

    def attach(self, entity: Entity) -> None:
        """Make an entity known to its parent (`facts["parent"]`)."""
        parent = entity.parent
        if parent is None:
            return
        self._children.setdefault(parent.moid, {})[entity.moid] = entity
        entity.set(parent=parent.ref)
        parent.child_added(entity)
        self._moved()

    def detach(self, entity: Entity) -> None:
        """Make an entity's parent forget it."""
        parent = entity.parent
        if parent is None:
            return
        self._children.get(parent.moid, {}).pop(entity.moid, None)
        parent.child_removed(entity)
        self._moved()

    def _moved(self) -> None:
        for watcher in self.watchers:
            watcher.invalidate("view")

    # -- watching -----------------------------------------------------------------------------------------

    def touch(self, managed: Managed) -> None:
        """An object changed: count it, wake who waits."""
        self.version += 1
        managed.version = self.version
        self._changes.append((self.version, managed.moid))
        for waiter in self._waiters:
            waiter.set()

    def changes(self, since: int) -> set[str] | None:
        """The moIds that changed after `since`; None if that is longer ago than is remembered."""
        if since >= self.version:
            return set()
        if not self._changes or self._changes[0][0] > since + 1:
            return None
        moids = set()
        for version, moid in reversed(self._changes):
            if version <= since:
                break
            moids.add(moid)
        return moids

    async def changed(self, since: int, timeout: float, also: asyncio.Event | None = None) -> bool:
        """Wait until `version` is beyond `since`, or `also` is set; False after `timeout` seconds without either."""
        if self.version > since or (also is not None and also.is_set()):
            return True
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        waits = [asyncio.ensure_future(event.wait()) for event in (waiter, also) if event is not None]
        try:
            done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            return bool(done)
        finally:
            self._waiters.discard(waiter)
            for wait in waits:
                wait.cancel()


def _matches(managed: Managed, wanted: type) -> bool:
    return issubclass(managed.kind, wanted) or issubclass(wanted, managed.kind)
