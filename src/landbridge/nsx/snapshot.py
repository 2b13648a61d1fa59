"""What passes between the Policy API, the fabric and OVN: values only.

The policy side and the fabric make a `Snapshot`; the OVN side answers with `Realized` objects, one or more an intent.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from landbridge.nsx.policy.model.base import Intent

_I = TypeVar("_I", bound=Intent)


@dataclass(frozen=True)
class Vif:
    """A virtual NIC that is on a segment. `id` is its attachment: what the host gives OVN as `iface-id`."""

    id: str
    machine: str  # instance UUID of its VM
    device_key: int
    mac: str
    segment: str  # path of the segment
    addresses: tuple[str, ...] = ()  # as the guest's tools report them
    # Not while its VM is at another site, and on its way here at most: its MAC is then beyond an extension.
    present: bool = True


@dataclass(frozen=True)
class Machine:
    """A VM as groups see it. `tags` are pairs of scope and tag, as NSX keeps them (not vCenter's)."""

    id: str  # instance UUID, NSX's external_id
    name: str
    host: str  # the chassis it is on: the host's full name
    powered_on: bool
    os_name: str = ""
    computer_name: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    vifs: tuple[Vif, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """The whole tree and the fabric at one moment. `sequence` grows with every change of either."""

    sequence: int
    intents: Mapping[str, Intent]  # by path
    machines: Mapping[str, Machine] = field(default_factory=dict)  # by instance UUID
    # VIFs on their way: the chassis that forward for them. Two meanwhile: the one they leave, the one they come to.
    moves: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, kind: type[_I]) -> Iterator[_I]:
        """All intents of a kind."""
        return (intent for intent in self.intents.values() if isinstance(intent, kind))

    def below(self, path: str, kind: type[_I]) -> Iterator[_I]:
        """Intents of a kind whose parent is `path`."""
        return (intent for intent in self.of(kind) if intent.parent_path == path)

    def get(self, path: str, kind: type[_I]) -> _I | None:
        found = self.intents.get(path)
        return found if isinstance(found, kind) else None


class RealizationState(StrEnum):
    """`state` of NSX's realized entities."""

    UNREALIZED = "UNREALIZED"
    REALIZED = "REALIZED"
    ERROR = "ERROR"


@dataclass(frozen=True)
class Realized:
    """What became of an intent. `entity_type` is NSX's: RealizedLogicalSwitch, RealizedLogicalPort, ..."""

    intent_path: str
    entity_type: str
    identifier: str  # the row's UUID in the northbound database; empty if there is none
    state: RealizationState
    error: str = ""
