"""What the administrator of the fabric made, as the tree shows it: read-only here."""

from typing import ClassVar, Literal

from landbridge.nsx.policy.model.base import Intent


class Domain(Intent):
    kind: ClassVar[str] = "Domain"


class Site(Intent):
    kind: ClassVar[str] = "Site"


class EnforcementPoint(Intent):
    kind: ClassVar[str] = "EnforcementPoint"


class PolicyTransportZone(Intent):
    """OVERLAY: Geneve between the hosts. VLAN: a physical network that hosts or edges are wired to."""

    kind: ClassVar[str] = "PolicyTransportZone"
    tz_type: Literal["OVERLAY_STANDARD", "VLAN_BACKED"] = "OVERLAY_STANDARD"
    is_default: bool = False
    nsx_id: str = ""


class PolicyEdgeCluster(Intent):
    kind: ClassVar[str] = "PolicyEdgeCluster"
    nsx_id: str = ""


class PolicyEdgeNode(Intent):
    kind: ClassVar[str] = "PolicyEdgeNode"
    nsx_id: str = ""
    member_index: int = 0
