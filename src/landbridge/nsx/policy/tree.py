"""Which types live where in the tree, and who may write them. A new type is a new line of the table."""

import re
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache

from landbridge.nsx.policy.model import dhcp, fabric, gateways, nat, profiles, security, segments
from landbridge.nsx.policy.model.base import Intent

ROOT = "/infra"
_ID = re.compile(r"[\w.:@+~-]{1,255}", re.ASCII)


class Access(Enum):
    """READ: only the system makes and changes it. UPDATE: the system makes it, people may change it."""

    READ = auto()
    UPDATE = auto()
    WRITE = auto()


@dataclass(frozen=True)
class Place:
    """A place in the tree: `{}` in `pattern` stands for an id. A pattern that ends without one is a singleton."""

    pattern: str
    kind: type[Intent]
    access: Access = Access.WRITE
    # Deleted along with its parent; others stand in the way of its deletion.
    dies_with_parent: bool = False
    # The field of the parent's body that may hold these objects as well.
    nested: str = ""
    # Part of its parent, and kept inside it.
    embedded: bool = False
    # The name in `Child...` wrappers and `target_type`, where it is not the kind's.
    wrapper: str = ""

    @property
    def singleton(self) -> bool:
        return not self.pattern.endswith("}")

    @property
    def child_name(self) -> str:
        return self.wrapper or self.kind.kind


_DOMAIN = "/infra/domains/{}"
_POINT = "/infra/sites/{}/enforcement-points/{}"
_EDGES = f"{_POINT}/edge-clusters/{{}}"


def _gateway(root: str, kind: type[Intent], interface: type[Intent]) -> list[Place]:
    return [
        Place(root, kind),
        Place(f"{root}/locale-services/{{}}", gateways.LocaleServices),
        Place(f"{root}/locale-services/{{}}/interfaces/{{}}", interface),
        Place(f"{root}/static-routes/{{}}", gateways.StaticRoutes),
        Place(f"{root}/nat/{{}}", nat.PolicyNat, Access.READ, dies_with_parent=True),
        Place(f"{root}/nat/{{}}/nat-rules/{{}}", nat.PolicyNatRule),
        Place(f"{root}/dns-forwarder", nat.PolicyDnsForwarder),
    ]


def _segment(root: str) -> list[Place]:
    port = f"{root}/ports/{{}}"
    return [
        Place(root, segments.Segment),
        Place(port, segments.SegmentPort),
        Place(
            f"{root}/dhcp-static-binding-configs/{{}}",
            dhcp.DhcpV4StaticBindingConfig,
            wrapper="DhcpStaticBindingConfig",
        ),
        _bound(root, "segment-security", segments.SegmentSecurityProfileBindingMap),
        _bound(root, "segment-discovery", segments.SegmentDiscoveryProfileBindingMap),
        _bound(port, "port-security", segments.PortSecurityProfileBindingMap),
        _bound(port, "port-discovery", segments.PortDiscoveryProfileBindingMap),
    ]


def _bound(root: str, sort: str, kind: type[Intent]) -> Place:
    return Place(f"{root}/{sort}-profile-binding-maps/{{}}", kind, dies_with_parent=True)


def _policy(root: str, kind: type[Intent]) -> list[Place]:
    return [Place(root, kind), Place(f"{root}/rules/{{}}", security.Rule, dies_with_parent=True, nested="rules")]


PLACES = (
    Place(_DOMAIN, fabric.Domain, Access.READ),
    Place("/infra/sites/{}", fabric.Site, Access.READ),
    Place(_POINT, fabric.EnforcementPoint, Access.READ),
    Place(f"{_POINT}/transport-zones/{{}}", fabric.PolicyTransportZone, Access.READ),
    Place(_EDGES, fabric.PolicyEdgeCluster, Access.READ),
    Place(f"{_EDGES}/edge-nodes/{{}}", fabric.PolicyEdgeNode, Access.READ),
    *_gateway("/infra/tier-0s/{}", gateways.Tier0, gateways.Tier0Interface),
    *_gateway("/infra/tier-1s/{}", gateways.Tier1, gateways.Tier1Interface),
    *_segment("/infra/segments/{}"),
    *_segment("/infra/tier-1s/{}/segments/{}"),
    Place("/infra/dhcp-server-configs/{}", dhcp.DhcpServerConfig),
    Place("/infra/dns-forwarder-zones/{}", nat.PolicyDnsForwarderZone),
    Place("/infra/spoofguard-profiles/{}", profiles.SpoofGuardProfile),
    Place("/infra/mac-discovery-profiles/{}", profiles.MacDiscoveryProfile),
    Place("/infra/ip-discovery-profiles/{}", profiles.IPDiscoveryProfile, Access.READ),
    Place("/infra/segment-security-profiles/{}", profiles.SegmentSecurityProfile),
    Place(f"{_DOMAIN}/groups/{{}}", security.Group),
    *_policy(f"{_DOMAIN}/security-policies/{{}}", security.SecurityPolicy),
    *_policy(f"{_DOMAIN}/gateway-policies/{{}}", security.GatewayPolicy),
    Place("/infra/services/{}", security.Service),
    Place(
        "/infra/services/{}/service-entries/{}",
        security.BaseServiceEntry,
        nested="service_entries",
        embedded=True,
        wrapper="ServiceEntry",
    ),
    Place("/infra/settings/firewall/security/exclude-list", security.PolicyExcludeList, Access.UPDATE),
)

