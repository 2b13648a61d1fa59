"""Where everything of a lab is: sites, machines, addresses, directories. Pure description, no side effects.

Each site has a /22 laid out as Azure VMware Solution does:

    .0.0/26    management: vCenter .0.2, NSX manager .0.3, its edge .0.4, HCX manager .0.9
    .0.64/26   HCX management: the appliances for interconnect and network extension
    .1.0/25    host management          .1.128/25  vMotion
    .3.0/26    HCX uplink               .3.64/26   this machine's way into the site (the lab's own)
    .3.128/26  uplink of NSX's tier-0   .3.192/26  tunnel endpoints of NSX's overlay

The first address of each network is the site's edge. The on-premises site has no NSX.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any, Self

_PREFIX = re.compile(r"[a-z][a-z0-9]{0,7}")
_MOST_HOSTS = 32


class TopologyError(Exception):
    """A lab can not look like this; the message says what may be changed."""


@dataclass(frozen=True)
class Leg:
    """One interface of a machine: on which network of the site it is, and with which address."""

    network: str
    interface: IPv4Interface

    @property
    def address(self) -> str:
        return str(self.interface.ip)


@dataclass(frozen=True)
class Node:
    """A machine of a site. `role` is the component it runs: `esx`, `vcenter`, `hcx`, `ix`, `ne`, `nsx`, `edge`.

    `tep`: its tunnel endpoint in NSX's overlay, if it is a transport node; the component gives the address to a bridge.
    """

    site: str
    name: str  # esx01
    role: str
    legs: tuple[Leg, ...]
    tep: Leg | None = None

    @property
    def full_name(self) -> str:
        """Its name within both sites: `esx01.onprem`."""
        return f"{self.name}.{self.site}"

    def leg(self, network: str) -> Leg:
        return next(leg for leg in self.legs if leg.network == network)

    @property
    def management(self) -> str:
        """The address of its API."""
        return self.legs[0].address


# Networks of a site: name, offset in the /22, prefix length.
_NETWORKS = (
    ("mgmt", 0, 26),
    ("hcx-mgmt", 64, 26),
    ("hosts", 256, 25),
    ("vmotion", 384, 25),
    ("uplink", 768, 26),
    ("lab", 832, 26),
    ("t0", 896, 26),
    ("tep", 960, 26),
)


@dataclass(frozen=True)
class Site:
    """One of the two sites; `role` is its HCX manager's."""

    name: str
    role: str  # connector, cloud
    network: IPv4Network
    hosts: int
    datacenter: str
    cluster: str

    @property
    def networks(self) -> dict[str, IPv4Network]:
        base = int(self.network.network_address)
        return {name: IPv4Network((base + offset, length)) for name, offset, length in _NETWORKS}

    def _leg(self, network: str, number: int) -> Leg:
        there = self.networks[network]
        return Leg(network, IPv4Interface((int(there.network_address) + number, there.prefixlen)))

    def gateway(self, network: str) -> Leg:
        """The edge's interface on a network."""
        return self._leg(network, 1)

    @property
    def visitor(self) -> Leg:
        """This machine's own interface in the site."""
        return self._leg("lab", 2)

    @property
    def vcenter(self) -> Node:
        return Node(self.name, "vcenter", "vcenter", (self._leg("mgmt", 2),))

    @property
    def hcx(self) -> Node:
        return Node(self.name, "hcx", "hcx", (self._leg("mgmt", 9),))

    @property
    def ix(self) -> Node:
        legs = (self._leg("hcx-mgmt", 2), self._leg("vmotion", 120), self._leg("uplink", 2))
        return Node(self.name, "ix", "ix", legs)

    @property
    def ne(self) -> Node:
        """The network extension's appliance."""
        legs = (self._leg("hcx-mgmt", 3), self._leg("uplink", 3))
        return Node(self.name, "ne", "ne", legs, self._leg("tep", 3) if self.has_nsx else None)

    @property
    def has_nsx(self) -> bool:
        """Whether NSX serves the site: the private cloud's."""
        return self.role == "cloud"

    @property
    def nsx(self) -> Node:
        return Node(self.name, "nsx", "nsx", (self._leg("mgmt", 3),))

    @property
    def nsx_edge(self) -> Node:
        return Node(self.name, "edge01", "edge", (self._leg("mgmt", 4),), self._leg("tep", 2))

    @property
    def tier0(self) -> Leg:
        """The uplink of the provider's gateway."""
        return self._leg("t0", 2)

    @property
    def esx(self) -> list[Node]:
        return [
            Node(
                self.name,
                f"esx{n:02}",
                "esx",
                (self._leg("hosts", 10 + n), self._leg("vmotion", 10 + n)),
                self._leg("tep", 10 + n) if self.has_nsx else None,
            )
            for n in range(1, self.hosts + 1)
        ]

    @property
    def nodes(self) -> list[Node]:
        managed = [self.nsx, self.nsx_edge] if self.has_nsx else []
        return [self.vcenter, self.hcx, self.ix, self.ne, *managed, *self.esx]


