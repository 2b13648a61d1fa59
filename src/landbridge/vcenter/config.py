"""vCenter's configuration file: TOML, no secrets in it, only paths of files that hold them."""

import tomllib
from pathlib import Path
from typing import Literal

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


class User(_Section):
    """A further account, made at the first start that finds it here."""

    user: str
    password_file: Path
    role: Literal["Administrator", "ReadOnly"] = "ReadOnly"


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
    users: list[User] = []
    # A session nobody uses for this long is over (seconds; vCenter's own default is 30 minutes).
    session_timeout: float = Field(default=1800, gt=0)
    # After five wrong passwords a user is refused from that address for this long (seconds).
    login_lockout: float = Field(default=60, gt=0)

    @classmethod
    def load(cls, path: Path) -> "Config":
        """Read a configuration file; ValueError says what is wrong in it."""
        return cls.model_validate(tomllib.loads(path.read_text()))
