"""The configuration files of the lab's daemons, as docs/architecture.md describes them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landbridge.lab.topology import Node, Site


@dataclass(frozen=True)
class Secrets:
    """Files that configuration files point to."""

    vcenter_password: Path
    hcx_password: Path
    nsx_password: Path
    ca: Path


def service_configuration(site: Site, node: Node, *, home: Path, run_dir: Path, kept: Secrets) -> str:
    """The TOML file of a node's daemon. `home` holds its certificate, state and datastore."""
    common = {
        "name": node.full_name,
        "site": site.name,
        "state_dir": home / "state",
        "run_dir": run_dir,
        "pki_dir": home / "pki",
    }
    return _toml({**common, **_SECTIONS[node.role](site, node, home, kept)})


def _esx(_site: Site, node: Node, home: Path, _kept: Secrets) -> dict[str, Any]:
    datastore = home / "datastore"
    datastore.mkdir(parents=True, exist_ok=True)
    return {
        "management": {"address": node.management},
        "vmotion": {"address": node.leg("vmotion").address},
        "datastores": [{"name": datastore_name(node), "path": datastore}],
        "switch": _switch(node),
    }


def _switch(node: Node) -> dict[str, Any]:
    tunnels = {"tep": "tep0", "tep_address": str(node.tep.interface)} if node.tep is not None else {}
    return {"uplink": "uplink0", **tunnels}


def _nsx(site: Site, node: Node, _home: Path, kept: Secrets) -> dict[str, Any]:
    return {
        "listen": {"address": node.management},
        "administrator": {"user": "admin", "password_file": kept.nsx_password},
        "vcenter": _vcenter_login(site, kept),
        "edges": [{"name": site.nsx_edge.full_name, "address": site.nsx_edge.management}],
        "appliances": [{"name": site.ne.full_name, "address": site.ne.management}],
    }


def _edge(_site: Site, node: Node, _home: Path, _kept: Secrets) -> dict[str, Any]:
    return {"management": {"address": node.management}, "switch": _switch(node)}


def _vcenter(_site: Site, node: Node, _home: Path, kept: Secrets) -> dict[str, Any]:
    return {
        "listen": {"address": node.management},
        "administrator": {"user": "administrator@vsphere.local", "password_file": kept.vcenter_password},
    }


def _hcx(site: Site, node: Node, _home: Path, kept: Secrets) -> dict[str, Any]:
    return {
        "role": site.role,
        "listen": {"address": node.management},
        "administrator": {"user": "admin", "password_file": kept.hcx_password},
        "vcenter": _vcenter_login(site, kept),
        "ix": {
            "name": site.ix.full_name,
            "address": site.ix.management,
            "uplink_address": site.ix.leg("uplink").address,
        },
        "ne": {
            "name": site.ne.full_name,
            "address": site.ne.management,
            "uplink_address": site.ne.leg("uplink").address,
        },
        **({"nsx": _nsx_login(site, kept)} if site.has_nsx else {}),
    }


def _nsx_login(site: Site, kept: Secrets) -> dict[str, Any]:
    return {
        "url": f"https://{site.nsx.management}",
        "user": "admin",
        "password_file": kept.nsx_password,
        "ca_file": kept.ca,
    }


def _vcenter_login(site: Site, kept: Secrets) -> dict[str, Any]:
    return {
        "url": f"https://{site.vcenter.management}",
        "user": "administrator@vsphere.local",
        "password_file": kept.vcenter_password,
        "ca_file": kept.ca,
    }


def _ne(_site: Site, node: Node, _home: Path, _kept: Secrets) -> dict[str, Any]:
    leg = (
        {"trunk": {"interface": "trunk0"}}
        if node.tep is None
        else {"overlay": {"interface": "tep0", "address": str(node.tep.interface)}}
    )
    return {
        "management": {"address": node.management},
        "uplink": {"address": node.leg("uplink").address, "interface": "uplink"},
        **leg,
    }


def _ix(_site: Site, node: Node, _home: Path, _kept: Secrets) -> dict[str, Any]:
    return {
        "management": {"address": node.management},
        "vmotion": {"address": node.leg("vmotion").address},
        "uplink": {"address": node.leg("uplink").address},
    }


_SECTIONS = {"esx": _esx, "vcenter": _vcenter, "hcx": _hcx, "ix": _ix, "ne": _ne, "nsx": _nsx, "edge": _edge}


def datastore_name(node: Node) -> str:
    """A host's own datastore: esx01's is datastore1. Names are unique in a vCenter."""
    return f"datastore{int(node.name.removeprefix('esx'))}"


def _toml(values: dict[str, Any]) -> str:
    """Scalars, then tables, then arrays of tables: the part of TOML that the daemons use."""
    lines = [f"{key} = {_scalar(value)}" for key, value in values.items() if not isinstance(value, dict | list)]
    for key, value in values.items():
        for table in value if isinstance(value, list) else [value]:
            if isinstance(table, dict):
                header = f"[[{key}]]" if isinstance(value, list) else f"[{key}]"
                lines += ["", header, *(f"{name} = {_scalar(each)}" for name, each in table.items())]
    return "\n".join(lines) + "\n"


def _scalar(value: str | int | Path) -> str:
    # A JSON string is a TOML basic string.
    return str(value) if isinstance(value, int) else json.dumps(str(value))
