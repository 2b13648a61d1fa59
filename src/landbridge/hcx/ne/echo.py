"""ICMP echoes to the other appliance: its kernel answers them, whether or not its daemon runs."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address

_HEADERS = 28  # bytes of IP and ICMP
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_IP_MTU_DISCOVER = 10  # Linux; Python 3.11 has no name for it
_IP_PMTUDISC_PROBE = 3  # DF is set, and what the kernel believes of the path is not asked


class Pinger:
    """Echoes from one address to another, all with DF. Close it."""

    def __init__(self, source: IPv4Address, destination: IPv4Address) -> None:
        """OSError if `source` is not an address of this machine."""
        self._identifier = int.from_bytes(os.urandom(2), "big")
        self._sequence = 0
        self._waiting: dict[int, asyncio.Future[float]] = {}
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
            self._socket.bind((str(source), 0))
            self._socket.connect((str(destination), 0))
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        for future in self._waiting.values():
            future.cancel()

    async def echo(self, size: int, timeout: float) -> float | None:
        """Seconds until a packet of `size` bytes (with its IP header) was answered; None: it was not in time."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        sequence = self._sequence
        answer: asyncio.Future[float] = self._loop.create_future()
        self._waiting[sequence] = answer
        begin = self._loop.time()
        try:
            self._socket.send(_request(self._identifier, sequence, size - _HEADERS))
            # An answer that came while the loop was late counts: `timeout` would take it for none.
            await asyncio.wait([answer], timeout=timeout)
            return answer.result() - begin if answer.done() and not answer.cancelled() else None
        except OSError:  # larger than the interface lets out, or no route
            return None
        finally:
            self._waiting.pop(sequence, None)

    async def passing(self, sizes: Iterable[int], timeout: float) -> set[int]:
        """Those packet sizes that were answered; each is tried twice, all at once."""
        tried = list(sizes)
        times = await asyncio.gather(*(self.echo(size, timeout) for size in tried * 2))
        return {size for size, time in zip(tried * 2, times, strict=True) if time is not None}

    def _readable(self) -> None:
        with contextlib.suppress(OSError):  # also what ICMP reports of our own packets
            while True:
                packet = self._socket.recv(65535)
                header = (packet[0] & 0x0F) * 4
                kind, _, _, identifier, sequence = struct.unpack_from("!BBHHH", packet, header)
                answer = self._waiting.get(sequence)
                if kind == _ECHO_REPLY and identifier == self._identifier and answer and not answer.done():
                    answer.set_result(self._loop.time())


def _request(identifier: int, sequence: int, payload: int) -> bytes:
    body = bytes(max(payload, 0))
    # Zeros add nothing to the sum: the header's is the packet's.
    total = (_ECHO_REQUEST << 8) + identifier + sequence
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBHHH", _ECHO_REQUEST, 0, ~total & 0xFFFF, identifier, sequence) + body
