"""A VLAN on premises and a segment of the cloud as one network: the appliance is a chassis of OVN there."""

import uuid
from collections.abc import AsyncIterator

import pytest

from landbridge.esx.client import HostClient, HostError
from landbridge.esx.model import PortGroup
from landbridge.hcx.ne.model import Extension, Forwarding
from landbridge.pki import Identity
from tests.integration.hcx.ne.stage import Stage, reaches, run, transfer

_VNI, _VLAN = 6100, 600
_VIF = str(uuid.uuid4())


async def segment_guest(stage: Stage, name: str, mac: str, address: str) -> str:
    """A guest on the segment, at the host that is the other chassis; its port has its address, as NSX gives it."""
    assert stage.b.host is not None
    await stage.b.nbctl("lsp-add", "gold", name, "--", "lsp-set-addresses", name, f"{mac} {address}")
    guest, inside, tap = stage.namespace(name), f"{stage.prefix}-b-esx", f"t{name}"
    run("ip", "-n", guest, "link", "add", "eth0", "address", mac, "type", "veth", "peer", tap, "netns", inside)
    run("ip", "-n", guest, "addr", "add", f"{address}/24", "dev", "eth0")
    run("ip", "-n", guest, "link", "set", "eth0", "up")
    run("ip", "netns", "exec", guest, "ethtool", "-K", "eth0", "tx", "off")
    await stage.b.host.plug(tap, "gold", mac, vif=name)
    await stage.b.nbctl("sync")
    return guest


@pytest.fixture(scope="module")
async def guest(stage: Stage) -> AsyncIterator[str]:
    """Gold, extended: VLAN 600 at site a, a segment at site b with a guest. The guest's namespace."""
    async with HostClient(stage.b.management, 443, Identity(stage.b.state / "nsx")) as nsx:
        await nsx.configure_overlay(stage.b.overlay_config())
    await stage.b.nbctl("ls-add", "gold", "--", "lsp-add", "gold", _VIF, "--", "lsp-set-addresses", _VIF, "unknown")
    await stage.a.add_group("gold", _VLAN)
    await stage.a.client.extend("gold", Extension(vlan=_VLAN, vni=_VNI))
    await stage.b.client.extend("gold", Extension(vif=_VIF, vni=_VNI))
    for site in stage.sites:
        await site.until_network("gold", lambda network: network.state == Forwarding.FORWARDING)
    assert stage.b.host is not None
    await stage.b.host.set_port_groups([PortGroup(key="gold", name="Gold", segment=str(uuid.uuid4()))])
    yield await segment_guest(stage, "sb", "02:00:00:00:66:01", "10.70.0.2")
    for site in stage.sites:
        await site.client.withdraw("gold")


async def test_a_vlan_and_a_segment_are_one_network(stage: Stage, guest: str) -> None:
    here = await stage.a.guest("ga", "10.70.0.1", "gold")
    assert await reaches(here, "10.70.0.2")
    assert await reaches(guest, "10.70.0.1")
    assert (await transfer(guest, here, "10.70.0.1", 2_000_000))[0] == 2_000_000


async def test_a_guest_that_crossed_into_the_segment_is_reached_from_both_sites(stage: Stage, guest: str) -> None:
    mac, address = "02:00:00:00:66:02", "10.70.0.3"
    resident = await stage.a.guest("gr", "10.70.0.4", "gold")
    await stage.a.guest("gm", address, "gold", mac=mac)
    assert await reaches(guest, address)
    assert await reaches(resident, address)

    await stage.a.remove_guest("gm")
    await segment_guest(stage, "sm", mac, address)
    for site in stage.sites:
        await site.client.flush([mac])
    assert await reaches(guest, address)
    assert await reaches(resident, address)


async def test_an_appliance_without_a_leg_in_the_overlay_refuses_a_segments_port(stage: Stage) -> None:
    with pytest.raises(HostError, match="is no transport node") as refused:
        await stage.a.client.extend("gold2", Extension(vif=_VIF, vni=6101))
    assert refused.value.type == "NotSupported"
