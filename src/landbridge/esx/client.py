"""The way to call a host agent: one method per route of its API, typed, over mutual TLS.

    async with HostClient("10.10.1.11", 443, identity) as host:
        state = await host.create_vm(CreateVm(config=config, datastore="datastore1"))
        await host.power(state.config.instance_uuid, PowerOperation.ON)

Errors the agent answers are `HostError` (its `type` is the vSphere fault's name); an agent that can not be reached is
`HostUnreachable`. Every call has a timeout; those that wait for a change (`events`, `job`, `vmotion`) add the wait.
"""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import TypeAdapter

from landbridge.esx.model import (
    ApiError,
    CloneVm,
    CreateSnapshot,
    CreateVm,
    Datastore,
    DatastoreFile,
    Events,
    HostInfo,
    HostStats,
    IncomingVm,
    Job,
    Model,
    OutgoingVm,
    OverlayConfig,
    OverlayStatus,
    PortGroup,
    PortState,
    Power,
    PowerOperation,
    ReconfigureVm,
    RegisterVm,
    RelocateStorage,
    Snapshot,
    Vmotion,
    VmState,
)
from landbridge.pki import Identity

_T = TypeVar("_T")
_CALL_TIMEOUT = 60.0  # seconds; a power-on under software emulation on a loaded machine takes several
_CHUNK = 1 << 20


class HostError(Exception):
    """The agent refused or failed: `type` is the vSphere fault's name, `message` is for people."""

    def __init__(self, error: ApiError, status: int = 500) -> None:
        super().__init__(error.message)
        self.type = error.type
        self.message = error.message
        self.details = error.details
        self.status = status


class HostUnreachable(Exception):  # noqa: N818 - a state of the world more than an error of a call
    """No agent answered at the address, or who answered was not one we trust."""


