"""Addresses and names of a lab."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from landbridge.lab.topology import Topology, TopologyError


def test_a_site_is_laid_out_as_azure_vmware_solution_does() -> None:
    onprem, cloud = Topology().sites
    assert onprem.vcenter.management == "10.10.0.2"
    assert onprem.hcx.management == "10.10.0.9"
    assert onprem.ix.management == "10.10.0.66"
    assert [leg.address for leg in onprem.esx[0].legs] == ["10.10.1.11", "10.10.1.139"]
    assert cloud.ix.leg("uplink").address == "10.20.3.2"
    assert cloud.gateway("hosts").address == "10.20.1.1"


def test_no_two_networks_of_a_site_overlap_and_every_address_lies_in_its_own() -> None:
    for site in Topology(hosts=32).sites:
        networks = list(site.networks.values())
        assert all(network.subnet_of(site.network) for network in networks)
        assert not any(a.overlaps(b) for a in networks for b in networks if a is not b)
        legs = [leg for node in site.nodes for leg in node.legs]
        assert all(leg.interface.ip in site.networks[leg.network] for leg in legs)
        assert len({leg.address for leg in legs}) == len(legs)


def test_a_topology_is_found_again_from_its_description() -> None:
    lab = Topology("two", hosts=3, wan_mbit=50, networks=("10.30.0.0/22", "10.40.0.0/22"))
    assert Topology.from_json(lab.to_json(), state_root=Path("/var/lib"), run_root=Path("/run")) == lab


def test_labs_of_different_prefixes_share_no_directory() -> None:
    one, two = Topology(), Topology("two")
    assert (one.state_dir, one.run_dir) == (Path("/var/lib/landbridge"), Path("/run/landbridge"))
    assert {two.state_dir, two.run_dir}.isdisjoint({one.state_dir, one.run_dir})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prefix": "Too-Long-A-Prefix"}, "1 to 8 small letters"),
        ({"prefix": "../x"}, "1 to 8 small letters"),
        ({"hosts": 0}, "1 to 32"),
        ({"networks": ("10.10.0.0/24", "10.20.0.0/22")}, "must be a /22"),
        ({"networks": ("10.10.0.0/22", "10.10.0.0/22")}, "overlap"),
    ],
)
def test_a_lab_that_can_not_be_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        Topology(**wrong)  # type: ignore[arg-type]  # what a user typed


def test_the_vm_network_lies_outside_both_sites() -> None:
    lab = Topology()
    assert not any(IPv4Network(lab.vm_network).overlaps(site.network) for site in lab.sites)
