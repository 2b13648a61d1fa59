"""What this host's QEMU can do, asked from QEMU itself once at the agent's start."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landbridge.esx.faults import Fault
from landbridge.esx.process import QemuProcess
from landbridge.esx.qmp import Qmp

# CPU models hosts agree on, from the plainest on. Versioned names: what a name without version means may change.
_BASELINES = (
    "qemu64-v1",
    "Conroe-v1",
    "Penryn-v1",
    "Nehalem-v1",
    "Westmere-v1",
    "SandyBridge-v1",
    "IvyBridge-v1",
    "Haswell-v2",
    "Broadwell-v2",
    "Skylake-Server-v3",
    "Cascadelake-Server-v3",
    "EPYC-v3",
    "EPYC-Rome-v2",
)
# What new VMs get: x86-64-v2, which today's systems need and any host of the last 15 years has.
_PREFERRED = "Nehalem-v1"


@dataclass(frozen=True)
class Capabilities:
    """`machine_types` are the versioned ones; `baselines` the CPU models that run here in full."""

    qemu_version: str
    machine_types: list[str]
    baselines: list[str]
    aliases: dict[str, str]

    @property
    def default_cpu(self) -> str:
        """The CPU model a new VM is pinned to."""
        return _PREFERRED if _PREFERRED in self.baselines else self.baselines[0]

    def machine(self, wanted: str) -> str:
        """The versioned machine type for `q35`, `pc` or a versioned name; Fault if this host has none."""
        versioned = self.aliases.get(wanted, wanted)
        if versioned not in self.machine_types:
            raise Fault("InvalidVmConfig", f"machine {wanted!r} does not exist here; QEMU is {self.qemu_version}")
        return versioned

    def require_cpu(self, model: str) -> None:
        """Fault `CPUIncompatible` if the model does not run here in full."""
        if model not in self.baselines:
            raise Fault("CPUIncompatible", f"CPU model {model!r} does not run on this host; {self.baselines} do")


async def ask(accelerator: str) -> Capabilities:
    """Start a QEMU without a machine and ask it. FileNotFoundError if QEMU is not installed."""
    with tempfile.TemporaryDirectory(prefix="lbq", dir="/tmp") as directory:
        process = QemuProcess(Path(directory))
        log = Path(directory) / "log"
        process.start(
            [
                *("qemu-system-x86_64", "-machine", f"none,accel={accelerator}", "-nodefaults", "-display", "none"),
                *process.sockets(),
            ],
            log,
        )
        qmp = None
        try:
            qmp = await Qmp.connect(process.qmp, "capabilities")
            return _read(
                await qmp.execute("query-version"),
                await qmp.execute("query-machines"),
                await qmp.execute("query-cpu-definitions"),
            )
        finally:
            if qmp is not None:
                await qmp.close()
            await process.kill()


def _read(version: Any, machines: Any, cpus: Any) -> Capabilities:
    usable = {cpu["name"] for cpu in cpus if cpu.get("unavailable-features") == []}
    names = [machine["name"] for machine in machines if machine["name"].startswith(("pc-q35-", "pc-i440fx-"))]
    aliases = {machine["alias"]: machine["name"] for machine in machines if "alias" in machine}
    number = version["qemu"]
    return Capabilities(
        qemu_version=f"{number['major']}.{number['minor']}.{number['micro']}",
        machine_types=sorted(names),
        baselines=[name for name in _BASELINES if name in usable],
        aliases={name: aliases[name] for name in ("q35", "pc") if name in aliases},
    )
