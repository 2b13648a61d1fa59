"""What NSX sees of a real vCenter, and the port groups it makes there."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from landbridge.esx.model import vif_id
from landbridge.nsx.fabric.compute_manager import ComputeManager
from landbridge.nsx.fabric.port_groups import PortGroups, WantedGroup
from landbridge.vmodl.client import VCenter, VCenterLogin
from tests.integration.vcenter.machines.site import PASSWORD, USER, Site, added, wait
from tests.integration.vcenter.machines.wired import distributed_switch, nic_on, wired_site


class Follower:
    """A compute manager with its port groups, as the NSX manager runs them."""

    def __init__(self, vcenter: VCenter) -> None:
        self.wanted: list[WantedGroup] = []
        self.groups = PortGroups(vcenter, "")
        self.manager = ComputeManager(vcenter, self._changed)
        self._news = asyncio.Event()

    def _changed(self) -> None:
        self._news.set()
        self.groups.look()

    def want(self, *groups: WantedGroup) -> None:
        self.wanted = list(groups)
        self.groups.look()

    async def until(self, met: Callable[[], Any]) -> Any:
        async with asyncio.timeout(60):
            while not (found := met()):
                self._news.clear()
                await self._news.wait()
        return found

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.manager.run())
            seen = lambda: self.manager.seen.groups.values() if self.manager.seen.complete else None  # noqa: E731
            tasks.create_task(self.groups.run(lambda: self.wanted, seen))


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with wired_site(tmp_path_factory.mktemp("fabric"), "f") as made:
        await asyncio.to_thread(distributed_switch, made)
        yield made


@pytest.fixture(scope="module")
async def follower(site: Site, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Follower]:
    password = tmp_path_factory.mktemp("login") / "password"
    password.write_text(PASSWORD)
    login = VCenterLogin(
        url=f"https://{site.vcenter.address}", user=USER, password_file=password, ca_file=Path(site.vcenter.ca)
    )
    vcenter = VCenter(login)
    made = Follower(vcenter)
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await vcenter.close()


def _segment(name: str, identifier: str = "") -> WantedGroup:
    return WantedGroup(name, f"/infra/segments/{identifier or name}", str(uuid.uuid4()))


async def test_a_segment_becomes_a_network_and_a_vm_on_it_has_a_vif(site: Site, follower: Follower) -> None:
    segment = _segment("web")
    follower.want(segment)
    known = await follower.until(lambda: [g for g in follower.manager.seen.groups.values() if g.name == "web"])
    assert (known[0].segment, known[0].logical_switch) == (segment.path, segment.logical_switch)

    def connect() -> Any:
        switch = site.datacenter.networkFolder.childEntity
        dvs = next(each for each in switch if isinstance(each, vim.dvs.VmwareDistributedVirtualSwitch))
        group = next(each for each in dvs.portgroup if each.key == known[0].key)
        vm = site.create("shop")
        wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[added(nic_on(dvs, group))])))
        return vm

    vm = await asyncio.to_thread(connect)
    uuid_ = await asyncio.to_thread(lambda: vm.config.instanceUuid)
    machine = await follower.until(lambda: (m := follower.manager.seen.machines.get(uuid_)) and m.vifs and m)
    assert (machine.name, machine.powered_on, machine.host) == ("shop", False, site.agents[0].address)
    assert machine.vifs[0].id == vif_id(uuid_, machine.vifs[0].device_key)
    assert machine.vifs[0].segment == segment.path
    await asyncio.to_thread(lambda: wait(vm.Destroy_Task()))
    await follower.until(lambda: uuid_ not in follower.manager.seen.machines)
    follower.want()
    await follower.until(lambda: not follower.manager.seen.groups)


async def test_port_groups_follow_names_and_two_segments_may_share_one(site: Site, follower: Follower) -> None:
    first, second = _segment("app", "app-1"), _segment("app", "app-2")
    follower.want(first, second)
    names = await follower.until(
        lambda: len(groups := follower.manager.seen.groups) == 2 and {group.name for group in groups.values()}
    )
    assert names == {"app", "app (app-2)"}
    follower.want(WantedGroup("tier", first.path, first.logical_switch))
    await follower.until(lambda: {group.name for group in follower.manager.seen.groups.values()} == {"tier"})
    follower.want()
    await follower.until(lambda: not follower.manager.seen.groups)


async def test_a_vcenter_that_dies_is_followed_again(site: Site, follower: Follower) -> None:
    await follower.until(lambda: follower.manager.seen.complete)
    site.vcenter.kill()
    assert follower.manager.seen.hosts, "what was known stays"
    await asyncio.to_thread(site.vcenter.start)
    await asyncio.to_thread(site.reconnect)
    vm = await asyncio.to_thread(site.create, "later")
    await follower.until(lambda: "later" in {m.name for m in follower.manager.seen.machines.values()})
    await asyncio.to_thread(lambda: wait(vm.Destroy_Task()))
