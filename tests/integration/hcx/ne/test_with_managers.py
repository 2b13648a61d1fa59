"""Networks extended through the HCX managers' API: both vCenters, both managers and both appliances are real."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from landbridge.hcx.client import HcxClient, HcxError
from landbridge.pki import Authority, PeerName
from tests.integration.hcx.ne import stage as stages
from tests.integration.hcx.ne.conftest import extend_networks, withdraw_networks
from tests.integration.hcx.ne.stage import Stage, reaches, silent
from tests.integration.hcx.sites import Pair, Site, every, finished
from tests.integration.nsx.policy.bare import Api
from tests.integration.nsx.policy.managers import ADMIN, manager
from tests.integration.nsx.policy.managers import Manager as NsxManager

_VLANS = {"onprem": 700, "cloud": 701}


@dataclass
class Managed:
    """Paired sites whose managers have the stage's appliances. `client`: a session at the connector."""

    stage: Stage
    sites: Pair
    client: HcxClient
    green: dict[str, str]  # moRef of the port group, by site
    nsx: Api

    def body(self, **changes: Any) -> dict[str, Any]:
        """HCX's, as its PowerShell client makes it."""
        return {
            "vcGuid": "",
            "gateway": "10.80.0.254",
            "netmask": "255.255.255.0",
            "destination": {},
            "features": {"egressOptimization": False, "mobilityOptimizedNetworking": False},
            "sourceNetwork": {"networkId": self.green["onprem"], "networkType": "DistributedVirtualPortgroup"},
            "destinationNetwork": {"networkId": self.green["cloud"]},
            **changes,
        }

    async def extensions(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self.client.call("GET", "/l2Extensions"))["items"]
        return items

    async def remove(self) -> None:
        """End every extension and wait for it."""
        for extension in await self.extensions():
            answer = await self.client.call("DELETE", f"/l2Extensions/{extension['stretchId']}")
            await self.client.finish_job(answer["jobId"])


def port_groups(site: Site, groups: dict[str, int]) -> dict[str, str]:
    """Make port groups of these VLANs on a new switch; their moRefs."""
    kinds = vim.dvs.VmwareDistributedVirtualSwitch
    with site.content() as content:
        config = kinds.ConfigSpec(name="extended")
        spec = vim.DistributedVirtualSwitch.CreateSpec(configSpec=config)
        switch = finished(content.rootFolder.childEntity[0].networkFolder.CreateDVS_Task(spec=spec))
        for name, vlan in groups.items():
            setting = kinds.VmwarePortConfigPolicy(vlan=kinds.VlanIdSpec(vlanId=vlan, inherited=False))
            group = vim.dvs.DistributedVirtualPortgroup.ConfigSpec(
                name=name, type="earlyBinding", numPorts=8, defaultPortConfig=setting
            )
            finished(switch.AddDVPortgroup_Task(spec=[group]))
        return {group.name: group._moId for group in switch.portgroup}


def nsx_section(nsx: NsxManager, directory: Path) -> str:
    """What tells a cloud manager of its NSX."""
    password = directory / "nsx-password"
    password.write_text(ADMIN[1])
    password.chmod(0o600)
    return f'[nsx]\nurl = "{nsx.url}"\nuser = "{ADMIN[0]}"\npassword_file = "{password}"\nca_file = "{nsx.ca}"\n'


def segment_group(site: Site, name: str, path: str) -> str:
    """The port group that NSX's manager makes of a segment in vCenter; its moRef."""
    with site.content() as content:
        [switch] = every(content, vim.DistributedVirtualSwitch)
        group = vim.dvs.DistributedVirtualPortgroup.ConfigSpec(
            name=name, type="ephemeral", backingType="nsx", logicalSwitchUuid=str(uuid.uuid4()), segmentId=path
        )
        finished(switch.AddDVPortgroup_Task(spec=[group]))
        return next(str(found._moId) for found in switch.portgroup if found.name == name)


