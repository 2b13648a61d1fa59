"""The states of a VM, and the log of what happened."""

import asyncio
import itertools

import pytest

from landbridge.esx.events import EventLog
from landbridge.esx.faults import Fault, as_fault
from landbridge.esx.life import Life, move, power_state
from landbridge.esx.model import PowerState
from landbridge.vsan.faults import NoDiskSpace


@pytest.mark.parametrize(
    ("now", "to"),
    [
        (Life.RUNNING, Life.STARTING),
        (Life.OFF, Life.SUSPENDING),
        (Life.INCOMING, Life.STARTING),
        (Life.SUSPENDED, Life.SUSPENDING),
    ],
)
def test_a_move_that_makes_no_sense_is_refused(now: Life, to: Life) -> None:
    with pytest.raises(Fault) as error:
        move("vm", now, to)
    assert error.value.type == "InvalidPowerState"
    assert error.value.details == {"existingState": power_state(now).value}


def test_every_state_can_end_in_off() -> None:
    """Whatever a VM is doing, a dead process leads to an end."""
    for life in Life:
        reached = {life}
        for _, (one, other) in itertools.product(range(3), itertools.product(Life, Life)):
            if one in reached:
                try:
                    reached.add(move("vm", one, other))
                except Fault:
                    continue
        assert Life.OFF in reached, life


def test_a_vm_that_waits_for_its_guest_is_off() -> None:
    assert power_state(Life.INCOMING) is PowerState.OFF


async def test_events_since_a_number_come_in_order() -> None:
    log = EventLog()
    for message in ("a", "b", "c"):
        log.add("host-changed", message=message)
    events = await log.since(1, 0)
    assert [event.message for event in events.events] == ["b", "c"]
    assert not events.truncated


async def test_a_follower_that_fell_behind_or_comes_from_another_life_is_told() -> None:
    log = EventLog()
    for _ in range(5000):
        log.add("host-changed")
    assert (await log.since(1, 0)).truncated
    assert not (await log.since(4000, 0)).truncated
    assert (await log.since(9999, 0)).truncated


async def test_all_who_wait_are_woken_by_one_event() -> None:
    log = EventLog()
    waiting = [asyncio.create_task(log.since(0, 30)) for _ in range(3)]
    await asyncio.sleep(0)
    log.add("host-changed", message="now")
    answers = await asyncio.wait_for(asyncio.gather(*waiting), 5)
    assert [answer.events[0].message for answer in answers] == ["now"] * 3


def test_storage_faults_keep_their_names() -> None:
    fault = as_fault(NoDiskSpace("full"))
    assert (fault.type, fault.status) == ("NoDiskSpace", 507)
