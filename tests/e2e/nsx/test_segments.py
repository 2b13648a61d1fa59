"""A VM on a segment of the private cloud, as Broadcom's own NSX client asks for it: reached, translated, filtered."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from landbridge.lab.build import Lab
from landbridge.lab.guest import GuestVm
from landbridge.lab.image import GuestSettings
from landbridge.lab.inventory import vsphere
from landbridge.lab.nsx import TIER1
from tests.e2e.stage import until
from tests.integration.nsx.policy import vcf

pytestmark = pytest.mark.timeout(300)
SEGMENT, PATH = "e2e-web", "/infra/segments/e2e-web"
_UNTIL_DROPPED = 5.0  # seconds: hosts follow the database within tenths, on a busy machine later
_OUTSIDE = "192.168.200.5"  # what DNAT translates


@pytest.fixture(scope="module")
def nsx(lab: Lab) -> Any:
    """Broadcom's client, logged in at the lab's NSX manager."""
    login = lab.login("cloud", "nsx")
    return vcf.connect(login, (login.user, login.password))


@pytest.fixture(scope="module")
async def guest(lab: Lab, nsx: Any) -> AsyncIterator[GuestVm]:
    """A guest on a segment, probed from the site's edge: through the tier-0 and the tier-1."""
    subnet = vcf.model.SegmentSubnet(gateway_address="192.168.10.1/24")
    segment = vcf.model.Segment(display_name=SEGMENT, connectivity_path=f"/infra/tier-1s/{TIER1}", subnets=[subnet])
    await asyncio.to_thread(vcf.infra_client.Segments(nsx).policy_lm_patch_infra_segment, SEGMENT, segment)
    await until("the segment is realised", lambda: _realised(nsx, PATH))
    await until("the segment is a network of vCenter", lambda: asyncio.to_thread(_is_network, lab, SEGMENT))
    made = GuestVm(
        lab,
        "web",
        network=SEGMENT,
        interface="192.168.10.11/24",
        gateway="192.168.10.1",
        client=("cloud", "edge"),
    )
    await made.create("cloud", settings=GuestSettings(dirty_mib=0))
    try:
        await made.power_on("cloud")
        await made.wait_ready()
        yield made
    finally:
        await made.destroy()


async def _realised(nsx: Any, path: str) -> bool:
    status = vcf.realized_state_client.Status(nsx)
    found = await asyncio.to_thread(lambda: status.policy_lm_read_intent_status(intent_path=path))
    return bool(found.consolidated_status.consolidated_status == "SUCCESS")


def _is_network(lab: Lab, name: str) -> bool:
    with vsphere(lab.login("cloud", "vcenter")) as service:
        datacenter = service.content.rootFolder.childEntity[0]
        return any(network.name == name for network in datacenter.network)


async def test_a_vm_on_a_segment_is_reached_through_both_gateways(guest: GuestVm) -> None:
    assert (await guest.ask("status"))["write_errors"] == 0


async def test_a_translated_address_leads_to_the_vm(guest: GuestVm, nsx: Any) -> None:
    rule = vcf.model.PolicyNatRule(action="DNAT", destination_network=_OUTSIDE, translated_network=guest.address)
    rules = vcf.nat_client.NatRules(nsx)
    await asyncio.to_thread(rules.policy_lm_patch_policy_nat_rule, TIER1, "USER", "e2e", rule)
    await until("the rule is realised", lambda: _realised(nsx, f"/infra/tier-1s/{TIER1}/nat/USER/nat-rules/e2e"))
    assert (await replace(guest, interface=f"{_OUTSIDE}/32").ask("status"))["write_errors"] == 0
    await asyncio.to_thread(rules.policy_lm_delete_policy_nat_rule, TIER1, "USER", "e2e")


async def test_a_rule_of_the_distributed_firewall_is_felt_at_once_and_only_by_what_it_names(
    guest: GuestVm, nsx: Any
) -> None:
    model = vcf.model
    groups = vcf.domains_client.Groups(nsx)
    named = model.Condition(member_type="VirtualMachine", key="Name", operator="EQUALS", value=guest.name)
    await asyncio.to_thread(groups.policy_patch_group_for_domain, "default", "e2e", model.Group(expression=[named]))
    entry = model.L4PortSetServiceEntry(id="echo", l4_protocol="UDP", destination_ports=["7"])
    rule = model.Rule(
        id="no-echo",
        action="DROP",
        source_groups=["ANY"],
        destination_groups=["/infra/domains/default/groups/e2e"],
        services=["ANY"],
        service_entries=[entry],
        scope=["ANY"],
    )
    policies = vcf.domains_client.SecurityPolicies(nsx)
    path = "/infra/domains/default/security-policies/e2e"
    policy = model.SecurityPolicy(category="Application", rules=[rule])
    async with guest.watched() as seen:
        await asyncio.to_thread(policies.policy_patch_security_policy_for_domain, "default", "e2e", policy)
        await until("the policy is realised", lambda: _realised(nsx, path))
        await asyncio.sleep(_UNTIL_DROPPED)
    assert seen[0].answered > 0, "before the rule"
    assert seen[0].silence_ms > 1000, f"probes still come through; {seen[0]}"
    assert seen[0].tcp_same_connection, "its TCP services are not what the rule names"
    await asyncio.to_thread(policies.policy_delete_security_policy_for_domain, "default", "e2e")
    async with guest.watched() as seen:  # begins when a probe is answered
        pass


async def test_a_segment_that_a_vm_is_on_can_not_go(guest: GuestVm, nsx: Any) -> None:
    with pytest.raises(vcf.model.ApiError) as refused:
        await asyncio.to_thread(vcf.infra_client.Segments(nsx).policy_lm_delete_infra_segment, SEGMENT)
    assert guest.name in vcf.answered(refused.value)[2]
