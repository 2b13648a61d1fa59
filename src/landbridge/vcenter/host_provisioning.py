"""Hosts and clusters come into the inventory: AddHost_Task, AddStandaloneHost_Task, CreateClusterEx."""

import asyncio
import hashlib
import ssl
from typing import Any

from pyVmomi import vim, vmodl

from landbridge.esx.client import HostClient
from landbridge.esx.model import HostInfo
from landbridge.pki import PeerName, TrustError, peer_name
from landbridge.vcenter.calls import Call
from landbridge.vcenter.host_faults import agent_faults
from landbridge.vcenter.objects.compute_resource import (
    ClusterComputeResource,
    ComputeResource,
    refuse_unserved_cluster,
)
from landbridge.vcenter.objects.host_system import MOBILITY_AGENT, HostSystem
from landbridge.vcenter.tasks import TaskHandle

_PORT = 443
_TIMEOUT = 15.0  # seconds to reach a host that is to be added
_ROLES = ("esx", MOBILITY_AGENT)


async def create_cluster(call: Call, folder: Any, name: str, spec: Any) -> Any:
    """`Folder.CreateClusterEx`: a cluster without hosts."""
    refuse_unserved_cluster(spec)
    cluster = await ClusterComputeResource.made(call.inventory, folder, name)
    call.inventory.events.post(
        vim.event.ClusterCreatedEvent,
        compute_resource=cluster,
        user=call.user,
        message=f"Created cluster {name}",
        parent=vim.event.FolderEventArgument(folder=folder.ref, name=folder.name),
    )
    return cluster


async def add_standalone_host(
    call: Call, folder: Any, spec: Any, comp_res_spec: Any, add_connected: bool, license_: str | None
) -> vim.Task:
    """`Folder.AddStandaloneHost_Task`: a host in a compute resource of its own; the result is that."""
    refuse_unserved_cluster(comp_res_spec)

    async def work(_: TaskHandle) -> Any:
        host = await _add(call, spec, add_connected, folder, None)
        return call.inventory.get(host.facts["parent"]).ref

    return await call.inventory.tasks.start(call, folder, "Folder.addStandaloneHost", work)


async def add_host(call: Call, cluster: Any, spec: vim.host.ConnectSpec, *, connect: bool) -> vim.Task:
    """`ClusterComputeResource.AddHost_Task`: a host into a cluster; the result is the host."""

    async def work(_: TaskHandle) -> Any:
        return (await _add(call, spec, connect, None, cluster)).ref

    return await call.inventory.tasks.start(call, cluster, "ClusterComputeResource.addHost", work)


async def _add(call: Call, spec: vim.host.ConnectSpec, connect: bool, folder: Any, cluster: Any) -> HostSystem:
    inventory = call.inventory
    name, address, port = _address(spec)
    for other in inventory.all(vim.HostSystem):
        if (other.facts["address"], other.facts["port"]) == (address, port):
            raise vim.fault.AlreadyConnected(
                name=other.name, msg=f"{name} is in the inventory already, as {other.name}."
            )
    who, thumbprint = await _identity(inventory, name, address, port)
    _verify(inventory, spec, who, thumbprint, name)
    async with HostClient(address, port, inventory.identity) as client:
        with agent_faults():
            info = await client.host()
    _refuse_known(inventory, info)
    parent = cluster
    if parent is None:
        _refuse_duplicate(folder, name)
        parent = await ComputeResource.made(inventory, folder, name)
    facts = {
        "name": name,
        "parent": parent.moid,
        "address": address,
        "port": port,
        "thumbprint": thumbprint,
        "role": who.role,
        "info": info.model_dump(mode="json"),
        "connect": connect,
    }
    host = HostSystem(inventory, inventory.new_moid(HostSystem.prefix), facts)
    await inventory.add(host)
    inventory.events.post(vim.event.HostAddedEvent, host=host, user=call.user, message=f"Added host {name}")
    if connect:
        connection = inventory.hosts.open(host)
        try:
            await asyncio.wait_for(connection.listed.wait(), _TIMEOUT)
        except TimeoutError:
            # It answered a moment ago; the connection goes on trying, and the host shows it.
            host.connection_changed("notResponding")
    return host


