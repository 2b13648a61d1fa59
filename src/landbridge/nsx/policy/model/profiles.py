"""Segment profiles: spoof guard, MAC discovery, segment security."""

from typing import ClassVar, Literal

from pydantic import Field

from landbridge.nsx.policy.model.base import Intent


class SpoofGuardProfile(Intent):
    """With `address_binding_allowlist` a port may send only from its bound addresses."""

    kind: ClassVar[str] = "SpoofGuardProfile"
    address_binding_allowlist: bool = False
    # NSX's older name of the same switch.
    address_binding_whitelist: bool = False


class MacDiscoveryProfile(Intent):
    """`mac_learning_enabled`: a port may have MACs other than its own behind it, as an appliance has."""

    kind: ClassVar[str] = "MacDiscoveryProfile"
    mac_change_enabled: bool = False
    mac_learning_enabled: bool = False
    mac_learning_aging_time: Literal[600] = 600
    unknown_unicast_flooding_enabled: bool = True
    mac_limit: int = Field(default=4096, ge=0, le=4096)
    mac_limit_policy: Literal["ALLOW", "DROP"] = "ALLOW"


class IPDiscoveryProfile(Intent):
    """Only the default one, read-only: addresses of VMs come from their tools and from OVN."""

    kind: ClassVar[str] = "IPDiscoveryProfile"


class SegmentSecurityProfile(Intent):
    kind: ClassVar[str] = "SegmentSecurityProfile"
    bpdu_filter_enable: bool = True
    dhcp_server_block_enabled: bool = True
    dhcp_client_block_enabled: bool = False
    non_ip_traffic_block_enabled: bool = False
    ra_guard_enabled: bool = True
    rate_limits_enabled: Literal[False] = False
