"""Beacons against loops: a frame sent into the local side only, so it may never be heard on a local side.

If it is, the network has another way: a cable between the two sites, a second extension of the same network, a loop in
the site's own switch. Beacons are sent beside the bridge and heard before it, so also while the network is blocked.
"""

import asyncio
import contextlib
import ctypes
import hashlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from landbridge.hcx.ne.rules import BEACON_ETHERTYPE

_DESTINATION = bytes.fromhex("036c6e650001")  # a multicast address of our own making: switches flood it
_MAGIC = b"LBNE1"
_BODY = struct.Struct("!5sI8s")
_LEAST = 60  # bytes an Ethernet frame has
_NAME = 32
_ETH_P_ALL = 3  # a socket for one protocol would be asked after the bridge, which keeps its ports' frames
_SO_ATTACH_FILTER = 26
_PACKET_OUTGOING = 4


@dataclass(frozen=True, order=True)
class Sender:
    """Who sent a beacon for which network. Of two that hear each other, the higher one gives way."""

    vni: int
    appliance: bytes  # eight bytes
    name: str


def sender(vni: int, public_key: str, name: str) -> Sender:
    """The sender that an appliance with this key is."""
    return Sender(vni, hashlib.sha256(public_key.encode()).digest()[:8], name[:_NAME])


class Beacon:
    """Sends and hears on one leg. Close it."""

    def __init__(self, leg: str, own: Sender, heard: Callable[[Sender], None]) -> None:
        """OSError if there is no such interface."""
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        source = b"\x02" + hashlib.sha256(own.appliance + own.vni.to_bytes(4, "big")).digest()[:5]
        body = _BODY.pack(_MAGIC, own.vni, own.appliance) + own.name.encode()[:_NAME]
        self._frame = (_DESTINATION + source + struct.pack("!H", BEACON_ETHERTYPE) + body).ljust(_LEAST, b"\0")
        # Protocol 0: nothing arrives before the filter is in place.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._socket.setblocking(False)
            _only(self._socket, BEACON_ETHERTYPE)
            self._socket.bind((leg, _ETH_P_ALL))
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def send(self) -> None:
        """A leg that is down or gone sends nothing; who watches the leg notices."""
        with contextlib.suppress(OSError):
            self._socket.send(self._frame)

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _readable(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                frame, where = self._socket.recvfrom(2048)
                if where[2] != _PACKET_OUTGOING and (who := _parse(frame)) is not None:
                    self._heard(who)


def _parse(frame: bytes) -> Sender | None:
    body = frame[14:]
    if len(body) < _BODY.size or not body.startswith(_MAGIC):
        return None
    _, vni, appliance = _BODY.unpack_from(body)
    name = body[_BODY.size : _BODY.size + _NAME].rstrip(b"\0").decode(errors="replace")
    return Sender(vni, appliance, name)


def _only(packets: socket.socket, ethertype: int) -> None:
    """A classic BPF program: load the type, take the frame if it is ours, else drop it."""
    lines = ((0x28, 0, 0, 12), (0x15, 0, 1, ethertype), (0x06, 0, 0, 2048), (0x06, 0, 0, 0))
    program = b"".join(struct.pack("HBBI", *line) for line in lines)
    memory = ctypes.create_string_buffer(program, len(program))
    packets.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 4, ctypes.addressof(memory)))
