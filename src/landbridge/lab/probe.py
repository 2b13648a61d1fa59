"""A client of the guest's workload, on the same layer 2: what a move looks like from outside.

    python -m landbridge.lab.probe watch ADDRESS        probes until standard input closes, then prints JSON
    python -m landbridge.lab.probe ask ADDRESS COMMAND  one command (status, checksum, verify), the guest's JSON

`watch` sends a UDP probe every 5 ms and holds one TCP connection that streams the guest's counter. The silence is the
longest time between two answers (or between the start or the end and the answer next to it).
"""

import argparse
import asyncio
import contextlib
import json
import os
import struct
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any, cast

PROBE_PERIOD = 0.005  # seconds
_PROBE_PORT, _STREAM_PORT, _COMMAND_PORT = 7, 7000, 7001
_CONNECT_TIMEOUT = 30.0
_ASK_TIMEOUT = 180.0
_PROBE = struct.Struct("!Q")
_ANSWER = struct.Struct("!QQ")


@dataclass
class Counter:
    """The counter as one channel saw it: it must never step back."""

    first: int | None = None
    last: int | None = None
    backwards: int = 0
    largest_step: int = 0

    def saw(self, value: int) -> None:
        if self.first is None or self.last is None:
            self.first = self.last = value
            return
        if value < self.last:
            self.backwards += 1
        self.largest_step = max(self.largest_step, value - self.last)
        self.last = value


@dataclass
class Findings:
    """What `watch` prints. Times in ms, but `seconds`, and `silence_at`, seconds since the epoch."""

    sent: int = 0
    answered: int = 0
    silence_ms: float = 0.0
    silence_at: float = 0.0
    seconds: float = 0.0
    udp: Counter = field(default_factory=Counter)
    tcp: Counter = field(default_factory=Counter)
    tcp_lines: int = 0
    # The connection that was opened at the start is still open, and still tells the counter.
    tcp_same_connection: bool = False
    tcp_error: str = ""


def findings_from(values: dict[str, Any]) -> Findings:
    """`watch`'s JSON, read."""
    return Findings(**{**values, "udp": Counter(**values["udp"]), "tcp": Counter(**values["tcp"])})


class Probe(asyncio.DatagramProtocol):
    """Sends probes and keeps the times of their answers."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._last = time.monotonic()
        self._highest = 0
        self._transport: asyncio.DatagramTransport | None = None
        self.answered = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Python 3.11's own datagram transport is no subclass of asyncio.DatagramTransport.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def error_received(self, exc: Exception) -> None:
        """Unreachable for a moment is silence, which is measured anyway."""

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002
        if len(data) != _ANSWER.size:
            return
        number, counter = _ANSWER.unpack(data)
        self.mark()
        self._findings.answered += 1
        self.answered.set()
        # Answers may overtake each other on the way; only a later probe with an earlier counter is a step back.
        if number > self._highest:
            self._highest = number
            self._findings.udp.saw(counter)

    def mark(self) -> None:
        """The silence until now is over."""
        now = time.monotonic()
        silence = (now - self._last) * 1000
        if silence > self._findings.silence_ms:
            self._findings.silence_ms = silence
            self._findings.silence_at = time.time() - (now - self._last)
        self._last = now

    def begin(self) -> None:
        """Measure from now on."""
        self._last = time.monotonic()
        self._findings.silence_ms = 0.0

    async def send(self) -> None:
        """Send a probe every 5 ms, for ever. Those that could not be sent in time are left out."""
        assert self._transport is not None
        due = time.monotonic()
        while True:
            self._findings.sent += 1
            self._transport.sendto(_PROBE.pack(self._findings.sent))
            due = max(due + PROBE_PERIOD, time.monotonic())
            await asyncio.sleep(due - time.monotonic())


async def _follow_stream(reader: asyncio.StreamReader, findings: Findings) -> None:
    try:
        while line := await reader.readline():
            findings.tcp_lines += 1
            findings.tcp.saw(int(line))
        findings.tcp_error = "the guest closed the connection"
    except (OSError, ValueError) as error:
        findings.tcp_error = str(error) or type(error).__name__


async def watch(address: str, stop: asyncio.Event, ready: asyncio.Event) -> Findings:
    """Watch the guest at `address` until `stop` is set; `ready` is set when it answered on both ways."""
    findings = Findings()
    loop = asyncio.get_running_loop()
    transport, probe = await loop.create_datagram_endpoint(lambda: Probe(findings), remote_addr=(address, _PROBE_PORT))
    sending = asyncio.create_task(probe.send())
    following: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            await probe.answered.wait()
            reader, writer = await asyncio.open_connection(address, _STREAM_PORT)
        following = asyncio.create_task(_follow_stream(reader, findings))
        probe.begin()
        began = time.monotonic()
        ready.set()
        await stop.wait()
        probe.mark()
        lines = findings.tcp_lines
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while findings.tcp_lines == lines and not following.done():  # noqa: ASYNC110
                    await asyncio.sleep(PROBE_PERIOD)
        findings.tcp_same_connection = findings.tcp_lines > lines and not following.done()
        findings.seconds = time.monotonic() - began
        writer.close()
        return findings
    finally:
        for task in (sending, following):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        transport.close()


async def ask(address: str, command: str) -> str:
    """The guest's answer to a command, a line of JSON."""
    async with asyncio.timeout(_ASK_TIMEOUT):
        reader, writer = await asyncio.open_connection(address, _COMMAND_PORT)
        writer.write(f"{command}\n".encode())
        answer = await reader.readline()
        writer.close()
    return answer.decode()


async def _watch_until_input_closes(address: str) -> None:
    stop, ready = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def closed() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            stop.set()

    loop.add_reader(0, closed)
    watching = asyncio.create_task(watch(address, stop, ready))
    telling = asyncio.create_task(ready.wait())
    await asyncio.wait((watching, telling), return_when=asyncio.FIRST_COMPLETED)
    if ready.is_set():
        print("ready", flush=True)
    telling.cancel()
    print(json.dumps(asdict(await watching)), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m landbridge.lab.probe", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("watch").add_argument("address")
    asking = verbs.add_parser("ask")
    asking.add_argument("address")
    asking.add_argument("command", choices=["status", "checksum", "verify"])
    arguments = parser.parse_args()
    try:
        if arguments.verb == "watch":
            asyncio.run(_watch_until_input_closes(arguments.address))
        else:
            print(asyncio.run(ask(arguments.address, arguments.command)), end="")
    except (OSError, TimeoutError) as error:
        print(f"the guest at {arguments.address} does not answer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
