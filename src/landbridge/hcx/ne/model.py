"""The shapes the HCX manager and its network extension appliance exchange."""

from enum import StrEnum
from ipaddress import IPv4Address
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from landbridge.esx.model import Model

# What WireGuard (IP, UDP, its header and tag: 60) and VXLAN (IP, UDP, its header, Ethernet: 50) add to a packet.
WIREGUARD_OVERHEAD = 60
VXLAN_OVERHEAD = 50
# IPv6 asks this of any path. Below it, so much of every packet is overhead that the path is misconfigured.
SMALLEST_PATH = 1280
_LARGEST_MTU = 9216

Mac = Annotated[str, StringConstraints(pattern=r"^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$", to_lower=True)]
PublicKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{43}=$")]
NetworkId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class NeError(Exception):
    """The appliance refuses or failed; `type` is the vSphere fault's name."""

    def __init__(self, kind: str, message: str, status: int = 409) -> None:
        super().__init__(message)
        self.type = kind
        self.status = status


class Key(Model):
    """WireGuard's public key; the private one stays on the appliance."""

    public_key: PublicKey


class Peer(Model):
    """The other appliance of the pair, and the addresses both have within the tunnel."""

    public_key: PublicKey
    address: IPv4Address = Field(description="of its uplink")
    port: int = Field(default=4500, ge=1, le=65535)
    tunnel_address: IPv4Address = Field(description="this appliance's within the tunnel")
    peer_tunnel_address: IPv4Address

    @model_validator(mode="after")
    def _apart(self) -> "Peer":
        if self.tunnel_address == self.peer_tunnel_address:
            raise ValueError("both ends of the tunnel can not have the same address")
        return self


class Extension(Model):
    """A network to be extended: where it is in the site, and its number in the tunnel, the same at both ends."""

    vlan: int | None = Field(default=None, ge=0, le=4094, description="0: untagged")
    vif: str | None = Field(default=None, min_length=1, max_length=128, description="the port of an NSX segment")
    vni: int = Field(ge=1, le=(1 << 24) - 1)
    mtu: int = Field(default=1500, ge=1280, le=_LARGEST_MTU)

    @model_validator(mode="after")
    def _one_place(self) -> "Extension":
        if (self.vlan is None) == (self.vif is None):
            raise ValueError("a network is in the site by its `vlan` or by its `vif`: give one of them")
        return self

    @property
    def place(self) -> str:
        return f"VLAN {self.vlan}" if self.vif is None else f"VIF {self.vif}"


class Flush(Model):
    """Addresses whose place is to be forgotten, in all networks."""

    macs: list[Mac] = Field(min_length=1, max_length=1000)


class Forwarding(StrEnum):
    """What a network's bridge does with frames. LISTENING: nothing yet, until it is sure that there is no loop."""

    LISTENING = "listening"
    FORWARDING = "forwarding"
    BLOCKED = "blocked"


class Counters(Model):
    """As the appliance sees it: `received` came from there."""

    received_bytes: int = 0
    received_packets: int = 0
    sent_bytes: int = 0
    sent_packets: int = 0


class Alarm(Model):
    """Something a person should know. `since` is in seconds since the epoch."""

    kind: str
    network: str | None = None
    message: str
    since: float


class NetworkStatus(Model):
    """One extended network. `effective_mtu` is what an IP packet with DF may have on its way through the tunnel."""

    id: str
    extension: Extension
    state: Forwarding
    effective_mtu: int
    local: Counters
    remote: Counters
    storm_dropped: int = Field(description="broadcasts and multicasts above the limit")
    control_dropped: int = Field(description="BPDUs and other frames that end at a bridge")
    duplicate_macs: list[str]


class TunnelStatus(Model):
    """`up`: an echo came back through it within the last seconds. Ages and times are None until there was one."""

    up: bool
    handshake_age: float | None = Field(description="seconds")
    received_bytes: int
    sent_bytes: int
    rtt_ms: float | None
    loss: float | None = Field(description="share of the last echoes that did not come back")


class Status(Model):
    """The whole appliance. `path_mtu` is None while the other appliance's uplink answers no probe."""

    name: str
    site: str
    peer: Peer | None
    tunnel: TunnelStatus | None
    path_mtu: int | None
    networks: list[NetworkStatus]
    alarms: list[Alarm]
