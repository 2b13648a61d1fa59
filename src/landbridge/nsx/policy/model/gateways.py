"""Tier-0 and tier-1 gateways, their interfaces and static routes."""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field, IPvAnyAddress

from landbridge.nsx.policy.model.base import Intent, Model
from landbridge.nsx.policy.model.values import Cidr


class Advertisement(StrEnum):
    """What a tier-1 tells its tier-0."""

    STATIC_ROUTES = "TIER1_STATIC_ROUTES"
    CONNECTED = "TIER1_CONNECTED"
    NAT = "TIER1_NAT"
    LB_VIP = "TIER1_LB_VIP"
    LB_SNAT = "TIER1_LB_SNAT"
    DNS_FORWARDER = "TIER1_DNS_FORWARDER_IP"
    IPSEC = "TIER1_IPSEC_LOCAL_ENDPOINT"


class RouteAdvertisementRule(Model):
    name: str
    action: Literal["PERMIT", "DENY"] = "PERMIT"
    subnets: list[Cidr] = []
    prefix_operator: Literal["GE", "EQ"] = "GE"
    route_advertisement_types: list[Advertisement] = []


class Tier0(Intent):
    """The provider's gateway: it has the uplinks."""

    kind: ClassVar[str] = "Tier0"
    ha_mode: Literal["ACTIVE_STANDBY", "ACTIVE_ACTIVE"] = "ACTIVE_STANDBY"
    failover_mode: Literal["PREEMPTIVE", "NON_PREEMPTIVE"] = "NON_PREEMPTIVE"
    transit_subnets: list[Cidr] = ["100.64.0.0/16"]
    internal_transit_subnets: list[Cidr] = ["169.254.0.0/24"]
    force_whitelisting: Literal[False] = False
    default_rule_logging: bool = False
    disable_firewall: bool = False
    dhcp_config_paths: list[str] = []
    references = ("dhcp_config_paths",)


class Tier1(Intent):
    """A tenant's gateway."""

    kind: ClassVar[str] = "Tier1"
    tier0_path: str = ""
    failover_mode: Literal["PREEMPTIVE", "NON_PREEMPTIVE"] = "NON_PREEMPTIVE"
    enable_standby_relocation: bool = False
    route_advertisement_types: list[Advertisement] = []
    route_advertisement_rules: list[RouteAdvertisementRule] = []
    dhcp_config_paths: list[str] = []
    force_whitelisting: Literal[False] = False
    default_rule_logging: bool = False
    disable_firewall: bool = False
    pool_allocation: str = "ROUTING"
    type: Literal["ROUTED", "ISOLATED", "NATTED"] | None = None
    ha_mode: Literal["ACTIVE_STANDBY"] = "ACTIVE_STANDBY"
    references = ("tier0_path", "dhcp_config_paths")


class LocaleServices(Intent):
    """Where a gateway's services run: the edge cluster."""

    kind: ClassVar[str] = "LocaleServices"
    edge_cluster_path: str = ""
    preferred_edge_paths: list[str] = []
    route_redistribution_types: list[str] = []
    references = ("edge_cluster_path", "preferred_edge_paths")


class InterfaceSubnet(Model):
    ip_addresses: list[IPvAnyAddress] = Field(min_length=1)
    prefix_len: int = Field(ge=1, le=128)


class Tier0Interface(Intent):
    """An uplink (EXTERNAL, on a VLAN segment) or a service interface of a tier-0."""

    kind: ClassVar[str] = "Tier0Interface"
    type: Literal["EXTERNAL", "SERVICE"] = "EXTERNAL"
    segment_path: str
    subnets: list[InterfaceSubnet] = Field(min_length=1)
    edge_path: str = ""
    mtu: int = Field(default=1500, ge=64, le=9216)
    urpf_mode: Literal["NONE", "STRICT"] = "STRICT"
    admin_state: Literal["UP", "DOWN"] = "UP"
    references = ("segment_path", "edge_path")


class Tier1Interface(Intent):
    """A service interface of a tier-1."""

    kind: ClassVar[str] = "Tier1Interface"
    segment_path: str
    subnets: list[InterfaceSubnet] = Field(min_length=1)
    mtu: int = Field(default=1500, ge=64, le=9216)
    urpf_mode: Literal["NONE", "STRICT"] = "STRICT"
    admin_state: Literal["UP", "DOWN"] = "UP"
    references = ("segment_path",)


class RouterNexthop(Model):
    ip_address: IPvAnyAddress
    admin_distance: int = Field(default=1, ge=1, le=255)
    scope: list[str] = []


class StaticRoutes(Intent):
    kind: ClassVar[str] = "StaticRoutes"
    network: Cidr
    next_hops: list[RouterNexthop] = Field(min_length=1)
    enabled_on_secondary: Literal[False] = False
