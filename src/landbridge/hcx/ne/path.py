"""How large a packet the path between the uplinks carries, found by probes that may not be fragmented.

The ICMP errors of routers on the way are not needed, so a path that swallows large packets in silence is found too.
"""

import fcntl
import socket
import struct

from landbridge.hcx.ne.config import Uplink
from landbridge.hcx.ne.echo import Pinger
from landbridge.hcx.ne.model import Peer

_SIOCGIFMTU = 0x8921
_LEAST = 576  # bytes any IPv4 host takes
_COMMON = (1280, 1350, 1400, 1420, 1450, 1492, 1500, 9000)  # of most paths, so they are found at once
_AT_ONCE = 12
_TIMEOUT = 0.6  # seconds


async def find_path_mtu(uplink: Uplink, peer: Peer, known: int | None) -> int | None:
    """The path MTU towards the peer's uplink in bytes, None if it answers nothing. `known`: the last one found."""
    limit = interface_mtu(uplink.interface)
    try:
        pinger = Pinger(uplink.address, peer.address)
    except OSError:
        return None
    try:
        likely = {*_COMMON, known or _LEAST}
        first = {_LEAST, limit, *(size for each in likely for size in (each, each + 1) if size < limit)}
        answered = await pinger.passing(first, _TIMEOUT)
        if known is not None and known <= limit and max(answered, default=0) < known:
            # The path became smaller, or probes were lost: only what fails again has failed.
            answered |= await pinger.passing({known}, _TIMEOUT)
        if not answered:
            return None
        largest, failed = max(answered), min([*(size for size in first if size > max(answered)), limit + 1])
        while failed - largest > 1:
            step = max((failed - largest) // (_AT_ONCE + 1), 1)
            sizes = range(largest + step, failed, step)
            answered = await pinger.passing(sizes, _TIMEOUT)
            failed = min([*(size for size in sizes if size > max(answered, default=0)), failed])
            largest = max(answered, default=largest)
        return largest
    finally:
        pinger.close()


def interface_mtu(interface: str) -> int:
    """OSError if there is no such interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, _SIOCGIFMTU, struct.pack("16si12x", interface.encode()[:15], 0))
    return int(struct.unpack("16si12x", answer)[1])
