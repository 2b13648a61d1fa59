"""What an administrator does in a fresh vCenter: datacenter, cluster, hosts, switch, port group. Stock pyVmomi only.

Blocking, as pyVmomi is: call it in a thread.
"""

import contextlib
import ssl
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim

from landbridge.lab.topology import Site

if TYPE_CHECKING:
    from landbridge.lab.build import Login

SWITCH = "DSwitch"
PORT_GROUP = "VM Network"
_NUM_PORTS = 128
_NETWORK_TIMEOUT = 60.0  # seconds
_POLL = 0.2


@contextlib.contextmanager
def vsphere(login: "Login") -> Iterator[Any]:
    """A logged-in ServiceInstance."""
    parts = urlsplit(login.url)
    service = SmartConnect(
        host=parts.hostname,
        port=parts.port or 443,
        user=login.user,
        pwd=login.password,
        sslContext=ssl.create_default_context(cafile=str(login.ca)),
    )
    try:
        yield service
    finally:
        Disconnect(service)


def prepare_site(login: "Login", site: Site, vlan: int) -> None:
    """Make the site's inventory; what is there already stays."""
    with vsphere(login) as service:
        root = service.content.rootFolder
        datacenter = child(root, site.datacenter) or root.CreateDatacenter(name=site.datacenter)
        cluster = child(datacenter.hostFolder, site.cluster) or datacenter.hostFolder.CreateClusterEx(
            name=site.cluster, spec=vim.cluster.ConfigSpecEx()
        )
        _add_hosts(cluster, site)
        switch = child(datacenter.networkFolder, SWITCH) or _create_switch(datacenter, cluster)
        # In the private cloud it is a segment of NSX, which makes the port group.
        if not site.has_nsx and not any(group.name == PORT_GROUP for group in switch.portgroup):
            WaitForTask(switch.AddDVPortgroup_Task(spec=[_port_group(vlan)]))


def await_network(login: "Login", site: Site) -> None:
    """Wait until the VM network is there; TimeoutError if it is not in time."""
    deadline = time.monotonic() + _NETWORK_TIMEOUT
    with vsphere(login) as service:
        datacenter = child(service.content.rootFolder, site.datacenter)
        while not any(network.name == PORT_GROUP for network in datacenter.network):
            if time.monotonic() > deadline:
                raise TimeoutError(f"NSX gave {site.datacenter} no network {PORT_GROUP!r} in {_NETWORK_TIMEOUT:.0f} s")
            time.sleep(_POLL)


def child(folder: Any, name: str) -> Any:
    """The folder's child of this name, or None."""
    return next((entity for entity in folder.childEntity if entity.name == name), None)


def _add_hosts(cluster: Any, site: Site) -> None:
    present = {host.name for host in cluster.host}
    tasks = [
        cluster.AddHost_Task(spec=vim.host.ConnectSpec(hostName=node.management, force=True), asConnected=True)
        for node in site.esx
        if not present & {node.management, node.full_name}
    ]
    for task in tasks:
        WaitForTask(task)


def _create_switch(datacenter: Any, cluster: Any) -> Any:
    members = [vim.dvs.HostMember.ConfigSpec(operation="add", host=host) for host in cluster.host]
    config = vim.dvs.VmwareDistributedVirtualSwitch.ConfigSpec(name=SWITCH, host=members)
    task = datacenter.networkFolder.CreateDVS_Task(spec=vim.DistributedVirtualSwitch.CreateSpec(configSpec=config))
    WaitForTask(task)
    return task.info.result


def _port_group(vlan: int) -> Any:
    setting = vim.dvs.VmwareDistributedVirtualSwitch.VmwarePortConfigPolicy(
        vlan=vim.dvs.VmwareDistributedVirtualSwitch.VlanIdSpec(vlanId=vlan, inherited=False)
    )
    return vim.dvs.DistributedVirtualPortgroup.ConfigSpec(
        name=PORT_GROUP, type="earlyBinding", numPorts=_NUM_PORTS, defaultPortConfig=setting
    )
