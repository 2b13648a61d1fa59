"""A real vCenter process for tests, and stock pyVmomi clients of it."""

import contextlib
import itertools
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any, TypeVar

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vmodl

from landbridge.pki import Authority, PeerName

_T = TypeVar("_T")
ADMINISTRATOR = ("administrator@vsphere.local", "Secret-1!")
READER = ("reader@vsphere.local", "Look-only-1")
_START_TIMEOUT = 60.0
_POLL = 0.05


class VcenterProcess:
    """`python -m landbridge.vcenter` with a state of its own in `directory`, on a free port of the loopback."""

    def __init__(self, directory: Path, *, settings: str = "", database_url: str = "") -> None:
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        authority = Authority.create(directory / "ca", "lab")
        self.identity = authority.issue(
            directory / "pki", PeerName("lab", "vcenter", "vcenter.lab"), dns=["vcenter.lab"], addresses=["127.0.0.1"]
        )
        for (_, password), name in ((ADMINISTRATOR, "administrator"), (READER, "reader")):
            (directory / name).write_text(f"{password}\n")
        if database_url:
            (directory / "database").write_text(database_url)
        self.config = directory / "vcenter.toml"
        self.config.write_text(
            f'name = "vcenter.lab"\nsite = "lab"\nstate_dir = "{directory}/state"\nrun_dir = "{directory}/run"\n'
            f'pki_dir = "{directory}/pki"\n{settings}\n'
            f'[listen]\naddress = "127.0.0.1"\nport = {self.port}\n'
            f'[administrator]\nuser = "{ADMINISTRATOR[0]}"\npassword_file = "{directory}/administrator"\n'
            f'[[users]]\nuser = "{READER[0]}"\npassword_file = "{directory}/reader"\nrole = "ReadOnly"\n'
            + (f'[database]\nurl_file = "{directory}/database"\n' if database_url else "")
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "landbridge.vcenter", "--config", str(self.config)], stdout=log, stderr=log
            )
        until(self._answers, f"vCenter answers; its log is {self.log()}", _START_TIMEOUT)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(20)

    def log(self) -> str:
        return (self.directory / "log").read_text()[-4000:]

    @contextlib.contextmanager
    def client(self, user: tuple[str, str] = ADMINISTRATOR) -> Iterator[Any]:
        """A ServiceInstance of stock pyVmomi, logged in over verified TLS."""
        si = self.connect(*user)
        try:
            yield si
        finally:
            with contextlib.suppress(vmodl.MethodFault, OSError):
                Disconnect(si)

    def connect(self, user: str, password: str) -> Any:
        return SmartConnect(host="127.0.0.1", port=self.port, user=user, pwd=password, sslContext=self.tls())

    def http(self) -> HTTPSConnection:
        return HTTPSConnection("127.0.0.1", self.port, context=self.tls(), timeout=30)

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.identity.ca))

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"vCenter ended with {self._process.returncode}: {self.log()}")
        try:
            connection = self.http()
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except OSError:
            return False


def until(condition: Callable[[], _T], what: str, timeout: float = 20.0) -> _T:
    """The first true value of a condition, asked again and again; AssertionError after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout} s in vain until {what}")
        time.sleep(_POLL)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def finish(task: Any) -> Any:
    """Wait for a task; its result, or its error raised."""

    def ended() -> Any:
        info = task.info
        return info if info.state in ("success", "error") else None

    info = until(ended, f"task {task._moId} ends")
    if info.state == "error":
        raise info.error
    return info.result


_numbers = itertools.count(1)


def unique(prefix: str) -> str:
    """A name no other test uses."""

    return f"{prefix}-{os.getpid()}-{next(_numbers)}"


def filter_spec(start: Any, kind: type, paths: list[str], traversal: list[Any] | None = None) -> Any:
    """A FilterSpec for one starting object."""
    collector = vmodl.query.PropertyCollector
    return collector.FilterSpec(
        objectSet=[collector.ObjectSpec(obj=start, selectSet=traversal or [])],
        propSet=[collector.PropertySpec(type=kind, pathSet=paths)],
    )


def view_spec(view: Any, kind: type, paths: list[str]) -> Any:
    """A FilterSpec for the objects of a view."""
    collector = vmodl.query.PropertyCollector
    through = collector.TraversalSpec(name="view", path="view", skip=False, type=type(view))
    spec = filter_spec(view, kind, paths, [through])
    spec.objectSet[0].skip = True
    return spec


def new_datacenter(si: Any) -> Any:
    return si.content.rootFolder.CreateDatacenter(unique("dc"))
