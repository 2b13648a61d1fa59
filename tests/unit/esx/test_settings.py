"""The agent's configuration file: what makes a host a transport node."""

from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from pydantic import ValidationError

from landbridge.esx.model import OverlayConfig, vif_id
from landbridge.esx.settings import Settings

_HOST = """
name = "esx01.cloud"
site = "cloud"
state_dir = "/state"
run_dir = "/run"
pki_dir = "/pki"
[management]
address = "10.20.1.11"
[vmotion]
address = "10.20.1.139"
[switch]
uplink = "uplink0"
"""


def load(directory: Path, more: str = "") -> Settings:
    file = directory / "esx.toml"
    file.write_text(_HOST + more)
    return Settings.load(file)


def test_a_host_without_a_tep_is_no_transport_node(tmp_path: Path) -> None:
    switch = load(tmp_path).switch
    assert switch is not None
    assert (switch.tep, switch.tep_address) == (None, None)


def test_a_tep_has_an_interface_and_an_address_with_its_prefix(tmp_path: Path) -> None:
    switch = load(tmp_path, 'tep = "tep0"\ntep_address = "10.20.3.139/25"\n').switch
    assert switch is not None
    assert (switch.tep, switch.tep_address) == ("tep0", IPv4Interface("10.20.3.139/25"))


@pytest.mark.parametrize("half", ['tep = "tep0"\n', 'tep_address = "10.20.3.139/25"\n'])
def test_half_a_tep_is_refused(tmp_path: Path, half: str) -> None:
    with pytest.raises(ValidationError, match="belong together"):
        load(tmp_path, half)


@pytest.mark.parametrize(
    "remote", ["tcp:10.20.0.3:6642", "ssl:10.20.0.3", "ssl:nsx:6642", "unix:/run/sb.sock", 'ssl:10.20.0.3:1" x="']
)
def test_a_southbound_database_is_an_address_reached_by_tls(remote: str) -> None:
    with pytest.raises(ValidationError):
        OverlayConfig(southbound=[remote])
    assert OverlayConfig(southbound=["ssl:10.20.0.3:6642"]).encapsulation == "geneve"


def test_a_vif_has_the_same_id_on_every_host_and_another_for_every_nic() -> None:
    vm = "995df459-3340-43a8-95ed-f49ddf970b54"
    # Written into OVN's databases and into NSX's: it must never change.
    assert vif_id(vm, 4000) == "f541b6ee-3a8c-58a3-8752-3553306add25"
    assert vif_id(vm, 4000) != vif_id(vm, 4001)
