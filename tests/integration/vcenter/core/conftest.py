"""One vCenter process for the tests of a session, and a PostgreSQL cluster where one is asked for."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.vcenter.core.vcenter_process import VcenterProcess

_POSTGRESQL = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(scope="session")
def vcenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VcenterProcess]:
    process = VcenterProcess(tmp_path_factory.mktemp("vcenter"), settings="login_lockout = 3")
    process.start()
    yield process
    process.stop()


@pytest.fixture
def si(vcenter: VcenterProcess) -> Iterator[Any]:
    """The administrator's ServiceInstance."""
    with vcenter.client() as client:
        yield client


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The SQLAlchemy URL of a database in a PostgreSQL cluster of our own."""
    owner = pwd.getpwnam("postgres")
    # Short, for its UNIX socket, and outside of pytest's directory, which only its owner can enter.
    directory = Path(tempfile.mkdtemp(prefix="lbpg", dir="/tmp"))
    os.chown(directory, owner.pw_uid, owner.pw_gid)
    as_owner: dict[str, Any] = {"cwd": directory, "check": True, "stdout": subprocess.DEVNULL}
    if os.geteuid() == 0:
        as_owner.update(user=owner.pw_uid, group=owner.pw_gid, extra_groups=[])
    subprocess.run([_POSTGRESQL / "initdb", "-D", "data", "-U", "landbridge", "-A", "trust", "-N"], **as_owner)
    options = f"-c listen_addresses='' -c unix_socket_directories={directory}"
    control: list[str | Path] = [_POSTGRESQL / "pg_ctl", "-D", "data", "-l", directory / "log", "-w", "-t", "60"]
    subprocess.run([*control, "-o", options, "start"], **as_owner)
    try:
        yield f"postgresql+psycopg://landbridge@/postgres?host={directory}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **as_owner)
        shutil.rmtree(directory)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, of each kind there is."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/test.db"
        return
    url: str = request.getfixturevalue("postgresql")
    yield url
    _empty(url)


def _empty(url: str) -> None:
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()
