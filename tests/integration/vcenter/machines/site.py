"""A real vCenter over real host agents, and stock pyVmomi to talk to it."""

import asyncio
import contextlib
import itertools
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl

from landbridge.pki import Authority, PeerName
from tests.integration.esx.hosts import SITE, Place, TestHost, loopback, running_hosts

USER, PASSWORD = "administrator@vsphere.local", "A test password, 42"
_UP = 60.0  # seconds vCenter may take to answer on a busy machine
_TASK = 120.0
_names = itertools.count(1)
MIB = 1 << 20


class Vcenter:
    """One vCenter process: started, killed, started again; `content` is a stock client's."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.address = loopback()
        self.log = directory / "vcenter.log"
        self._config = directory / "vcenter.toml"
        self._process: subprocess.Popen[bytes] | None = None
        self._instance: Any = None
        identity = authority.issue(
            directory / "vcenter-pki",
            PeerName(SITE, "vcenter", "vcenter.onprem"),
            dns=["vcenter.onprem"],
            addresses=[self.address],
        )
        self.ca = identity.ca
        password = directory / "password"
        password.write_text(PASSWORD)
        self._config.write_text(
            f'name = "vcenter.onprem"\nsite = "{SITE}"\nstate_dir = "{directory / "vcenter-state"}"\n'
            f'run_dir = "{directory / "vcenter-run"}"\npki_dir = "{identity.directory}"\n'
            f'[listen]\naddress = "{self.address}"\n'
            f'[administrator]\nuser = "{USER}"\npassword_file = "{password}"\n'
        )

    def start(self) -> None:
        """Start the process and log in."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "landbridge.vcenter", "--config", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        deadline = time.monotonic() + _UP
        while True:
            try:
                self._connect()
            except (OSError, vmodl.MethodFault) as error:
                late = time.monotonic() > deadline
                if late or self._process.poll() is not None:
                    raise AssertionError(f"{error}\n{self.log.read_text()[-3000:]}") from error
                time.sleep(0.1)
            else:
                return

    def _connect(self) -> None:
        context = ssl.create_default_context(cafile=str(self.ca))
        self._instance = SmartConnect(host=self.address, user=USER, pwd=PASSWORD, sslContext=context)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(Exception):
                Disconnect(self._instance)
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    @property
    def content(self) -> Any:
        return self._instance.content

    def ref(self, managed: Any) -> Any:
        """The same object through the connection there is now (it is another after a restart)."""
        return type(managed)(managed._moId, self._instance._stub)


class Site:
    """A vCenter with a datacenter, a cluster of two hosts, and VMs made on the way."""

    def __init__(self, vcenter: Vcenter, hosts: list[TestHost]) -> None:
        self.vcenter = vcenter
        self.agents = hosts
        self.datacenter: Any = None
        self.cluster: Any = None
        self.hosts: list[Any] = []

    def build(self) -> None:
        """A datacenter and a cluster with all the hosts, through the API."""
        root = self.vcenter.content.rootFolder
        self.datacenter = root.CreateDatacenter("DC")
        self.cluster = self.datacenter.hostFolder.CreateClusterEx("Cluster", vim.cluster.ConfigSpecEx())
        for agent in self.agents:
            spec = vim.host.ConnectSpec(hostName=agent.address, force=False)
            self.hosts.append(wait(self.cluster.AddHost_Task(spec, True)))

    def reconnect(self) -> None:
        """Take up all references again after vCenter was started anew."""
        self.datacenter, self.cluster = self.vcenter.ref(self.datacenter), self.vcenter.ref(self.cluster)
        self.hosts = [self.vcenter.ref(host) for host in self.hosts]

    def datastore(self, host: int) -> Any:
        """The datastore of a host."""
        return self.hosts[host].datastore[0]

    def create(self, name: str | None = None, *, host: int = 0, devices: Iterable[Any] = (), **settings: Any) -> Any:
        """A VM of 32 MiB with one 64 MiB disk on pvscsi, or with the given devices."""
        return wait(self.create_task(name, host=host, devices=devices, **settings))

    def create_task(
        self, name: str | None = None, *, host: int = 0, devices: Iterable[Any] = (), **settings: Any
    ) -> Any:
        spec = vim.vm.ConfigSpec(
            name=name or f"vm{next(_names)}",
            memoryMB=32,
            numCPUs=1,
            guestId="otherLinux64Guest",
            files=vim.vm.FileInfo(vmPathName=f"[{self.datastore(host).name}]"),
            deviceChange=list(devices) or [added(scsi()), added(disk(64 * MIB), create=True)],
        )
        for key, value in settings.items():
            setattr(spec, key, value)
        return self.datacenter.vmFolder.CreateVM_Task(spec, self.cluster.resourcePool, self.hosts[host])

    def create_running(self, name: str | None = None, *, host: int = 0) -> Any:
        vm = self.create(name, host=host)
        wait(vm.PowerOnVM_Task())
        return vm


def added(device: Any, *, create: bool = False) -> vim.vm.device.VirtualDeviceSpec:
    return vim.vm.device.VirtualDeviceSpec(operation="add", fileOperation="create" if create else None, device=device)


def scsi(key: int = -1) -> Any:
    return vim.vm.device.ParaVirtualSCSIController(key=key, busNumber=0, sharedBus="noSharing")


def disk(size: int, controller: int = -1, unit: int = 0, path: str = "") -> Any:
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName=path, diskMode="persistent", thinProvisioned=True)
    return vim.vm.device.VirtualDisk(
        key=-100 - unit, controllerKey=controller, unitNumber=unit, capacityInKB=size // 1024, backing=backing
    )


def wait(task: Any, timeout: float = _TASK) -> Any:
    """A task's result; raises its fault."""
    deadline = time.monotonic() + timeout
    while (info := task.info).state in ("running", "queued"):
        assert time.monotonic() < deadline, f"{info.descriptionId} is still at {info.progress}% {info.description}"
        time.sleep(0.02)
    if info.state == "error":
        raise info.error
    return info.result


def until(met: Callable[[], Any], timeout: float = 60.0) -> Any:
    """What `met` answers as soon as it is true."""
    deadline = time.monotonic() + timeout
    while not (value := met()):
        assert time.monotonic() < deadline, "not reached"
        time.sleep(0.05)
    return value


async def eventually(met: Callable[[], Awaitable[Any]], timeout: float = 60.0) -> Any:
    """What the awaited `met` answers as soon as it is true."""
    async with asyncio.timeout(timeout):
        while True:
            if value := await met():
                return value
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running_site(directory: Path, place: Place | None = None) -> AsyncIterator[Site]:
    """A built site of two hosts on loopback addresses, or of one at `place`."""
    names = ("esx01.onprem", "esx02.onprem") if place is None else ("esx01.onprem",)
    async with running_hosts(directory, *names, place=place) as hosts:
        vcenter = Vcenter(directory, Authority.create(directory / "ca", "test site"))
        try:
            vcenter.start()
            site = Site(vcenter, hosts)
            site.build()
            yield site
        finally:
            vcenter.close()


async def add_datastore(agent: TestHost, name: str, path: Path, *, shared: bool = False) -> None:
    """Give a host another datastore; its agent starts anew, its VMs go on."""
    with agent._config.open("a") as config:
        config.write(f'\n[[datastores]]\nname = "{name}"\npath = "{path}"\nshared = {str(shared).lower()}\n')
    await agent.restart()