@dataclass(frozen=True)
class Topology:
    """A whole lab. `prefix` begins the name of everything it makes on this machine."""

    prefix: str = "lb"
    hosts: int = 2
    wan_mbit: int = 1000  # 0: no limit
    networks: tuple[str, str] = ("10.10.0.0/22", "10.20.0.0/22")
    vm_network: str = "10.100.0.0/24"
    vlan: int = 100
    # What the private cloud's segments have their subnets out of, as the site routes it to NSX's tier-0.
    segments: str = "192.168.0.0/16"
    state_root: Path = Path("/var/lib")
    run_root: Path = Path("/run")

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise TopologyError(f"the prefix {self.prefix!r} must be 1 to 8 small letters and digits, a letter first")
        if not 1 <= self.hosts <= _MOST_HOSTS:
            raise TopologyError(f"{self.hosts} hosts per site: 1 to {_MOST_HOSTS} fit the host networks")
        networks = [IPv4Network(network) for network in (*self.networks, self.vm_network)]
        if any(network.prefixlen != 22 for network in networks[:2]):
            raise TopologyError(f"each site's network must be a /22, not {' and '.join(self.networks)}")
        if networks[0].overlaps(networks[1]):
            raise TopologyError(f"the sites' networks {' and '.join(self.networks)} overlap")

    @property
    def sites(self) -> tuple[Site, Site]:
        first, second = (IPv4Network(network) for network in self.networks)
        return (
            Site("onprem", "connector", first, self.hosts, "Datacenter", "Cluster"),
            Site("cloud", "cloud", second, self.hosts, "SDDC-Datacenter", "Cluster-1"),
        )

    def peer(self, site: Site) -> Site:
        return next(other for other in self.sites if other.name != site.name)

    @property
    def _directory_name(self) -> str:
        return "landbridge" if self.prefix == "lb" else f"landbridge-{self.prefix}"

    @property
    def state_dir(self) -> Path:
        return self.state_root / self._directory_name

    @property
    def run_dir(self) -> Path:
        # Short for all prefixes: paths of UNIX sockets below it must stay under 108 characters.
        return self.run_root / self._directory_name

    @property
    def client(self) -> IPv4Interface:
        """The client on the VM network."""
        network = IPv4Network(self.vm_network)
        return IPv4Interface((int(network.network_address) + 1, network.prefixlen))

    def vm_address(self, number: int) -> IPv4Interface:
        """An address for the lab's VM of this number, from 1."""
        network = IPv4Network(self.vm_network)
        return IPv4Interface((int(network.network_address) + 10 + number, network.prefixlen))

    def namespace(self, *names: str) -> str:
        return "-".join((self.prefix, *names))

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs to find the lab again."""
        return {
            "prefix": self.prefix,
            "hosts": self.hosts,
            "wan_mbit": self.wan_mbit,
            "networks": list(self.networks),
            "vm_network": self.vm_network,
            "vlan": self.vlan,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], *, state_root: Path, run_root: Path) -> Self:
        return cls(**{**values, "networks": tuple(values["networks"])}, state_root=state_root, run_root=run_root)


def wan_address(topology: Topology, site: Site) -> IPv4Interface:
    """The edge's address on the WAN: carrier-grade space (RFC 6598), which neither site uses."""
    number = topology.sites.index(site) + 1
    return IPv4Interface((int(IPv4Address("100.64.0.0")) + number, 29))
