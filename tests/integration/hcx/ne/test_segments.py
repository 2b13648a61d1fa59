"""A VLAN on premises and a segment of the cloud as one network: the appliance is a chassis of OVN there."""

import uuid
from collections.abc import AsyncIterator

import pytest

from landbridge.esx.client import HostError
from landbridge.hcx.ne.model import Extension, Forwarding
from tests.integration.hcx.ne.stage import Stage, reaches, transfer

_VNI, _VLAN = 6100, 600
_VIF = str(uuid.uuid4())


@pytest.fixture(scope="module")
async def guest(stage: Stage) -> AsyncIterator[str]:
    """Gold, extended: VLAN 600 at site a, a segment at site b with a guest. The guest's namespace."""
    await stage.b.join_overlay()
    await stage.b.nbctl("ls-add", "gold", "--", "lsp-add", "gold", _VIF, "--", "lsp-set-addresses", _VIF, "unknown")
    await stage.a.add_group("gold", _VLAN)
    await stage.a.client.extend("gold", Extension(vlan=_VLAN, vni=_VNI))
    await stage.b.client.extend("gold", Extension(vif=_VIF, vni=_VNI))
    for site in stage.sites:
        await site.until_network("gold", lambda network: network.state == Forwarding.FORWARDING)
    yield await stage.b.segment_guest("gold", "sb", "02:00:00:00:66:01", "10.70.0.2")
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
    await stage.b.segment_guest("gold", "sm", mac, address)
    for site in stage.sites:
        await site.client.flush([mac])
    assert await reaches(guest, address)
    assert await reaches(resident, address)


async def test_an_appliance_without_a_leg_in_the_overlay_refuses_a_segments_port(stage: Stage) -> None:
    with pytest.raises(HostError, match="is no transport node") as refused:
        await stage.a.client.extend("gold2", Extension(vif=_VIF, vni=6101))
    assert refused.value.type == "NotSupported"
