"""The agent's configuration file."""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field

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
