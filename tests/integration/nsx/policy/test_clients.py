"""Clients that nobody here wrote: vcf-nsx (Broadcom's), vmware-nsxlib (OpenStack's) and nsxctl, against one manager."""

import asyncio
import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import requests

from landbridge.nsx.snapshot import Machine, RealizationState, Realized, Vif
from tests.integration.nsx.policy import vcf
from tests.integration.nsx.policy.bare import Api
from tests.integration.nsx.policy.managers import ADMIN, Manager

_PROGRAMS = Path(sys.executable).parent
_TIMEOUT = 90


def _environment(**more: str) -> dict[str, str]:
    """Without the bundles that some machines name, which would override the manager's authority."""
    dropped = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
    return {key: value for key, value in os.environ.items() if key not in dropped} | more


async def _run(*command: str, given: str = "", **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(**environment),
    )
    try:
        async with asyncio.timeout(_TIMEOUT):
            out, errors_ = await process.communicate(given.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), errors_.decode()


async def test_nsxlib_builds_a_tenants_network_and_reads_its_errors(nsx: Manager) -> None:
    program = str(Path(__file__).with_name("nsxlib_program.py"))
    given = {"manager": nsx.url, "ca": str(nsx.ca), "user": ADMIN[0], "password": ADMIN[1]}
    code, out, problems = await _run(sys.executable, "-W", "ignore", program, given=json.dumps(given))
    assert code == 0, problems
    found = json.loads(out)
    assert found["version"].startswith("4.1")
    assert found["tier1"]["route_advertisement_types"] == ["TIER1_CONNECTED", "TIER1_NAT"]
    segment = found["segment"]
    assert (segment["description"], segment["connectivity_path"]) == ("web tier", "/infra/tier-1s/nl-t1")
    assert segment["subnets"][0]["dhcp_config"]["server_address"] == "10.60.0.2/24"
    assert found["binding"]["mac_address"] == "00:50:56:aa:00:01"
    assert found["port"]["attachment"]["id"] == "11111111-2222-3333-4444-555555555555"
    assert found["nat"]["translated_network"] == "192.0.2.5"
    assert found["route"]["next_hops"][0]["ip_address"] == "10.60.0.254"
    assert found["group"]["expression"][0]["value"] == "role|web"
    assert found["service"]["service_entries"][0]["destination_ports"] == ["8443"]
    rules = found["policy"]["rules"]
    assert [(rule["id"], rule["action"]) for rule in rules] == [("nl-rule", "ALLOW"), ("nl-drop", "DROP")]
    assert rules[0]["source_groups"] == ["/infra/domains/default/groups/nl-net"]
    assert found["at_once"] == ["/infra/tier-1s/nl-t1b", ["514"], "nl-tx"]
    # The exceptions that nsxlib has for each of NSX's error codes.
    assert found["in_use"] == "ResourceInUse"
    assert found["missing"] == "ResourceNotFound"
    assert found["stale"] == "StaleRevision"
    assert found["overlap"] == "NsxOverlapAddresses"
    assert found["wrong_login"] == "ServiceClusterUnavailable"
    assert found["left"] == []


def _vcf_network(nsx: Manager) -> dict[str, Any]:
    config, model = vcf.connect(nsx, ADMIN), vcf.model
    dhcp = model.DhcpServerConfig(server_addresses=["10.61.0.2/24"])
    vcf.infra_client.DhcpServerConfigs(config).policy_lm_patch_dhcp_server_config("vc-dhcp", dhcp)
    tier1s = vcf.infra_client.Tier1s(config)
    tier1s.policy_lm_patch_tier1("vc-t1", model.Tier1(display_name="VC", route_advertisement_types=["TIER1_CONNECTED"]))
    segments = vcf.infra_client.Segments(config)
    subnet = model.SegmentSubnet(
        gateway_address="10.61.0.1/24",
        dhcp_ranges=["10.61.0.100-10.61.0.110"],
        dhcp_config=model.SegmentDhcpConfig(resource_type="SegmentDhcpV4Config", dns_servers=["10.61.0.3"]),
    )
    segment = model.Segment(
        connectivity_path="/infra/tier-1s/vc-t1",
        dhcp_config_path="/infra/dhcp-server-configs/vc-dhcp",
        subnets=[subnet],
    )
    segments.policy_lm_patch_infra_segment("vc-web", segment)
    rule = model.PolicyNatRule(action="DNAT", destination_network="192.0.2.9", translated_network="10.61.0.9")
    vcf.nat_client.NatRules(config).policy_lm_patch_policy_nat_rule("vc-t1", "USER", "vc-dnat", rule)
    found: dict[str, Any] = {"segment": segments.policy_lm_read_infra_segment("vc-web")}
    found["nat"] = vcf.nat_client.NatRules(config).policy_lm_get_policy_nat_rule("vc-t1", "USER", "vc-dnat")
    read = tier1s.policy_lm_read_tier1("vc-t1")
    read.description = "second"
    found["replaced"] = tier1s.policy_lm_create_or_replace_tier1("vc-t1", read)
    # What was read before is stale now.
    with pytest.raises(model.ApiError) as stale:
        tier1s.policy_lm_create_or_replace_tier1("vc-t1", read)
    found["stale"] = stale.value
    with pytest.raises(model.ApiError) as in_use:
        tier1s.policy_lm_delete_tier1("vc-t1")
    found["in_use"] = in_use.value
    with pytest.raises(model.ApiError) as missing:
        segments.policy_lm_read_infra_segment("vc-nothing")
    found["missing"] = missing.value
    return found


