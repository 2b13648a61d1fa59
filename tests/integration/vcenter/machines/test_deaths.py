"""vCenter killed -9 at each single step of a move between two of its hosts, and started again as after any crash.

The VM is at the target or, if only one host had been asked, at the source with a reason told; it runs once, no write of
its guest is lost, and nothing else is left at either host.
"""

import contextlib
import http.client
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from landbridge.esx.process import lock_holder
from landbridge.pki import Authority
from tests.integration.esx.hosts import TestHost, running_hosts
from tests.integration.hcx.crossing import boot_sector, files, open_streams, until, until_async, whole_numbers
from tests.integration.hcx.mortal import VCENTER_GIVES_UP, VCENTER_GOES_ON, Fate, Mortals

from .site import _UP, Site, Vcenter, wait


class MortalVcenter(Vcenter):
    """A vCenter that dies where its fate says."""

    def __init__(self, directory: Path, authority: Authority, mortals: Mortals) -> None:
        super().__init__(directory, authority)
        self._mortals = mortals
        self.fate = Fate(directory / "vcenter.fate")

    def start(self) -> None:
        process: Any = self._mortals.start("landbridge.vcenter", self._config, self.log, self.fate.file)
        self._process = process
        deadline = time.monotonic() + _UP
        while True:
            try:
                self._connect()
            except (OSError, vmodl.MethodFault) as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(self.log.read_text()[-3000:]) from error
                time.sleep(0.05)
            else:
                return

    async def dies(self) -> None:
        """Wait until it has died as its fate says, and start it again."""
        process: Any = self._process
        await self.fate.kills(process)
        self.start()


@pytest.fixture(scope="module")
async def mortal(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Site, MortalVcenter]]:
    """Two hosts and a vCenter that can be made to die at a point."""
    directory = tmp_path_factory.mktemp("mortal")
    mortals = Mortals()
    async with running_hosts(directory, "esx01.onprem", "esx02.onprem") as hosts:
        vcenter = MortalVcenter(directory, Authority.create(directory / "ca", "test site"), mortals)
        try:
            vcenter.start()
            site = Site(vcenter, hosts)
            site.build()
            yield site, vcenter
        finally:
            vcenter.close()
            mortals.close()


@pytest.fixture
async def site(mortal: tuple[Site, MortalVcenter]) -> AsyncIterator[Site]:
    """The site, with vCenter up before and after and no VM left."""
    site, vcenter = mortal
    yield site
    vcenter.fate.clear()
    process: Any = vcenter._process
    if process.poll() is not None:
        vcenter.start()
    site.reconnect()
    for vm in [vm for host in site.hosts for vm in host.vm]:
        if vm.runtime.powerState == "poweredOn":
            wait(vm.PowerOffVM_Task())
        wait(vm.Destroy_Task())


def _disk(agent: TestHost, name: str) -> Path:
    return agent.datastore / name / f"{name}.vmdk"


async def _counting(site: Site, name: str) -> Any:
    """A VM on the first host that counts on its disk."""
    vm = site.create(name)
    boot_sector(_disk(site.agents[0], name))
    wait(vm.PowerOnVM_Task())
    await _counts(site.agents[0], name)
    return vm


async def _counts(agent: TestHost, name: str) -> None:
    file = _disk(agent, name)
    before = file.stat().st_mtime_ns
    await until(lambda: file.stat().st_mtime_ns != before, f"the guest does not write on {agent.name}")


async def _left(agent: TestHost) -> list[str]:
    """What there is of VMs on a host."""
    left = [state.config.name for state in await agent.client.vms()]
    left += [str(file) for file in files(agent.datastore)]
    return left + [str(pid) for pid in agent.run.glob("*/pid") if lock_holder(pid) is not None]


async def _streams(site: Site) -> list[str]:
    return [name for agent in site.agents for name in await open_streams(agent.run / "relay")]


def _move(site: Site, vm: Any) -> Any:
    return vm.RelocateVM_Task(vim.vm.RelocateSpec(host=site.hosts[1], datastore=site.datastore(1)))


async def _lives_on(site: Site, name: str, number: int) -> Any:
    """One copy runs, on that host, in the inventory as well; nothing else is left. The VM, through this connection."""
    agent, other = site.agents[number], site.agents[1 - number]
    [vm] = site.hosts[number].vm
    assert list(site.hosts[1 - number].vm) == []
    assert (vm.name, vm.runtime.powerState, vm.runtime.host) == (name, "poweredOn", site.hosts[number])
    assert [state.config.name for state in await agent.client.vms()] == [name]
    await _counts(agent, name)
    await until_async(lambda: _left(other), [], f"left on {other.name}")
    await until_async(lambda: _streams(site), [], "open")
    running = [task.info for task in site.vcenter.content.taskManager.recentTask]
    assert [info.descriptionId for info in running if info.state == "running"] == []
    return vm


def _whole(site: Site, vm: Any, number: int) -> None:
    wait(vm.PowerOffVM_Task())
    whole_numbers(_disk(site.agents[number], vm.name))


async def _killed(mortal: tuple[Site, MortalVcenter], name: str, point: str) -> Any:
    """The task of a move under which vCenter was killed at that point, of the vCenter that came after."""
    site, vcenter = mortal
    vm = await _counting(site, name)
    vcenter.fate.set(f"kill {point}")
    with contextlib.suppress(OSError, http.client.HTTPException):  # it may die before it has answered
        _move(site, vm)
    await vcenter.dies()
    site.reconnect()
    tasks = [task for task in vcenter.ref(vm).recentTask if task.info.descriptionId == "VirtualMachine.relocate"]
    return tasks[-1]


@pytest.mark.parametrize("point", VCENTER_GIVES_UP)
async def test_a_vcenter_killed_between_asking_one_host_and_the_other_leaves_the_vm_where_it_was(
    mortal: tuple[Site, MortalVcenter], site: Site, point: str
) -> None:
    name = point.replace(":", "-")
    task = await _killed(mortal, name, point)
    with pytest.raises(vmodl.MethodFault) as caught:
        wait(task)
    assert caught.value.msg
    vm = await _lives_on(site, name, 0)
    wait(_move(site, vm))
    _whole(site, await _lives_on(site, name, 1), 1)


@pytest.mark.parametrize("point", VCENTER_GOES_ON)
async def test_a_vcenter_killed_at_a_step_of_a_move_goes_on_with_it(
    mortal: tuple[Site, MortalVcenter], site: Site, point: str
) -> None:
    name = point.replace(":", "-")
    wait(await _killed(mortal, name, point))
    _whole(site, await _lives_on(site, name, 1), 1)