async def adopt(site: Site, appliance: stages.Site, more: str) -> None:
    """Make the appliance the site's: certificate, configuration; and have the manager know it."""
    name = f"ne.{site.name}"
    who = PeerName(site.name, "ne", name)
    directory = appliance.state / "ne-of-site"
    Authority(site.state / "ca").issue(directory, who, dns=[name], addresses=[appliance.management])
    text = (appliance.state / "ne.toml").read_text()
    text = text.replace(f'site = "{appliance.name}"', f'site = "{site.name}"')
    appliance.restart_with(text.replace(f'"{appliance.state / "ne"}"', f'"{directory}"'))
    restart(
        site,
        f'[ne]\nname = "{name}"\naddress = "{appliance.management}"\nuplink_address = "{appliance.uplink}"\n{more}',
    )


def restart(site: Site, section: str) -> None:
    """Start the manager again with this section at the end of its configuration."""
    site.kill("hcx")
    file = site.state / "hcx.toml"
    file.write_text(file.read_text().partition("[ne]")[0] + section)
    site.start("hcx")


@pytest.fixture(scope="module")
async def nsx(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NsxManager]:
    """The cloud's Policy API."""
    async with manager(tmp_path_factory.mktemp("nsx")) as running:
        yield running


@pytest.fixture(scope="module")
async def managed(stage: Stage, sites: Pair, nsx: NsxManager) -> AsyncIterator[Managed]:
    await stage.b.join_overlay()
    await withdraw_networks(stage)
    original = [(site.state / "ne.toml").read_text() for site in stage.sites]
    both = ((sites.onprem, stage.a), (sites.cloud, stage.b))
    green = {}
    for site, appliance in both:
        vlan = _VLANS[site.name]
        groups = await asyncio.to_thread(port_groups, site, {"Green": vlan, "Plain": 0})
        green[site.name] = groups["Green"]
        await appliance.add_group("green", vlan)
        login = nsx_section(nsx, site.state) if site is sites.cloud else ""
        await adopt(site, appliance, login)
    for site, _ in both:
        await site.until("hcx", site.hcx_address)
    client = await sites.logged_in()
    await client.pair(sites.cloud.hcx_url, "admin", sites.cloud.password, accept_certificate=True)
    async with Api(nsx, ADMIN) as api:
        made = Managed(stage, sites, client, green, api)
        yield made
        await made.remove()
    for pairing in await made.client.pairings():
        await made.client.unpair(pairing["endpointId"])
    await made.client.close()
    for (site, appliance), text in zip(both, original, strict=True):
        restart(site, "")
        appliance.restart_with(text)
    for site, appliance in both:
        await site.until("hcx", site.hcx_address)
        await appliance.until_up()
    await stage.pair()
    await extend_networks(stage)


@pytest.fixture(scope="module")
async def guests(managed: Managed) -> tuple[str, str]:
    """A guest of each site's Green."""
    return (
        await managed.stage.a.guest("xa", "10.80.0.1", "green"),
        await managed.stage.b.guest("xb", "10.80.0.2", "green"),
    )


async def test_a_network_is_extended_and_the_extension_ended_through_the_connector(
    managed: Managed, guests: tuple[str, str]
) -> None:
    answer = await managed.client.call("POST", "/l2Extensions", managed.body())
    await managed.client.finish_job(answer["jobId"])
    [extension] = await managed.extensions()
    assert extension["operationStatus"]["state"] == "REALIZED"
    assert (extension["gateway"], extension["netmask"], extension["vlanId"]) == ("10.80.0.254", "255.255.255.0", 700)
    assert extension["name"].startswith("L2E_Green-700-")
    assert await reaches(guests[0], "10.80.0.2")

    with pytest.raises(HcxError, match="Green is extended already"):
        await managed.client.call("POST", "/l2Extensions", managed.body())
    [pairing] = await managed.client.pairings()
    with pytest.raises(HcxError, match="end their extensions first: L2E_Green"):
        await managed.client.unpair(pairing["endpointId"])

    await managed.remove()
    assert await managed.extensions() == []
    assert await silent(guests[0], "10.80.0.2")


