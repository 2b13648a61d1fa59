"""NAT rules of a gateway.

OVN translates sources by the longest prefix, not by number, so rules whose order can not be kept say so. Exemptions
(NO_SNAT, NO_DNAT) become sets of addresses on the rules after them; port forwarding is a load balancer of one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from landbridge.nsx.ovn.compile.addresses import Network, networks, plain, text_of
from landbridge.nsx.ovn.compile.context import Context, Gateway, Leg, name_of
from landbridge.nsx.ovn.rows import Ref
from landbridge.nsx.policy.model.nat import NatAction, PolicyNatRule
from landbridge.nsx.policy.model.security import L4PortSetServiceEntry, Service

_ANY = [ip_network("0.0.0.0/0")]
_MOST_ROWS = 256  # of one rule: addresses of a reflexive rule, forwarded ports


class _Unable(Exception):  # noqa: N818 - a reason, not a failure
    """Why it can not be realised."""


@dataclass
class _Translation:
    """A rule that translates: what it looks at, and which rows it becomes."""

    rule: PolicyNatRule
    match: list[Network]  # sources of SNAT, destinations of DNAT
    rows: list[dict[str, Any]] = field(default_factory=list)
    balancers: list[dict[str, Any]] = field(default_factory=list)


def compile_nat(context: Context) -> dict[str, list[Network]]:
    """The rules of all gateways; by gateway the outer addresses, which a tier-1 may advertise."""
    rules: dict[str, list[PolicyNatRule]] = {}
    for rule in context.of(PolicyNatRule):
        rules.setdefault(rule.path.split("/nat/")[0], []).append(rule)
    outer: dict[str, list[Network]] = {}
    for path, of_gateway in rules.items():
        gateway = context.gateways.get(path)
        if gateway is not None:
            of_gateway.sort(key=lambda rule: (rule.sequence_number, rule.path))
            outer[path] = _Nat(context, gateway).compile(of_gateway)
    return outer


class _Nat:
    """The rules of one gateway."""

    def __init__(self, context: Context, gateway: Gateway) -> None:
        self._context = context
        self._gateway = gateway
        self._before: list[_Translation] = []
        self._exempt: list[PolicyNatRule] = []

    def compile(self, rules: list[PolicyNatRule]) -> list[Network]:
        outer: list[Network] = []
        for rule in rules:
            try:
                rows = self._rule(rule) if rule.enabled else []
            except _Unable as reason:
                self._context.wanted.claim(rule.path, "RealizedNatRule", error=str(reason))
                continue
            self._context.wanted.claim(rule.path, "RealizedNatRule", *rows)
            external = rule.destination_network if rule.action is NatAction.DNAT else rule.translated_network
            if rule.enabled and external and rule.action not in (NatAction.NO_SNAT, NatAction.NO_DNAT):
                outer += networks(external)
        return outer

    def _rule(self, rule: PolicyNatRule) -> list[Ref]:
        if rule.logging:
            raise _Unable("OVN does not log translations: switch the rule's logging off")
        if rule.action in (NatAction.NO_SNAT, NatAction.NO_DNAT):
            self._exempt.append(rule)
            return []
        leg = self._leg(rule)
        make = {NatAction.SNAT: self._snat, NatAction.DNAT: self._dnat, NatAction.REFLEXIVE: self._reflexive}
        translation = make[rule.action](rule)
        self._before.append(translation)
        rows = []
        for number, columns in enumerate(translation.rows):
            if sum(leg.central for leg in self._gateway.legs) > 1:
                columns["gateway_port"] = frozenset({leg.ref})
            rows.append(self._context.wanted.add("NAT", f"{rule.path}#{number}", **columns))
        self._context.wanted.join(self._gateway.ref, "nat", *rows)
        balancers = [
            self._context.wanted.add("Load_Balancer", f"{rule.path}#{columns['name']}", **columns)
            for columns in translation.balancers
        ]
        self._context.wanted.join(self._gateway.ref, "load_balancer", *balancers)
        return rows + balancers

    def _leg(self, rule: PolicyNatRule) -> Leg:
        """The port that translates: of the scope, else the one whose network has the outer address, else the first."""
        legs = self._gateway.external()
        if not legs:
            raise _Unable(
                f"{self._gateway.path} has no port at the edges: it needs locale-services with an edge cluster and "
                + ("an uplink" if self._gateway.tier == 0 else "a tier-0")
            )
        if rule.scope:
            legs = [leg for leg in legs if set(leg.interfaces) & set(rule.scope)]
            if not legs:
                raise _Unable(f"the scope {', '.join(rule.scope)} is no interface at the edges")
        text = rule.destination_network if rule.action is NatAction.DNAT else rule.translated_network
        outer = networks(text)[0] if text else None
        near = (leg for leg in legs if outer and any(outer[0] in network.network for network in leg.networks))
        return next(near, legs[0])

    # -- kinds ----------------------------------------------------------------------------------------------

    def _snat(self, rule: PolicyNatRule) -> _Translation:
        outer = _single(rule.translated_network, "translated_network of a SNAT rule")
        sources = list(networks(rule.source_network)) if rule.source_network else list(_ANY)
        if rule.service or rule.translated_ports:
            raise _Unable("OVN can not translate the sources of one service only: leave service and ports away")
        translation = _Translation(rule, sources)
        for source in sources:
            self._check_order(source)
            columns = {"type": "snat", "external_ip": outer, "logical_ip": text_of(source)}
            exempt = self._exemptions(NatAction.NO_SNAT, source)
            if rule.destination_network and exempt.get(source):
                raise _Unable("a rule can not both name destinations and have some exempted by a NO_SNAT before it")
            allowed = self._set(rule, "to", [rule.destination_network]) if rule.destination_network else {}
            translation.rows.append({**columns, **allowed, **self._exempted(rule, exempt.pop(source, []))})
            for inner, peers in exempt.items():
                # Exempted for a part of the sources: that part gets a row of its own, which has the longer prefix.
                part = {**columns, "logical_ip": text_of(inner)}
                translation.rows.append({**part, **self._exempted(rule, peers, text_of(inner))})
        return translation

    def _dnat(self, rule: PolicyNatRule) -> _Translation:
        outer = _single(rule.destination_network, "destination_network of a DNAT rule")
        inner = _single(rule.translated_network, "translated_network of a DNAT rule")
        translation = _Translation(rule, list(networks(outer)))
        if rule.service or rule.translated_ports:
            translation.balancers = list(self._forwards(rule, outer, inner))
            return translation
        exempt = self._exemptions(NatAction.NO_DNAT, translation.match[0]).get(translation.match[0], [])
        if rule.source_network and exempt:
            raise _Unable("a rule can not both name sources and have some exempted by a NO_DNAT before it")
        if any(networks(outer)[0] in before.match and not before.balancers for before in self._before):
            raise _Unable(f"a rule before it translates {outer} already")
        allowed = self._set(rule, "to", [rule.source_network]) if rule.source_network else {}
        columns = {"type": "dnat", "external_ip": outer, "logical_ip": inner}
        translation.rows.append({**columns, **allowed, **self._exempted(rule, exempt)})
        return translation

    def _reflexive(self, rule: PolicyNatRule) -> _Translation:
        inner = networks(rule.source_network or "")[0] if rule.source_network else None
        outer = networks(rule.translated_network or "")[0] if rule.translated_network else None
        if inner is None or outer is None or inner.prefixlen != outer.prefixlen or inner.version != outer.version:
            raise _Unable("a REFLEXIVE rule needs a source_network and a translated_network of the same size")
        if inner.num_addresses > _MOST_ROWS:
            raise _Unable(f"a REFLEXIVE rule can have {_MOST_ROWS} addresses, not {inner.num_addresses}")
        translation = _Translation(rule, [inner])
        for index in range(inner.num_addresses):
            columns = {"external_ip": str(outer[index]), "logical_ip": str(inner[index])}
            translation.rows.append({"type": "dnat_and_snat", **columns})
        return translation

    def _forwards(self, rule: PolicyNatRule, outer: str, inner: str) -> Iterator[dict[str, Any]]:
        """Port forwarding: one load balancer a protocol, with one backend an outer port."""
        if rule.source_network:
            raise _Unable("OVN can not forward ports for some sources only: leave source_network away")
        if sum(leg.central for leg in self._gateway.legs) > 1:
            raise _Unable(
                "OVN forwards ports at a gateway with one port at the edges, and this one has several (each tier-1 "
                "with NAT rules makes one): forward the ports at the tier-1"
            )
        service = self._context.get(rule.service, Service)
        if service is None:
            raise _Unable("translated_ports need a service that says which ports they are of")
        vips: dict[str, dict[str, str]] = {}
        for entry in service.service_entries:
            if not isinstance(entry, L4PortSetServiceEntry) or entry.source_ports or not entry.destination_ports:
                raise _Unable(
                    f"{service.path} is not only TCP or UDP destination ports, which is what can be forwarded"
                )
            ports = [port for text in entry.destination_ports for port in _ports(text)]
            target = _ports(rule.translated_ports) if rule.translated_ports else ports
            if len(target) not in (1, len(ports)) or len(ports) > _MOST_ROWS:
                raise _Unable(f"{len(ports)} ports can not be forwarded to {len(target)}")
            for index, port in enumerate(ports):
                to = target[index] if len(target) > 1 else target[0]
                vips.setdefault(entry.l4_protocol.lower(), {})[_socket(outer, port)] = _socket(inner, to)
        for protocol, pairs in vips.items():
            yield {"name": f"{name_of(rule.path)}_{protocol}", "protocol": frozenset({protocol}), "vips": pairs}

    # -- order ----------------------------------------------------------------------------------------------

    def _check_order(self, source: Network) -> None:
        for before in self._before:
            if before.rule.action is not NatAction.SNAT:
                continue
            for wider in before.match:
                if wider.version == source.version and source.subnet_of(wider):  # type: ignore[arg-type]
                    raise _Unable(
                        f"{before.rule.path}, which is before it, translates {source} too, and OVN prefers the longer "
                        "prefix: give this rule the lower sequence_number"
                    )

    def _exemptions(self, action: NatAction, match: Network) -> dict[Network, list[str]]:
        """Peers that rules before this one exempt, for all of `match` or a part of it."""
        found: dict[Network, list[str]] = {}
        for rule in self._exempt:
            if rule.action is not action:
                continue
            inner, peer = rule.source_network, rule.destination_network
            if action is NatAction.NO_DNAT:
                inner, peer = peer, inner
            for part in networks(inner) if inner else [match]:
                if part.version != match.version or not part.overlaps(match):
                    continue
                whole = match.subnet_of(part)  # type: ignore[arg-type]
                found.setdefault(match if whole else part, []).append(peer or "0.0.0.0/0")
        # What is exempted for all is so for each part.
        everywhere = found.get(match, [])
        return {part: peers if part == match else peers + everywhere for part, peers in found.items()}

    def _exempted(self, rule: PolicyNatRule, peers: list[str], part: str = "") -> dict[str, Any]:
        return {"exempted_ext_ips": self._set(rule, f"not{part}", peers)["allowed_ext_ips"]} if peers else {}

    def _set(self, rule: PolicyNatRule, what: str, texts: list[str]) -> dict[str, Any]:
        key = f"{rule.path}#{what}"
        four, six = plain(texts)
        ref = self._context.wanted.add("Address_Set", key, name=name_of(key), addresses=four | six)
        return {"allowed_ext_ips": frozenset({ref})}


def _single(text: str | None, what: str) -> str:
    """One address; OVN translates to one."""
    found = networks(text) if text else ()
    if len(found) != 1 or found[0].num_addresses != 1:
        raise _Unable(f"the {what} must be one address, not {text or 'empty'}")
    return str(found[0].network_address)


def _ports(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def _socket(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
