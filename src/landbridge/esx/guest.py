"""The QEMU guest agent, in the place of VMware Tools: what it reports, and what it is asked to do.

A guest agent may be missing, slow, or lie: every call has a short timeout, answers are checked, and nothing but the
call waits for it.
"""

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any

from landbridge.esx.faults import Fault
from landbridge.esx.model import GuestState

_TIMEOUT = 5.0  # seconds
_ANSWER_LIMIT = 1 << 20


class GuestAgent:
    """The agent behind one VM's Tools channel. The channel serves one client, so calls wait for each other."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._lock = asyncio.Lock()

    async def call(self, command: str, timeout: float = _TIMEOUT, **arguments: Any) -> Any:
        """Run a command of the agent (qemu-ga(8)). Fault `ToolsUnavailable` if it does not answer or refuses."""
        answers = await self.calls([(command, arguments)], timeout)
        answer = answers[0]
        if isinstance(answer, Fault):
            raise answer
        return answer

    async def calls(self, commands: list[tuple[str, dict[str, Any]]], timeout: float = _TIMEOUT) -> list[Any]:
        """Run commands over one connection; a refused one has its Fault in the place of the answer."""
        try:
            async with asyncio.timeout(timeout), self._lock:
                return await self._session(commands)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            reason = str(error) or "it did not answer in time"
            raise Fault("ToolsUnavailable", f"the guest agent can not be asked: {reason}") from error

    async def _session(self, commands: list[tuple[str, dict[str, Any]]]) -> list[Any]:
        reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=_ANSWER_LIMIT)
        try:
            await _synchronise(reader, writer)
            answers: list[Any] = []
            for command, arguments in commands:
                _send(writer, command, arguments)
                answer = json.loads(await reader.readuntil(b"\n"))
                if "error" in answer:
                    text = f"{command}: {answer['error'].get('desc', 'refused')}"
                    answers.append(Fault("ToolsUnavailable", text))
                else:
                    answers.append(answer.get("return"))
            return answers
        finally:
            writer.close()

    async def shut_down(self, mode: str) -> None:
        """Ask the guest to end (`powerdown`) or start again (`reboot`); returns when the agent took the request."""
        async with asyncio.timeout(_TIMEOUT * 2), self._lock:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=_ANSWER_LIMIT)
                try:
                    async with asyncio.timeout(_TIMEOUT):
                        await _synchronise(reader, writer)
                    # A successful guest-shutdown has no answer; a refusal comes at once.
                    _send(writer, "guest-shutdown", {"mode": mode})
                    await writer.drain()
                    await _refusal(reader)
                finally:
                    writer.close()
            except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
                raise Fault("ToolsUnavailable", "no guest agent answers in the guest: is it installed?") from error


async def _refusal(reader: asyncio.StreamReader) -> None:
    try:
        async with asyncio.timeout(1.0):
            answer = json.loads(await reader.readuntil(b"\n"))
    except (TimeoutError, asyncio.IncompleteReadError):
        return
    if "error" in answer:
        raise Fault("ToolsUnavailable", f"the guest refused: {answer['error'].get('desc')}")


async def _synchronise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Skip what an earlier client left unread: answers begin after the one that has our number."""
    number = secrets.randbits(48)
    writer.write(b"\xff")  # makes the agent drop half a command
    _send(writer, "guest-sync-delimited", {"id": number})
    while True:
        await reader.readuntil(b"\xff")
        if json.loads(await reader.readuntil(b"\n")).get("return") == number:
            return


def _send(writer: asyncio.StreamWriter, command: str, arguments: dict[str, Any]) -> None:
    request: dict[str, Any] = {"execute": command}
    if arguments:
        request["arguments"] = arguments
    writer.write(json.dumps(request).encode() + b"\n")


async def report(agent: GuestAgent) -> GuestState:
    """What the guest says about itself; empty if it says nothing in time."""
    questions = ("guest-info", "guest-get-host-name", "guest-get-osinfo", "guest-network-get-interfaces")
    try:
        info, host, system, interfaces = await agent.calls([(question, {}) for question in questions])
    except Fault:
        return GuestState()
    return GuestState(
        tools_running=True,
        tools_version=_text(info, "version"),
        hostname=_text(host, "host-name"),
        os_full_name=_text(system, "pretty-name"),
        ip_addresses=_addresses(interfaces),
    )


def _text(answer: Any, key: str) -> str:
    value = answer.get(key) if isinstance(answer, dict) else None
    return value[:256] if isinstance(value, str) else ""


def _addresses(answer: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for interface in answer if isinstance(answer, list) else []:
        mac = _text(interface, "hardware-address").lower()
        if len(mac) != 17 or mac == "00:00:00:00:00:00":
            continue
        addresses = interface.get("ip-addresses") or []
        found[mac] = [text for address in addresses if (text := _text(address, "ip-address"))]
    return found
