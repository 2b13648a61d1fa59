"""A VM with the lab's guest, made as any tool makes one: through vCenter's API and its datastore file access.

Functions on a ServiceInstance block, as pyVmomi does; `GuestVm`'s methods run them in threads.
"""

import asyncio
import json
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from pyVim.task import WaitForTask
from pyVmomi import vim

from landbridge.fleet.machine import MachineError
from landbridge.lab.build import Lab, LabError
from landbridge.lab.configuration import datastore_name
from landbridge.lab.image import DISK_BYTES, GuestSettings, base_image, guest_disk
from landbridge.lab.inventory import PORT_GROUP, vsphere
from landbridge.lab.probe import Findings, findings_from

_UPLOAD_TIMEOUT = 600.0  # seconds
_READY_TIMEOUT = 180.0  # a boot takes 8 s under software emulation, minutes when the machine is busy
_ASK_TIMEOUT = 240.0
_READY_POLL = 0.5
_CHUNK = 1 << 20


@dataclass(frozen=True)
class GuestVm:
    """The lab's VM `name`: how to make it, find it, and talk to the guest in it from the lab's client."""

    lab: Lab
    name: str = "demo"
    number: int = 1  # decides its address on the VM network
    memory_mib: int = 256
    # On another network than the lab's own: its name, the guest's address there with its prefix length, its gateway,
    # and the machine that asks and probes it.
    network: str = PORT_GROUP
    interface: str = ""
    gateway: str = ""
    client: tuple[str, ...] = ("client",)

    @property
    def address(self) -> str:
        return self._interface.partition("/")[0]

    @property
    def _interface(self) -> str:
        return self.interface or str(self.lab.topology.vm_address(self.number))

    # -- through vCenter ------------------------------------------------------------------------------------------

    async def create(self, site: str = "onprem", *, settings: GuestSettings | None = None, data_mib: int = 200) -> None:
        """Make the VM with the lab's guest, powered off, on the site's first host.

        A name that is taken is vCenter's DuplicateName.
        """
        base = await asyncio.to_thread(base_image, data_mib)
        told = replace(settings or GuestSettings(), hostname=self.name, address=self._interface, gateway=self.gateway)
        with tempfile.TemporaryDirectory(dir=self.lab.topology.state_dir, prefix="guest-") as work:
            disk = Path(work) / "disk.qcow2"
            await asyncio.to_thread(guest_disk, base, disk, told)
            await self.create_from(disk, DISK_BYTES, site)

    async def create_from(self, disk: Path, capacity: int, site: str = "onprem") -> None:
        """Make the VM around a disk of `capacity` bytes, a qcow2 file that is uploaded through vCenter."""
        await asyncio.to_thread(self._in_vcenter, site, self._create)
        try:
            await self._upload_disk(site, disk)
            await asyncio.to_thread(self._in_vcenter, site, partial(self._attach_disk, capacity))
        except BaseException:
            await self.destroy()
            raise

    async def power_on(self, site: str = "onprem") -> None:
        await asyncio.to_thread(self._in_vcenter, site, lambda _site, vm: WaitForTask(vm(self.name).PowerOnVM_Task()))

    async def destroy(self) -> None:
        """Power the VM off and delete it, wherever it is; nothing to do if it is nowhere."""

        def work(_site: str, vm: Callable[[str], Any]) -> None:
            found = vm(self.name)
            if found is None:
                return
            if found.runtime.powerState != vim.VirtualMachine.PowerState.poweredOff:
                WaitForTask(found.PowerOffVM_Task())
            WaitForTask(found.Destroy_Task())

        for site in self.lab.topology.sites:
            await asyncio.to_thread(self._in_vcenter, site.name, work)

    async def where(self) -> dict[str, str]:
        """Sites that have the VM, with its power state there."""
        found: dict[str, str] = {}

        def work(site: str, vm: Callable[[str], Any]) -> None:
            there = vm(self.name)
            if there is not None:
                found[site] = str(there.runtime.powerState)

        for site in self.lab.topology.sites:
            await asyncio.to_thread(self._in_vcenter, site.name, work)
        return found

    async def reference(self, site: str) -> str:
        """The VM's moRef in the site's vCenter, as HCX wants it."""

        def work(site: str, vm: Callable[[str], Any]) -> str:
            found = vm(self.name)
            if found is None:
                raise LabError(f"vCenter of {site} has no VM {self.name!r}")
            return str(found._GetMoId())

        return str(await asyncio.to_thread(self._in_vcenter, site, work))

    def _in_vcenter(self, site: str, work: Callable[[str, Callable[[str], Any]], Any]) -> Any:
        """Run `work(site, find)`, where `find` gives the VM of a name in the site's vCenter, or None."""
        with vsphere(self.lab.login(site, "vcenter")) as service:
            return work(site, lambda name: _find(service, name))

    def _create(self, site: str, find: Callable[[str], Any]) -> None:
        del find
        there = self.lab.site(site)
        with vsphere(self.lab.login(site, "vcenter")) as service:
            datacenter = _named(service.content.rootFolder.childEntity, there.datacenter)
            cluster = _named(datacenter.hostFolder.childEntity, there.cluster)
            datastore = datastore_name(there.esx[0])
            host = next(host for host in cluster.host if any(store.name == datastore for store in host.datastore))
            network = _named(cluster.network, self.network)
            specification = _specification(self, datastore, network)
            WaitForTask(datacenter.vmFolder.CreateVM_Task(config=specification, pool=cluster.resourcePool, host=host))

    def _attach_disk(self, capacity: int, _site: str, find: Callable[[str], Any]) -> None:
        vm = find(self.name)
        controller = next(d for d in vm.config.hardware.device if isinstance(d, vim.vm.device.VirtualSCSIController))
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName=self._disk_path(vm.config.files.vmPathName), diskMode="persistent", thinProvisioned=True
        )
        disk = vim.vm.device.VirtualDisk(
            key=-1, controllerKey=controller.key, unitNumber=0, backing=backing, capacityInKB=capacity // 1024
        )
        change = vim.vm.device.VirtualDeviceSpec(operation="add", device=disk)
        WaitForTask(vm.ReconfigVM_Task(spec=vim.vm.ConfigSpec(deviceChange=[change])))

    def _disk_path(self, vmx: str) -> str:
        """The disk beside the VMX file: `[datastore1] demo/demo.vmdk`."""
        return f"{vmx.rpartition('/')[0]}/{self.name}.vmdk"

    async def _upload_disk(self, site: str, disk: Path) -> None:
        def vmx(_site: str, find: Callable[[str], Any]) -> str:
            return str(find(self.name).config.files.vmPathName)

        path = self._disk_path(await asyncio.to_thread(self._in_vcenter, site, vmx))
        datastore, _, inside = path.removeprefix("[").partition("] ")
        await self._put(site, datastore, inside, disk)

    async def _put(self, site: str, datastore: str, inside: str, content: Path) -> None:
        login = self.lab.login(site, "vcenter")
        tls = ssl.create_default_context(cafile=str(login.ca))
        where = {"dcPath": self.lab.site(site).datacenter, "dsName": datastore}
        headers = {"Authorization": aiohttp.encode_basic_auth(login.user, login.password)}
        patience = aiohttp.ClientTimeout(total=_UPLOAD_TIMEOUT)
        async with aiohttp.ClientSession(headers=headers, timeout=patience) as http:
            async with http.put(
                f"{login.url}/folder/{inside}", params=where, data=_chunks(content), ssl=tls
            ) as response:
                if response.status >= 400:
                    raise LabError(f"vCenter did not take {inside}: {response.status} {await response.text()}")

    # -- from the client on the VM network ------------------------------------------------------------------------

    async def wait_ready(self) -> None:
        """Wait until the guest answers on the network."""
        deadline = time.monotonic() + _READY_TIMEOUT
        while True:
            try:
                await self.ask("status", timeout=20)
            except MachineError as error:
                if time.monotonic() > deadline:
                    raise LabError(f"the guest of {self.name} did not answer in {_READY_TIMEOUT:.0f} s") from error
                await asyncio.sleep(_READY_POLL)
            else:
                return

    async def ask(self, command: str, *, timeout: float = _ASK_TIMEOUT) -> dict[str, Any]:
        """`status`, `checksum` or `verify`, answered inside the guest."""
        client = self.lab.network.machine(*self.client)
        answer = await client.execute(*_PROBE, "ask", self.address, command, timeout=timeout)
        values: dict[str, Any] = json.loads(answer)
        if "error" in values:
            raise LabError(f"the guest of {self.name} answered {command} with: {values['error']}")
        return values

    async def expected_checksum(self) -> str:
        """What `checksum` must answer: the data is what the image was built with."""
        status = await self.ask("status")
        return (await asyncio.to_thread(base_image, int(status["data_mib"]))).checksum

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[list[Findings]]:
        """Probe the guest for as long as the context lasts; then the list has what was seen, one entry."""
        process = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", self.lab.network.machine(*self.client).name, *_PROBE, "watch", self.address),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        found: list[Findings] = []
        try:
            async with asyncio.timeout(60):
                if await process.stdout.readline() != b"ready\n":
                    raise LabError(f"no probe of {self.name}: {(await process.stderr.read()).decode()}")
            yield found
            process.stdin.close()
            async with asyncio.timeout(30):
                found.append(findings_from(json.loads(await process.stdout.read())))
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


