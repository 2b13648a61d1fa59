"""The configuration files of the manager and of the appliance: TOML, with paths of secrets, never secrets."""

import tomllib
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from landbridge.vmodl.client import VCenterLogin


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Role(StrEnum):
    """What a manager is: the connector starts pairings and migrations, the cloud manager answers to it."""

    CONNECTOR = "connector"
    CLOUD = "cloud"


class Address(_Section):
    address: str
    port: int = 443


class Database(_Section):
    # A file that holds SQLAlchemy's URL (it may hold a password); empty is SQLite in `state_dir`.
    url_file: str = ""


class Administrator(_Section):
    user: str = "admin"
    password_file: Path


class IxAddress(_Section):
    """The interconnect appliance of this site."""

    name: str
    address: str
    port: int = 443
    uplink_address: str
    uplink_port: int = 4500


class NeAddress(IxAddress):
    """The network extension appliance of this site; its uplink's port is UDP."""


class NsxLogin(_Section):
    """The NSX manager of a cloud site, whose segments networks are extended to."""

    url: str
    user: str
    password_file: Path
    ca_file: Path


class ManagerConfig(_Section):
    """What `python -m landbridge.hcx --config FILE` reads."""

    name: str
    site: str
    role: Role
    state_dir: Path
    run_dir: Path
    pki_dir: Path
    listen: Address
    database: Database = Database()
    administrator: Administrator
    # The vCenter this manager belongs to.
    vcenter: VCenterLogin
    ix: IxAddress
    # None: this site extends no networks.
    ne: NeAddress | None = None
    # None: networks are extended to port groups of VLANs only.
    nsx: NsxLogin | None = None
    # A session nobody uses for this long is over (seconds).
    session_timeout: float = Field(default=1800, gt=0)

    @classmethod
    def load(cls, path: Path) -> "ManagerConfig":
        """Read a configuration file; ValueError says what is wrong in it."""
        return cls.model_validate(tomllib.loads(path.read_text()))

    def database_url(self) -> str:
        """SQLAlchemy's URL of the manager's own tables."""
        if self.database.url_file:
            url = Path(self.database.url_file).read_text().strip()
            return url.replace("postgresql://", "postgresql+psycopg://", 1)
        return f"sqlite:///{self.state_dir / 'hcx.sqlite'}"

    def workflow_url(self) -> str:
        """The URL of DBOS's tables: the same PostgreSQL database (a schema of its own), or a second SQLite file."""
        if self.database.url_file:
            return self.database_url().replace("postgresql+psycopg://", "postgresql://", 1)
        return f"sqlite:///{self.state_dir / 'workflows.sqlite'}"


class Uplink(_Section):
    address: str
    port: int = 4500


class IxConfig(_Section):
    """What `python -m landbridge.hcx.ix --config FILE` reads."""

    name: str
    site: str
    state_dir: Path
    run_dir: Path
    pki_dir: Path
    management: Address
    vmotion: Address
    uplink: Uplink

    @classmethod
    def load(cls, path: Path) -> "IxConfig":
        """Read a configuration file; ValueError says what is wrong in it."""
        return cls.model_validate(tomllib.loads(path.read_text()))
