"""The control channel of a move: JSON lines over a stream of its own, the source asks and the target answers.

    {"id": 1, "do": "hello", "version": 1, "vm": "..."}
    {"id": 1, "ok": {"version": 1, "qemu": "7.2.22"}}         or   {"id": 1, "error": {"type": ..., "message": ...}}

Questions may overlap: `outcome` is answered only when the outcome is known. Every question can be asked again, on
the same connection or a new one, and has the same effect once.
"""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from landbridge.esx.faults import Fault, as_fault
from landbridge.esx.model import ApiError

VERSION = 1
_LONGEST_LINE = 4 << 20  # bytes; a firmware's NVRAM in base64 is 0.7 MiB

Message = dict[str, Any]
Handler = Callable[[str, Message], Awaitable[Message]]


class ControlLost(Exception):  # noqa: N818 - a state of the world more than an error of a call
    """The channel to the target is cut; a new one may be dialled."""


class ControlClient:
    """The source's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._numbers = itertools.count(1)
        self._pump = asyncio.create_task(self._receive(), name="vmotion control")

    @classmethod
    async def connect(cls, path: Path) -> "ControlClient":
        """Connect through the relay. That a target is there shows only in the first answer."""
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_unix_connection(path, limit=_LONGEST_LINE)
        except (OSError, TimeoutError) as error:
            raise ControlLost(f"the relay does not answer: {error}") from error
        return cls(reader, writer)

    async def call(self, do: str, timeout: float | None = 30.0, **arguments: Any) -> Message:
        """Ask and wait for the answer. ControlLost if the channel is cut or silent; Fault as the target answers."""
        if self._pump.done():
            raise ControlLost("the channel to the target is cut")
        number = next(self._numbers)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(json.dumps({"id": number, "do": do, **arguments}).encode() + b"\n")
                await self._writer.drain()
                return await answer
        except TimeoutError as error:
            raise ControlLost(f"the target did not answer {do!r} within {timeout} s") from error
        except OSError as error:
            raise ControlLost(f"the channel to the target is cut: {error}") from error
        finally:
            self._waiting.pop(number, None)

    async def closed(self) -> None:
        """Wait until the channel is cut."""
        await asyncio.wait([self._pump])

    async def close(self) -> None:
        self._pump.cancel()
        await asyncio.wait([self._pump])
        self._writer.close()

    async def _receive(self) -> None:
        try:
            while line := await self._reader.readline():
                message = json.loads(line)
                waiting = self._waiting.get(message["id"])
                if waiting is None or waiting.done():
                    continue
                if "error" in message:
                    error = ApiError.model_validate(message["error"])
                    waiting.set_exception(Fault(error.type, error.message, **error.details))
                else:
                    waiting.set_result(message["ok"])
        except (OSError, ValueError, KeyError):
            pass  # a peer that talks nonsense is as good as none
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ControlLost("the channel to the target is cut"))


class ControlServer:
    """The target's end: serves whoever the relay lets through, and knows for how long nobody has been there."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._since = asyncio.get_running_loop().time()
        self._empty = asyncio.Event()
        self._empty.set()

    async def listen(self, path: Path) -> None:
        """Listen on a UNIX socket, and no longer where it did before."""
        if self._server is not None:
            self._server.close()
        self._server = await asyncio.start_unix_server(self._serve, path, limit=_LONGEST_LINE)

    def away(self) -> float:
        """For how many seconds no source has been connected; 0 if one is."""
        return 0.0 if self._connections else asyncio.get_running_loop().time() - self._since

    async def empty(self, timeout: float) -> None:
        """Wait until nobody is connected, for `timeout` seconds at most."""
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            pass

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._connections:
            writer.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        self._empty.clear()
        questions: set[asyncio.Task[None]] = set()
        try:
            while line := await reader.readline():
                task = asyncio.create_task(self._answer(line, writer), name="vmotion control answer")
                for tasks in (questions, self._tasks):
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
        except (OSError, ValueError):
            pass
        finally:
            # Nobody waits any more for what takes its time; what has an effect is quick or shielded by its handler.
            for task in questions:
                task.cancel()
            self._connections.discard(writer)
            self._since = asyncio.get_running_loop().time()
            if not self._connections:
                self._empty.set()
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            message = json.loads(line)
            number, do = message.pop("id"), message.pop("do")
        except (ValueError, KeyError, AttributeError):
            writer.close()
            return
        try:
            answer: Message = {"id": number, "ok": await self._handler(do, message)}
        except Exception as error:
            answer = {"id": number, "error": as_fault(error).error.model_dump()}
        try:
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except OSError:
            return  # it asks again
