"""An NSX manager's Policy API for tests: the real application behind TLS, and a fabric and realising side to turn."""

import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from landbridge.nsx.policy.config import Account, Edge, PolicyConfig
from landbridge.nsx.policy.server import application
from landbridge.nsx.policy.store import Store
from landbridge.nsx.snapshot import Machine, Realized
from landbridge.pki import Authority, Identity, PeerName

ADMIN = ("admin", "VMware1!VMware1!")
AUDIT = ("audit", "Read-only-1!")


@dataclass
class KnownFabric:
    """The VMs that a test says there are."""

    known: list[Machine] = field(default_factory=list)

    def machines(self) -> Iterable[Machine]:
        return self.known


@dataclass
class SaidRealization:
    """What a test says became of intents, and up to which change that is."""

    said: dict[str, list[Realized]] = field(default_factory=dict)
    upto: int = 0

    def realized(self, path: str) -> list[Realized]:
        return self.said.get(path, [])

    def sequence(self) -> int:
        return self.upto


@dataclass
class Manager:
    """A manager that listens on a loopback address."""

    address: str
    port: int
    ca: Path
    store: Store
    fabric: KnownFabric
    realization: SaidRealization

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"


def identity_in(directory: Path, address: str) -> Identity:
    authority = Authority.create(directory / "ca", "NSX tests")
    return authority.issue(directory / "nsx", PeerName("test", "nsx", "nsx"), addresses=[address])


def _secret(path: Path, text: str) -> Path:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


@contextlib.asynccontextmanager
async def manager(directory: Path, *, database: str = "", session_timeout: float = 600) -> AsyncIterator[Manager]:
    """A manager on a port of its own; `database` is PostgreSQL's URL."""
    address = "127.0.0.1"
    identity = identity_in(directory, address)
    config = PolicyConfig(
        state_dir=directory,
        database_url_file=str(_secret(directory / "database", database)) if database else "",
        administrator=Account(user=ADMIN[0], password_file=_secret(directory / "admin", ADMIN[1])),
        auditor=Account(user=AUDIT[0], password_file=_secret(directory / "audit", AUDIT[1])),
        edges=[Edge(name="edge01.cloud"), Edge(name="edge02.cloud")],
        session_timeout=session_timeout,
    )
    store = Store(config.database_url())
    fabric, realization = KnownFabric(), SaidRealization()
    runner = web.AppRunner(await application(config, store, realization, fabric), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, address, 0, ssl_context=identity.server_context(require_client=False))
        await site.start()
        port = runner.addresses[0][1]
        yield Manager(address, port, identity.ca, store, fabric, realization)
    finally:
        await runner.cleanup()
        store.close()