async def test_broadcoms_client_builds_a_network_and_sees_stale_and_used_objects(nsx: Manager) -> None:
    found = await asyncio.to_thread(_vcf_network, nsx)
    assert found["segment"].subnets[0].network == "10.61.0.0/24"
    assert found["segment"].revision == 0
    assert found["nat"].translated_network == "10.61.0.9"
    assert (found["replaced"].revision, found["replaced"].description) == (1, "second")
    assert vcf.answered(found["stale"])[:2] == (412, 604)
    assert vcf.answered(found["missing"])[:2] == (404, 600)
    status, code, message = vcf.answered(found["in_use"])
    assert (status, code) == (400, 500030)
    assert "/infra/segments/vc-web" in message


def _vcf_firewall(nsx: Manager) -> dict[str, Any]:
    config, model = vcf.connect_with_session(nsx, ADMIN), vcf.model
    condition = model.Condition(member_type="VirtualMachine", key="Tag", operator="EQUALS", value="tier|web")
    groups = vcf.domains_client.Groups(config)
    groups.policy_patch_group_for_domain("default", "vc-web", model.Group(expression=[condition]))
    entry = model.L4PortSetServiceEntry(id="e", display_name="e", l4_protocol="TCP", destination_ports=["8080"])
    services = vcf.infra_client.Services(config)
    services.policy_patch_service_for_tenant("vc-app", model.Service(service_entries=[entry]))
    rule = model.Rule(
        id="allow",
        action="ALLOW",
        sequence_number=1,
        source_groups=["ANY"],
        destination_groups=["/infra/domains/default/groups/vc-web"],
        services=["/infra/services/vc-app"],
        scope=["ANY"],
    )
    policies = vcf.domains_client.SecurityPolicies(config)
    policy = model.SecurityPolicy(category="Application", sequence_number=5, rules=[rule])
    policies.policy_patch_security_policy_for_domain("default", "vc-policy", policy)
    found: dict[str, Any] = {"policy": policies.policy_read_security_policy_for_domain("default", "vc-policy")}
    query = "resource_type:Rule AND destination_groups:*vc-web"
    found["search"] = vcf.search_client.Query(config).lm_policy_query_search(query=query)
    status = vcf.realized_state_client.Status(config)
    found["status"] = status.policy_lm_read_intent_status(intent_path=found["policy"].path)
    return found


async def test_broadcoms_client_writes_rules_in_a_session_and_finds_them(nsx: Manager) -> None:
    found = await asyncio.to_thread(_vcf_firewall, nsx)
    (rule,) = found["policy"].rules
    assert (rule.path, rule.action) == ("/infra/domains/default/security-policies/vc-policy/rules/allow", "ALLOW")
    assert found["search"].result_count == 1
    assert found["status"].publish_status == "UNREALIZED"
    path = found["policy"].path
    done = Realized(path, "RealizedSecurityPolicy", str(uuid.uuid4()), RealizationState.REALIZED)
    nsx.realization.said[path] = [done]

    def status() -> Any:
        config = vcf.connect(nsx, ADMIN)
        return vcf.realized_state_client.Status(config).policy_lm_read_intent_status(intent_path=path)

    # What was realised is not yet what the tree says now.
    assert (await asyncio.to_thread(status)).publish_status == "UNREALIZED"
    nsx.realization.upto = (await nsx.store.contents()).sequence
    now = await asyncio.to_thread(status)
    assert (now.publish_status, now.consolidated_status.consolidated_status) == ("REALIZED", "SUCCESS")


def _machine(name: str) -> Machine:
    identity = str(uuid.uuid4())
    vif = Vif(str(uuid.uuid4()), identity, 4000, "00:50:56:01:02:03", "/infra/segments/tagged", ("10.62.0.5",))
    return Machine(identity, name, "esx01.cloud", powered_on=True, os_name="Debian", vifs=(vif,))


