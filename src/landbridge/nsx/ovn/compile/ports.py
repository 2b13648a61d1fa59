"""Ports of segments: one for each VIF, and for each segment port that nobody is attached to yet."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from landbridge.nsx.ovn.compile.addresses import networks, text_of
from landbridge.nsx.ovn.compile.context import Context, Port, name_of
from landbridge.nsx.ovn.compile.dhcp import SegmentDhcp
from landbridge.nsx.ovn.rows import Ref
from landbridge.nsx.policy.model.profiles import MacDiscoveryProfile, SpoofGuardProfile
from landbridge.nsx.policy.model.segments import (
    PortAddressBinding,
    Segment,
    SegmentDiscoveryProfileBindingMap,
    SegmentPort,
    SegmentSecurityProfileBindingMap,
)
from landbridge.nsx.snapshot import Machine, Vif


def compile_ports(context: Context, dhcp: Mapping[str, SegmentDhcp]) -> None:
    vifs: dict[str, list[tuple[Machine, Vif]]] = {}
    for machine in context.snapshot.machines.values():
        for vif in machine.vifs:
            vifs.setdefault(vif.segment, []).append((machine, vif))
    # A port's name is taken once in the whole database: a VIF that is there goes before a port that waits for it.
    names: dict[str, str] = {}
    for segment in context.of(Segment):
        if segment.path in context.switches:
            for _, vif in vifs.get(segment.path, ()):
                names.setdefault(vif.id, segment.path)
    for segment in context.of(Segment):
        intents = list(context.below(segment.path, SegmentPort))
        if segment.path not in context.switches:
            for intent in intents:
                context.wanted.claim(intent.path, "RealizedLogicalPort", error=f"{segment.path} is not realised")
            continue
        here = [(machine, vif) for machine, vif in vifs.get(segment.path, ()) if names[vif.id] == segment.path]
        _Ports(context, segment, dhcp.get(segment.path) or SegmentDhcp()).compile(intents, here, names)


class _Ports:
    """The ports of one segment."""

    def __init__(self, context: Context, segment: Segment, dhcp: SegmentDhcp) -> None:
        self._context = context
        self._segment = segment
        self._dhcp = dhcp
        self._guard = self._guarded(segment.path, False)
        self._learning = self._mac_profile(segment.path, MacDiscoveryProfile())
        self._refs: list[Ref] = []

    def compile(self, intents: list[SegmentPort], vifs: list[tuple[Machine, Vif]], names: dict[str, str]) -> None:
        """`names` says of each port's name which segment or segment port has it."""
        attached = {intent.attachment.id: intent for intent in intents if intent.attachment and intent.attachment.id}
        seen = set()
        for machine, vif in vifs:
            if vif.id not in seen:
                seen.add(vif.id)
                self._port(vif.id, attached.get(vif.id), machine, vif)
        for intent in intents:
            name = (intent.attachment.id if intent.attachment else "") or name_of(intent.path)
            if name in seen and attached.get(name) is intent:
                continue
            holder = names.setdefault(name, intent.path)
            if holder != intent.path:
                error = f"the VIF {name!r} is already at {holder}"
                self._context.wanted.claim(intent.path, "RealizedLogicalPort", error=error)
            else:
                self._port(name, intent, None, None)
        self._context.wanted.join(self._context.switches[self._segment.path], "ports", *self._refs)

    def _port(self, name: str, intent: SegmentPort | None, machine: Machine | None, vif: Vif | None) -> None:
        guard, learning = self._guard, self._learning
        bindings: list[PortAddressBinding] = []
        if intent is not None:
            guard = self._guarded(intent.path, guard)
            learning = self._mac_profile(intent.path, learning)
            bindings = intent.address_bindings
        mac = vif.mac if vif is not None else next((str(one.mac_address) for one in bindings if one.mac_address), "")
        bound = self._dhcp.bindings.get(mac)
        allowed, known = _bound(bindings, mac, bound[1] if bound else "")
        dynamic = self._dhcp.dynamic and bool(mac) and not any("." in ip for ip in known)
        columns: dict[str, Any] = {"name": name}
        # A MAC that is beyond an extension is looked for there, as one that nobody here knows.
        here = vif is None or vif.present
        columns["addresses"] = self._addresses(mac if here else "", known, dynamic, learning)
        columns["port_security"] = self._security(name, mac, allowed, guard, learning)
        if not self._enabled(intent):
            columns["enabled"] = frozenset({False})
        if bound is not None:
            columns["dhcpv4_options"] = frozenset({bound[0]})
        elif self._dhcp.options is not None and (dynamic or any("." in ip for ip in known)):
            columns["dhcpv4_options"] = frozenset({self._dhcp.options})
        if name in self._context.snapshot.moves:
            columns["options"] = {"requested-chassis": ",".join(self._context.snapshot.moves[name])}
        ref = self._context.wanted.add("Logical_Switch_Port", f"{self._segment.path}#port#{name}", **columns)
        self._refs.append(ref)
        reported = tuple(ip for ip in (vif.addresses if vif else ()) if ip not in known)
        path = intent.path if intent is not None else ""
        self._context.ports.append(Port(ref, self._segment.path, path, machine, reported))
        if intent is not None:
            self._context.wanted.claim(intent.path, "RealizedLogicalPort", ref)

    def _addresses(self, mac: str, known: list[str], dynamic: bool, learning: MacDiscoveryProfile) -> frozenset[str]:
        if not mac:
            return frozenset({"unknown"})
        first = f"{mac} dynamic" if dynamic else " ".join([mac, *known])
        flooded = learning.mac_learning_enabled or learning.mac_change_enabled
        return frozenset({first, "unknown"} if flooded else {first})

    def _security(
        self, name: str, mac: str, allowed: list[str], guard: bool, learning: MacDiscoveryProfile
    ) -> frozenset[str]:
        """A port sends from its own MAC, and with spoof guard from its bound addresses only."""
        if not mac:
            return frozenset()
        if guard:
            given = self._context.present.dynamic.get(name, "").split()
            return frozenset({" ".join([mac, *(allowed or given[1:])])})
        free = learning.mac_learning_enabled or learning.mac_change_enabled
        return frozenset() if free else frozenset({mac})

    def _enabled(self, intent: SegmentPort | None) -> bool:
        return self._segment.admin_state == "UP" and (intent is None or intent.admin_state == "UP")

    def _guarded(self, path: str, inherited: bool) -> bool:
        for binding in self._context.below(path, SegmentSecurityProfileBindingMap):
            profile = self._context.get(binding.spoofguard_profile_path, SpoofGuardProfile)
            if profile is not None:
                return profile.address_binding_allowlist or profile.address_binding_whitelist
        return inherited

    def _mac_profile(self, path: str, inherited: MacDiscoveryProfile) -> MacDiscoveryProfile:
        for binding in self._context.below(path, SegmentDiscoveryProfileBindingMap):
            profile = self._context.get(binding.mac_discovery_profile_path, MacDiscoveryProfile)
            if profile is not None:
                return profile
        return inherited


def _bound(bindings: list[PortAddressBinding], mac: str, static: str) -> tuple[list[str], list[str]]:
    """What the port may send from (prefixes too), and its single addresses."""
    allowed: list[str] = [static] if static else []
    if not bindings:
        return allowed, allowed
    for binding in bindings:
        if binding.ip_address and (binding.mac_address or mac) == mac:
            allowed += [text_of(network) for network in networks(binding.ip_address)]
    unique = list(dict.fromkeys(allowed))
    return unique, sorted((one for one in unique if "/" not in one), key=lambda one: (ip_address(one).version, one))
