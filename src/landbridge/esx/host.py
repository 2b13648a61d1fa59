"""What the VMs of a host share: its datastores, its switch, what its QEMU can do, and whom to tell of changes."""

from dataclasses import dataclass
from pathlib import Path

from landbridge.esx.capabilities import Capabilities
from landbridge.esx.events import EventLog
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

    @property
    def name(self) -> str:
        return self.settings.name

    def vm_run_dir(self, instance_uuid: str) -> Path:
        """Where the sockets of a VM are; short, because a socket's path must be."""
        return self.settings.run_dir / instance_uuid
