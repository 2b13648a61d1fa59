"""The host agent: one daemon that runs a host's VMs and answers its API over mutual TLS.

It holds nothing that its death could lose: VMs and the switch are processes of their own, and a new agent finds
them. `Agent.start` brings everything up, `Agent.stop` lets go of it.
"""

import asyncio
import contextlib
import logging
import uuid
from pathlib import Path

from aiohttp import web

from landbridge import __version__
from landbridge.esx import capabilities, routes_host, routes_motion, routes_overlay, routes_vm
from landbridge.esx.accel import accelerator
from landbridge.esx.counters import Counters, cpu_info, memory_total
from landbridge.esx.events import EventLog
from landbridge.esx.faults import Fault
from landbridge.esx.host import Host
from landbridge.esx.inventory import Inventory
from landbridge.esx.model import HostInfo, PowerState
from landbridge.esx.motion import Motion
from landbridge.esx.overlay import TransportNode
from landbridge.esx.settings import Settings, SwitchSettings
from landbridge.esx.switch import Switch
from landbridge.esx.vmx import replace_file
from landbridge.esx.web import errors_as_faults
from landbridge.pki import Identity
from landbridge.pki.http import allow_roles
from landbridge.vsan.local import Datastores, LocalDatastore

_log = logging.getLogger(__name__)
_READ_BUFFER = 1 << 20
_SHUTDOWN = 2.0  # seconds for requests under way; long polls would wait for ever


class Agent:
    """The agent of one host. `host`, `inventory`, `motion` and `counters` are there after `start`."""

    host: Host
    inventory: Inventory
    motion: Motion
    counters: Counters

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.identity = Identity(settings.pki_dir)
        self.events = EventLog()
        self._runner: web.AppRunner | None = None
        self._counting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Find the host's VMs and begin to answer. OSError if the address can not be listened on."""
        settings = self.settings
        for directory in (settings.state_dir, settings.run_dir):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        kind = await accelerator(settings.state_dir)
        datastores = [LocalDatastore(one.name, one.path, shared=one.shared) for one in settings.datastores]
        switch = None
        if settings.switch is not None:
            switch = Switch(
                run_dir=settings.run_dir / "switch",
                state_dir=settings.state_dir,
                uplink=settings.switch.uplink,
                node=self._transport_node(settings.switch),
            )
            await switch.start()
        able = await capabilities.ask(kind)
        if not able.baselines and kind == "kvm":
            _log.warning("KVM offers none of the CPU models hosts agree on: guests are emulated, and slow")
            kind = "tcg"
            able = await capabilities.ask(kind)
        self.host = Host(settings, Datastores(datastores), able, kind, switch, self.events)
        self.host.maintenance = self._maintenance_file.exists()
        self.inventory = Inventory(self.host)
        await self.inventory.start()
        self.motion = Motion(self.inventory, self.identity)
        await self.motion.start()
        self.counters = Counters(self.inventory)
        self._counting = asyncio.create_task(self.counters.run(), name="counters")
        await self._listen()
        _log.info(
            "host %s: QEMU %s with %s, %d VMs, https://%s:%d",
            *(settings.name, self.host.capabilities.qemu_version, kind, len(self.inventory.vms)),
            *(settings.management.address, settings.management.port),
        )

    def _transport_node(self, settings: SwitchSettings) -> TransportNode | None:
        if settings.tep is None or settings.tep_address is None:
            return None
        return TransportNode(self.settings.name, self.identity, settings.tep, settings.tep_address)

    async def _listen(self) -> None:
        roles = allow_roles(self.settings.site, "vcenter", "nsx")
        app = web.Application(middlewares=[errors_as_faults, roles, routes_overlay.keep_to_routes])
        routes_host.add_routes(app, self)
        routes_vm.add_routes(app, self)
        routes_motion.add_routes(app, self)
        routes_overlay.add_routes(app, self)
        self._runner = web.AppRunner(
            app, access_log=None, read_bufsize=_READ_BUFFER, shutdown_timeout=_SHUTDOWN, handle_signals=False
        )
        await self._runner.setup()
        listener = self.settings.management
        tls = self.identity.server_context(require_client=True)
        await web.TCPSite(self._runner, listener.address, listener.port, ssl_context=tls).start()

    async def stop(self) -> None:
        """Stop answering and let go of VMs and switch, which go on."""
        if self._counting is not None:
            self._counting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._counting
        if self._runner is not None:
            await self._runner.cleanup()
        await self.motion.close()
        await self.inventory.close()
        if self.host.switch is not None:
            await self.host.switch.close()

    # -- the host ------------------------------------------------------------------------------------------------

    @property
    def _maintenance_file(self) -> Path:
        return self.settings.state_dir / "maintenance"

    def set_maintenance(self, maintenance: bool) -> None:
        """Enter or leave maintenance mode, in which no VM is started. Fault `InvalidState` while VMs run."""
        running = [vm.name for vm in self.inventory.vms if vm.power_state is PowerState.ON]
        if maintenance and (running or self.inventory.incoming):
            raise Fault(
                "InvalidState",
                f"host {self.settings.name} runs {len(running)} VMs ({', '.join(running[:5])}): move them away first",
            )
        if maintenance:
            replace_file(self._maintenance_file, b"")
        else:
            self._maintenance_file.unlink(missing_ok=True)
        self.host.maintenance = maintenance
        self.events.add("host-changed", message="in maintenance mode" if maintenance else "out of maintenance mode")

    def info(self) -> HostInfo:
        """The host as the API shows it."""
        cpu = cpu_info()
        processors = _processors()
        return HostInfo(
            name=self.settings.name,
            uuid=self._uuid(),
            vendor=_dmi("sys_vendor"),
            model=_dmi("product_name"),
            cpu_model=cpu.get("model name", "unknown"),
            cpu_mhz=self.counters.cpu_mhz,
            cpu_packages=processors[0],
            cpu_cores=processors[1],
            cpu_threads=processors[2],
            memory=memory_total(),
            boot_time=_boot_time(),
            agent_version=__version__,
            epoch=self.events.epoch,
            qemu_version=self.host.capabilities.qemu_version,
            accelerator="kvm" if self.host.accelerator == "kvm" else "tcg",
            cpu_baselines=self.host.capabilities.baselines,
            machine_types=self.host.capabilities.machine_types,
            management_address=self.settings.management.address,
            vmotion_address=self.settings.vmotion.address,
            maintenance=self.host.maintenance,
        )

    def _uuid(self) -> str:
        """The host's UUID, its own and not the machine's: a lab has several hosts on one machine."""
        path = self.settings.state_dir / "uuid"
        if not path.exists():
            replace_file(path, str(uuid.uuid4()).encode())
        return path.read_text().strip()


def _dmi(name: str) -> str:
    try:
        return Path(f"/sys/class/dmi/id/{name}").read_text().strip() or "unknown"
    except OSError:
        return "unknown"


def _processors() -> tuple[int, int, int]:
    """Packages, cores and threads of the machine."""
    blocks = Path("/proc/cpuinfo").read_text().strip().split("\n\n")
    places = []
    for block in blocks:
        fields = dict(line.partition(":")[::2] for line in block.splitlines())
        fields = {name.strip(): value.strip() for name, value in fields.items()}
        places.append((fields.get("physical id", "0"), fields.get("core id", fields.get("processor", "0"))))
    return len({package for package, _ in places}), len(set(places)), len(places)


def _boot_time() -> float:
    lines = Path("/proc/stat").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("btime ")))
