"""The states a VM passes through, and which may follow which."""

from enum import StrEnum

from landbridge.esx.faults import Fault
from landbridge.esx.model import PowerState


class Life(StrEnum):
    """A VM's state as the agent knows it; vSphere's three power states are a coarser view of it."""

    OFF = "off"
    SUSPENDED = "suspended"  # no process; memory lies in a file
    STARTING = "starting"  # QEMU is being started, or memory read back
    RUNNING = "running"
    PAUSED = "paused"  # QEMU stopped the guest, for want of disk space for example; power-on continues it
    SUSPENDING = "suspending"
    STOPPING = "stopping"
    INCOMING = "incoming"  # QEMU waits for a guest that is moved here


_MOVES: dict[Life, frozenset[Life]] = {
    Life.OFF: frozenset({Life.STARTING, Life.INCOMING, Life.RUNNING, Life.PAUSED, Life.SUSPENDED}),
    Life.SUSPENDED: frozenset({Life.STARTING, Life.OFF, Life.RUNNING, Life.PAUSED}),
    Life.STARTING: frozenset({Life.RUNNING, Life.PAUSED, Life.OFF, Life.SUSPENDED}),
    Life.RUNNING: frozenset({Life.PAUSED, Life.SUSPENDING, Life.STOPPING, Life.OFF}),
    Life.PAUSED: frozenset({Life.RUNNING, Life.SUSPENDING, Life.STOPPING, Life.OFF}),
    Life.SUSPENDING: frozenset({Life.SUSPENDED, Life.RUNNING, Life.PAUSED, Life.OFF}),
    Life.STOPPING: frozenset({Life.OFF, Life.RUNNING}),
    Life.INCOMING: frozenset({Life.RUNNING, Life.PAUSED, Life.OFF, Life.SUSPENDED}),
}

_POWER = {
    Life.OFF: PowerState.OFF,
    Life.STARTING: PowerState.OFF,
    Life.INCOMING: PowerState.OFF,
    Life.SUSPENDED: PowerState.SUSPENDED,
    Life.RUNNING: PowerState.ON,
    Life.PAUSED: PowerState.ON,
    Life.SUSPENDING: PowerState.ON,
    Life.STOPPING: PowerState.ON,
}

ON = frozenset({Life.RUNNING, Life.PAUSED})


def power_state(life: Life) -> PowerState:
    """The power state vSphere shows."""
    return _POWER[life]


def move(name: str, now: Life, to: Life) -> Life:
    """`to`, if a VM may go there from `now`; Fault `InvalidPowerState` if not."""
    if to != now and to not in _MOVES[now]:
        raise Fault(
            "InvalidPowerState", f"VM {name!r} is {now} and can not become {to}", existingState=power_state(now).value
        )
    return to


def require(name: str, now: Life, allowed: frozenset[Life], wanted: str) -> None:
    """Fault `InvalidPowerState` unless the VM is in one of the states in which it can be `wanted`."""
    if now not in allowed:
        states = " or ".join(sorted(allowed))
        raise Fault(
            "InvalidPowerState",
            f"VM {name!r} is {now}; it must be {states} to be {wanted}",
            existingState=power_state(now).value,
        )
