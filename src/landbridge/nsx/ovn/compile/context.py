"""What the compiler's parts share: the snapshot with indexes, and what earlier parts made for later ones."""

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import TypeVar

from landbridge.nsx.ovn.rows import Present, Ref, Wanted
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.snapshot import Machine, Snapshot

_I = TypeVar("_I", bound=Intent)
_NAMESPACE = uuid.UUID("5f0c3d0e-6a63-5d5e-9f8f-0d0b6c1f8a11")

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class Port:
    """A logical switch port that a VIF has or may have."""

    ref: Ref
    segment: str
    path: str = ""  # of its segment port, if somebody made one
    machine: Machine | None = None
    # Addresses that OVN does not know of its own, as the tools report them.
    addresses: tuple[str, ...] = ()


@dataclass
class Leg:
    """A router's port."""

    ref: Ref
    name: str
    networks: list[Interface]
    central: bool = False  # has gateway chassis
    external: bool = False  # and is where NAT is done
    interfaces: tuple[str, ...] = ()  # paths of the interfaces that it is


@dataclass
class Gateway:
    """A tier-0 or tier-1 that has a router."""

    path: str
    ref: Ref
    tier: int
    edges: list[str] = field(default_factory=list)  # chassis, the preferred one first
    legs: list[Leg] = field(default_factory=list)
    parent: str = ""  # a tier-1's tier-0
    above: Address | None = None  # the tier-0's address on the transit switch
    below: Address | None = None  # the tier-1's

    def external(self) -> list[Leg]:
        return [leg for leg in self.legs if leg.external]


class Context:
    """`wanted` is what is made. `switches`, `ports` and `gateways` are filled on the way, in this order."""

    def __init__(self, snapshot: Snapshot, present: Present) -> None:
        self.snapshot = snapshot
        self.present = present
        self.wanted = Wanted()
        self.switches: dict[str, Ref] = {}  # by path of the segment
        self.vlan_switches: set[str] = set()
        self.ports: list[Port] = []
        self.gateways: dict[str, Gateway] = {}
        self._by_kind: dict[type[Intent], list[Intent]] = {}
        self._below: dict[tuple[str, type[Intent]], list[Intent]] = {}
        for path in sorted(snapshot.intents):
            intent = snapshot.intents[path]
            if intent.marked_for_delete:
                continue
            parent = intent.parent_path or path.rsplit("/", 2)[0]
            for kind in _kinds(type(intent)):
                self._by_kind.setdefault(kind, []).append(intent)
                self._below.setdefault((parent, kind), []).append(intent)

    def of(self, kind: type[_I]) -> Iterator[_I]:
        """All intents of a kind, by path."""
        return iter(self._by_kind.get(kind, ()))  # type: ignore[arg-type]

    def below(self, path: str, kind: type[_I]) -> Iterator[_I]:
        return iter(self._below.get((path, kind), ()))  # type: ignore[arg-type]

    def get(self, path: str, kind: type[_I]) -> _I | None:
        found = self.snapshot.intents.get(path)
        # isinstance() of pydantic's classes costs as much as all else here.
        return found if type(found) is kind else None


@cache
def _kinds(kind: type[Intent]) -> tuple[type[Intent], ...]:
    """What an intent is asked for as: a port's binding of profiles is one of a segment's too."""
    return tuple(one for one in kind.__mro__ if issubclass(one, Intent) and one is not Intent)


def mac_of(key: str) -> str:
    """A MAC address of a router's port: locally administered, the same each time."""
    digest = hashlib.blake2b(key.encode(), digest_size=5).digest()
    return ":".join(f"{byte:02x}" for byte in b"\x02" + digest)


def name_of(key: str) -> str:
    """A name as OVN wants it in matches: letters and digits."""
    return f"lb_{uuid.uuid5(_NAMESPACE, key).hex}"