# Collections that clients look into, of types that are not supported here: there is nothing in them.
EMPTY = (
    "/infra/context-profiles",
    "/infra/dhcp-relay-configs",
    "/infra/ip-blocks",
    "/infra/ip-pools",
    "/infra/ipv6-dad-profiles",
    "/infra/ipv6-ndra-profiles",
    "/infra/lb-pools",
    "/infra/lb-services",
    "/infra/lb-virtual-servers",
    "/infra/qos-profiles",
    "/infra/segments/{}/ports/{}/port-qos-profile-binding-maps",
    "/infra/segments/{}/segment-qos-profile-binding-maps",
    "/infra/tier-0s/{}/locale-services/{}/bgp/neighbors",
    "/infra/tier-1s/{}/segments/{}/ports/{}/port-qos-profile-binding-maps",
    "/infra/tier-1s/{}/segments/{}/segment-qos-profile-binding-maps",
)


def _words(path: str) -> list[str]:
    return path.strip("/").split("/")


def _parent_pattern(place: Place) -> str:
    above = [other.pattern for other in PLACES if place.pattern.startswith(f"{other.pattern}/")]
    return max(above, key=len, default=ROOT)


_BY_LENGTH: dict[int, list[tuple[list[str], Place]]] = {}
for _place in PLACES:
    _BY_LENGTH.setdefault(len(_words(_place.pattern)), []).append((_words(_place.pattern), _place))
_PARENT_LENGTH = {place.pattern: len(_words(_parent_pattern(place))) for place in PLACES}
CHILDREN: dict[str, list[Place]] = {}
for _place in PLACES:
    CHILDREN.setdefault(_parent_pattern(_place), []).append(_place)


def _matches(words: list[str], pattern: list[str]) -> bool:
    return all(
        wanted == word or (wanted == "{}" and _ID.fullmatch(word)) for word, wanted in zip(words, pattern, strict=True)
    )


@lru_cache(maxsize=20_000)
def place_of(path: str) -> Place | None:
    """Where an object of this path lives; None if there are no such objects."""
    words = _words(path)
    return next((place for pattern, place in _BY_LENGTH.get(len(words), ()) if _matches(words, pattern)), None)


def collection_of(path: str) -> Place | None:
    """What the collection at `path` has for members; None if it is no collection."""
    place = place_of(f"{path.rstrip('/')}/x")
    return None if place is None or place.singleton else place


def is_empty_collection(path: str) -> bool:
    """Whether it is one of a type that is not supported: it may be read, and holds nothing."""
    words = _words(path)
    return any(len(words) == len(_words(one)) and _matches(words, _words(one)) for one in EMPTY)


def owner_of(path: str) -> str:
    """The longest path above that is an object's; the root if there is none."""
    words = _words(path)
    above = ("/" + "/".join(words[:length]) for length in range(len(words) - 1, 1, -1))
    return next((one for one in above if place_of(one)), ROOT)


def parent_of(place: Place, path: str) -> str:
    """The path of the object above."""
    return "/" + "/".join(_words(path)[: _PARENT_LENGTH[place.pattern]])


def path_below(place: Place, parent: str, name: str) -> str:
    """The path of the object `name` of this place below `parent`."""
    words = _words(place.pattern)[_PARENT_LENGTH[place.pattern] :]
    return "/".join([parent, *(name if word == "{}" else word for word in words)])


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def children_of(place: Place | None) -> list[Place]:
    """What lives right below; None is the root."""
    return CHILDREN.get(place.pattern if place else ROOT, [])