class HostClient:
    """Calls to one host agent. One connection pool; use it as an async context manager or `close` it."""

    def __init__(self, address: str, port: int, identity: Identity) -> None:
        self._base = f"https://{address}:{port}/v1"
        self._tls: ssl.SSLContext = identity.client_context()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "HostClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # -- the host ---------------------------------------------------------------------------------------

    async def host(self) -> HostInfo:
        return await self._call("GET", "/host", HostInfo)

    async def host_stats(self) -> HostStats:
        return await self._call("GET", "/host/stats", HostStats)

    async def set_maintenance(self, maintenance: bool) -> HostInfo:
        """Enter or leave maintenance mode. `InvalidState` while VMs run here: move them away first."""
        return await self._call("PUT", "/host/maintenance", HostInfo, {"maintenance": maintenance})

    async def events(self, since: int, wait: float) -> Events:
        """Events after `since`, as soon as there is one, or none after `wait` seconds."""
        return await self._call("GET", f"/events?since={since}&wait={wait}", Events, extra_time=wait)

    # -- datastores and networks --------------------------------------------------------------------------

    async def datastores(self) -> list[Datastore]:
        return await self._call("GET", "/datastores", list[Datastore])

    async def list_files(self, datastore: str, directory: str = "") -> list[DatastoreFile]:
        return await self._call("GET", f"/datastores/{quote(datastore)}/list/{quote(directory)}", list[DatastoreFile])

    async def make_directory(self, datastore: str, directory: str) -> None:
        await self._call("PUT", f"/datastores/{quote(datastore)}/directories/{quote(directory)}", None)

    async def delete_file(self, datastore: str, path: str) -> None:
        """Delete a file, or a directory with all that is in it; refused while a VM uses it."""
        await self._call("DELETE", f"/datastores/{quote(datastore)}/files/{quote(path)}", None)

    async def upload(self, datastore: str, path: str, content: AsyncIterator[bytes] | Path) -> None:
        """Write a file; it appears complete or not at all. A sparse source may be sent as qcow2."""
        body: object = content
        if isinstance(content, Path):
            body = _chunks(content)
        await self._call("PUT", f"/datastores/{quote(datastore)}/files/{quote(path)}", None, body, extra_time=3600)

    async def download(self, datastore: str, path: str) -> AsyncIterator[bytes]:
        async with self._open().get(
            f"{self._base}/datastores/{quote(datastore)}/files/{quote(path)}",
            timeout=aiohttp.ClientTimeout(total=None, sock_read=_CALL_TIMEOUT),
        ) as response:
            await _raise_for(response)
            async for chunk in response.content.iter_chunked(_CHUNK):
                yield chunk

    async def port_groups(self) -> list[PortGroup]:
        return await self._call("GET", "/portgroups", list[PortGroup])

    async def set_port_groups(self, groups: list[PortGroup]) -> None:
        """Make the host's switch have exactly these port groups; `ResourceInUse` if a VM uses one to go."""
        await self._call("PUT", "/portgroups", None, [group.model_dump(mode="json") for group in groups])

    # -- the overlay ----------------------------------------------------------------------------------------

    async def overlay(self) -> OverlayStatus:
        """The host's part in the overlay: whether it is a transport node, connected, and its tunnels."""
        return await self._call("GET", "/overlay", OverlayStatus)

    async def configure_overlay(self, config: OverlayConfig) -> OverlayStatus:
        """Make the host a chassis. `NotSupported` where it is no transport node."""
        return await self._call("PUT", "/overlay", OverlayStatus, config)

    async def remove_overlay(self) -> None:
        """Make the host leave its OVN; VIFs' ports stay, without connection."""
        await self._call("DELETE", "/overlay", None)

    async def overlay_ports(self) -> list[PortState]:
        return await self._call("GET", "/overlay/ports", list[PortState])

    # -- virtual machines ---------------------------------------------------------------------------------

    async def vms(self) -> list[VmState]:
        return await self._call("GET", "/vms", list[VmState])

    async def vm(self, vm: str) -> VmState:
        return await self._call("GET", f"/vms/{vm}", VmState)

    async def create_vm(self, request: CreateVm) -> VmState:
        return await self._call("POST", "/vms", VmState, request, extra_time=540)

    async def register_vm(self, vmx: str) -> VmState:
        return await self._call("POST", "/vms/register", VmState, RegisterVm(vmx=vmx))

    async def unregister_vm(self, vm: str) -> None:
        """Forget a powered-off VM; its files stay."""
        await self._call("POST", f"/vms/{vm}/unregister", None)

    async def destroy_vm(self, vm: str) -> None:
        """Delete a powered-off VM with its files."""
        await self._call("DELETE", f"/vms/{vm}", None)

    async def reconfigure_vm(self, vm: str, request: ReconfigureVm) -> VmState:
        return await self._call("PUT", f"/vms/{vm}/config", VmState, request)

    async def power(self, vm: str, operation: PowerOperation) -> VmState:
        """Answered when the VM is in its new state (for guest operations: when the guest was asked)."""
        return await self._call("POST", f"/vms/{vm}/power", VmState, Power(operation=operation), extra_time=240)

    async def create_snapshot(self, vm: str, request: CreateSnapshot) -> Snapshot:
        return await self._call("POST", f"/vms/{vm}/snapshots", Snapshot, request, extra_time=540)

    async def rename_snapshot(self, vm: str, snapshot: int, name: str, description: str) -> None:
        await self._call("PUT", f"/vms/{vm}/snapshots/{snapshot}", None, {"name": name, "description": description})

    async def revert_snapshot(self, vm: str, snapshot: int) -> VmState:
        return await self._call("POST", f"/vms/{vm}/snapshots/{snapshot}/revert", VmState, extra_time=240)

    async def remove_snapshot(self, vm: str, snapshot: int, children: bool = False) -> Job:
        """Remove a snapshot, its changes consolidated into its children, while the VM runs."""
        return await self._call("DELETE", f"/vms/{vm}/snapshots/{snapshot}?children={int(children)}", Job)

    async def remove_all_snapshots(self, vm: str) -> Job:
        return await self._call("DELETE", f"/vms/{vm}/snapshots", Job)

    async def clone_vm(self, vm: str, request: CloneVm) -> Job:
        return await self._call("POST", f"/vms/{vm}/clone", Job, request)

    async def relocate_storage(self, vm: str, request: RelocateStorage) -> Job:
        return await self._call("POST", f"/vms/{vm}/relocate", Job, request)

    # -- long operations ------------------------------------------------------------------------------------

    async def job(self, job: str, seen: int = -1, wait: float = 0) -> Job:
        """A job's state; with `wait`, as soon as its `seq` is beyond `seen`."""
        return await self._call("GET", f"/jobs/{job}?seen={seen}&wait={wait}", Job, extra_time=wait)

    async def cancel_job(self, job: str) -> Job:
        return await self._call("DELETE", f"/jobs/{job}", Job)

    async def prepare_incoming(self, request: IncomingVm) -> Vmotion:
        """Make the host ready to receive; the answer's `endpoints` are for the source."""
        return await self._call("POST", "/vmotion/incoming", Vmotion, request)

    async def start_outgoing(self, request: OutgoingVm) -> Vmotion:
        return await self._call("POST", "/vmotion/outgoing", Vmotion, request)

    async def vmotions(self) -> list[Vmotion]:
        return await self._call("GET", "/vmotion", list[Vmotion])

    async def vmotion(self, vmotion: str, seen: int = -1, wait: float = 0) -> Vmotion:
        """A move's state; with `wait`, as soon as its `seq` is beyond `seen`."""
        return await self._call("GET", f"/vmotion/{vmotion}?seen={seen}&wait={wait}", Vmotion, extra_time=wait)

    async def abort_vmotion(self, vmotion: str) -> Vmotion:
        """Give a move up. At the source: until the switchover. At the target: until the VM runs here; the answer
        says what became of it (`FAILED`: it is certain that nothing runs here and nothing is left)."""
        return await self._call("DELETE", f"/vmotion/{vmotion}", Vmotion)

    async def part_vmotion(self, vmotion: str) -> None:
        """Tell a host that nobody will ask any more about a move that ended: its streams close, the answer to how it
        ended stays for a day. `InvalidState` before its end there. The source first: a target may be told only once
        the source knows the end, for one in doubt learns it from the target alone."""
        await self._call("POST", f"/vmotion/{vmotion}/part", None)

    async def open_vmotion_ports(self, vmotion: str) -> Vmotion:
        """At the target: OVN may know that the VM's VIFs are here too, for both hosts are requested for them."""
        return await self._call("POST", f"/vmotion/{vmotion}/ports", Vmotion)

    # -- transport ------------------------------------------------------------------------------------------

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # trust_env off: proxies and certificate bundles of the environment are not for this traffic.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, limit=0), trust_env=False
            )
        return self._session

    async def _call(
        self, method: str, path: str, shape: type[_T] | None, body: Any = None, *, extra_time: float = 0
    ) -> _T:
        arguments: dict[str, Any] = {}
        if isinstance(body, Model):
            arguments["data"] = body.model_dump_json()
            arguments["headers"] = {"Content-Type": "application/json"}
        elif isinstance(body, dict | list):
            arguments["json"] = body
        elif body is not None:
            arguments["data"] = body
        timeout = aiohttp.ClientTimeout(total=_CALL_TIMEOUT + extra_time, sock_connect=10)
        try:
            async with self._open().request(method, self._base + path, timeout=timeout, **arguments) as response:
                await _raise_for(response)
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise HostUnreachable(f"host agent at {self._base}: {reason}") from error
        if shape is None:
            return None  # type: ignore[return-value]  # callers that pass None expect nothing
        return TypeAdapter(shape).validate_json(content)


async def _raise_for(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    content = await response.read()
    try:
        error = ApiError.model_validate_json(content)
    except ValueError:
        error = ApiError(type="SystemError", message=f"HTTP {response.status} {response.reason}")
    raise HostError(error, response.status)


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
