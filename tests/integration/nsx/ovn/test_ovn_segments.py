"""Segments, their ports and DHCP as rows of a real northbound database."""

from ipaddress import ip_address

from landbridge.nsx.policy.model.dhcp import DhcpServerConfig, DhcpV4StaticBindingConfig
from landbridge.nsx.policy.model.fabric import PolicyTransportZone
from landbridge.nsx.policy.model.profiles import MacDiscoveryProfile, SpoofGuardProfile
from landbridge.nsx.policy.model.security import Condition, Group
from landbridge.nsx.policy.model.segments import (
    PortAddressBinding,
    PortAttachment,
    PortDiscoveryProfileBindingMap,
    PortSecurityProfileBindingMap,
    Segment,
    SegmentPort,
    SegmentSubnet,
)
from landbridge.nsx.snapshot import RealizationState
from tests.integration.nsx.ovn.central import Site, machine, vif

WEB = "/infra/segments/web"
DHCP = "/infra/dhcp-server-configs/d"
VLANS = "/infra/sites/default/enforcement-points/default/transport-zones/vlan"


def served() -> list[Segment | DhcpServerConfig]:
    subnet = SegmentSubnet(gateway_address="10.1.0.1/24", dhcp_ranges=["10.1.0.100-10.1.0.103"])
    return [
        DhcpServerConfig(path=DHCP, server_addresses=["10.1.0.2/24"], lease_time=7200),
        Segment(path=WEB, subnets=[subnet], dhcp_config_path=DHCP, domain_name="lab"),
    ]


async def test_a_segment_is_a_switch_and_says_so_with_the_rows_uuid(site: Site) -> None:
    await site.put(Segment(path=WEB))
    ((name, uuid),) = await site.rows("Logical_Switch", "name", "_uuid")
    assert name == WEB
    (realized,) = site.realized(WEB)
    assert realized.state is RealizationState.REALIZED
    assert realized.identifier == uuid[1]
    assert realized.entity_type == "RealizedLogicalSwitch"


async def test_a_vlan_segment_reaches_the_physical_network_with_its_tag(site: Site) -> None:
    await site.put(PolicyTransportZone(path=VLANS, tz_type="VLAN_BACKED"))
    await site.put(Segment(path=WEB, transport_zone_path=VLANS, vlan_ids=["120"]))
    assert await site.rows("Logical_Switch_Port", "type", "tag", "options") == [
        ["localnet", 120, ["map", [["network_name", "physnet"]]]]
    ]


async def test_a_trunk_is_refused_with_what_to_do_and_takes_nothing_else_along(site: Site) -> None:
    await site.put(Segment(path=WEB, vlan_ids=["1-9"]), Segment(path="/infra/segments/other"))
    assert [row[0] for row in await site.rows("Logical_Switch", "name")] == ["/infra/segments/other"]
    (realized,) = site.realized(WEB)
    assert realized.state is RealizationState.ERROR
    assert "one VLAN" in realized.error


async def test_a_nic_is_a_port_named_by_its_vif_that_sends_from_its_own_mac(site: Site) -> None:
    await site.put(Segment(path=WEB), machines=[machine(1, WEB)])
    assert await site.rows("Logical_Switch_Port", "name", "addresses", "port_security") == [
        ["vif-1", "00:50:56:00:00:01", "00:50:56:00:00:01"]
    ]


async def test_a_nic_on_its_way_is_requested_on_both_hosts_and_then_on_none(site: Site) -> None:
    await site.put(Segment(path=WEB), machines=[machine(1, WEB)], moves={"vif-1": ("esx01", "esx02")})
    assert await site.rows("Logical_Switch_Port", "options") == [[["map", [["requested-chassis", "esx01,esx02"]]]]]
    await site.put(moves={})
    assert await site.rows("Logical_Switch_Port", "options") == [[["map", []]]]


