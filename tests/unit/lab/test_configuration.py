"""The daemons' configuration files, read by the daemons' own readers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from landbridge.esx.settings import Settings
from landbridge.hcx.config import IxConfig, ManagerConfig
from landbridge.hcx.ne.config import NeConfig
from landbridge.lab.configuration import Secrets, service_configuration
from landbridge.lab.topology import Node, Topology
from landbridge.nsx.config import ManagerConfig as NsxConfig
from landbridge.nsx.edge.node import EdgeConfig
from landbridge.vcenter.config import Config

READERS: dict[
    str, Callable[[Path], Settings | Config | ManagerConfig | IxConfig | NeConfig | NsxConfig | EdgeConfig]
] = {
    "esx": Settings.load,
    "vcenter": Config.load,
    "hcx": ManagerConfig.load,
    "ix": IxConfig.load,
    "ne": NeConfig.load,
    "nsx": NsxConfig.load,
    "edge": EdgeConfig.load,
}


@pytest.mark.parametrize("node", [node for site in Topology().sites for node in site.nodes], ids=lambda n: n.full_name)
def test_a_daemon_understands_its_file_and_finds_no_secret_in_it(node: Node, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("a very secret word")
    kept = Secrets(vcenter_password=password, hcx_password=password, nsx_password=password, ca=tmp_path / "ca.pem")
    site = next(site for site in Topology().sites if site.name == node.site)

    text = service_configuration(site, node, home=tmp_path, run_dir=tmp_path / "run", kept=kept)

    (tmp_path / "config.toml").write_text(text)
    configuration = READERS[node.role](tmp_path / "config.toml")
    assert configuration.name == node.full_name
    assert "secret" not in text
