"""What the server adds to what people say: defaults that depend on other objects, and objects that come with others."""

from collections.abc import Iterator
from ipaddress import ip_interface
from typing import TypeVar

from landbridge.nsx.policy.defaults import OVERLAY_ZONE
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.model.gateways import Tier0, Tier1
from landbridge.nsx.policy.model.nat import PolicyNat
from landbridge.nsx.policy.model.segments import Segment

_I = TypeVar("_I", bound=Intent)


def derive(intent: _I, path: str, parent: str) -> _I:
    """A copy of the intent with its derived fields."""
    if isinstance(intent, Segment):
        return intent.model_copy(update=_of_segment(intent, path, parent))
    return intent


def companions(intent: Intent) -> Iterator[Intent]:
    """What comes into being with a new object."""
    if isinstance(intent, Tier0 | Tier1):
        for sort in ("USER", "DEFAULT", "INTERNAL"):
            yield PolicyNat.model_validate({"nat_type": sort, "path": f"{intent.path}/nat/{sort}"})


def _of_segment(segment: Segment, path: str, parent: str) -> dict[str, object]:
    # A segment below a tier-1 is connected to that one.
    connectivity = segment.connectivity_path or (parent if path.startswith("/infra/tier-1s/") else "")
    zone = segment.transport_zone_path or OVERLAY_ZONE
    subnets = [
        subnet.model_copy(
            update={"network": str(ip_interface(subnet.gateway_address).network) if subnet.gateway_address else None}
        )
        for subnet in segment.subnets
    ]
    return {
        "connectivity_path": connectivity,
        "transport_zone_path": zone,
        "subnets": subnets,
        "type": "ROUTED" if connectivity else "DISCONNECTED",
    }
