"""The shapes the host agent's API speaks: a VM's configuration, its state, the host, the vMotion of one VM.

They are pydantic models, so that both ends validate what they get. Sizes say their unit: `_mib`, `_kib`, or bytes
where there is no suffix. Device keys are vSphere's (SCSI controllers from 1000, disks from 2000, NICs from 4000,
CD-ROMs from 16000, serial ports from 9000, AHCI controllers from 15000, NVMe from 31000). Paths of files are
datastore paths, `[datastore1] web01/web01.vmdk`.
"""

import re
import uuid
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from landbridge.relay.endpoint import Endpoint as Endpoint


class Model(BaseModel):
    """Every shape refuses fields it does not know: a misspelt option must not pass in silence."""

    model_config = ConfigDict(extra="forbid")


Uuid = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
Mac = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")]
# `[datastore] folder/file`; what it may climb to is checked where it is resolved.
DatastorePath = Annotated[str, StringConstraints(pattern=re.compile(r"^\[[^\[\]/\n]+\] ?[^\n\x00]*$"))]


class ControllerType(StrEnum):
    """Disk controllers a VM may have."""

    PVSCSI = "pvscsi"
    LSI_LOGIC = "lsilogic"
    LSI_LOGIC_SAS = "lsisas1068"
    AHCI = "ahci"
    NVME = "nvme"
    IDE = "ide"


class NicType(StrEnum):
    """Virtual network adapters a VM may have."""

    VMXNET3 = "vmxnet3"
    E1000 = "e1000"
    E1000E = "e1000e"


class Firmware(StrEnum):
    """What boots the VM."""

    BIOS = "bios"
    EFI = "efi"


class PowerState(StrEnum):
    """vSphere's three power states."""

    OFF = "poweredOff"
    ON = "poweredOn"
    SUSPENDED = "suspended"


class Controller(Model):
    key: int
    type: ControllerType
    bus: int = Field(ge=0, le=3)


class Disk(Model):
    key: int
    controller: int
    unit: int = Field(ge=0, le=63)
    # Empty in a request: the agent names the file after the VM, in the VM's directory.
    path: DatastorePath | Literal[""] = ""
    capacity: int = Field(gt=0, description="bytes, a multiple of 512")
    thin: bool = True
    uuid: Uuid | None = None


class Cdrom(Model):
    key: int
    controller: int
    unit: int = Field(ge=0, le=63)
    iso: DatastorePath | None = None
    connected: bool = True


class Nic(Model):
    key: int
    type: NicType = NicType.VMXNET3
    mac: Mac | None = None
    network: str | None = Field(default=None, description="key of a port group; None is unplugged")
    connected: bool = True
    start_connected: bool = True


class SerialPort(Model):
    key: int
    file: DatastorePath | Literal[""] = Field(default="", description="empty: serial.log beside the VMX file")


class VmConfig(Model):
    """What a VMX file says: everything a VM is, but its power state."""

    name: str = Field(min_length=1, max_length=80)
    instance_uuid: Uuid
    uuid: Uuid = Field(description="the BIOS UUID, which the guest sees through SMBIOS")
    hardware_version: str = Field(default="vmx-20", pattern=r"^vmx-\d+$")
    guest_id: str = "otherLinux64Guest"
    annotation: str = ""
    firmware: Firmware = Firmware.BIOS
    # `q35` or `pc` in a request; the agent pins it to a version (`pc-q35-7.2`) when the VM is created.
    machine: str = "q35"
    cpu_model: str = Field(default="", description="empty: the host's baseline, pinned at creation")
    memory_mib: int = Field(ge=4, multiple_of=4)
    cpus: int = Field(default=1, ge=1, le=255)
    cores_per_socket: int = Field(default=1, ge=1)
    controllers: list[Controller] = []
    disks: list[Disk] = []
    cdroms: list[Cdrom] = []
    nics: list[Nic] = []
    serial_ports: list[SerialPort] = []
    template: bool = False
    extra_config: dict[str, str] = {}


class Snapshot(Model):
    id: int
    name: str
    description: str = ""
    created: float = Field(description="seconds since the epoch")
    parent: int | None = None
    power_state: PowerState
    memory: bool = False
    quiesced: bool = False


class GuestState(Model):
    """What VMware Tools (the QEMU guest agent) reports; empty until it runs."""

    tools_running: bool = False
    tools_version: str = ""
    hostname: str = ""
    os_full_name: str = ""
    ip_addresses: dict[Mac, list[str]] = {}


class VmStats(Model):
    """Counters since the VM was powered on, and gauges."""

    cpu_seconds: float = 0.0
    cpu_mhz: int = 0
    memory_mib: int = Field(default=0, description="resident memory of the VM's process")
    disk_read_bytes: int = 0
    disk_write_bytes: int = 0
    disk_reads: int = 0
    disk_writes: int = 0
    net_rx_bytes: int = 0
    net_tx_bytes: int = 0
    uptime_seconds: int = 0


