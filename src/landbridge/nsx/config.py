"""The NSX manager's configuration file: TOML, with paths of secrets, never secrets."""

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from landbridge.nsx.policy.config import Account, Edge, PolicyConfig
from landbridge.vmodl.client import VCenterLogin


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Address(_Section):
    address: str
    port: int = 443


class Database(_Section):
    # A file that holds SQLAlchemy's URL (it may hold a password); empty is SQLite in `state_dir`.
    url_file: str = ""


class EdgeAddress(_Section):
    """An edge node: its name is that of its chassis, its address is where it is managed."""

    name: str
    address: str


class ManagerConfig(_Section):
    """What `python -m landbridge.nsx --config FILE` reads."""

    name: str
    site: str
    state_dir: Path
    run_dir: Path
    pki_dir: Path
    listen: Address
    administrator: Account
    auditor: Account | None = None
    database: Database = Database()
    # The compute manager whose hosts and VMs the segments are for.
    vcenter: VCenterLogin
    # The distributed switch of it that segments become port groups of; empty: the first.
    switch: str = ""
    edges: list[EdgeAddress] = []
    # Others that are chassis and no hosts: HCX's appliances that extend networks into segments.
    appliances: list[EdgeAddress] = []

    @classmethod
    def load(cls, path: Path) -> "ManagerConfig":
        """Read a configuration file; ValueError says what is wrong in it."""
        return cls.model_validate(tomllib.loads(path.read_text()))

    def policy(self) -> PolicyConfig:
        """The Policy API's part."""
        return PolicyConfig(
            state_dir=self.state_dir,
            database_url_file=self.database.url_file,
            administrator=self.administrator,
            auditor=self.auditor,
            edges=[Edge(name=edge.name) for edge in self.edges],
            host_name=self.name,
        )
