"""HAProxy's admin socket: one connection a command, as HAProxy closes it after each.

Protocol: HAProxy 2.6 management guide, section 9.3 "Unix Socket commands".
"""

import asyncio
from pathlib import Path

_TIMEOUT = 10.0  # seconds


class AdminError(Exception):
    """HAProxy does not answer, or refused a command."""


class Admin:
    """Commands to one HAProxy process."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def ask(self, command: str) -> str:
        """The answer to one command; AdminError when there is no process to answer."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                reader, writer = await asyncio.open_unix_connection(str(self._socket))
                try:
                    writer.write(command.encode() + b"\n")
                    await writer.drain()
                    answer = await reader.read(-1)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            raise AdminError(f"HAProxy at {self._socket}: {error or 'no answer'}") from error
        return answer.decode().strip()

    async def order(self, *commands: str) -> None:
        """Run commands that say nothing when they work; AdminError with what HAProxy said otherwise."""
        answer = await self.ask("; ".join(commands))
        complaints = [line for line in answer.splitlines() if line and not line.startswith("IP changed from")]
        complaints = [line for line in complaints if not _harmless(line)]
        if complaints:
            raise AdminError(f"HAProxy refused {commands!r}: {' '.join(complaints)}")

    async def map(self, file: Path) -> dict[str, str]:
        """The entries of a map."""
        answer = await self.ask(f"show map {file}")
        # <pointer> <key> <value>
        rows = [line.split(" ", 2) for line in answer.splitlines() if line.startswith("0x")]
        return {row[1]: row[2] for row in rows if len(row) == 3}

    async def replace_authorities(self, file: Path, pem: str) -> None:
        """Make `pem` the content of a `ca-file`, for all that use it from their next handshake on."""
        # What follows `<<` ends at an empty line, which PEM as it is written by a library does not have.
        answers = [
            await self.ask(f"set ssl ca-file {file} <<\n{pem.strip()}\n"),
            await self.ask(f"commit ssl ca-file {file}"),
        ]
        if "Success" not in answers[1]:
            raise AdminError(f"HAProxy did not take the authorities of {file}: {' '.join(answers)}")

    async def pid(self) -> int:
        for line in (await self.ask("show info")).splitlines():
            if line.startswith("Pid: "):
                return int(line.removeprefix("Pid: "))
        raise AdminError(f"HAProxy at {self._socket} does not say its process id")


def _harmless(line: str) -> bool:
    # `set server ... addr` tells what it did; that nothing changed is told too.
    return line.startswith(("port changed from", "no need to change")) or "by 'stats socket command'" in line