async def test_broadcoms_client_tags_machines_and_unknown_ones_are_not_found(nsx: Manager) -> None:
    machine = _machine("vcf-vm")
    nsx.fabric.known.append(machine)

    def tag() -> Any:
        machines, model = vcf.fabric_client.VirtualMachines(vcf.connect(nsx, ADMIN)), vcf.model

        def update(identity: str, *tags: tuple[str, str]) -> Any:
            given = [model.Tag(scope=scope, tag=tag) for scope, tag in tags]
            return model.VirtualMachineTagUpdate(external_id=identity, tags=given)

        machines.update_virtual_machine_tags(update(machine.id, ("tier", "web"), ("env", "test")))
        machines.add_virtual_machine_tags(update(machine.id, ("owner", "me")))
        machines.remove_virtual_machine_tags(update(machine.id, ("env", "test")))
        with pytest.raises(model.ApiError) as missing:
            machines.add_virtual_machine_tags(update(str(uuid.uuid4()), ("a", "b")))
        assert vcf.answered(missing.value)[0] == 404
        return machines.list_virtual_machines(external_id=machine.id)

    (seen,) = (await asyncio.to_thread(tag)).results
    assert (seen.display_name, seen.power_state) == ("vcf-vm", "VM_RUNNING")
    assert [(tag.scope, tag.tag) for tag in seen.tags] == [("tier", "web"), ("owner", "me")]
    assert (await nsx.store.contents()).machine_tags[machine.id] == (("tier", "web"), ("owner", "me"))
    nsx.fabric.known.remove(machine)


async def test_broadcoms_client_is_refused_with_a_wrong_password(nsx: Manager) -> None:
    def read(password: str) -> Any:
        config = vcf.connect(nsx, ("admin", password))
        return vcf.infra_client.Tier1s(config).policy_lm_list_tier1()

    with pytest.raises(vcf.model.ApiError) as refused:
        await asyncio.to_thread(read, "wrong")
    assert vcf.answered(refused.value)[:2] == (403, 403)
    with pytest.raises(requests.HTTPError):
        await asyncio.to_thread(vcf.connect_with_session, nsx, ("nobody", "wrong"))
    assert (await asyncio.to_thread(read, ADMIN[1])).result_count >= 0


class _Nsxctl:
    """The command line, with an inventory and credentials in a directory of the test's."""

    def __init__(self, nsx: Manager, directory: Path, user: tuple[str, str] = ADMIN) -> None:
        self._ca = str(nsx.ca)
        self._directory = directory
        manager = {
            "name": "lm",
            "host": nsx.address,
            "port": nsx.port,
            "role": "lm",
            "username_env": "NSX_USER",
            "password_env": "NSX_SECRET",
        }
        (directory / "inventory.json").write_text(json.dumps({"managers": [manager]}))
        credentials = directory / "credentials"
        credentials.touch(mode=0o600)
        credentials.write_text(f'NSX_USER="{user[0]}"\nNSX_SECRET="{user[1]}"\n')

    async def __call__(self, *words: str) -> tuple[int, str]:
        code, out, problems = await _run(
            str(_PROGRAMS / "nsxctl"),
            *words,
            "--inventory",
            str(self._directory / "inventory.json"),
            "--ca-bundle",
            self._ca,
            "--non-interactive",
            "--no-color",
            HOME=str(self._directory),
            NSX_TOOLKIT_CREDENTIALS_FILE=str(self._directory / "credentials"),
        )
        return code, out + problems


async def test_nsxctl_finds_what_it_needs_and_tags_machines(nsx: Manager, tmp_path: Path) -> None:
    nsxctl = _Nsxctl(nsx, tmp_path)
    machine = _machine("ctl-vm")
    nsx.fabric.known.append(machine)
    code, out = await nsxctl("status")
    assert code == 0, out
    assert "All OK" in out
    (tmp_path / "tags.csv").write_text("vm_name,action,scope,tag\nctl-vm,add,tier,db\n")
    code, out = await nsxctl("tag", "apply", str(tmp_path / "tags.csv"), "--enable-writes", "--yes")
    assert code == 0, out
    assert (await nsx.store.contents()).machine_tags[machine.id] == (("tier", "db"),)
    nsx.fabric.known.remove(machine)


async def test_nsxctl_makes_groups_and_rules(nsx: Manager, api: Api, tmp_path: Path) -> None:
    nsxctl, write = _Nsxctl(nsx, tmp_path), ("--enable-writes", "--yes")
    policy = "/infra/domains/default/security-policies/ctl-policy"
    await api.patch(policy, {"category": "Application"})
    code, out = await nsxctl("group", "create", "ctl-db", "--criteria", "tag:tier=db AND tag:env=test", *write)
    assert code == 0, out
    group = await api.get("/infra/domains/default/groups/ctl-db")
    assert [part["resource_type"] for part in group["expression"]] == ["Condition", "ConjunctionOperator", "Condition"]
    words = ("--policy", "ctl-policy", "--to", "ctl-db", "--service", "MySQL", "--action", "ALLOW", "--sequence", "10")
    code, out = await nsxctl("rule", "create", "ctl-rule", *words, *write)
    assert code == 0, out
    rule = await api.get(f"{policy}/rules/ctl-rule")
    assert (rule["destination_groups"], rule["services"]) == ([group["path"]], ["/infra/services/MySQL"])


async def test_nsxctl_says_so_when_the_password_is_wrong(nsx: Manager, tmp_path: Path) -> None:
    code, out = await _Nsxctl(nsx, tmp_path, ("nobody", "wrong"))("status")
    assert code != 0, out
    assert "403" in out
