"""A PostgreSQL cluster of a test run's own."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PROGRAMS = Path("/usr/lib/postgresql/15/bin")


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """The SQLAlchemy URL of its database; the cluster is gone afterwards."""
    owner = pwd.getpwnam("postgres")
    # Short, for its UNIX socket, and where its owner may enter.
    directory = Path(tempfile.mkdtemp(prefix="lbhpg", dir="/tmp"))
    os.chown(directory, owner.pw_uid, owner.pw_gid)
    run: dict[str, Any] = {"cwd": directory, "check": True, "stdout": subprocess.DEVNULL}
    if os.geteuid() == 0:
        run.update(user=owner.pw_uid, group=owner.pw_gid, extra_groups=[])
    control = [str(_PROGRAMS / "pg_ctl"), "-D", "data", "-l", "log", "-w", "-t", "60"]
    try:
        subprocess.run([_PROGRAMS / "initdb", "-D", "data", "-U", "landbridge", "-A", "trust", "-N"], **run)
        options = f"-c listen_addresses='' -c unix_socket_directories={directory}"
        subprocess.run([*control, "-o", options, "start"], **run)
        try:
            yield f"postgresql://landbridge@/postgres?host={directory}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **run)
    finally:
        shutil.rmtree(directory)
