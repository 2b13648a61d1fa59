"""vCenter's configuration file: TOML, no secrets in it, only paths of files that hold them."""

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Listen(_Section):
    address: str
    port: int = 443


class Database(_Section):
    # A file that holds SQLAlchemy's URL (it may hold a password); empty is SQLite in `state_dir`.
    url_file: str = ""


class Administrator(_Section):
    user: str = "administrator@vsphere.local"
    # Read at the first start only: afterwards the password is what it was changed to.
    password_file: Path


class Config(_Section):
    """What `python -m landbridge.vcenter --config FILE` reads."""

    name: str
    site: str
    state_dir: Path
    run_dir: Path
    pki_dir: Path
    listen: Listen
    database: Database = Database()
    administrator: Administrator
    # A session nobody uses for this long is over (seconds; vCenter's own default is 30 minutes).
    session_timeout: float = Field(default=1800, gt=0)

    @classmethod
    def load(cls, path: Path) -> "Config":
        """Read a configuration file; ValueError says what is wrong in it."""
        return cls.model_validate(tomllib.loads(path.read_text()))
