"""Site pairing between real managers, appliances and vCenters."""

import stat

import pytest

from landbridge.esx.model import Endpoint
from landbridge.hcx.client import HcxClient, HcxError
from landbridge.hcx.ix.model import WanIdentity
from landbridge.pki import Authority, PeerName
from tests.integration.hcx.sites import Pair


async def test_an_unknown_certificate_is_shown_and_nothing_is_paired(sites: Pair, connector: HcxClient) -> None:
    # Any server nobody vouched for: here the site's own vCenter.
    with pytest.raises(HcxError) as caught:
        await connector.pair(f"https://{sites.onprem.vcenter_address}", "admin", sites.cloud.password)
    assert caught.value.status == 200
    assert "BEGIN CERTIFICATE" in caught.value.data[0]["certificate"]
    assert await connector.pairings() == []


async def test_a_wrong_remote_password_is_a_login_failure(sites: Pair, connector: HcxClient) -> None:
    with pytest.raises(HcxError) as caught:
        await connector.pair(sites.cloud.hcx_url, "admin", "wrong", accept_certificate=True)
    assert caught.value.error == "Login failure"
    assert await connector.pairings() == []


async def test_pairing_makes_each_appliance_a_host_and_brings_the_tunnel_up(sites: Pair, paired: HcxClient) -> None:
    [pairing] = await paired.pairings()
    assert pairing["url"] == sites.cloud.hcx_url
    assert pairing["state"] == "READY"
    [mesh] = await paired.meshes()
    assert mesh["appliances"][0]["tunnel"]["state"] == "UP", mesh
    assert mesh["appliances"][0]["tunnel"]["rttMs"] > 0
    for site in (sites.onprem, sites.cloud):
        assert site.ix_address in site.hosts()


async def test_the_cloud_measures_the_tunnel_too(sites: Pair, paired: HcxClient) -> None:
    async with sites.cloud.hcx() as cloud:
        await cloud.login("admin", sites.cloud.password)
        [mesh] = await cloud.meshes()
        assert mesh["appliances"][0]["tunnel"]["state"] == "UP", mesh


async def test_the_connector_keeps_a_token_and_not_the_password(sites: Pair, paired: HcxClient) -> None:
    files = [path for path in (sites.onprem.state / "hcx").rglob("*") if path.is_file()]
    assert not [path for path in files if sites.cloud.password.encode() in path.read_bytes()]
    [token] = [path for path in files if path.suffix == ".token"]
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


async def test_a_killed_connector_is_still_paired(sites: Pair, paired: HcxClient) -> None:
    sites.onprem.kill("hcx")
    sites.onprem.start("hcx")
    async with await sites.connector_back() as again:
        [pairing] = await again.pairings()
        assert pairing["state"] == "READY"
        assert await again.inventory("vc/list", remote=True)
    await paired.login("admin", sites.onprem.password)


async def test_a_killed_appliance_finds_its_relay_again(sites: Pair, paired: HcxClient) -> None:
    sites.cloud.kill("ix")
    sites.cloud.start("ix")
    await sites.cloud.until("ix", sites.cloud.ix_address)
    async with sites.onprem.ix() as ours, sites.cloud.ix() as theirs:
        result = await ours.probe((await theirs.info()).uplink)
        assert result.up, result.error


async def test_an_appliance_of_another_pair_does_not_get_through(sites: Pair, paired: HcxClient) -> None:
    async with sites.onprem.ix() as ours, sites.cloud.ix() as theirs:
        uplink = (await theirs.info()).uplink
        assert (await ours.probe(uplink)).up
        # An identity of a foreign authority for the same name: the cloud's appliance must not take it.
        request = await ours.request_wan_identity()
        foreign = Authority.create(sites.base / "foreign", "another pair")
        name = (await ours.info()).name
        who = PeerName("onprem", "ix", name)
        certificate = foreign.sign(request.request.encode(), who, dns=[f"*.ix.{name}"])
        root = (foreign.directory / "ca.pem").read_text()
        kept = sites.onprem.state / "ix" / "wan"
        good = WanIdentity(certificate=(kept / "cert.pem").read_text(), authority=(kept / "ca.pem").read_text())
        try:
            await ours.install_wan_identity(WanIdentity(certificate=certificate.decode(), authority=root))
            assert not (await ours.probe(uplink)).up
        finally:
            await ours.install_wan_identity(good)
        assert (await ours.probe(uplink)).up


async def test_a_stream_nobody_opened_leads_nowhere(sites: Pair, paired: HcxClient) -> None:
    async with sites.onprem.ix() as ours, sites.cloud.ix() as theirs:
        uplink = (await theirs.info()).uplink
        unknown = Endpoint(address=uplink.address, port=uplink.port, name=uplink.name.replace("probe", "unknown"))
        assert not (await ours.probe(unknown)).up


async def test_unpairing_leaves_nothing(sites: Pair, paired: HcxClient) -> None:
    [pairing] = await paired.pairings()
    await paired.unpair(pairing["endpointId"])
    assert await paired.pairings() == []
    assert await paired.meshes() == []
    for site in (sites.onprem, sites.cloud):
        assert site.ix_address not in site.hosts()
        async with site.ix() as ix:
            assert not (await ix.info()).paired
        assert not list((site.state / "hcx").rglob("*.token"))
        assert not list((site.state / "hcx").rglob("ca.key"))


async def test_the_service_account_does_not_reach_what_people_do(sites: Pair, paired: HcxClient) -> None:
    [file] = list((sites.onprem.state / "hcx").rglob("*.token"))
    async with sites.cloud.hcx() as cloud:
        session = cloud._open()
        headers = {"Authorization": f"Bearer {file.read_text()}"}
        async with session.get(f"{sites.cloud.hcx_url}/hybridity/api/cloudConfigs", headers=headers) as response:
            assert response.status == 403
        headers = {"Authorization": "Bearer wrong"}
        async with session.post(
            f"{sites.cloud.hcx_url}/hybridity/api/service/inventory/networks", headers=headers, json={}
        ) as response:
            assert response.status == 401
