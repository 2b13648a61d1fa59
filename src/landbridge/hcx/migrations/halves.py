"""The two halves of a migration, wherever they are: at this site, or behind the other site's manager.

Every call may be repeated: who drives a migration repeats the one it was in when it died.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel

from landbridge.hcx.faults import ApiFault
from landbridge.hcx.migrations.model import (
    Findings,
    HalfState,
    MigrationStopped,
    Outcome,
    Requested,
    Seen,
    SourceOrder,
    Streams,
    TargetOrder,
    TargetVm,
)
from landbridge.hcx.peer import PeerClient, PeerUnreachable

_M = TypeVar("_M", bound=BaseModel)
STOPPED = "Migration stopped"
# What the other manager answers while its vCenter or its appliance does not: that passes, as its own absence does.
_AWAY = (502, 503)


class Nothing(BaseModel):
    """An empty body."""


class Source(ABC):
    """The half at the site the VM leaves."""

    @abstractmethod
    async def begin(self, migration: str, order: SourceOrder) -> Nothing:
        """Start the relocation to this site's appliance. MigrationStopped if vCenter refuses."""

    @abstractmethod
    async def requested(self, migration: str, seen: Seen) -> Requested:
        """What vCenter asked the appliance to receive. MigrationStopped if the relocation failed before."""

    @abstractmethod
    async def join(self, migration: str, streams: Streams) -> Nothing:
        """Lead the source host's streams to the other appliance."""

    @abstractmethod
    async def state(self, migration: str, seen: Seen) -> HalfState: ...

    @abstractmethod
    async def cancel(self, migration: str, _: Nothing) -> Nothing:
        """Ask vCenter to cancel the relocation; how it ends is told by `state`."""

    @abstractmethod
    async def finish(self, migration: str, outcome: Outcome) -> HalfState:
        """Tell the appliance how it ended, and wait until vCenter's task has. A VM that moved is unregistered."""

    @abstractmethod
    async def forget(self, migration: str, _: Nothing) -> Nothing:
        """Drop streams and records."""


class Target(ABC):
    """The half at the site the VM comes to."""

    @abstractmethod
    async def check(self, _migration: str, order: TargetOrder) -> Findings:
        """Whether the VM could go there."""

    @abstractmethod
    async def prepare(self, migration: str, vm: TargetVm) -> Streams:
        """Register the shadow, start its relocation, open the WAN. MigrationStopped if any of that fails."""

    @abstractmethod
    async def state(self, migration: str, seen: Seen) -> HalfState: ...

    @abstractmethod
    async def abort(self, migration: str, _: Nothing) -> HalfState:
        """Give up and say what became of it: `failed` is certain that nothing runs here and nothing is left."""

    @abstractmethod
    async def forget(self, migration: str, _: Nothing) -> Nothing:
        """Drop streams and records."""


class _Remote:
    def __init__(self, peer: Callable[[], Awaitable[PeerClient]], end: str) -> None:
        self._peer = peer
        self._end = end

    async def _call(self, verb: str, migration: str, body: BaseModel, shape: type[_M], extra_time: float = 0) -> _M:
        client = await self._peer()
        path = f"/interconnect/halves/{self._end}/{migration}/{verb}"
        try:
            answer = await client.call("POST", path, body.model_dump(mode="json"), extra_time=extra_time)
        except ApiFault as fault:
            if fault.error == STOPPED:
                raise MigrationStopped(fault.text) from fault
            if fault.status in _AWAY:
                raise PeerUnreachable(fault.text) from fault
            raise
        return shape.model_validate(answer["data"])


class RemoteSource(_Remote, Source):
    """The source half behind the other site's manager."""

    async def begin(self, migration: str, order: SourceOrder) -> Nothing:
        return await self._call("begin", migration, order, Nothing, 600)

    async def requested(self, migration: str, seen: Seen) -> Requested:
        return await self._call("requested", migration, seen, Requested, seen.wait)

    async def join(self, migration: str, streams: Streams) -> Nothing:
        return await self._call("join", migration, streams, Nothing)

    async def state(self, migration: str, seen: Seen) -> HalfState:
        return await self._call("state", migration, seen, HalfState, seen.wait)

    async def cancel(self, migration: str, _: Nothing) -> Nothing:
        return await self._call("cancel", migration, _, Nothing)

    async def finish(self, migration: str, outcome: Outcome) -> HalfState:
        return await self._call("finish", migration, outcome, HalfState, 300)

    async def forget(self, migration: str, _: Nothing) -> Nothing:
        return await self._call("forget", migration, _, Nothing)


class RemoteTarget(_Remote, Target):
    """The target half behind the other site's manager."""

    async def check(self, _migration: str, order: TargetOrder) -> Findings:
        return await self._call("check", _migration, order, Findings)

    async def prepare(self, migration: str, vm: TargetVm) -> Streams:
        return await self._call("prepare", migration, vm, Streams, 120)

    async def state(self, migration: str, seen: Seen) -> HalfState:
        return await self._call("state", migration, seen, HalfState, seen.wait)

    async def abort(self, migration: str, _: Nothing) -> HalfState:
        return await self._call("abort", migration, _, HalfState, 300)

    async def forget(self, migration: str, _: Nothing) -> Nothing:
        return await self._call("forget", migration, _, Nothing)


# verb: shape of its body
SOURCE_VERBS: dict[str, type[BaseModel]] = {
    "begin": SourceOrder,
    "requested": Seen,
    "join": Streams,
    "state": Seen,
    "cancel": Nothing,
    "finish": Outcome,
    "forget": Nothing,
}
TARGET_VERBS: dict[str, type[BaseModel]] = {
    "check": TargetOrder,
    "prepare": TargetVm,
    "state": Seen,
    "abort": Nothing,
    "forget": Nothing,
}


async def perform(half: Source | Target, verb: str, migration: str, body: dict[str, Any]) -> dict[str, Any]:
    """A half's verb as its REST call does it; ApiFault 404 for one it does not have."""
    verbs = SOURCE_VERBS if isinstance(half, Source) else TARGET_VERBS
    shape = verbs.get(verb)
    if shape is None:
        raise ApiFault(404, "Not found", f"a half of a migration does not {verb!r}; it does {', '.join(verbs)}")
    try:
        answer: BaseModel = await getattr(half, verb)(migration, shape.model_validate(body))
    except MigrationStopped as stop:
        raise ApiFault(409, STOPPED, str(stop)) from stop
    return answer.model_dump(mode="json")
