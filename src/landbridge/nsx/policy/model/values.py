"""Values that fields share: addresses, prefixes, port lists, as NSX writes them."""

import re
from ipaddress import ip_address, ip_interface, ip_network
from typing import Annotated

from pydantic import AfterValidator

HIGHEST_NUMBER = 2147483647  # of a sequence number

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_RANGE = re.compile(r"\s*(\S+?)\s*-\s*(\S+)\s*")


def _cidr(text: str) -> str:
    return str(ip_network(text, strict=False))


def _interface(text: str) -> str:
    if "/" not in text:
        raise ValueError(f"{text!r} has no prefix length: write 10.0.0.1/24")
    return str(ip_interface(text))


def address_or_range(text: str) -> str:
    """The value in its normal form; ValueError if it is neither address, prefix nor range."""
    found = _RANGE.fullmatch(text)
    if found is None:
        return _address_or_cidr(text)
    first, last = (ip_address(word) for word in found.groups())
    if first.version != last.version or int(first) > int(last):
        raise ValueError(f"{text!r} is no range from a lower to a higher address")
    return f"{first}-{last}"


def _address_or_cidr(text: str) -> str:
    return str(ip_network(text, strict=False)) if "/" in text else str(ip_address(text))


def _mac(text: str) -> str:
    if not _MAC.fullmatch(text.lower()):
        raise ValueError(f"{text!r} is no MAC address")
    return text.lower()


def _port(text: str) -> str:
    first, _, last = text.partition("-")
    bounds = [int(word) for word in (first, last or first)]
    if not 0 <= bounds[0] <= bounds[1] <= 65535:
        raise ValueError(f"{text!r} is no port or range of ports")
    return text


Cidr = Annotated[str, AfterValidator(_cidr)]  # 10.1.0.0/16
InterfaceCidr = Annotated[str, AfterValidator(_interface)]  # 10.1.0.1/16: an address and its prefix
AddressOrRange = Annotated[str, AfterValidator(address_or_range)]  # 10.1.0.1, 10.1.0.0/24, 10.1.0.5-10.1.0.9
AddressOrCidr = Annotated[str, AfterValidator(_address_or_cidr)]
Mac = Annotated[str, AfterValidator(_mac)]
PortElement = Annotated[str, AfterValidator(_port)]  # 80, 8000-8010
