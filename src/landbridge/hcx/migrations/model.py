"""A migration as it is asked for, kept and shown; and what the two halves of one tell each other.

The request is HCX's v1 body (`POST /hybridity/api/migrations?action=start`). Clients send more than is used here, so
unknown fields are let pass; what would change the migration and is not served is refused by the validation.
"""

import time
from enum import StrEnum
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from landbridge.esx.model import Endpoint, IncomingVm, VmConfig, VmotionMode
from landbridge.hcx.store import Document


class _Input(BaseModel):
    model_config = ConfigDict(extra="ignore")


class EntityDetails(_Input):
    """The VM: its moRef in the source's vCenter."""

    entityId: str = ""  # noqa: N815 - HCX's spelling, here and below
    entityName: str = ""  # noqa: N815


class Site(_Input):
    endpointId: str = ""  # noqa: N815
    endpointName: str = ""  # noqa: N815


class Placement(_Input):
    """One container of the target: host, cluster, resourcePool, folder or dataCenter, by moRef or by name."""

    containerType: str = ""  # noqa: N815
    containerId: str = ""  # noqa: N815
    containerName: str = ""  # noqa: N815


class Storage(_Input):
    datastoreId: str = ""  # noqa: N815
    datastoreName: str = ""  # noqa: N815
    diskProvisionType: str = "sameAsSource"  # noqa: N815


class TargetNetwork(_Input):
    """Which of the target's networks takes the NICs of one of the source's."""

    srcNetworkValue: str = ""  # noqa: N815
    srcNetworkHref: str = ""  # noqa: N815
    srcNetworkName: str = ""  # noqa: N815
    destNetworkValue: str = ""  # noqa: N815
    destNetworkHref: str = ""  # noqa: N815
    destNetworkName: str = ""  # noqa: N815

    @property
    def target(self) -> str:
        return self.destNetworkValue or self.destNetworkHref or self.destNetworkName


class Networks(_Input):
    retainMac: bool = True  # noqa: N815
    targetNetworks: list[TargetNetwork] = []  # noqa: N815


class DecisionRules(_Input):
    removeSnapshots: bool = False  # noqa: N815
    removeISOs: bool = False  # noqa: N815
    forcePowerOffVm: bool = False  # noqa: N815
    upgradeHardware: bool = False  # noqa: N815
    upgradeVMTools: bool = False  # noqa: N815


class MigrationInput(_Input):
    """What HCX's clients send as `input`."""

    migrationType: str  # noqa: N815
    entityDetails: EntityDetails  # noqa: N815
    source: Site = Site()
    destination: Site = Site()
    placement: list[Placement] = []
    storage: Storage = Storage()
    networks: Networks = Networks()
    decisionRules: DecisionRules = DecisionRules()  # noqa: N815
    schedule: dict[str, Any] = {}

    @property
    def mode(self) -> VmotionMode:
        return VmotionMode.COLD if self.migrationType == "Cold" else VmotionMode.LIVE


class MigrationState(StrEnum):
    """How a migration stands, in HCX's words."""

    MIGRATING = "MIGRATING"
    CANCELLING = "MIGRATE_CANCELLING"
    MIGRATED = "MIGRATED"
    FAILED = "MIGRATE_FAILED"
    CANCELED = "MIGRATE_CANCELED"


FINAL_STATES = (MigrationState.MIGRATED, MigrationState.FAILED, MigrationState.CANCELED)

_MOVES = {
    MigrationState.MIGRATING: {*FINAL_STATES, MigrationState.CANCELLING},
    # A cancel may come too late, or find that the migration fails anyway.
    MigrationState.CANCELLING: set(FINAL_STATES),
}


class InvalidMove(Exception):  # noqa: N818 - a state, not a failure
    """A migration can not go from its state to the one wanted."""


class Progress(BaseModel):
    """Bytes and rates; `disks` is bytes done by disk (`disk-2000`), `rate` in bytes a second, times in ms."""

    percent: int = 0
    phase: str = ""
    disk_total: int = 0
    disk_done: int = 0
    memory_total: int = 0
    memory_done: int = 0
    disks: dict[str, int] = {}
    rate: float = 0.0
    dirty_rate: float | None = None
    downtime_ms: float | None = None

    def take(self, state: "HalfState") -> None:
        """What the source's half tells that is newer; totals that are not known yet do not undo those that are."""
        detail = state.detail
        self.percent = max(self.percent, state.percent)
        self.disks = {key: int(done) for key, done in detail.items() if key.startswith("disk-")} or self.disks
        self.rate = float(detail.get("rate", self.rate))
        self.phase = detail.get("phase", self.phase)
        self.disk_total = int(detail.get("diskTotal", 0)) or self.disk_total
        self.disk_done = int(detail.get("diskDone", 0)) or self.disk_done
        self.memory_total = int(detail.get("memoryTotal", 0)) or self.memory_total
        self.memory_done = int(detail.get("memoryDone", 0)) or self.memory_done
        self.dirty_rate = float(detail["dirtyRate"]) if "dirtyRate" in detail else self.dirty_rate
        self.downtime_ms = float(detail["downtimeMs"]) if "downtimeMs" in detail else self.downtime_ms


