"""OVN's central part: who is let in, and that nothing that happens to it stays."""

import asyncio
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from landbridge.nsx.ovn.central import Central
from landbridge.nsx.policy.model.segments import Segment
from landbridge.nsx.snapshot import RealizationState
from landbridge.pki import Authority, Identity, PeerName
from tests.integration.nsx.ovn.central import Site, machine, run, until

ADDRESS = f"127.{os.getpid() >> 8 & 255}.{os.getpid() & 255}.66"
WEB = "/infra/segments/web"


@pytest.fixture
async def directory() -> AsyncIterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="lbovn"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def own(directory: Path) -> AsyncIterator[Site]:
    """A site that a test may damage."""
    site = Site(directory)
    try:
        await site.start()
        yield site
    finally:
        await site.stop()


async def chassis(identity: Identity, *arguments: str) -> tuple[int, str]:
    """What a chassis with this certificate gets from the southbound database."""
    process = await asyncio.create_subprocess_exec(
        *("ovn-sbctl", f"--db=ssl:{ADDRESS}:6642", "--timeout=5"),
        *(f"--private-key={identity.key}", f"--certificate={identity.certificate}", f"--ca-cert={identity.ca}"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_a_chassis_gets_in_with_the_sites_certificate_and_changes_its_own_rows_only(directory: Path) -> None:
    authority = Authority.create(directory / "ca", "cloud")
    stranger = Authority.create(directory / "other-ca", "elsewhere")
    manager = authority.issue(directory / "nsx", PeerName("cloud", "nsx", "nsx01"), addresses=[ADDRESS])
    host = authority.issue(directory / "esx", PeerName("cloud", "esx", "esx01.cloud"))
    foreign = stranger.issue(directory / "bad", PeerName("cloud", "esx", "esx01.cloud"))
    central = Central(run_dir=directory / "run", state_dir=directory / "state", identity=manager, listen=ADDRESS)
    try:
        await central.start()
        assert central.southbound_remote == f"ssl:{ADDRESS}:6642"
        assert stat.S_IMODE((directory / "run").stat().st_mode) == 0o700

        async def registers() -> bool:
            # The roles come with ovn-northd's first pass.
            return (await chassis(host, "--may-exist", "chassis-add", "esx01.cloud", "geneve", "10.0.0.1"))[0] == 0

        await until(registers, "the chassis can make its row")
        code, said = await chassis(host, "chassis-add", "esx02.cloud", "geneve", "10.0.0.2")
        assert code != 0
        assert "permission" in said
        code, _ = await chassis(foreign, "show")
        assert code != 0
        pids = central.pids()
        await central.start()
        assert central.pids() == pids
    finally:
        await central.stop()
    assert set(central.pids().values()) == {None}


async def test_a_new_manager_finds_the_daemons_of_the_old_one(directory: Path) -> None:
    first = Central(run_dir=directory / "run", state_dir=directory / "state")
    await first.start()
    pids = first.pids()
    await first.close()
    second = Central(run_dir=directory / "run", state_dir=directory / "state")
    try:
        await second.start()
        assert None not in pids.values()
        assert second.pids() == pids
    finally:
        await second.stop()


@pytest.mark.parametrize("name", ["ovnnb", "ovnsb", "ovn-northd"])
async def test_a_killed_daemon_comes_back_and_the_work_goes_on(own: Site, name: str) -> None:
    await own.put(Segment(path=WEB))
    old = own.central.pids()[name]
    assert old is not None
    os.kill(old, signal.SIGKILL)

    async def back() -> bool:
        return own.central.pids()[name] not in (None, old)

    await until(back, f"{name} runs again")
    await own.put(Segment(path="/infra/segments/later"))
    assert len(await own.rows("Logical_Switch", "name")) == 2
    assert "/infra/segments/later" in await own.sbctl("list", "Datapath_Binding")


@pytest.mark.parametrize("which", ["nb", "sb"])
async def test_a_lost_database_is_filled_again(own: Site, which: str) -> None:
    await own.put(Segment(path=WEB), machines=[machine(1, WEB)])
    old = own.central.pids()[f"ovn{which}"]
    assert old is not None
    (own.state / f"ovn{which}.db").unlink()
    os.kill(old, signal.SIGKILL)

    async def filled() -> bool:
        try:
            names = await own.rows("Logical_Switch_Port", "name")
            return names == [["vif-1"]] and "vif-1" in await own.sbctl("--columns=logical_port", "list", "Port_Binding")
        except AssertionError:
            return False  # the server is on its way

    await until(filled, "the rows are there again")
    await own.settled()
    assert own.realized(WEB)[0].state is RealizationState.REALIZED


async def test_while_ovn_northd_does_not_follow_an_intent_is_not_realised(own: Site) -> None:
    await own.put(Segment(path=WEB))
    northd = own.central.pids()["ovn-northd"]
    assert northd is not None
    os.kill(northd, signal.SIGSTOP)
    try:
        await own.tree.put(Segment(path="/infra/segments/later"))

        async def written() -> bool:
            return bool(own.realized("/infra/segments/later"))

        await until(written, "the row is written")
        (realized,) = own.realized("/infra/segments/later")
        assert realized.state is RealizationState.UNREALIZED
        assert realized.identifier
        assert own.realized(WEB)[0].state is RealizationState.REALIZED
    finally:
        os.kill(northd, signal.SIGCONT)
    await own.settled()
    assert own.realized("/infra/segments/later")[0].state is RealizationState.REALIZED


_MORTAL = """
import asyncio, sys
from pathlib import Path
from landbridge.nsx.ovn.northbound import Northbound
from landbridge.nsx.ovn.reconcile import Reconciler
from landbridge.nsx.policy.model.segments import Segment
from tests.integration.nsx.ovn.central import Tree

async def main():
    tree = Tree()
    reconciler = Reconciler(Northbound(Path(sys.argv[1])), tree.newer)
    task = asyncio.create_task(reconciler.run())
    for size in range(1, 100000):
        paths = [f"/infra/segments/{number}" for number in range(size * 40)]
        await tree.put(*[Segment(path=path) for path in paths])
        await asyncio.sleep(0.02)

asyncio.run(main())
"""


async def test_a_manager_killed_while_it_writes_leaves_what_the_next_one_completes(own: Site) -> None:
    await own.put(Segment(path=WEB))
    await own.pause()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _MORTAL, str(own.central.northbound), stdin=asyncio.subprocess.DEVNULL
    )

    async def writing() -> bool:
        return len(await own.rows("Logical_Switch", "name")) > 200

    await until(writing, "the other manager writes")
    process.kill()
    await process.wait()
    own.go_on()
    await own.put(Segment(path="/infra/segments/1"))
    names = [row[0] for row in await own.rows("Logical_Switch", "name")]
    assert names == ["/infra/segments/1", WEB]


async def test_the_tools_see_what_is_ours(own: Site) -> None:
    await own.put(Segment(path=WEB), machines=[machine(1, WEB)])
    shown = await run("ovn-nbctl", f"--db=unix:{own.central.northbound}", "show")
    assert WEB in shown
    assert "vif-1" in shown
