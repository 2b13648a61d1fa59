"""A VM's NICs on segments, its VIFs, while it moves: when OVN is told where they are, and when frames are let through.

All of it may be said twice, and does not wait until OVN has taken note: the guest may stand still meanwhile.
"""

import asyncio

from landbridge.esx.model import Nic, vif_id
from landbridge.esx.vm import VirtualMachine


def of(vm: VirtualMachine) -> list[Nic]:
    """The NICs that are on segments."""
    switch = vm.host.switch
    return [] if switch is None else [nic for nic in vm.config.nics if switch.on_segment(nic.network)]


async def activate(vm: VirtualMachine) -> None:
    """Tell OVN that the VIFs are here."""
    switch = vm.host.switch
    if switch is not None:
        await asyncio.gather(*(switch.activate(vm.tap(nic.key), vif_id(vm.id, nic.key)) for nic in of(vm)))


async def deactivate(vm: VirtualMachine) -> None:
    """Tell OVN that the VIFs are not here any more."""
    switch = vm.host.switch
    if switch is not None:
        await asyncio.gather(*(switch.deactivate(vm.tap(nic.key)) for nic in of(vm)))


async def bring_up(vm: VirtualMachine) -> None:
    """Let frames through to the TAPs, which were down until the guest was about to run."""
    switch = vm.host.switch
    if switch is not None:
        await asyncio.gather(*(switch.bring_up(vm.tap(nic.key)) for nic in of(vm)))
