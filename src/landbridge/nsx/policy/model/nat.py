"""NAT rules of a gateway, and its DNS forwarder."""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field, IPvAnyAddress

from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.model.values import HIGHEST_NUMBER, AddressOrRange, PortElement


class NatAction(StrEnum):
    SNAT = "SNAT"
    DNAT = "DNAT"
    REFLEXIVE = "REFLEXIVE"
    NO_SNAT = "NO_SNAT"
    NO_DNAT = "NO_DNAT"


class PolicyNat(Intent):
    """A section of a gateway's NAT rules; each gateway has all of them. People's rules are in USER."""

    kind: ClassVar[str] = "PolicyNat"
    nat_type: Literal["USER", "DEFAULT", "INTERNAL"] = "USER"


class PolicyNatRule(Intent):
    """Rules of one gateway apply by `sequence_number`, lowest first."""

    kind: ClassVar[str] = "PolicyNatRule"
    action: NatAction
    source_network: AddressOrRange | None = None
    destination_network: AddressOrRange | None = None
    translated_network: AddressOrRange | None = None
    translated_ports: PortElement | None = None
    service: str = ""
    sequence_number: int = Field(default=0, ge=0, le=HIGHEST_NUMBER)
    scope: list[str] = []
    enabled: bool = True
    logging: bool = False
    firewall_match: Literal["MATCH_EXTERNAL_ADDRESS", "MATCH_INTERNAL_ADDRESS", "BYPASS"] = "MATCH_INTERNAL_ADDRESS"
    references = ("service", "scope")


class PolicyDnsForwarderZone(Intent):
    kind: ClassVar[str] = "PolicyDnsForwarderZone"
    upstream_servers: list[IPvAnyAddress] = Field(min_length=1, max_length=3)
    dns_domain_names: list[str] = []
    source_ip: IPvAnyAddress | None = None


class PolicyDnsForwarder(Intent):
    kind: ClassVar[str] = "PolicyDnsForwarder"
    listener_ip: IPvAnyAddress
    default_forwarder_zone_path: str
    conditional_forwarder_zone_paths: list[str] = []
    enabled: bool = True
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "FATAL"] = "INFO"
    cache_size: int = Field(default=1024, ge=0, description="KiB")
    references = ("default_forwarder_zone_path", "conditional_forwarder_zone_paths")
