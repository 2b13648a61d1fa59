"""The source's way to the target's agent: dialled, and dialled again when it is cut or the target's agent restarts."""

import asyncio
import contextlib
from typing import Any

from landbridge.esx.faults import Fault
from landbridge.esx.vmotion_control import VERSION, ControlClient, ControlLost, Message
from landbridge.esx.vmotion_sides import side_of
from landbridge.relay import Endpoint, Relay, RelayError

_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # seconds between attempts; the last one repeats


class ControlLink:
    """Keeps a connection to the target for as long as the move lasts: one that sees nobody for long gives up."""

    def __init__(self, relay: Relay, endpoint: Endpoint, vm: str) -> None:
        self._relay, self._endpoint, self._vm = relay, endpoint, vm
        self._client: ControlClient | None = None
        self._connected = asyncio.Event()
        self._refusal: Fault | None = None
        self._keeper = asyncio.create_task(self._keep(), name=f"vmotion link {vm}")

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    async def call(self, do: str, *, patience: float | None, timeout: float | None = 30.0, **arguments: Any) -> Message:
        """Ask, on as many connections as it takes within `patience` seconds (None: for ever).

        ControlLost when patience ends; Fault if the target refuses. What is asked has to be safe to ask twice.
        """
        deadline = None if patience is None else asyncio.get_running_loop().time() + patience
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    await self._connected.wait()
                    if self._refusal is not None:
                        raise self._refusal
                    assert self._client is not None
                    with contextlib.suppress(ControlLost):
                        return await self._client.call(do, timeout, **arguments)
                    await asyncio.sleep(0.02)  # for the keeper to notice
        except TimeoutError as error:
            raise ControlLost(f"the target was not reached within {patience} s to ask {do!r}") from error

    async def close(self) -> None:
        self._keeper.cancel()
        await asyncio.wait([self._keeper])

    async def _keep(self) -> None:
        attempt = 0
        while True:
            try:
                path = await self._relay.dial(side_of(self._endpoint), self._endpoint)
                self._client = await ControlClient.connect(path)
                try:
                    await self._client.call("hello", 15, version=VERSION, vm=self._vm)
                    attempt = 0
                    self._connected.set()
                    await self._client.closed()
                finally:
                    if self._refusal is None:
                        self._connected.clear()
                    await self._client.close()
            except Fault as refusal:
                # Another version or another VM: asking again does not change it.
                self._refusal = refusal
                self._connected.set()
                return
            except (ControlLost, RelayError):
                pass
            await asyncio.sleep(_PAUSES[min(attempt, len(_PAUSES) - 1)])
            attempt += 1
