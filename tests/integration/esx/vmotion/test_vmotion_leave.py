"""When a move is over nothing of it stays open at either host, whenever an agent is killed on the way out."""

import asyncio
import signal

import pytest

from landbridge.esx.client import HostError
from landbridge.esx.model import VmotionMode, VmotionPhase, VmState
from tests.integration.esx.vmotion.conftest import MIB, HostUnderTest, Pair

SLOW = 32 * MIB  # bytes a second: a second for what a disk here holds

# At the source, in the order in which it passes them. The record of the end is there from the second on.
BEFORE_THE_END = "landbridge.esx.vmotion_source Source.succeed before"
BEFORE_BYE = "landbridge.esx.vmotion_leave Departure.take_leave before"
AFTER_BYE = "landbridge.esx.vmotion_leave Departure.tell after"
PARTED = "landbridge.esx.vmotion_link ControlLink.close before"
# At the target.
GIVEN_UP = "landbridge.esx.inventory Inventory.discard after"
BEFORE_HEARING_BYE = "landbridge.esx.vmotion_target Target._take_leave before"
BEFORE_ANSWERING_BYE = "landbridge.esx.vmotion_target Target._take_leave after"
HANGING_UP = "landbridge.esx.vmotion_target Target._hang_up before"


def words(point: str) -> str:
    """A point of death, as a test's id has it."""
    return "-".join(point.split()[1:])


async def dying(host: HostUnderTest, point: str) -> None:
    """Let the host's agent be one that dies at a point."""
    await host.kill()
    await host.start(dies=point)


async def reborn(host: HostUnderTest) -> None:
    """Wait for the death of the host's agent, and start it as it should be."""
    await host.died()
    await host.start()


async def has_left(hosts: Pair, move: str) -> None:
    """The VM is at the target, both ends say so, and no stream is open."""
    for host in (hosts.source, hosts.target):
        view = await host.end(move)
        assert view.phase is VmotionPhase.SUCCEEDED, view.error
    await hosts.nothing_left(hosts.source)
    await hosts.no_streams(hosts.target)


async def has_stayed(hosts: Pair, vm: VmState, move: str) -> None:
    """The VM is at the source, both ends say so, and no stream is open."""
    for host in (hosts.source, hosts.target):
        assert (await host.end(move)).phase is VmotionPhase.FAILED
    assert (await hosts.source.client.vm(vm.config.instance_uuid)).vmotion is None
    await hosts.nothing_left(hosts.target)
    await hosts.no_streams(hosts.source)


@pytest.mark.parametrize("point", [BEFORE_THE_END, BEFORE_BYE, PARTED], ids=words)
async def test_a_source_agent_killed_on_its_way_out_takes_leave_after_its_restart(hosts: Pair, point: str) -> None:
    vm = await hosts.source.create("leaver")
    await dying(hosts.source, point)
    move = await hosts.begin(vm, VmotionMode.COLD, bandwidth=SLOW)
    await reborn(hosts.source)
    await has_left(hosts, move)


@pytest.mark.parametrize("point", [BEFORE_BYE, PARTED], ids=words)
async def test_a_source_agent_killed_after_a_failed_move_takes_leave_after_its_restart(hosts: Pair, point: str) -> None:
    vm = await hosts.source.create("stayer")
    await dying(hosts.source, point)
    move = await hosts.begin(vm, VmotionMode.COLD, bandwidth=SLOW)
    await hosts.source.reached(move, lambda view: view.progress.disk_done > 0)
    await hosts.target.client.abort_vmotion(move)
    await reborn(hosts.source)
    await has_stayed(hosts, vm, move)


@pytest.mark.parametrize("point", [BEFORE_HEARING_BYE, HANGING_UP], ids=words)
async def test_a_target_agent_killed_while_it_hangs_up_leaves_no_stream(hosts: Pair, point: str) -> None:
    vm = await hosts.source.create("arrival")
    await dying(hosts.target, point)
    move = await hosts.begin(vm, VmotionMode.COLD, bandwidth=SLOW)
    await reborn(hosts.target)
    await has_left(hosts, move)


