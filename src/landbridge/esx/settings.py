"""The agent's configuration file."""

import tomllib
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from landbridge.esx.model import Model


class Listener(Model):
    address: str
    port: int = Field(ge=1, le=65535)


class Management(Listener):
    port: int = Field(default=443, ge=1, le=65535)


class VmotionListener(Listener):
    port: int = Field(default=8000, ge=1, le=65535)
    remote_port: int = Field(default=8001, ge=1, le=65535, description="for moves from and to hosts of another site")


class DatastoreSettings(Model):
    name: Annotated[str, Field(pattern=r"^[^\[\]/\n]+$")]
    path: Path
    # Whether other hosts mount the same directory.
    shared: bool = False


class SwitchSettings(Model):
    uplink: str = Field(description="the interface in the host's network namespace that becomes the uplink")
    # Both, or neither: then the host is no transport node, and has no segments.
    tep: str | None = Field(default=None, description="the interface for tunnels; the agent takes it over")
    tep_address: IPv4Interface | None = None

    @model_validator(mode="after")
    def _both_or_neither(self) -> "SwitchSettings":
        if (self.tep is None) != (self.tep_address is None):
            raise ValueError("tep and tep_address belong together: set both, or neither")
        return self


class Settings(Model):
    """`[[datastores]]` and `[switch]` may be missing: such a host stores or connects no VMs."""

    name: str
    site: str
    state_dir: Path
    run_dir: Path
    pki_dir: Path
    management: Management
    vmotion: VmotionListener
    datastores: list[DatastoreSettings] = Field(default=[])
    switch: SwitchSettings | None = None

    @classmethod
    def load(cls, path: Path) -> "Settings":
        """Read a TOML file; pydantic's ValidationError says what is wrong with it."""
        return cls.model_validate(tomllib.loads(path.read_text()))
