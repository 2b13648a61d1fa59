"""The shapes the HCX manager and its interconnect appliance exchange, beside those of the host agent's API."""

from typing import Literal

from pydantic import Field

from landbridge.esx.model import (
    ApiError,
    Endpoint,
    IncomingVm,
    Model,
    OutgoingVm,
    Uuid,
    Vmotion,
    VmotionPhase,
    VmState,
)

FINAL = (VmotionPhase.SUCCEEDED, VmotionPhase.FAILED)


class IxInfo(Model):
    """The appliance: where it is reached on the WAN, and whether it has an identity of a site pair."""

    name: str
    site: str
    uplink: Endpoint = Field(description="where its probe stream is reached on the WAN")
    paired: bool


class WanRequest(Model):
    """A PEM certificate request for the pair's authority; its key never leaves the appliance."""

    request: str


class WanIdentity(Model):
    """What the pair's authority answered, and the authority itself; both PEM."""

    certificate: str
    authority: str


class Probe(Model):
    endpoint: Endpoint


class ProbeResult(Model):
    """A round trip through both relays. `error` says why there was none."""

    up: bool
    rtt_ms: float | None = None
    error: str = ""


class Announcement(Model):
    """A migration to come. At the source end the site's vCenter will ask the appliance to receive `vm`; at the target
    end it will register `shadow` and ask to send it."""

    end: Literal["source", "target"]
    vm: Uuid
    shadow: VmState | None = None


class Join(Model):
    """For the source end: where the other appliance takes each channel on the WAN."""

    endpoints: dict[str, Endpoint]


class Finish(Model):
    """How the move ended, as the target host said. `error` is None for a success."""

    error: ApiError | None = None


class Move(Model):
    """One migration at one appliance."""

    migration: str
    end: Literal["source", "target"]
    vm: Uuid
    seq: int = 0
    # None until vCenter asked for the move.
    phase: VmotionPhase | None = None
    # vCenter's id of the move
    vmotion: str | None = None
    incoming: IncomingVm | None = None
    outgoing: OutgoingVm | None = None
    # By channel: at the source end where the source host connects to, at the target end the WAN's.
    endpoints: dict[str, Endpoint] = Field(default={})
    # By channel, where these streams are led on to.
    towards: dict[str, Endpoint] = Field(default={})
    shadow: VmState | None = None
    registered: bool = False
    abort_requested: bool = False
    error: ApiError | None = None

    @property
    def final(self) -> bool:
        return self.phase in FINAL

    def as_vmotion(self) -> Vmotion:
        """The move as vCenter sees it; only once it asked for it."""
        request = self.incoming or self.outgoing
        if request is None or self.phase is None or self.vmotion is None:
            raise ValueError(f"vCenter did not ask for migration {self.migration} yet")
        return Vmotion(
            id=self.vmotion,
            direction="incoming" if self.incoming else "outgoing",
            mode=request.mode,
            vm=self.vm,
            phase=self.phase,
            endpoints=self.endpoints if self.incoming else {},
            seq=self.seq,
            error=self.error,
        )
