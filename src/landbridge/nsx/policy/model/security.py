"""Groups, services, and the firewalls' policies and rules."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from landbridge.nsx.policy.model.base import Intent, Model, Tag
from landbridge.nsx.policy.model.values import HIGHEST_NUMBER, AddressOrRange, Mac, PortElement

_MEMBER = Literal["VirtualMachine", "Segment", "SegmentPort", "IPSet", "Group"]


class Condition(Model):
    """For `key` Tag a value may be `scope|tag`."""

    resource_type: Literal["Condition"] = "Condition"
    member_type: _MEMBER
    key: Literal["Tag", "Name", "OSName", "ComputerName"]
    operator: Literal["EQUALS", "CONTAINS", "STARTSWITH", "ENDSWITH", "NOTEQUALS"]
    value: str
    scope_operator: Literal["EQUALS", "NOTEQUALS"] = "EQUALS"


class ConjunctionOperator(Model):
    resource_type: Literal["ConjunctionOperator"] = "ConjunctionOperator"
    conjunction_operator: Literal["AND", "OR"]


class IPAddressExpression(Model):
    resource_type: Literal["IPAddressExpression"] = "IPAddressExpression"
    ip_addresses: list[AddressOrRange] = Field(min_length=1, max_length=4000)


class MACAddressExpression(Model):
    resource_type: Literal["MACAddressExpression"] = "MACAddressExpression"
    mac_addresses: list[Mac] = Field(min_length=1, max_length=4000)


class PathExpression(Model):
    """Groups, segments or segment ports, by path."""

    resource_type: Literal["PathExpression"] = "PathExpression"
    paths: list[str] = Field(min_length=1, max_length=500)


class ExternalIDExpression(Model):
    """VMs by instance UUID."""

    resource_type: Literal["ExternalIDExpression"] = "ExternalIDExpression"
    member_type: Literal["VirtualMachine"] = "VirtualMachine"
    external_ids: list[str] = Field(min_length=1)


class NestedExpression(Model):
    """Conditions of one member type, joined by AND."""

    resource_type: Literal["NestedExpression"] = "NestedExpression"
    expressions: list[Annotated[Condition | ConjunctionOperator, Field(discriminator="resource_type")]] = Field(
        min_length=1
    )


Expression = Annotated[
    Condition
    | ConjunctionOperator
    | IPAddressExpression
    | MACAddressExpression
    | PathExpression
    | ExternalIDExpression
    | NestedExpression,
    Field(discriminator="resource_type"),
]


class Group(Intent):
    """Members are the union (OR) or intersection (AND) of expressions; operators stand between them."""

    kind: ClassVar[str] = "Group"
    expression: list[Expression] = []
    group_type: list[Literal["IPAddress"]] = []

    def referred(self) -> list[str]:
        return [path for part in self.expression if isinstance(part, PathExpression) for path in part.paths]


class BaseServiceEntry(Intent):
    """What a service consists of."""

    kind: ClassVar[str] = "ServiceEntry"


class L4PortSetServiceEntry(BaseServiceEntry):
    kind: ClassVar[str] = "L4PortSetServiceEntry"
    resource_type: Literal["L4PortSetServiceEntry"] = "L4PortSetServiceEntry"
    l4_protocol: Literal["TCP", "UDP"]
    source_ports: list[PortElement] = Field(default=[], max_length=15)
    destination_ports: list[PortElement] = Field(default=[], max_length=15)


class ICMPTypeServiceEntry(BaseServiceEntry):
    kind: ClassVar[str] = "ICMPTypeServiceEntry"
    resource_type: Literal["ICMPTypeServiceEntry"] = "ICMPTypeServiceEntry"
    protocol: Literal["ICMPv4", "ICMPv6"]
    icmp_type: int | None = Field(default=None, ge=0, le=255)
    icmp_code: int | None = Field(default=None, ge=0, le=255)


class IPProtocolServiceEntry(BaseServiceEntry):
    kind: ClassVar[str] = "IPProtocolServiceEntry"
    resource_type: Literal["IPProtocolServiceEntry"] = "IPProtocolServiceEntry"
    protocol_number: int = Field(ge=0, le=255)


class NestedServiceServiceEntry(BaseServiceEntry):
    kind: ClassVar[str] = "NestedServiceServiceEntry"
    resource_type: Literal["NestedServiceServiceEntry"] = "NestedServiceServiceEntry"
    nested_service_path: str
    references = ("nested_service_path",)


ServiceEntry = Annotated[
    L4PortSetServiceEntry | ICMPTypeServiceEntry | IPProtocolServiceEntry | NestedServiceServiceEntry,
    Field(discriminator="resource_type"),
]


class Service(Intent):
    """Entries are parts of the service: they live and die with it."""

    kind: ClassVar[str] = "Service"
    service_entries: list[ServiceEntry] = Field(default=[], max_length=50)
    is_default: bool = False
    service_type: Literal["NON_ETHER"] = "NON_ETHER"

    def referred(self) -> list[str]:
        return [path for entry in self.service_entries for path in entry.referred()]


class Rule(Intent):
    """`ANY` in a list of groups, services or scopes is everything; the list then holds nothing else.

    Groups may also be literal addresses. A gateway rule's `scope` are gateways or their interfaces.
    """

    kind: ClassVar[str] = "Rule"
    action: Literal["ALLOW", "DROP", "REJECT"]
    sequence_number: int = Field(default=0, ge=0, le=HIGHEST_NUMBER)
    rule_id: int = 0
    source_groups: list[str] = Field(default=["ANY"], max_length=128)
    destination_groups: list[str] = Field(default=["ANY"], max_length=128)
    sources_excluded: bool = False
    destinations_excluded: bool = False
    services: list[str] = Field(default=["ANY"], max_length=128)
    service_entries: list[ServiceEntry] = []
    profiles: list[Literal["ANY"]] = []
    scope: list[str] = Field(default=["ANY"], max_length=128)
    direction: Literal["IN", "OUT", "IN_OUT"] = "IN_OUT"
    ip_protocol: Literal["IPV4", "IPV6", "IPV4_IPV6"] = "IPV4_IPV6"
    disabled: bool = False
    logged: bool = False
    tag: str = Field(default="", max_length=32)
    notes: str = Field(default="", max_length=2048)
    is_default: bool = False
    references = ("source_groups", "destination_groups", "services", "scope")


class SecurityPolicy(Intent):
    """Distributed firewall. Categories apply in the order in which they stand here, policies by number within one."""

    kind: ClassVar[str] = "SecurityPolicy"
    category: Literal["Ethernet", "Emergency", "Infrastructure", "Environment", "Application"] = "Application"
    sequence_number: int = Field(default=0, ge=0, le=HIGHEST_NUMBER)
    scope: list[str] = ["ANY"]
    stateful: bool = True
    tcp_strict: bool = True
    locked: Literal[False] = False
    comments: str = ""
    logging_enabled: bool = False
    is_default: bool = False
    rule_count: int = 0
    references = ("scope",)


class GatewayPolicy(Intent):
    """Firewall of gateways, at their uplinks."""

    kind: ClassVar[str] = "GatewayPolicy"
    category: Literal["Emergency", "SharedPreRules", "LocalGatewayRules", "AutoServiceRules", "Default"] = (
        "LocalGatewayRules"
    )
    sequence_number: int = Field(default=0, ge=0, le=HIGHEST_NUMBER)
    scope: list[str] = []
    stateful: bool = True
    tcp_strict: bool = True
    locked: Literal[False] = False
    comments: str = ""
    is_default: bool = False
    rule_count: int = 0
    references = ("scope",)


class PolicyExcludeList(Intent):
    """Groups, segments and ports that the distributed firewall leaves alone."""

    kind: ClassVar[str] = "PolicyExcludeList"
    members: list[str] = Field(default=[], max_length=1000)
    references = ("members",)


class VirtualMachineTags(Model):
    """The body of `update_tags`, `add_tags` and `remove_tags`; `external_id` is the VM's instance UUID."""

    external_id: str
    tags: list[Tag] = Field(default=[], max_length=30)
