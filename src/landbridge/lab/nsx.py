"""What the provider of a private cloud sets up in a fresh NSX: its tier-0 with the way out, and a first tier-1.

tier-0 `TNT-T0`: uplink on the VLAN segment `TNT-uplink`, default route to the site's edge
tier-1 `TNT-T1`: connected to it, its connected segments, static routes and NAT addresses advertised
segment `VM Network`: without a gateway, for the network that is extended from the site on premises
"""

import ssl
from typing import TYPE_CHECKING, Any

import aiohttp

from landbridge.lab.inventory import PORT_GROUP
from landbridge.lab.topology import Site

if TYPE_CHECKING:
    from landbridge.lab.build import Login

TIER0, TIER1, _UPLINK = "TNT-T0", "TNT-T1", "TNT-uplink"
_POINT = "/infra/sites/default/enforcement-points/default"
_TIMEOUT = aiohttp.ClientTimeout(total=60)
_ADVERTISED = ["TIER1_STATIC_ROUTES", "TIER1_CONNECTED", "TIER1_NAT", "TIER1_DNS_FORWARDER_IP"]


async def prepare_nsx(login: "Login", site: Site) -> None:
    """Make the gateways, in one hierarchical request; what is there already stays as it should be."""
    tls = ssl.create_default_context(cafile=str(login.ca))
    headers = {"Authorization": aiohttp.encode_basic_auth(login.user, login.password)}
    async with aiohttp.ClientSession(f"{login.url}/policy/api/v1/", headers=headers, timeout=_TIMEOUT) as http:

        async def paths(collection: str, **wanted: str) -> str:
            async with http.get(f"{_POINT}/{collection}".lstrip("/"), ssl=tls) as response:
                response.raise_for_status()
                found = (await response.json())["results"]
            return str(next(one["path"] for one in found if all(one.get(key) == wanted[key] for key in wanted)))

        zone = await paths("transport-zones", tz_type="VLAN_BACKED")
        cluster = await paths("edge-clusters")
        async with http.patch("infra", json=_infra(site, zone, cluster), ssl=tls) as response:
            if response.status >= 400:
                raise RuntimeError(f"NSX refused its gateways: {response.status} {await response.text()}")


def _infra(site: Site, vlan_zone: str, edge_cluster: str) -> dict[str, Any]:
    uplink = {
        "resource_type": "Tier0Interface",
        "id": "uplink-1",
        "type": "EXTERNAL",
        "segment_path": f"/infra/segments/{_UPLINK}",
        "subnets": [{"ip_addresses": [site.tier0.address], "prefix_len": site.tier0.interface.network.prefixlen}],
    }
    services = {
        "resource_type": "LocaleServices",
        "id": "default",
        "edge_cluster_path": edge_cluster,
        "children": [_child("Tier0Interface", uplink)],
    }
    default_route = {
        "resource_type": "StaticRoutes",
        "id": "default",
        "network": "0.0.0.0/0",
        "next_hops": [{"ip_address": site.gateway("t0").address}],
    }
    tier0 = {
        "resource_type": "Tier0",
        "id": TIER0,
        "display_name": TIER0,
        "ha_mode": "ACTIVE_STANDBY",
        "children": [_child("LocaleServices", services), _child("StaticRoutes", default_route)],
    }
    tier1_services = {"resource_type": "LocaleServices", "id": "default", "edge_cluster_path": edge_cluster}
    tier1 = {
        "resource_type": "Tier1",
        "id": TIER1,
        "display_name": TIER1,
        "tier0_path": f"/infra/tier-0s/{TIER0}",
        "route_advertisement_types": _ADVERTISED,
        "children": [_child("LocaleServices", tier1_services)],
    }
    segment = {
        "resource_type": "Segment",
        "id": _UPLINK,
        "display_name": _UPLINK,
        "transport_zone_path": vlan_zone,
        "vlan_ids": ["0"],
    }
    extended = {"resource_type": "Segment", "id": "VM-Network", "display_name": PORT_GROUP}
    children = [
        _child("Segment", segment),
        _child("Segment", extended),
        _child("Tier0", tier0),
        _child("Tier1", tier1),
    ]
    return {"resource_type": "Infra", "children": children}


def _child(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"resource_type": f"Child{kind}", kind: body}
