"""A client of the guest, on the same layer 2: how long it was silent, and whether its connection lived on.

    python -m landbridge.lab.probe 10.100.0.10

sends a UDP datagram every 5 ms and reads the counter from one TCP connection. It prints `{"ready": true}` when both
answer, goes on until its standard input is closed, and then prints what it saw as one line of JSON (`Observed`).
"""

import asyncio
import json
import struct
import sys
import time
from dataclasses import asdict, dataclass

PROBE_INTERVAL = 0.005  # seconds
_UDP_PORT, _TCP_PORT = 7, 7000
_READY_TIMEOUT = 60.0
_TAIL = 0.5  # seconds for the last answers to arrive


@dataclass
class Observed:
    """What a client saw: milliseconds of the longest silence (between two answers), datagrams, the counter."""

    silence_ms: float = 0.0
    sent: int = 0
    answered: int = 0
    counter_first: int = -1
    counter_last: int = -1
    counter_went_back: bool = False
    tcp_lines: int = 0
    tcp_connected_seconds: float = 0.0
    tcp_same_connection: bool = False


class _Probe(asyncio.DatagramProtocol):
    """Datagrams out, answers in; each answer is the probe's number and the guest's counter."""

    def __init__(self) -> None:
        self.observed = Observed()
        self.first = asyncio.Event()
        self._last_answer: float | None = None
        self._newest = 0

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:  # noqa: ARG002 - asyncio's signature
        if len(data) < 16:
            return
        now = time.perf_counter()
        number, counter = struct.unpack("!QQ", data[:16])
        seen = self.observed
        seen.answered += 1
        if self._last_answer is not None:
            seen.silence_ms = max(seen.silence_ms, (now - self._last_answer) * 1000)
        self._last_answer = now
        if seen.counter_first < 0:
            seen.counter_first = counter
        # Datagrams may overtake each other; only a younger probe with an older counter is the guest going back.
        if number > self._newest:
            self._newest = number
            seen.counter_went_back |= counter < seen.counter_last
            seen.counter_last = max(seen.counter_last, counter)
        self.first.set()

    def error_received(self, exc: Exception) -> None:
        """Nobody listens yet, or the guest is silent: that is what is measured."""


async def _send(transport: asyncio.DatagramTransport, probe: _Probe) -> None:
    due = time.perf_counter()
    while True:
        probe.observed.sent += 1
        transport.sendto(struct.pack("!Q", probe.observed.sent))
        due = max(due + PROBE_INTERVAL, time.perf_counter() - 1)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))


async def _read_counter(reader: asyncio.StreamReader, observed: Observed) -> None:
    began = time.perf_counter()
    newest = -1
    observed.tcp_same_connection = True
    while line := await reader.readline():
        counter = int(line)
        observed.counter_went_back |= counter < newest
        newest = counter
        observed.tcp_lines += 1
        observed.tcp_connected_seconds = time.perf_counter() - began
    observed.tcp_same_connection = False


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while True:
        try:
            return await asyncio.wait_for(asyncio.open_connection(address, _TCP_PORT), 2)
        except (OSError, TimeoutError):
            await asyncio.sleep(0.1)


async def observe(address: str, stop: asyncio.Event, ready: asyncio.Event) -> Observed:
    """Probe the guest at `address` until `stop`. TimeoutError if it does not answer within a minute."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_READY_TIMEOUT):
        reader, writer = await _connect(address)
        transport, probe = await loop.create_datagram_endpoint(_Probe, remote_addr=(address, _UDP_PORT))
        tasks = [asyncio.create_task(_send(transport, probe))]
        await probe.first.wait()
    tasks.append(asyncio.create_task(_read_counter(reader, probe.observed)))
    ready.set()
    try:
        await stop.wait()
        tasks[0].cancel()
        await asyncio.sleep(_TAIL)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        transport.close()
        writer.close()
    if any(isinstance(result, ConnectionError) for result in results):
        probe.observed.tcp_same_connection = False
    return probe.observed


async def _main(address: str) -> None:
    stop, ready = asyncio.Event(), asyncio.Event()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def until_closed() -> None:
        await reader.read()
        stop.set()

    async def announce() -> None:
        await ready.wait()
        print(json.dumps({"ready": True}), flush=True)

    async with asyncio.TaskGroup() as group:
        group.create_task(until_closed())
        group.create_task(announce())
        observing = group.create_task(observe(address, stop, ready))
    print(json.dumps(asdict(observing.result())), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
