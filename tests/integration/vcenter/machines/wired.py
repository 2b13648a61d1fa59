"""A site of one host with a network: a namespace of its own, an Open vSwitch, an uplink."""

import contextlib
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pyVmomi import vim

from tests.integration.esx.hosts import Place, tool

from .site import Site, running_site, wait


@contextlib.asynccontextmanager
async def wired_site(directory: Path, letter: str) -> AsyncIterator[Site]:
    """The site; `letter` tells those of one test run apart."""
    space, number = f"lbt{os.getpid()}{letter}", os.getpid() * 4 + ord(letter) % 4
    outside, inside = (f"198.19.{number >> 6 & 0xFF}.{(number & 0x3F) * 4 + end}" for end in (1, 2))
    for command in (
        f"netns add {space}",
        f"link add {space}m type veth peer name mgmt netns {space}",
        f"addr add {outside}/30 dev {space}m",
        f"link set {space}m up",
        f"-n {space} addr add {inside}/30 dev mgmt",
        f"-n {space} link set mgmt up",
        f"-n {space} link set lo up",
        f"-n {space} link add uplink0 type veth peer name wire0",
        f"-n {space} link set wire0 up",
    ):
        tool("ip", *command.split())
    place = Place(inside, ("ip", "netns", "exec", space), "uplink0")
    try:
        async with running_site(directory, place) as site:
            yield site
    finally:
        # The link by itself: the namespace lives on unseen for as long as a process in it does.
        for command in (f"link delete {space}m", f"netns delete {space}"):
            with contextlib.suppress(subprocess.CalledProcessError):
                tool("ip", *command.split())


def distributed_switch(site: Site) -> Any:
    """A distributed switch with the host as a member."""
    member = vim.dvs.HostMember.ConfigSpec(operation="add", host=site.hosts[0])
    config = vim.dvs.VmwareDistributedVirtualSwitch.ConfigSpec(name="DVS", host=[member])
    return wait(
        site.datacenter.networkFolder.CreateDVS_Task(vim.DistributedVirtualSwitch.CreateSpec(configSpec=config))
    )


def nic_on(switch: Any, group: Any) -> Any:
    """A vmxnet3 adapter on a port group."""
    port = vim.dvs.PortConnection(switchUuid=switch.uuid, portgroupKey=group.key)
    backing = vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(port=port)
    return vim.vm.device.VirtualVmxnet3(key=-7, backing=backing)