class VmState(Model):
    config: VmConfig
    vmx: DatastorePath
    power_state: PowerState
    boot_time: float | None = None
    snapshots: list[Snapshot] = []
    current_snapshot: int | None = None
    guest: GuestState = GuestState()
    stats: VmStats = VmStats()
    # Bytes allocated on the datastore, disks and their snapshots.
    storage_committed: int = 0
    # Changes with every change of configuration, power state or snapshots (not of counters).
    version: int = 1
    # Set while the VM moves: the vMotion's id.
    vmotion: str | None = None
    # Set when the VM can not be used, and why (its datastore is away, its files are unreadable).
    invalid: str | None = None
    # Set when another site's host would send it: the authority (PEM) that vouches for that host.
    sender_authority: str = ""


class HostInfo(Model):
    name: str
    uuid: Uuid
    vendor: str
    model: str
    cpu_model: str
    cpu_mhz: int
    cpu_packages: int
    cpu_cores: int
    cpu_threads: int
    memory: int = Field(description="bytes")
    boot_time: float
    agent_version: str
    # Differs after every start of the agent: who follows events lists again.
    epoch: str
    qemu_version: str
    accelerator: Literal["kvm", "tcg"]
    cpu_baselines: list[str]
    machine_types: list[str]
    management_address: str
    vmotion_address: str
    maintenance: bool = False


class HostStats(Model):
    cpu_mhz: int
    memory_mib: int
    uptime_seconds: int
    net_rx_bytes: int
    net_tx_bytes: int
    disk_read_bytes: int
    disk_write_bytes: int


class Datastore(Model):
    name: str
    url: str = Field(description="unique and stable: ds:///vmfs/volumes/<uuid>/")
    type: str
    capacity: int
    free: int
    accessible: bool = True
    # Whether other hosts see the same files under the same url.
    shared: bool = False


class DatastoreFile(Model):
    path: DatastorePath
    size: int
    modified: float
    directory: bool = False


class PortGroup(Model):
    """A distributed port group as the host's switch knows it."""

    key: str
    name: str
    vlan: int = Field(default=0, ge=0, le=4094, description="0: untagged")
    # The logical switch's UUID if NSX realises the group as a segment; then there is no VLAN.
    segment: str = ""


def vif_id(instance_uuid: str, nic: int) -> str:
    """What OVN and NSX know a virtual NIC by: the same on every host, from the VM's instance UUID and the NIC's key."""
    return str(uuid.uuid5(uuid.UUID(instance_uuid), f"vif-{nic}"))


# --------------------------------------------------------------------------------------------- the overlay


class OverlayConfig(Model):
    """The OVN a host is to be a chassis of: where its southbound database listens (one of several is enough)."""

    southbound: list[Annotated[str, StringConstraints(pattern=r"^ssl:(\d+\.\d+\.\d+\.\d+|\[[0-9a-f:]+\]):\d+$")]] = (
        Field(min_length=1)
    )
    encapsulation: Literal["geneve"] = "geneve"


class Tunnel(Model):
    """A tunnel to another chassis. `state` is BFD's where it is probed, else that of the interface."""

    chassis: str
    address: str
    state: str
    probed: bool = False
    rx_packets: int = 0
    tx_packets: int = 0


class OverlayStatus(Model):
    """A host's part in the overlay. All is empty unless it is a transport node."""

    transport_node: bool
    chassis: str = ""
    tep_address: str = ""
    mtu: int = 0
    configured: bool = False
    southbound: list[str] = []
    # Whether ovn-controller lives, and whether the southbound database has let it in.
    running: bool = False
    connected: bool = False
    tunnels: list[Tunnel] = []


class PortState(Model):
    """A VIF's port on a host. Counters are the guest's: `rx` is what it received."""

    vif: str
    vm: str | None = None
    mac: str | None = None
    network: str
    segment: str
    # Whether OVN has been told of it, and whether it has its flows in place.
    active: bool
    installed: bool
    rx_packets: int = 0
    rx_bytes: int = 0
    rx_drops: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    tx_drops: int = 0


# --------------------------------------------------------------------------------------------- requests


class CreateVm(Model):
    """A VM in a directory of its own: `datastore` says where, the agent names the directory after the VM."""

    config: VmConfig
    datastore: str
    # By disk key: a file in a datastore to take the content from (a template's disk); others start blank.
    disk_sources: dict[int, DatastorePath] = {}
    # By disk key: the file exists and is used as it is.
    existing_disks: list[int] = []


class RegisterVm(Model):
    vmx: DatastorePath


class ReconfigureVm(Model):
    """The whole new configuration; the agent finds the differences and plugs and unplugs what changed.

    `version` is the one the change was made from: another change in between is refused (`ConcurrentAccess`).
    """

    config: VmConfig
    version: int
    # Keys of disks whose file exists already; other new disks are created.
    existing_disks: list[int] = []
    # Keys of removed disks whose files are deleted too.
    destroy_disks: list[int] = []


