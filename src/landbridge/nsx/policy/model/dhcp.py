"""DHCP servers and static bindings."""

from typing import ClassVar

from pydantic import Field, IPvAnyAddress

from landbridge.nsx.policy.model.base import Intent, Model
from landbridge.nsx.policy.model.values import Cidr, InterfaceCidr, Mac


class ClasslessStaticRoute(Model):
    network: Cidr
    next_hop: IPvAnyAddress


class DhcpOption121(Model):
    static_routes: list[ClasslessStaticRoute] = Field(min_length=1, max_length=27)


class GenericDhcpOption(Model):
    code: int = Field(ge=0, le=255)
    values: list[str] = Field(min_length=1, max_length=10)


class DhcpV4Options(Model):
    option121: DhcpOption121 | None = None
    others: list[GenericDhcpOption] = []


class DhcpServerConfig(Intent):
    kind: ClassVar[str] = "DhcpServerConfig"
    server_address: InterfaceCidr | None = None
    server_addresses: list[InterfaceCidr] = Field(default=[], max_length=2)
    lease_time: int = Field(default=86400, ge=60, le=4294967295, description="seconds")
    edge_cluster_path: str = ""
    preferred_edge_paths: list[str] = []
    references = ("edge_cluster_path", "preferred_edge_paths")


class DhcpV4StaticBindingConfig(Intent):
    kind: ClassVar[str] = "DhcpV4StaticBindingConfig"
    mac_address: Mac
    ip_address: IPvAnyAddress
    gateway_address: IPvAnyAddress | None = None
    host_name: str = Field(default="", max_length=253)
    lease_time: int = Field(default=86400, ge=60, le=4294967295, description="seconds")
    options: DhcpV4Options | None = None
