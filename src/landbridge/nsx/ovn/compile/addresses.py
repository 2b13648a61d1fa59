"""Addresses as NSX writes them (one, a prefix, a range) into what OVN takes: single addresses and prefixes."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network, summarize_address_range

Network = IPv4Network | IPv6Network


# Parsed once: the same texts come again with each snapshot.
interface_of = lru_cache(maxsize=65536)(ip_interface)


@lru_cache(maxsize=65536)
def networks(text: str) -> tuple[Network, ...]:
    """The prefixes that `10.0.0.1`, `10.0.0.0/24` or `10.0.0.5-10.0.0.9` consists of."""
    first, dash, last = text.partition("-")
    if not dash:
        return (ip_network(text, strict=False),)
    low, high = ip_address(first.strip()), ip_address(last.strip())
    return tuple(summarize_address_range(low, high))


@lru_cache(maxsize=65536)
def text_of(network: Network) -> str:
    """A prefix as OVN writes it: a single address without its length."""
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def plain(texts: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
    """The IPv4 and the IPv6 prefixes of NSX's texts."""
    four: set[str] = set()
    six: set[str] = set()
    for text in texts:
        for network in networks(text):
            (four if network.version == 4 else six).add(text_of(network))
    return frozenset(four), frozenset(six)
