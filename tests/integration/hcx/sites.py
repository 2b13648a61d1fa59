"""Two sites on loopback addresses: a real vCenter, HCX manager and interconnect appliance each, as processes."""

import asyncio
import contextlib
import http.client
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pyVim.connect import SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim, vmodl

from landbridge.esx.process import lock_holder
from landbridge.hcx.client import HcxClient, HcxUnreachable
from landbridge.hcx.ix.client import IxClient
from landbridge.pki import Authority, Identity, PeerName
from tests.integration.hcx.mortal import Fate, Mortal, Mortals
from tests.integration.hcx.postgresql import cluster

_START_TIMEOUT = 60.0  # seconds


class Process(Protocol):
    """What is started here."""

    def send_signal(self, number: int, /) -> None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float, /) -> int: ...


@dataclass
class Site:
    """One site's addresses, files and processes. `net` is its first three octets, in 127/8."""

    name: str
    role: str
    net: str
    state: Path
    run: Path
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    session_timeout: float = 600
    # Empty is SQLite.
    database_url: str = ""
    processes: dict[str, Process] = field(default_factory=dict)
    # Who starts managers and vCenters that can be made to die at a point; None: they start as they always do.
    mortals: Mortals | None = None
    _instance: Any = None

    def __post_init__(self) -> None:
        self.vcenter_address = f"{self.net}.2"
        self.hcx_address = f"{self.net}.9"
        self.ix_address = f"{self.net}.70"
        self.ix_vmotion = f"{self.net}.200"
        self.ix_uplink = f"{self.net}.250"
        self.esx_address = f"{self.net}.101"
        self.password_file = self.state / "password"
        self.ca = self.state / "ca" / "ca.pem"

    @property
    def hcx_url(self) -> str:
        return f"https://{self.hcx_address}"

    def prepare(self) -> None:
        """Certificates, password and configuration files."""
        self.state.mkdir(parents=True)
        self.run.mkdir(parents=True)
        self.password_file.write_text(self.password)
        self.password_file.chmod(0o600)
        if self.database_url:
            (self.state / "database").write_text(self.database_url)
        authority = Authority.create(self.state / "ca", f"site {self.name}")
        self._issue(authority, "vcenter", [], [self.vcenter_address])
        self._issue(authority, "hcx", [], [self.hcx_address])
        self._issue(authority, "ix", [f"*.vmotion.ix.{self.name}"], [self.ix_address, self.ix_vmotion])
        self._issue(authority, "esx", [f"*.vmotion.esx.{self.name}"], [self.esx_address])
        self._write_config("esx", self._esx_config())
        self._write_config("vcenter", self._vcenter_config())
        self._write_config("hcx", self._hcx_config())
        self._write_config("ix", self._ix_config())

    def _issue(self, authority: Authority, role: str, dns: list[str], addresses: list[str]) -> None:
        name = f"{role}.{self.name}"
        authority.issue(
            self.state / "pki" / role, PeerName(self.name, role, name), dns=[name, *dns], addresses=addresses
        )

    def identity(self, role: str) -> Identity:
        return Identity(self.state / "pki" / role)

    def _write_config(self, part: str, text: str) -> None:
        run, pki = self.run / part, self.state / "pki" / part
        common = (
            f'name = "{part}.{self.name}"\nsite = "{self.name}"\n'
            f'state_dir = "{self.state / part}"\nrun_dir = "{run}"\npki_dir = "{pki}"\n'
        )
        (self.state / f"{part}.toml").write_text(common + text)

    def _vcenter_config(self) -> str:
        return (
            f'[listen]\naddress = "{self.vcenter_address}"\n'
            f'[administrator]\nuser = "administrator@vsphere.local"\npassword_file = "{self.password_file}"\n'
        )

    def _ix_config(self) -> str:
        return (
            f'[management]\naddress = "{self.ix_address}"\n[vmotion]\naddress = "{self.ix_vmotion}"\n'
            f'[uplink]\naddress = "{self.ix_uplink}"\n'
        )

    def _esx_config(self) -> str:
        return (
            f'[management]\naddress = "{self.esx_address}"\n[vmotion]\naddress = "{self.esx_address}"\n'
            f'[[datastores]]\nname = "datastore1"\npath = "{self.state / "datastore1"}"\n'
        )

    def _hcx_config(self) -> str:
        database = f'[database]\nurl_file = "{self.state / "database"}"\n' if self.database_url else ""
        return (
            f'role = "{self.role}"\nsession_timeout = {self.session_timeout}\n'
            f'[listen]\naddress = "{self.hcx_address}"\n'
            f'[administrator]\nuser = "admin"\npassword_file = "{self.password_file}"\n'
            f'[vcenter]\nurl = "https://{self.vcenter_address}"\nuser = "administrator@vsphere.local"\n'
            f'password_file = "{self.password_file}"\nca_file = "{self.ca}"\n'
            f'[ix]\nname = "ix.{self.name}"\naddress = "{self.ix_address}"\nuplink_address = "{self.ix_uplink}"\n'
            f"{database}"
        )

    def start(self, part: str) -> None:
        config, log_file = self.state / f"{part}.toml", self.state / f"{part}.log"
        if self.mortals is not None and part in ("hcx", "vcenter"):
            fate = self.fate(part).file
            self.processes[part] = self.mortals.start(f"landbridge.{part}", config, log_file, fate)
            return
        module = {"ix": "landbridge.hcx.ix"}.get(part, f"landbridge.{part}")
        log = log_file.open("ab")
        argv = [sys.executable, "-m", module, "--config", str(config)]
        self.processes[part] = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        log.close()

    def kill(self, part: str, number: int = signal.SIGKILL) -> None:
        process = self.processes.pop(part)
        process.send_signal(number)
        process.wait(30)

    def fate(self, part: str) -> Fate:
        """What will happen to the manager (`hcx`) or vCenter, if they are mortal."""
        return Fate(self.state / f"{part}.fate")

    async def dies(self, part: str) -> None:
        """Wait until a part has died as its fate says."""
        process = self.processes[part]
        assert isinstance(process, Mortal)
        await self.fate(part).kills(process)
        del self.processes[part]

    def freeze(self, part: str) -> None:
        """Stop a process where it is: whoever asks it something waits."""
        self.processes[part].send_signal(signal.SIGSTOP)

    def thaw(self, part: str) -> None:
        self.processes[part].send_signal(signal.SIGCONT)

    async def until(self, part: str, address: str) -> None:
        """Wait until a process listens; with its log in the error if it does not."""
        async with asyncio.timeout(_START_TIMEOUT):
            while True:
                try:
                    _, writer = await asyncio.open_connection(address, 443)
                except OSError as error:
                    process = self.processes[part]
                    if process.poll() is not None:
                        log = (self.state / f"{part}.log").read_text()
                        raise AssertionError(f"{part} of {self.name} ended: {log[-3000:]}") from error
                    await asyncio.sleep(0.1)
                else:
                    writer.close()
                    return

    async def again(self, *parts: str) -> None:
        """Start the manager or vCenter, or both, and wait until they listen."""
        for part in parts:
            self.start(part)
        for part in parts:
            await self.until(part, {"hcx": self.hcx_address, "vcenter": self.vcenter_address}[part])

    async def start_all(self) -> None:
        for part in ("vcenter", "ix", "hcx"):
            self.start(part)
        for part, address in (
            ("vcenter", self.vcenter_address),
            ("ix", self.ix_address),
            ("hcx", self.hcx_address),
        ):
            await self.until(part, address)

    def hcx(self) -> HcxClient:
        return HcxClient(self.hcx_url, self.ca)

    def ix(self) -> IxClient:
        return IxClient(self.ix_address, 443, self.identity("hcx"))

    def vsphere(self) -> Any:
        """A stock client's session."""
        return SmartConnect(
            host=self.vcenter_address,
            user="administrator@vsphere.local",
            pwd=self.password,
            sslContext=_trusting(self.ca),
        )

    @contextlib.contextmanager
    def content(self) -> Iterator[Any]:
        """A stock client's view of vCenter; the session is the one there was, if it still is one."""
        instance, self._instance = self._instance, None
        if instance is not None:
            try:
                alive = instance.content.sessionManager.currentSession is not None
            except (OSError, http.client.HTTPException, vmodl.MethodFault):
                alive = False
            instance = instance if alive else None
        instance = instance or self.vsphere()
        yield instance.content
        self._instance = instance

    def hosts(self) -> list[str]:
        """Names of the hosts vCenter has."""
        with self.content() as content:
            return [host.name for host in every(content, vim.HostSystem)]

    def create_datacenter(self) -> None:
        with self.content() as content:
            content.rootFolder.CreateDatacenter("dc")

    def add_host(self) -> None:
        """A cluster with the site's host."""
        with self.content() as content:
            datacenter = content.rootFolder.childEntity[0]
            cluster = datacenter.hostFolder.CreateClusterEx("cluster", vim.cluster.ConfigSpecEx())
            finished(cluster.AddHost_Task(vim.host.ConnectSpec(hostName=self.esx_address, force=True), True))

    def create_vm(
        self,
        name: str,
        *,
        on: bool,
        disk: int = 64 << 20,
        data: int = 0,
        prepare: Callable[[Path], None] = lambda _: None,
    ) -> str:
        """A VM of 32 MiB with one disk that holds `data` bytes, running its firmware or off; its moRef.

        `prepare` may write to the disk before.
        """
        with self.content() as content:
            datacenter = content.rootFolder.childEntity[0]
            cluster = every(content, vim.ClusterComputeResource)[0]
            spec = vim.vm.ConfigSpec(
                name=name,
                memoryMB=32,
                numCPUs=1,
                guestId="otherLinux64Guest",
                files=vim.vm.FileInfo(vmPathName="[datastore1]"),
                deviceChange=_devices(disk),
            )
            vm = finished(datacenter.vmFolder.CreateVM_Task(spec, cluster.resourcePool, None))
            if data:
                command = ["qemu-io", "-f", "qcow2", "-c", f"write -P 0x5a 0 {data}", str(self.disk(name))]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            prepare(self.disk(name))
            if on:
                finished(vm.PowerOnVM_Task())
            return str(vm._moId)

    def vms(self) -> dict[str, tuple[str, str]]:
        """By name: power state and the host it is on."""
        with self.content() as content:
            return {vm.name: (vm.runtime.powerState, vm.runtime.host.name) for vm in every(content, vim.VirtualMachine)}

    def power_off(self, name: str) -> None:
        with self.content() as content:
            [machine] = [vm for vm in every(content, vim.VirtualMachine) if vm.name == name]
            finished(machine.PowerOffVM_Task())

    def destroy_vms(self) -> None:
        """Power off and delete every VM."""
        with self.content() as content:
            for vm in every(content, vim.VirtualMachine):
                if vm.runtime.powerState == "poweredOn":
                    finished(vm.PowerOffVM_Task())
                finished(vm.Destroy_Task())

    def qemus(self) -> set[int]:
        """The site's running VMs, as the kernel says."""
        pids = {lock_holder(file) for file in (self.run / "esx").glob("*/pid")}
        return {pid for pid in pids if pid is not None}

    def disk(self, name: str) -> Path:
        return self.state / "datastore1" / name / f"{name}.vmdk"

    def stop(self) -> None:
        for part in list(self.processes):
            self.kill(part)
        for pid in self.qemus():
            os.kill(pid, signal.SIGKILL)
        _end_haproxy(self.run)


