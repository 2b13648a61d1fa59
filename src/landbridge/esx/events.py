"""What changed on the host, kept for those who follow: a ring of the last events and a long poll on it."""

import asyncio
import time
import uuid
from collections import deque
from typing import Any

from landbridge.esx.model import Event, Events

_KEPT = 4096


class EventLog:
    """Numbered events of one life of the agent. The epoch changes with every start, and the numbers begin anew."""

    def __init__(self) -> None:
        self.epoch = str(uuid.uuid4())
        self._events: deque[Event] = deque(maxlen=_KEPT)
        self._seq = 0
        self._news = asyncio.Event()

    def add(self, kind: Any, vm: str | None = None, message: str = "", *, vmotion: str | None = None) -> None:
        """Note an event of `Event.type` `kind` and wake who waits."""
        self._seq += 1
        self._events.append(Event(seq=self._seq, time=time.time(), type=kind, vm=vm, message=message, vmotion=vmotion))
        self._news.set()
        self._news = asyncio.Event()

    async def since(self, seq: int, wait: float) -> Events:
        """Events after `seq`, as soon as there is one, or none after `wait` seconds."""
        if self._seq <= seq and wait > 0:
            try:
                async with asyncio.timeout(wait):
                    await self._news.wait()
            except TimeoutError:
                pass
        oldest = self._events[0].seq if self._events else self._seq + 1
        lost = seq + 1 < oldest or seq > self._seq
        return Events(epoch=self.epoch, events=[event for event in self._events if event.seq > seq], truncated=lost)
