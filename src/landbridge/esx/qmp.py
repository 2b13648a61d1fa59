"""One QMP connection to a running QEMU: commands with a timeout, errors with the command's name, events.

A QEMU's monitor socket serves one client at a time, so everybody who talks to a VM shares its `Qmp`.
"""

import asyncio
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from qemu.qmp import EventListener, ExecInterruptedError, QMPClient, QMPError, Runstate
from qemu.qmp.qmp_client import ExecuteError

from landbridge.esx.faults import Fault

_COMMAND_TIMEOUT = 60.0  # seconds; QMP answers in milliseconds, but a machine under load may swap or starve


class QmpError(Fault):
    """QEMU refused a command. `kind` is QMP's error class, `description` QEMU's text."""

    def __init__(self, command: str, kind: str, description: str) -> None:
        super().__init__("GenericVmConfigFault", f"QEMU refused {command}: {description}")
        self.command = command
        self.kind = kind
        self.description = description


class QmpGone(Fault):
    """The connection ended before the command was answered: QEMU ended, or was killed."""

    def __init__(self, command: str) -> None:
        super().__init__("InvalidState", f"QEMU ended before it answered {command}")


class Qmp:
    """A connected monitor. Events are had from `listener`, before the command that causes them is sent."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client

    @classmethod
    async def connect(cls, path: Path, name: str, timeout: float = 60.0) -> "Qmp":
        """Connect to the socket as soon as it is there. TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            while True:
                client = QMPClient(name)
                try:
                    await client.connect(str(path))
                    return cls(client)
                except QMPError:
                    await asyncio.sleep(0.01)

    @property
    def connected(self) -> bool:
        return self._client.runstate == Runstate.RUNNING

    async def execute(self, command: str, /, **arguments: Any) -> Any:
        """Run a command; keys with hyphens go in as `**{"node-name": ...}`. QmpError, QmpGone or TimeoutError."""
        return await self.execute_within(_COMMAND_TIMEOUT, command, **arguments)

    async def execute_within(self, timeout: float, command: str, /, **arguments: Any) -> Any:
        """`execute` with a timeout of its own, in seconds."""
        if not self.connected:
            raise QmpGone(command)
        try:
            async with asyncio.timeout(timeout):
                return await self._client.execute(command, arguments or None)
        except ExecuteError as error:
            raise QmpError(command, error.error_class, str(error)) from error
        except (ExecInterruptedError, QMPError, OSError) as error:
            raise QmpGone(command) from error
        except TimeoutError:
            raise TimeoutError(f"QEMU did not answer {command} within {timeout:g} s") from None

    def listener(self, *names: str) -> AbstractContextManager[EventListener]:
        """Events of these names (all, if none is given) that arrive inside the `with`: iterate, or `get`."""
        return self._client.listener(names or None)

    def follow(self) -> EventListener:
        """All events from now on, until the connection ends."""
        listener = EventListener()
        self._client.register_listener(listener)
        return listener

    async def send_fd(self, descriptor: int, name: str) -> None:
        """Give QEMU an open file, which it knows as `fd:<name>` from then on."""
        self._client.send_fd_scm(descriptor)
        await self.execute("getfd", fdname=name)

    async def closed(self) -> None:
        """Wait until the connection ended, whoever ended it."""
        while self._client.runstate == Runstate.RUNNING:
            await self._client.runstate_changed()

    async def close(self) -> None:
        """End the connection; QEMU goes on."""
        try:
            async with asyncio.timeout(5):
                await self._client.disconnect()
        except (QMPError, OSError, EOFError, TimeoutError):
            return  # how it ended does not matter: it has
