"""Intents that need no rows of their own, and those that OVN can not realise."""

from landbridge.nsx.ovn.compile.context import Context
from landbridge.nsx.policy.model import fabric, profiles
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.model.nat import PolicyDnsForwarder, PolicyDnsForwarderZone, PolicyNat
from landbridge.nsx.policy.model.security import GatewayPolicy, PolicyExcludeList, Rule, Service
from landbridge.nsx.policy.model.segments import SegmentDiscoveryProfileBindingMap, SegmentSecurityProfileBindingMap

_FIREWALL = (
    "OVN's routers remember no connections and so have no firewall: use the distributed firewall, which sees the same "
    "packets at the VMs"
)
_DNS = "there is no DNS forwarder in OVN: give the segments' dns_servers an address that answers"
_SECURITY = "segment security profiles are not realised: take segment_security_profile_path off the binding"
# They are there for others to refer to, and real as far as those are.
_VALUES: tuple[type[Intent], ...] = (
    fabric.Domain,
    fabric.Site,
    fabric.EnforcementPoint,
    fabric.PolicyTransportZone,
    fabric.PolicyEdgeCluster,
    fabric.PolicyEdgeNode,
    profiles.SpoofGuardProfile,
    profiles.MacDiscoveryProfile,
    profiles.IPDiscoveryProfile,
    profiles.SegmentSecurityProfile,
    PolicyExcludeList,
    PolicyNat,
    Service,
)


def compile_others(context: Context) -> None:
    for kind in _VALUES:
        for value in context.of(kind):
            context.wanted.claim(value.path, f"Realized{kind.kind}")
    for policy in context.of(GatewayPolicy):
        rules = list(context.below(policy.path, Rule))
        for rule in rules:
            # What lets everything through is what routers do.
            error = "" if rule.disabled or (rule.is_default and rule.action == "ALLOW") else _FIREWALL
            context.wanted.claim(rule.path, "RealizedFirewallRule", error=error)
        context.wanted.claim(policy.path, "RealizedGatewayPolicy")
    for forwarder in context.of(PolicyDnsForwarder):
        context.wanted.claim(forwarder.path, "RealizedDnsForwarder", error=_DNS if forwarder.enabled else "")
    for zone in context.of(PolicyDnsForwarderZone):
        context.wanted.claim(zone.path, "RealizedDnsForwarderZone", error=_DNS)
    for discovery in context.of(SegmentDiscoveryProfileBindingMap):
        context.wanted.claim(discovery.path, "RealizedBindingMap")
    for security in context.of(SegmentSecurityProfileBindingMap):
        error = _SECURITY if security.segment_security_profile_path else ""
        context.wanted.claim(security.path, "RealizedBindingMap", error=error)
