"""Bring a lab up, take it down, say what is there. Every step finds what an earlier run left and goes on from it.

lab = Lab(Topology())
await lab.up(print)
lab.status()["sites"]["onprem"]["vcenter"]["url"]
await lab.down()
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landbridge.esx import accel
from landbridge.fleet.machine import MachineError
from landbridge.lab.configuration import Secrets, service_configuration
from landbridge.lab.inventory import await_network, prepare_site
from landbridge.lab.network import Network
from landbridge.lab.nsx import prepare_nsx
from landbridge.lab.pairing import extend_network, pair_sites
from landbridge.lab.topology import Node, Site, Topology
from landbridge.pki import Authority, PeerName

_MODULES = {
    "esx": "landbridge.esx",
    "vcenter": "landbridge.vcenter",
    "hcx": "landbridge.hcx",
    "ix": "landbridge.hcx.ix",
    "ne": "landbridge.hcx.ne",
    "nsx": "landbridge.nsx",
    "edge": "landbridge.nsx.edge",
}
_MANAGERS = ("vcenter", "hcx", "nsx")
_BEHIND_GUESTS = 5  # niceness
_READY_TIMEOUT = 120.0  # seconds until a daemon listens; starting ten at once on two cores takes a while
_READY_POLL = 0.1
_LOG_TAIL = 20  # lines of a dead daemon's log that the error shows


class LabError(Exception):
    """The lab is not what it should be: what was found, and what to do."""


@dataclass(frozen=True)
class Login:
    """How to log in to one of the lab's APIs."""

    url: str
    user: str
    password_file: Path
    ca: Path

    @property
    def password(self) -> str:
        return self.password_file.read_text().strip()