@pytest.mark.parametrize("point", [GIVEN_UP, BEFORE_HEARING_BYE, HANGING_UP], ids=words)
async def test_a_target_agent_killed_after_it_gave_up_leaves_no_stream(hosts: Pair, point: str) -> None:
    vm = await hosts.source.create("unwanted")
    await dying(hosts.target, point)
    move = await hosts.begin(vm, VmotionMode.COLD, bandwidth=SLOW)
    await hosts.source.reached(move, lambda view: view.progress.disk_done > 0)
    assert (await hosts.source.client.abort_vmotion(move)).phase is VmotionPhase.FAILED
    await reborn(hosts.target)
    await has_stayed(hosts, vm, move)


async def test_a_running_vms_target_killed_while_it_hangs_up_leaves_no_stream(hosts: Pair) -> None:
    vm = await hosts.source.counting("runner")
    await dying(hosts.target, HANGING_UP)
    move = await hosts.begin(vm)
    await reborn(hosts.target)
    await has_left(hosts, move)
    await hosts.target.writes(await hosts.target.client.vm(vm.config.instance_uuid))


@pytest.mark.parametrize("end", ["source", "target"])
async def test_who_waits_for_a_bye_that_was_said_already_is_told_that_nobody_will_come(hosts: Pair, end: str) -> None:
    vm = await hosts.source.create("told")
    dead = hosts.source if end == "source" else hosts.target
    await dying(dead, AFTER_BYE if end == "source" else BEFORE_ANSWERING_BYE)
    move = await hosts.begin(vm, VmotionMode.COLD, bandwidth=SLOW)
    await reborn(dead)
    assert (await hosts.source.end(move)).phase is VmotionPhase.SUCCEEDED
    # The target knows that nobody will ask; a source that comes too late to hear so would go on trying for a while.
    await hosts.no_streams(hosts.target)
    await hosts.source.client.part_vmotion(move)
    await has_left(hosts, move)


async def test_a_source_whose_target_died_closes_its_streams_when_it_is_told_to_part(hosts: Pair) -> None:
    vm = await hosts.source.create("forsaken")
    move = await hosts.begin(vm, VmotionMode.COLD, bandwidth=SLOW)
    await hosts.source.reached(move, lambda view: view.progress.disk_done > 0)
    await hosts.target.kill()
    assert (await hosts.source.client.abort_vmotion(move)).phase is VmotionPhase.FAILED
    await hosts.source.client.part_vmotion(move)
    assert await hosts.source.streams() == []
    # And the target, when it is back and has given up: nobody said bye, nobody will.
    await hosts.target.start()
    assert (await hosts.target.client.abort_vmotion(move)).phase is VmotionPhase.FAILED
    assert await hosts.target.streams() != []
    await hosts.target.client.part_vmotion(move)
    await has_stayed(hosts, vm, move)


async def test_neither_end_parts_before_its_move_has_ended(hosts: Pair) -> None:
    vm = await hosts.source.create("mover")
    move = await hosts.begin(vm, VmotionMode.COLD, bandwidth=SLOW)
    await hosts.source.reached(move, lambda view: view.progress.disk_done > 0)
    for host in (hosts.source, hosts.target):
        with pytest.raises(HostError) as refusal:
            await host.client.part_vmotion(move)
        assert refusal.value.type == "InvalidState"
        with pytest.raises(HostError) as refusal:
            await host.client.part_vmotion("another")
        assert refusal.value.type == "ManagedObjectNotFound"
    await has_left(hosts, move)
    for host in (hosts.source, hosts.target):
        await host.client.part_vmotion(move)  # again, and after a restart, it is as well
        await host.kill()
        await host.start()
        await host.client.part_vmotion(move)
        assert (await host.client.vmotion(move)).phase is VmotionPhase.SUCCEEDED


async def test_an_abort_that_comes_while_a_failed_move_is_taken_back_waits_for_its_end(hosts: Pair) -> None:
    vm = await hosts.source.create("twice")
    move = await hosts.begin(vm, VmotionMode.COLD, bandwidth=SLOW)
    await hosts.source.reached(move, lambda view: view.progress.disk_done > 0)
    assert hosts.target.process is not None
    hosts.target.process.send_signal(signal.SIGSTOP)  # so that taking back takes its time
    try:
        first = asyncio.create_task(hosts.source.client.abort_vmotion(move))
        await asyncio.sleep(1)
        second = await hosts.source.client.abort_vmotion(move)
        assert (await first).phase is second.phase is VmotionPhase.FAILED
    finally:
        hosts.target.process.send_signal(signal.SIGCONT)
    await has_stayed(hosts, vm, move)
