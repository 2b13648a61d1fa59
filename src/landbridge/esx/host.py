"""What the VMs of a host share: its datastores, its switch, what its QEMU can do, and whom to tell of changes."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from landbridge.esx.capabilities import Capabilities
from landbridge.esx.events import EventLog
from landbridge.esx.faults import Fault
from landbridge.esx.model import VmConfig
from landbridge.esx.settings import Settings
from landbridge.esx.switch import Switch
from landbridge.vsan.local import Datastores


@dataclass
class Host:
    """`accelerator` is `kvm` or `tcg`. Without a switch all NICs are unplugged."""

    settings: Settings
    datastores: Datastores
    capabilities: Capabilities
    accelerator: str
    switch: Switch | None
    events: EventLog
    # In maintenance mode no VM is started here.
    maintenance: bool = False
    # Called with the instance UUID of a VM whose guest agent has just started.
    on_tools: Callable[[str], None] | None = None

    @property
    def name(self) -> str:
        return self.settings.name

    def require_memory(self, config: VmConfig) -> None:
        """Fault `InsufficientResourcesFault` if a VM wants more memory than the host has at all."""
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if config.memory_mib << 20 > total:
            raise Fault(
                "InsufficientResourcesFault",
                f"VM {config.name!r} wants {config.memory_mib} MiB, host {self.name} has {total >> 20}",
            )

    def vm_run_dir(self, instance_uuid: str) -> Path:
        """Where the sockets of a VM are; short, because a socket's path must be."""
        return self.settings.run_dir / instance_uuid