class Lab:
    """Two sites on this machine, as `topology` says."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.network = Network(topology)

    @classmethod
    def load(cls, prefix: str = "lb", *, state_root: Path = Path("/var/lib"), run_root: Path = Path("/run")) -> "Lab":
        """The lab that was brought up under `prefix`; LabError if there is none."""
        found = Topology(prefix, state_root=state_root, run_root=run_root)
        try:
            values = json.loads((found.state_dir / "lab.json").read_text())
        except PermissionError as error:
            raise LabError(f"the lab is root's, its passwords too ({error}): use sudo") from error
        except FileNotFoundError as error:
            raise LabError("no lab is up here: `make demo` or `landbridge lab up` builds one") from error
        except (OSError, ValueError) as error:
            raise LabError(f"no lab is up here ({found.state_dir}: {error}); run `landbridge lab up`") from error
        return cls(Topology.from_json(values, state_root=state_root, run_root=run_root))

    # -- up -----------------------------------------------------------------------------------------------------

    async def up(self, report: Callable[[str], None]) -> None:
        """Build what is missing and wait until both sites answer and are paired. `report` hears each step."""
        began = time.monotonic()

        def say(text: str) -> None:
            report(f"{time.monotonic() - began:5.1f} s  {text}")

        self.topology.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.topology.state_dir / "lab.json").write_text(json.dumps(self.topology.to_json(), indent=1))
        await self.network.build()
        say("networks, edges and the WAN are there")
        for site in self.topology.sites:
            for node in site.nodes:
                self._equip(site, node)
        async with asyncio.TaskGroup() as group:
            for site in self.topology.sites:
                group.create_task(self._start_site(site, say))
        await pair_sites(self)
        say("HCX: the sites are paired and the service mesh is up")
        await extend_network(self)
        say("HCX: the VM network is extended from the site on premises into the segment")

    async def _start_site(self, site: Site, say: Callable[[str], None]) -> None:
        for node in site.nodes:
            await self.start_service(node)
        async with asyncio.TaskGroup() as group:
            for node in site.nodes:
                group.create_task(self.wait_ready(node))
        say(f"{site.name}: {len(site.esx)} hosts, vCenter, HCX manager and interconnect answer")
        await asyncio.to_thread(prepare_site, self.login(site.name, "vcenter"), site, self.topology.vlan)
        say(f"{site.name}: {site.datacenter}/{site.cluster} has its hosts and its switch")
        if site.has_nsx:
            await prepare_nsx(self.login(site.name, "nsx"), site)
            await asyncio.to_thread(await_network, self.login(site.name, "vcenter"), site)
            say(f"{site.name}: NSX has its tier-0, its tier-1 and a segment for the network to be extended")

    def _equip(self, site: Site, node: Node) -> None:
        """Certificate, passwords and configuration file of a node; those that are there stay."""
        authority = Authority.create(self._authority(site.name), f"landbridge {site.name} authority")
        home = self._home(node)
        if not (home / "pki" / "cert.pem").exists():
            names = [node.full_name]
            if node.role in ("esx", "ix"):
                names.append(f"*.vmotion.{node.full_name}")
            who = PeerName(site.name, node.role, node.full_name)
            authority.issue(home / "pki", who, dns=names, addresses=[leg.address for leg in node.legs])
        for role in _products(site):
            _create_password(self._password(site.name, role))
        (home / "state").mkdir(parents=True, exist_ok=True)
        kept = Secrets(
            vcenter_password=self._password(site.name, "vcenter"),
            hcx_password=self._password(site.name, "hcx"),
            nsx_password=self._password(site.name, "nsx"),
            ca=self._authority(site.name) / "ca.pem",
        )
        run_dir = self.network.node(node).directory
        run_dir.mkdir(parents=True, exist_ok=True)
        text = service_configuration(site, node, home=home, run_dir=run_dir / "run", kept=kept)
        (home / "config.toml").write_text(text)

    async def start_service(self, node: Node) -> None:
        """Have the node's daemon run."""
        configuration = self._home(node) / "config.toml"
        argv = [sys.executable, "-m", _MODULES[node.role], "--config", str(configuration)]
        pid = await self.network.node(node).start(node.role, argv)
        if node.role in _MANAGERS:
            # Elsewhere managers have processors of their own; here the guests and what carries them come first.
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, pid, _BEHIND_GUESTS)

    async def wait_ready(self, node: Node) -> None:
        """Wait until the node's daemon listens; LabError with the end of its log if it died."""
        machine = self.network.node(node)
        deadline = time.monotonic() + _READY_TIMEOUT
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(2):
                    _, writer = await asyncio.open_connection(node.management, 443)
                writer.close()
                return
            state = machine.state(node.role)
            if not state.running or time.monotonic() > deadline:
                what = "does not listen" if state.running else "ended"
                tail = "\n".join(_tail(state.log))
                raise LabError(f"{node.full_name}: {_MODULES[node.role]} {what}. The end of {state.log}:\n{tail}")
            await asyncio.sleep(_READY_POLL)

    # -- down, status ---------------------------------------------------------------------------------------------

    async def down(self) -> None:
        """Remove every process, namespace, interface and file of the lab, whatever is left of it."""
        await self.network.remove()
        for directory in (self.topology.run_dir, self.topology.state_dir):
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        accel.forget()

    def status(self) -> dict[str, Any]:
        """The contract of `landbridge lab status --json`: where each site's APIs are and how to log in."""
        processes = [
            {
                "site": site.name,
                "machine": node.name,
                "address": node.management,
                "pid": (state := self.network.node(node).state(node.role)).pid,
                "running": state.running,
                "log": str(state.log),
            }
            for site in self.topology.sites
            for node in site.nodes
        ]
        return {
            "sites": {site.name: self._describe(site) for site in self.topology.sites},
            "running": all(process["running"] for process in processes),
            "processes": processes,
        }

    def _describe(self, site: Site) -> dict[str, Any]:
        described: dict[str, Any] = {"ca": str(self._authority(site.name) / "ca.pem")}
        for product in _products(site):
            login = self.login(site.name, product)
            described[product] = {"url": login.url, "user": login.user, "password_file": str(login.password_file)}
        return described

    # -- where things are -------------------------------------------------------------------------------------------

    def site(self, name: str) -> Site:
        for site in self.topology.sites:
            if site.name == name:
                return site
        raise LabError(f"the lab has no site {name!r}: its sites are onprem and cloud")

    def login(self, site: str, product: str) -> Login:
        """The administrator's login at a site's `vcenter`, `hcx` or `nsx`."""
        there = self.site(site)
        node, user = {
            "vcenter": (there.vcenter, "administrator@vsphere.local"),
            "hcx": (there.hcx, "admin"),
            "nsx": (there.nsx, "admin"),
        }[product]
        authority = self._authority(site) / "ca.pem"
        return Login(f"https://{node.management}", user, self._password(site, product), authority)

    def certificate(self, node: Node) -> Path:
        """The certificate a node shows, as PEM."""
        return self._home(node) / "pki" / "cert.pem"

    def _authority(self, site: str) -> Path:
        return self.topology.state_dir / site / "ca"

    def _home(self, node: Node) -> Path:
        return self.topology.state_dir / node.site / node.name

    def _password(self, site: str, product: str) -> Path:
        return self.topology.state_dir / site / f"{product}.password"


def _products(site: Site) -> tuple[str, ...]:
    """What has an API and a password of its own."""
    return ("vcenter", "nsx", "hcx") if site.has_nsx else ("vcenter", "hcx")


def _create_password(path: Path) -> None:
    if path.exists():
        return
    path.touch(mode=0o600)
    path.write_text(f"{secrets.token_urlsafe(15)}\n")


def _tail(log: Path) -> list[str]:
    try:
        return log.read_text(errors="replace").splitlines()[-_LOG_TAIL:]
    except OSError as error:
        return [str(error)]


__all__ = ["Lab", "LabError", "Login", "MachineError"]
