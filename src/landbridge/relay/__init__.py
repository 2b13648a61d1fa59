"""Streams between hosts and sites, carried by HAProxy in mutual TLS: opened, routed and closed by name.

`Relay` owns one HAProxy process. Each of its sides listens on one TCP port; a stream's name is the SNI it is asked
for by, the name its server's certificate must carry, and the key of the map entry that says where it goes.
"""

from landbridge.relay.config import Side
from landbridge.relay.endpoint import Endpoint
from landbridge.relay.relay import Counters, Relay, RelayError, stream_name

__all__ = ["Counters", "Endpoint", "Relay", "RelayError", "Side", "stream_name"]