def _address(spec: vim.host.ConnectSpec) -> tuple[str, str, int]:
    """Name, address and port of `hostName`: `10.0.1.11`, `esx01.onprem`, `[fd00::1]`, each with `:port` or without."""
    given = (spec.hostName or "").strip()
    if not given:
        raise vmodl.fault.InvalidArgument(invalidProperty="spec.hostName", msg="spec.hostName is empty.")
    address, port = given, spec.port or _PORT
    head, separator, tail = given.rpartition(":")
    if separator and tail.isdigit() and (":" not in head or head.startswith("[")):
        address, port = head, int(tail)
    address = address.strip("[]")
    if not 0 < port < 65536:
        raise vmodl.fault.InvalidArgument(invalidProperty="spec.port", msg=f"{port} is not a port.")
    # The management IP, where one is given, is where a name that this machine can not resolve is reached.
    return (address if port == _PORT else f"{address}:{port}"), spec.managementIp or address, port


async def _identity(inventory: Any, name: str, address: str, port: int) -> tuple[PeerName, str]:
    """Who answers there, and its certificate's SHA-256 thumbprint. NoHost, SSLVerifyFault or HostConnectFault."""
    context = inventory.identity.client_context()
    try:
        async with asyncio.timeout(_TIMEOUT):
            _, writer = await asyncio.open_connection(address, port, ssl=context)
    except ssl.SSLCertVerificationError as error:
        raise vim.fault.SSLVerifyFault(
            selfSigned=error.verify_code == 18,
            thumbprint=await _unverified_thumbprint(address, port),
            msg=f"The certificate of {name} is not one of this site's authority: {error.verify_message}.",
        ) from error
    except ssl.SSLError as error:
        raise vim.fault.HostConnectFault(msg=f"{name} speaks no TLS we know: {error}") from error
    except (OSError, TimeoutError) as error:
        raise vim.fault.NoHost(name=name, msg=f"Cannot contact the host {name}: {error or 'no answer'}") from error
    try:
        tls = writer.get_extra_info("ssl_object")
        return peer_name(tls), _thumbprint(tls.getpeercert(binary_form=True), hashlib.sha256)
    except TrustError as error:
        raise vim.fault.HostConnectFault(msg=f"{name} is not a host: {error}") from error
    finally:
        writer.close()


async def _unverified_thumbprint(address: str, port: int) -> str | None:
    """The thumbprint of a certificate we do not trust, for people to compare; nothing is sent there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(_TIMEOUT):
            _, writer = await asyncio.open_connection(address, port, ssl=context)
    except (OSError, TimeoutError):
        return None
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return _thumbprint(certificate, hashlib.sha256)


def _thumbprint(certificate: bytes, digest: Any) -> str:
    text = digest(certificate).hexdigest().upper()
    return ":".join(text[i : i + 2] for i in range(0, len(text), 2))


def _verify(inventory: Any, spec: vim.host.ConnectSpec, who: PeerName, thumbprint: str, name: str) -> None:
    """The thumbprint the client expects (SHA-256) is the certificate's, and its holder is a host of this site."""
    expected = (spec.sslThumbprint or "").upper()
    if expected and expected != thumbprint:
        raise vim.fault.SSLVerifyFault(
            selfSigned=False,
            thumbprint=thumbprint,
            msg=f"The certificate of {name} has the SHA-256 thumbprint {thumbprint}, not {expected}.",
        )
    if who.site != inventory.config.site or who.role not in _ROLES:
        raise vim.fault.HostConnectFault(
            msg=f"{name} is {who.role} {who.name} of site {who.site}: no host of this site."
        )


def _refuse_known(inventory: Any, info: HostInfo) -> None:
    for other in inventory.all(vim.HostSystem):
        if other.facts["info"]["uuid"] == info.uuid:
            raise vim.fault.AlreadyConnected(
                name=other.name, msg=f"The host is in the inventory already, as {other.name}."
            )


def _refuse_duplicate(folder: Any, name: str) -> None:
    for other in folder.inventory.children(folder):
        if other.name == name:
            raise vim.fault.DuplicateName(name=name, object=other.ref, msg=f"{name} exists already in {folder.name}.")
