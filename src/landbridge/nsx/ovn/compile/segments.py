"""Segments: a logical switch each; a VLAN one has a localnet port with its tag."""

from landbridge.nsx.ovn.compile.context import Context
from landbridge.nsx.ovn.compile.dhcp import SegmentDhcp
from landbridge.nsx.policy.model.fabric import PolicyTransportZone
from landbridge.nsx.policy.model.segments import Segment

# The physical network of the VLAN transport zone, as hosts and edges map it to their bridge.
PHYSICAL_NETWORK = "physnet"


def compile_segments(context: Context, dhcp: dict[str, SegmentDhcp]) -> None:
    for segment in context.of(Segment):
        zone = context.get(segment.transport_zone_path, PolicyTransportZone)
        vlan = bool(segment.vlan_ids) or (zone is not None and zone.tz_type == "VLAN_BACKED")
        error = _problem(segment) if vlan else ""
        if error:
            context.wanted.claim(segment.path, "RealizedLogicalSwitch", error=error)
            continue
        served = dhcp.get(segment.path)
        switch = context.wanted.add(
            "Logical_Switch", segment.path, name=segment.path, other_config=served.other_config if served else {}
        )
        context.switches[segment.path] = switch
        rows = [switch]
        if vlan:
            context.vlan_switches.add(segment.path)
            tag = int(segment.vlan_ids[0]) if segment.vlan_ids else 0
            port = context.wanted.add(
                "Logical_Switch_Port",
                f"{segment.path}#localnet",
                name=f"{segment.path}:localnet",
                type="localnet",
                addresses=frozenset({"unknown"}),
                options={"network_name": PHYSICAL_NETWORK},
                tag=frozenset({tag} if tag else ()),
            )
            context.wanted.join(switch, "ports", port)
            rows.append(port)
        context.wanted.claim(segment.path, "RealizedLogicalSwitch", *rows)


def _problem(segment: Segment) -> str:
    if len(segment.vlan_ids) > 1 or not all(tag.isdigit() for tag in segment.vlan_ids):
        return f"a trunk of VLANs {', '.join(segment.vlan_ids)} can not be realised: give the segment one VLAN"
    if segment.vlan_ids and int(segment.vlan_ids[0]) > 4094:
        return f"there is no VLAN {segment.vlan_ids[0]}: they are 0 to 4094"
    if segment.connectivity_path:
        return "a VLAN segment can not be connected to a gateway: give the gateway an interface on it"
    return ""