async def test_an_appliances_port_learns_macs_and_a_guarded_one_sends_from_its_addresses_only(site: Site) -> None:
    ports = [
        SegmentPort(path=f"{WEB}/ports/ne", attachment=PortAttachment(id="vif-1")),
        SegmentPort(
            path=f"{WEB}/ports/guarded",
            attachment=PortAttachment(id="vif-2"),
            address_bindings=[PortAddressBinding(ip_address=ip) for ip in ("10.1.0.9", "10.1.0.16-10.1.0.19")],
        ),
    ]
    await site.put(
        Segment(path=WEB),
        *ports,
        MacDiscoveryProfile(path="/infra/mac-discovery-profiles/learn", mac_learning_enabled=True),
        SpoofGuardProfile(path="/infra/spoofguard-profiles/guard", address_binding_allowlist=True),
        PortDiscoveryProfileBindingMap(
            path=f"{WEB}/ports/ne/segment-port-discovery-profile-binding-maps/m",
            parent_path=f"{WEB}/ports/ne",
            mac_discovery_profile_path="/infra/mac-discovery-profiles/learn",
        ),
        PortSecurityProfileBindingMap(
            path=f"{WEB}/ports/guarded/port-security-profile-binding-maps/m",
            parent_path=f"{WEB}/ports/guarded",
            spoofguard_profile_path="/infra/spoofguard-profiles/guard",
        ),
        machines=[machine(1, WEB), machine(2, WEB)],
    )
    learning, guarded = await site.rows("Logical_Switch_Port", "name", "addresses", "port_security")
    assert learning == ["vif-1", ["set", ["00:50:56:00:00:01", "unknown"]], ["set", []]]
    assert guarded[1:] == ["00:50:56:00:00:02 10.1.0.9", "00:50:56:00:00:02 10.1.0.9 10.1.0.16/30"]
    # And ovn-northd takes it: a packet from another address goes nowhere.
    answer = await site.trace(
        WEB,
        'inport == "vif-2" && eth.src == 00:50:56:00:00:02 && eth.dst == 00:50:56:00:00:01 && ip4.src == 10.1.0.77'
        " && ip4.dst == 10.1.0.1 && ip.ttl == 64",
        "--minimal",
    )
    assert "output" not in answer
    assert site.realized(ports[0].path)[0].state is RealizationState.REALIZED


async def test_nics_get_addresses_of_the_ranges_and_bindings_theirs(site: Site) -> None:
    binding = DhcpV4StaticBindingConfig(
        path=f"{WEB}/dhcp-static-binding-configs/b",
        parent_path=WEB,
        mac_address=vif(1, WEB).mac,
        ip_address=ip_address("10.1.0.101"),
        host_name="db",
    )
    await site.put(*served(), binding, machines=[machine(number, WEB) for number in (1, 2, 3)])
    given = await site.rows("Logical_Switch_Port", "name", "addresses", "dynamic_addresses")
    assert given[0][1] == "00:50:56:00:00:01 10.1.0.101"
    addresses = {row[2].split()[1] for row in given[1:]}
    assert len(addresses) == 2
    assert addresses <= {"10.1.0.100", "10.1.0.102", "10.1.0.103"}
    assert site.realized(binding.path)[0].state is RealizationState.REALIZED
    condition = Condition(member_type="VirtualMachine", key="Name", operator="EQUALS", value="vm2")
    await site.put(Group(path="/infra/domains/default/groups/g", expression=[condition]))
    sets = await site.sbctl("--bare", "--columns=addresses", "find", "Address_Set", "name!=svc_monitor_mac")
    assert sets.split() == [given[1][2].split()[1]], "rules know the address that was given out"
    answer = await site.trace(
        WEB,
        'inport == "vif-2" && eth.src == 00:50:56:00:00:02 && eth.dst == ff:ff:ff:ff:ff:ff && ip4.src == 0.0.0.0'
        " && ip4.dst == 255.255.255.255 && udp.src == 68 && udp.dst == 67 && ip.ttl == 1",
    )
    assert "lease_time = 7200" in answer
    assert 'domain_name = "lab"' in answer


async def test_a_binding_outside_of_the_subnet_is_an_error_of_that_binding_alone(site: Site) -> None:
    binding = DhcpV4StaticBindingConfig(
        path=f"{WEB}/dhcp-static-binding-configs/b",
        parent_path=WEB,
        mac_address=vif(1, WEB).mac,
        ip_address=ip_address("10.9.0.5"),
    )
    await site.put(*served(), binding, machines=[machine(1, WEB)])
    assert "10.1.0.0/24" in site.realized(binding.path)[0].error
    assert {realized.state for realized in site.realized(WEB)} == {RealizationState.REALIZED}