async def test_what_can_not_be_extended_is_refused_by_name(managed: Managed) -> None:
    features = {"mobilityOptimizedNetworking": True}
    for body, message in (
        (managed.body(features=features), "mobilityOptimizedNetworking is not supported"),
        (managed.body(sourceNetwork={"networkId": "Plain"}), "Plain has no VLAN"),
        (managed.body(sourceNetwork={"networkId": "nowhere"}), "no distributed port group nowhere"),
        (managed.body(gateway="10.80.0.999"), "`gateway` and `netmask`"),
    ):
        with pytest.raises(HcxError, match=message):
            await managed.client.call("POST", "/l2Extensions", body)
    assert await managed.extensions() == []


async def test_an_extension_that_fails_says_why_and_can_be_removed(managed: Managed) -> None:
    body = managed.body(destinationNetwork={"networkId": "nowhere"})
    answer = await managed.client.call("POST", "/l2Extensions", body)
    with pytest.raises(HcxError, match="no distributed port group nowhere"):
        await managed.client.finish_job(answer["jobId"])
    [extension] = await managed.extensions()
    assert extension["operationStatus"]["state"] == "FAILED"
    await managed.remove()
    assert await managed.extensions() == []


async def test_a_connector_that_dies_goes_on_with_the_extension(managed: Managed, guests: tuple[str, str]) -> None:
    await managed.client.call("POST", "/l2Extensions", managed.body())
    managed.sites.onprem.kill("hcx")
    managed.sites.onprem.start("hcx")
    await managed.client.close()
    managed.client = await managed.sites.connector_back()
    assert await reaches(guests[0], "10.80.0.2", within=40)
    async with asyncio.timeout(30):
        while (await managed.extensions())[0]["operationStatus"]["state"] != "REALIZED":  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_network_is_extended_into_a_segment_whose_gateway_takes_over_at_the_end(
    managed: Managed, guests: tuple[str, str]
) -> None:
    await managed.remove()
    path, nsx, stage = "/infra/segments/green", managed.nsx, managed.stage
    await nsx.patch("/infra/tier-1s/t1", {})
    subnets = [{"gateway_address": "10.80.0.254/24"}]
    await nsx.patch(path, {"connectivity_path": "/infra/tier-1s/t1", "subnets": subnets})
    group = await asyncio.to_thread(segment_group, managed.sites.cloud, "Green segment", path)
    body = managed.body(destinationNetwork={"networkId": group})

    answer = await managed.client.call("POST", "/l2Extensions", body)
    with pytest.raises(HcxError, match="Green segment has a gateway"):
        await managed.client.finish_job(answer["jobId"])
    await managed.remove()

    await nsx.patch(path, {"advanced_config": {"connectivity": "OFF"}})
    answer = await managed.client.call("POST", "/l2Extensions", body)
    await managed.client.finish_job(answer["jobId"])
    [port] = (await nsx.get(f"{path}/ports"))["results"]
    # What NSX's OVN side makes of the segment and its port; it does so beside a host's.
    vif = port["attachment"]["id"]
    await stage.b.nbctl("ls-add", "green", "--", "lsp-add", "green", vif, "--", "lsp-set-addresses", vif, "unknown")
    inside = await stage.b.segment_guest("green", "xs", "02:00:00:00:66:03", "10.80.0.3")
    assert await reaches(guests[0], "10.80.0.3", within=40)
    assert await reaches(inside, "10.80.0.1")

    [extension] = await managed.extensions()
    assert extension["destinationNetwork"]["segmentPath"] == path
    answer = await managed.client.call(
        "DELETE", f"/l2Extensions/{extension['stretchId']}", {"connectToLocalRouter": True}
    )
    await managed.client.finish_job(answer["jobId"])
    assert (await nsx.get(path))["advanced_config"]["connectivity"] == "ON"
    assert (await nsx.get(f"{path}/ports"))["results"] == []
    assert await silent(guests[0], "10.80.0.3")
