"""EventManager and its collectors."""

from typing import TYPE_CHECKING, Any, ClassVar

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import GetWsdlName

from landbridge.vcenter.calls import Call
from landbridge.vcenter.history import HistoryCollector, by_entity, by_user, in_time
from landbridge.vcenter.managed import Managed
from landbridge.vcenter.sessions import Session

if TYPE_CHECKING:
    from landbridge.vcenter.inventory import Inventory

_LARGEST_ANSWER = 1000
_ARGUMENTS = ("datacenter", "computeResource", "host", "vm", "ds", "net", "dvs")
_REFERENCES = {"ds": "datastore", "net": "network"}


class EventManager(Managed):
    kind = vim.event.EventManager
    durable = False
    defaults: ClassVar[dict[str, Any]] = {"maxCollector": 32}

    def __init__(self, inventory: "Inventory", moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        if inventory.events.kept:
            self.set(latestEvent=inventory.events.kept[-1])

    async def query_events(self, call: Call, filter_: Any, event_view_spec: Any = None) -> list[Any]:
        if event_view_spec is not None:
            raise vmodl.fault.NotSupported(msg="QueryEvents does not support an event view spec.")
        found = matching(self.inventory, filter_)
        return found[-(filter_.maxCount or _LARGEST_ANSWER) :]

    async def create_collector_for_events(self, call: Call, filter_: Any) -> Any:
        assert call.session is not None
        made = EventHistoryCollector(self.inventory, call.session, filter_)
        await made.appear()
        return made.ref

    async def post_event(self, call: Call, event_to_post: Any, task_info: Any = None) -> None:
        if not isinstance(event_to_post, vim.event.EventEx | vim.event.GeneralEvent | vim.event.ExtendedEvent):
            raise vim.fault.InvalidEvent(msg="Only EventEx, ExtendedEvent and general events can be posted.")
        message = event_to_post.fullFormattedMessage or getattr(event_to_post, "message", None) or ""
        self.inventory.events.keep(event_to_post, message=message, user=call.user)

    async def log_user_event(self, call: Call, entity: Any, msg: str) -> None:
        about = self.inventory.get(entity)
        self.inventory.events.post(
            vim.event.GeneralUserEvent,
            message=f"User logged event: {msg}",
            user=call.user,
            entity=vim.event.ManagedEntityEventArgument(entity=about.ref, name=about.name),
            **_subject(about),
        )


class EventHistoryCollector(HistoryCollector):
    """Events that match an EventFilterSpec, oldest first."""

    kind = vim.event.EventHistoryCollector

    def __init__(self, inventory: "Inventory", session: Session, spec: Any) -> None:
        super().__init__(inventory, session, spec)
        self.set(initialized=True)

    def matching(self) -> list[Any]:
        return matching(self.inventory, self._spec)

    async def read_next_events(self, call: Call, max_count: int) -> list[Any]:
        return self.read(max_count, forward=True)

    async def read_previous_events(self, call: Call, max_count: int) -> list[Any]:
        return self.read(max_count, forward=False)


def matching(inventory: "Inventory", spec: Any) -> list[Any]:
    """The kept events an EventFilterSpec lets through, oldest first; NotSupported for filters we do not have."""
    for name in ("alarm", "scheduledTask", "category", "tag", "delayedInit"):
        if getattr(spec, name, None):
            raise vmodl.fault.NotSupported(msg=f"A filter of events by {name} is not supported.")
    events = list(inventory.events.kept)
    if spec.entity is not None:
        about = by_entity(inventory, spec.entity)
        events = [event for event in events if not about.isdisjoint(_moids(event))]
    if spec.time is not None:
        events = [event for event in events if in_time(event.createdTime, spec.time)]
    if spec.userName is not None:
        events = [event for event in events if by_user(event.userName, spec.userName)]
    if spec.eventChainId is not None:
        events = [event for event in events if event.chainId == spec.eventChainId]
    if spec.eventTypeId:
        wanted = set(spec.eventTypeId)
        events = [event for event in events if not wanted.isdisjoint(_type_ids(event))]
    if spec.type:
        events = [event for event in events if isinstance(event, tuple(spec.type))]
    return events


def _moids(event: Any) -> set[str]:
    found = set()
    for name in _ARGUMENTS:
        if (argument := getattr(event, name, None)) is not None:
            found.add(getattr(argument, _REFERENCES.get(name, name))._moId)
    if (entity := getattr(event, "entity", None)) is not None:
        found.add(entity.entity._moId)
    return found


def _type_ids(event: Any) -> set[str]:
    ids = {f"vim.event.{GetWsdlName(type(event))}", GetWsdlName(type(event))}
    if (own := getattr(event, "eventTypeId", None)) is not None:
        ids.add(own)
    return ids


def _subject(about: Any) -> dict[str, Any]:
    for kind, name in (
        (vim.VirtualMachine, "vm"),
        (vim.HostSystem, "host"),
        (vim.Datacenter, "datacenter"),
        (vim.ComputeResource, "compute_resource"),
        (vim.Datastore, "datastore"),
        (vim.Network, "network"),
    ):
        if issubclass(about.kind, kind):
            return {name: about}
    return {}
