"""Segments, their ports, and the profiles bound to them."""

from typing import ClassVar, Literal

from pydantic import Field, IPvAnyAddress

from landbridge.nsx.policy.model.base import Intent, Model
from landbridge.nsx.policy.model.dhcp import DhcpV4Options
from landbridge.nsx.policy.model.values import AddressOrRange, Cidr, InterfaceCidr, Mac


class SegmentDhcpV4Config(Model):
    resource_type: Literal["SegmentDhcpV4Config"] = "SegmentDhcpV4Config"
    server_address: InterfaceCidr | None = None
    lease_time: int = Field(default=86400, ge=60, le=4294967295, description="seconds")
    dns_servers: list[IPvAnyAddress] = Field(default=[], max_length=2)
    options: DhcpV4Options | None = None


class SegmentSubnet(Model):
    """`gateway_address` is the gateway's interface on the segment; `network` is read-only."""

    gateway_address: InterfaceCidr | None = None
    network: Cidr | None = None
    dhcp_ranges: list[AddressOrRange] = Field(default=[], max_length=99)
    dhcp_config: SegmentDhcpV4Config | None = None


class SegmentAdvancedConfig(Model):
    """`connectivity` OFF takes the gateway off the segment, as an extended network needs it before cutover."""

    connectivity: Literal["ON", "OFF"] = "ON"
    hybrid: Literal[False] = False
    inter_router: Literal[False] = False
    local_egress: Literal[False] = False
    multicast: bool = True
    node_local_switch: Literal[False] = False
    urpf_mode: Literal["NONE", "STRICT"] = "STRICT"
    uplink_teaming_policy_name: str = ""
    address_pool_paths: list[str] = Field(default=[], max_length=0)


class Segment(Intent):
    """A layer 2: an overlay (Geneve) one, or a VLAN of a physical network."""

    kind: ClassVar[str] = "Segment"
    type: Literal["ROUTED", "EXTENDED", "ROUTED_AND_EXTENDED", "DISCONNECTED"] | None = None
    connectivity_path: str = ""
    transport_zone_path: str = ""
    subnets: list[SegmentSubnet] = Field(default=[], max_length=2)
    vlan_ids: list[str] = []
    domain_name: str = ""
    dhcp_config_path: str = ""
    admin_state: Literal["UP", "DOWN"] = "UP"
    advanced_config: SegmentAdvancedConfig = SegmentAdvancedConfig()
    replication_mode: Literal["MTEP", "SOURCE"] = "MTEP"
    ls_id: str = ""
    overlay_id: int | None = Field(default=None, ge=0, le=16777215)
    references = ("connectivity_path", "transport_zone_path", "dhcp_config_path")


class PortAttachment(Model):
    """`id` is the VIF: what a virtual NIC's `externalId` says."""

    id: str = ""
    type: Literal["PARENT", "CHILD", "INDEPENDENT", "STATIC"] | None = None
    traffic_tag: int | None = Field(default=None, ge=0, le=4094)


class PortAddressBinding(Model):
    ip_address: AddressOrRange | None = None
    mac_address: Mac | None = None
    vlan_id: int | None = Field(default=None, ge=0, le=4094)


class SegmentPort(Intent):
    kind: ClassVar[str] = "SegmentPort"
    attachment: PortAttachment | None = None
    address_bindings: list[PortAddressBinding] = []
    admin_state: Literal["UP", "DOWN"] = "UP"
    init_state: Literal["UNBLOCKED_VLAN", "RESTORE_VIF"] | None = None


class SegmentSecurityProfileBindingMap(Intent):
    """Profiles of a segment; its subclass, of a port."""

    kind: ClassVar[str] = "SegmentSecurityProfileBindingMap"
    segment_security_profile_path: str = ""
    spoofguard_profile_path: str = ""
    references = ("segment_security_profile_path", "spoofguard_profile_path")


class PortSecurityProfileBindingMap(SegmentSecurityProfileBindingMap):
    kind: ClassVar[str] = "PortSecurityProfileBindingMap"


class SegmentDiscoveryProfileBindingMap(Intent):
    kind: ClassVar[str] = "SegmentDiscoveryProfileBindingMap"
    mac_discovery_profile_path: str = ""
    ip_discovery_profile_path: str = ""
    references = ("mac_discovery_profile_path", "ip_discovery_profile_path")


class PortDiscoveryProfileBindingMap(SegmentDiscoveryProfileBindingMap):
    kind: ClassVar[str] = "PortDiscoveryProfileBindingMap"