_PROBE = (sys.executable, "-m", "landbridge.lab.probe")


def _find(service: Any, name: str) -> Any:
    view = service.content.viewManager.CreateContainerView(
        service.content.rootFolder, [vim.VirtualMachine], recursive=True
    )
    try:
        return _named(view.view, name)
    finally:
        view.Destroy()


def _named(entities: Any, name: str) -> Any:
    return next((entity for entity in entities if entity.name == name), None)


def _specification(guest: GuestVm, datastore: str, network: Any) -> Any:
    """A VM as the New Virtual Machine wizard makes it: pvscsi, vmxnet3 on the port group, a serial port to a file."""
    device = vim.vm.device
    connection = vim.dvs.PortConnection(
        portgroupKey=network.key, switchUuid=network.config.distributedVirtualSwitch.uuid
    )
    connected = device.VirtualDevice.ConnectInfo(startConnected=True, allowGuestControl=True, connected=True)
    devices = [
        device.ParaVirtualSCSIController(key=-101, busNumber=0, sharedBus="noSharing"),
        device.VirtualVmxnet3(
            key=-102,
            backing=device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(port=connection),
            addressType="generated",
            connectable=connected,
        ),
        # The guest's console: serial.log beside the VMX file has its last words.
        device.VirtualSerialPort(
            key=-103,
            backing=device.VirtualSerialPort.FileBackingInfo(fileName=f"[{datastore}]"),
            yieldOnPoll=True,
        ),
    ]
    return vim.vm.ConfigSpec(
        name=guest.name,
        guestId="debian12_64Guest",
        numCPUs=1,
        memoryMB=guest.memory_mib,
        files=vim.vm.FileInfo(vmPathName=f"[{datastore}]"),
        deviceChange=[device.VirtualDeviceSpec(operation="add", device=item) for item in devices],
    )


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk
