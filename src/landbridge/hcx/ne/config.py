"""The configuration file of the network extension appliance: TOML.

name = "ne.onprem"
site = "onprem"
state_dir = "/var/lib/landbridge/ne"
run_dir = "/run/landbridge/ne"        # short: UNIX sockets
pki_dir = "/etc/landbridge/ne"
[management]
address = "10.10.0.71"
[uplink]
address = "10.10.3.11"                # UDP 4500
interface = "uplink0"
[trunk]
interface = "trunk0"                  # the leg into the site's switch; carries the VLANs tagged
[overlay]                             # where networks are NSX's segments: the appliance is a transport node
interface = "tep0"
address = "10.20.3.150/25"

At least one of `trunk` and `overlay` is there.
"""

import tomllib
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Management(_Section):
    """Where the API listens."""

    address: str
    port: int = 443


class Uplink(_Section):
    """The interface on the WAN. `port` is UDP."""

    address: IPv4Address
    interface: str
    port: int = Field(default=4500, ge=1, le=65535)


class Trunk(_Section):
    """The interface in the site's switch; frames of VLAN 0 are untagged on it."""

    interface: str


class OverlayLeg(_Section):
    """The interface for the tunnels of the overlay; the NSX manager says whose chassis the appliance is."""

    interface: str
    address: IPv4Interface


class NeConfig(_Section):
    """What `python -m landbridge.hcx.ne --config FILE` reads."""

    name: str
    site: str
    state_dir: Path
    run_dir: Path
    pki_dir: Path
    management: Management
    uplink: Uplink
    trunk: Trunk | None = None
    overlay: OverlayLeg | None = None

    @model_validator(mode="after")
    def _has_a_leg(self) -> "NeConfig":
        if self.trunk is None and self.overlay is None:
            raise ValueError("the appliance has no leg into its site: give `trunk`, `overlay` or both")
        return self

    @classmethod
    def load(cls, path: Path) -> "NeConfig":
        """Read a configuration file; ValueError says what is wrong in it."""
        return cls.model_validate(tomllib.loads(path.read_text()))