class Migration(Document):
    """A migration as it is kept. Times are seconds since the epoch."""

    kind: ClassVar[str] = "migration"
    input: MigrationInput
    username: str
    # "out" to the other site, "in" from it
    direction: Literal["out", "in"] = "out"
    state: MigrationState = MigrationState.MIGRATING
    step: str = "QUEUED"
    vm_name: str = ""
    instance_uuid: str = ""
    # NIC's device key to the target's network (moRef or name)
    networks: dict[int, str] = Field(default={})
    created: float = Field(default_factory=time.time)
    updated: float = Field(default_factory=time.time)
    ended: float = 0.0
    cancel: bool = False
    error: str = ""
    warnings: list[str] = Field(default=[])
    progress: Progress = Progress()

    def move_to(self, state: MigrationState) -> None:
        """Change the state; InvalidMove if that is not allowed."""
        if state not in _MOVES.get(self.state, set()):
            raise InvalidMove(f"migration {self.id} is {self.state}: it can not become {state}")
        self.state = state
        self.updated = time.time()


# ------------------------------------------------------------------------------- between the halves


class SourceOrder(BaseModel):
    """For the source's site: which VM leaves, and what is done to it before."""

    vm: str
    instance_uuid: str
    mode: VmotionMode
    remove_isos: bool = False
    remove_snapshots: bool = False


class TargetOrder(BaseModel):
    """For the target's site: where the VM goes. `networks`: NIC key to port group (moRef or name)."""

    name: str
    instance_uuid: str
    mode: VmotionMode
    placement: list[Placement] = []
    storage: Storage = Storage()
    networks: dict[int, str] = {}
    # Bytes the disks may take
    space: int = 0
    hardware_version: str = ""


class TargetVm(BaseModel):
    """The order, and the VM's configuration as the source host told it."""

    order: TargetOrder
    config: VmConfig
    # The authority (PEM) that vouches for the source's hosts.
    sender_authority: str = ""


class Findings(BaseModel):
    """What a validation found; each names what, why and what to do."""

    errors: list[str] = []
    warnings: list[str] = []

    def joined(self, other: "Findings") -> "Findings":
        return Findings(errors=self.errors + other.errors, warnings=self.warnings + other.warnings)


class Requested(BaseModel):
    """What the source's vCenter asked the appliance to receive; None if it did not within the wait.

    `authority` (PEM) vouches for the hosts of the source's site.
    """

    incoming: IncomingVm | None = None
    authority: str = ""


class Streams(BaseModel):
    """By channel, where the target's appliance takes it on the WAN."""

    endpoints: dict[str, Endpoint] = {}


class Outcome(BaseModel):
    """How the move ended. An empty error is a success."""

    error: str = ""


class Seen(BaseModel):
    """A long poll: answer when `seq` is beyond this, or after `wait` seconds."""

    seq: int = -1
    wait: float = 0.0


class HalfState(BaseModel):
    """A half's relocation as its vCenter tells it."""

    seq: int = 0
    phase: Literal["running", "succeeded", "failed"] = "running"
    error: str = ""
    percent: int = 0
    # What the task's description carries beyond the percents: phase, diskTotal, diskDone, disk-<key>, memoryTotal,
    # memoryDone (bytes), rate, dirtyRate (bytes a second), downtimeMs; as vCenter's vMotion puts them there.
    detail: dict[str, str] = {}
    # vCenter wants the move given up, and waits for word of what became of it.
    abort_requested: bool = False

    @property
    def final(self) -> bool:
        return self.phase != "running"


# Said when vCenter stops a move by itself; why is what its task ends with.
GAVE_UP = "the source's vCenter gave the move up"


class MigrationStopped(Exception):  # noqa: N818 - a state, not a failure
    """The migration does not go on; what was done is taken back. The message says why."""

    def __init__(self, message: str, canceled: bool = False) -> None:
        super().__init__(message, canceled)  # both in `args`: a workflow keeps exceptions by them
        self.message = message
        self.canceled = canceled

    def __str__(self) -> str:
        return self.message
