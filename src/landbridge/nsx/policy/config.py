"""What the Policy API is configured with: paths of secrets, never secrets."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Account(_Section):
    """A user with a file that holds the password, mode 0600."""

    user: str
    password_file: Path


class Edge(_Section):
    """An edge node; its name is that of its chassis."""

    name: str


class PolicyConfig(_Section):
    """The Policy API's part of the manager's configuration file."""

    state_dir: Path
    # A file that holds SQLAlchemy's URL (it may hold a password); empty is SQLite in `state_dir`.
    database_url_file: str = ""
    administrator: Account
    auditor: Account | None = None  # reads only
    edges: list[Edge] = []
    edge_cluster: str = "edge-cluster"
    host_name: str = "nsx"
    version: str = "4.1.2.0.0.22589037"
    # A session nobody uses for this long is over (seconds).
    session_timeout: float = Field(default=1800, gt=0)

    def database_url(self) -> str:
        """SQLAlchemy's URL of the store."""
        if self.database_url_file:
            url = Path(self.database_url_file).read_text().strip()
            return url.replace("postgresql://", "postgresql+psycopg://", 1)
        return f"sqlite:///{self.state_dir / 'nsx.sqlite'}"
