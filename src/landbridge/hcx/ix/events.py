"""The event log of the mobility agent: a short ring that vCenter follows by long poll."""

import asyncio
import time
import uuid
from collections import deque
from typing import Literal

from landbridge.esx.model import Event, Events

_KEPT = 1000
Kind = Literal["vm-changed", "vm-added", "vm-removed", "vm-stats", "datastore-changed", "host-changed", "guest-event"]


class EventLog:
    """Events since this process started; the epoch tells a follower that it is another process now."""

    def __init__(self) -> None:
        self.epoch = uuid.uuid4().hex
        self._events: deque[Event] = deque(maxlen=_KEPT)
        self._seq = 0
        self._news = asyncio.Event()

    def post(self, kind: Kind, vm: str | None, message: str) -> None:
        self._seq += 1
        self._events.append(Event(seq=self._seq, time=time.time(), type=kind, vm=vm, message=message))
        self._news.set()
        self._news = asyncio.Event()

    async def after(self, since: int, wait: float) -> Events:
        """Events after `since`, as soon as there is one, or none after `wait` seconds."""
        news = self._news
        if self._seq <= since:
            try:
                async with asyncio.timeout(wait):
                    await news.wait()
            except TimeoutError:
                pass
        events = [event for event in self._events if event.seq > since]
        oldest = self._events[0].seq if self._events else self._seq + 1
        return Events(epoch=self.epoch, events=events, truncated=since + 1 < oldest)