def every(content: Any, kind: Any) -> list[Any]:
    """All objects of a kind."""
    view = content.viewManager.CreateContainerView(content.rootFolder, [kind], True)
    return list(view.view)


def finished(task: Any) -> Any:
    """A task's result; its fault is raised."""
    WaitForTask(task)
    return task.info.result


def _devices(disk: int) -> list[Any]:
    controller = vim.vm.device.ParaVirtualSCSIController(key=1000, busNumber=0, sharedBus="noSharing")
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName="", diskMode="persistent", thinProvisioned=True)
    drive = vim.vm.device.VirtualDisk(
        key=2000, controllerKey=1000, unitNumber=0, capacityInKB=disk >> 10, backing=backing
    )
    change = vim.vm.device.VirtualDeviceSpec
    return [
        change(operation="add", device=controller),
        change(operation="add", fileOperation="create", device=drive),
    ]


def _trusting(ca: Path) -> Any:
    return ssl.create_default_context(cafile=str(ca))


def _end_haproxy(run: Path) -> None:
    """End the relays, which outlive who started them: processes whose command line names our directory."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                argv = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if argv[0] == b"haproxy" and any(argument.startswith(os.fsencode(run)) for argument in argv):
                os.kill(int(entry.name), signal.SIGTERM)


class Pair:
    """Both sites."""

    def __init__(self) -> None:
        self._engines = contextlib.ExitStack()
        self.base = Path(tempfile.mkdtemp(prefix="lbh", dir="/tmp"))
        # Below those of `tests.integration.esx.hosts`; two workers of one run never have the same third number.
        second = 20 + os.getpid() % 100
        third = 2 * secrets.randbelow(60) + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 2
        self.onprem = Site("onprem", "connector", f"127.{second}.{2 * third}", self.base / "on", self.base / "r" / "on")
        self.cloud = Site("cloud", "cloud", f"127.{second}.{2 * third + 1}", self.base / "cl", self.base / "r" / "cl")

    async def start(self) -> None:
        # The connector on PostgreSQL, the cloud manager on SQLite: every test tries both.
        self.onprem.database_url = await asyncio.to_thread(self._engines.enter_context, cluster())
        for site in (self.onprem, self.cloud):
            site.prepare()
        await asyncio.gather(self.onprem.start_all(), self.cloud.start_all())
        for site in (self.onprem, self.cloud):
            await asyncio.to_thread(site.create_datacenter)

    def site(self, name: str) -> Site:
        return {site.name: site for site in (self.onprem, self.cloud)}[name]

    async def logged_in(self) -> HcxClient:
        """A client of the connector."""
        client = self.onprem.hcx()
        await client.login("admin", self.onprem.password)
        return client

    async def connector_back(self) -> HcxClient:
        """Log in at a connector that was just started; it listens when it is ready."""
        await self.onprem.until("hcx", self.onprem.hcx_address)
        try:
            return await self.logged_in()
        except HcxUnreachable as error:
            raise AssertionError("the connector listens but does not answer") from error

    def stop(self) -> None:
        for site in (self.onprem, self.cloud):
            site.stop()
        self._engines.close()
        shutil.rmtree(self.base, ignore_errors=True)