class PowerOperation(StrEnum):
    ON = "on"
    OFF = "off"
    RESET = "reset"
    SUSPEND = "suspend"
    SHUTDOWN_GUEST = "shutdown-guest"
    REBOOT_GUEST = "reboot-guest"


class Power(Model):
    operation: PowerOperation


class CreateSnapshot(Model):
    name: str
    description: str = ""
    memory: bool = False
    quiesce: bool = False


class CloneVm(Model):
    """A full copy on this host of the VM as it is now (or of a snapshot), under a new name and new UUIDs."""

    config: VmConfig
    datastore: str
    snapshot: int | None = None


class RelocateStorage(Model):
    """Storage vMotion on this host: where each disk and the home directory go; live if the VM runs."""

    home: str | None = None
    disks: dict[int, str] = Field(default={}, description="disk key to datastore name")


# --------------------------------------------------------------------------------------------- jobs, vMotion


class Progress(Model):
    phase: str = ""
    disk_total: int = 0
    disk_done: int = 0
    # Of `disk_done`, by the disk's key
    disks: dict[int, int] = {}
    memory_total: int = 0
    memory_done: int = 0
    # Bytes a second over the last second, and bytes the guest dirties a second.
    rate: float = 0.0
    dirty_rate: float = 0.0
    # The guest's pause as the source's QEMU measured it; known at the end.
    downtime_ms: float | None = None


class ApiError(Model):
    """What went wrong. `type` is the vSphere fault's name: `InvalidPowerState`, `FileNotFound`, ..."""

    type: str
    message: str
    details: dict[str, str] = {}


class JobState(StrEnum):
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"


class Job(Model):
    """A long operation: clone, snapshot removal, storage vMotion."""

    id: str
    state: JobState
    progress: Progress = Progress()
    # `seq` grows with every change; GET with `seen=seq&wait=seconds` returns when it does.
    seq: int = 0
    error: ApiError | None = None
    # instance UUID of the VM it made or changed
    vm: Uuid | None = None


class VmotionMode(StrEnum):
    LIVE = "live"  # a running VM with its memory; the source ends
    COLD = "cold"  # a powered-off or suspended VM; the source ends
    COPY = "copy"  # a clone: the source stays (running VMs are copied from a snapshot)


class IncomingVm(Model):
    """Prepare this host to receive a VM. Answered when the target listens.

    `config` is the configuration the VM has here (networks mapped, disk paths ignored); `source` the one it has
    there, with the versions pinned that the live state needs.
    """

    id: str
    mode: VmotionMode
    source: VmConfig
    config: VmConfig
    # Where the home directory goes, and disks that go elsewhere, by key.
    datastore: str
    disk_datastores: dict[int, str] = {}
    # Shared storage: the files are already there under these paths and only memory moves.
    shared_disks: dict[int, DatastorePath] = {}
    shared_vmx: DatastorePath | None = None
    # The authority (PEM) that vouches for the sending host, if it is of another site.
    sender_authority: str = ""


class OutgoingVm(Model):
    """Move a VM of this host to where `endpoints` lead: `control`, `ram`, and `disk-<key>` for each disk."""

    id: str
    mode: VmotionMode
    vm: Uuid
    endpoints: dict[str, Endpoint]
    shared_storage: bool = False
    # Bytes a second for all streams of this move; None is unlimited.
    bandwidth: int | None = None


class VmotionPhase(StrEnum):
    """The life of a move at either end. SUCCEEDED and FAILED are final; IN_DOUBT resolves by itself."""

    PREPARED = "prepared"
    DISK = "disk"
    MEMORY = "memory"
    SWITCHOVER = "switchover"
    IN_DOUBT = "in-doubt"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Vmotion(Model):
    """A move at one end. At the target `SUCCEEDED` means: the VM is here, and runs if it ran."""

    id: str
    direction: Literal["incoming", "outgoing"]
    mode: VmotionMode
    vm: Uuid
    phase: VmotionPhase
    progress: Progress = Progress()
    endpoints: dict[str, Endpoint] = {}
    seq: int = 0
    error: ApiError | None = None
    # At the target: the VIFs of the VM's NICs on segments, and whether OVN has been told that they are here.
    vifs: list[str] = []
    vifs_active: bool = False


class Event(Model):
    """Something changed on the host. `vm` names the VM it is about, whose state is to be read again.

    `vmotion-changed` is about the move `vmotion` alone: it began to come here, or ended here.
    """

    seq: int
    time: float
    type: Literal[
        "vm-changed",
        "vm-added",
        "vm-removed",
        "vm-stats",
        "datastore-changed",
        "host-changed",
        "guest-event",
        "vmotion-changed",
    ]
    vm: Uuid | None = None
    vmotion: str | None = None
    # For people: "powered on", "guest crashed", "power state changed by the guest"
    message: str = ""


class Events(Model):
    epoch: str
    events: list[Event]
    # Events older than the agent keeps were dropped after `since`: list everything again.
    truncated: bool = False
