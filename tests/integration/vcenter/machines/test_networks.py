"""Distributed switches and port groups on a host with a real Open vSwitch."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from landbridge.esx.model import vif_id

from .site import Site, added, wait
from .wired import distributed_switch, nic_on, wired_site

_vmware = vim.dvs.VmwareDistributedVirtualSwitch


@pytest.fixture(scope="module")
async def wired(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with wired_site(tmp_path_factory.mktemp("wired"), "v") as site:
        yield site


@pytest.fixture(scope="module")
def switch(wired: Site) -> Any:
    return distributed_switch(wired)


def _group_spec(name: str, vlan: int | None = None) -> Any:
    policy = None
    if vlan is not None:
        policy = _vmware.VmwarePortConfigPolicy(vlan=_vmware.VlanIdSpec(inherited=False, vlanId=vlan))
    return vim.dvs.DistributedVirtualPortgroup.ConfigSpec(name=name, type="earlyBinding", defaultPortConfig=policy)


async def test_port_groups_reach_the_hosts_switch_and_follow_changes(wired: Site, switch: Any) -> None:
    group = wait(switch.CreateDVPortgroup_Task(_group_spec("Red", 100)))
    wait(switch.AddDVPortgroup_Task([_group_spec("Blue", 200), _group_spec("Plain")]))
    told = {each.name: each for each in await wired.agents[0].client.port_groups()}
    assert {name: each.vlan for name, each in told.items()} == {"Red": 100, "Blue": 200, "Plain": 0}
    assert told["Red"].key == group.key
    wait(group.ReconfigureDVPortgroup_Task(_group_spec("Crimson", 101)))
    told = {each.name: each for each in await wired.agents[0].client.port_groups()}
    assert told["Crimson"].vlan == group.config.defaultPortConfig.vlan.vlanId == 101
    assert {network.name for network in wired.hosts[0].network} == {"Crimson", "Blue", "Plain"}
    assert {network.name for network in wired.datacenter.network} >= {"Crimson", "Blue", "Plain"}


def test_a_vm_is_plugged_into_a_port_group_that_then_can_not_go(wired: Site, switch: Any) -> None:
    group = wait(switch.CreateDVPortgroup_Task(_group_spec("Used", 300)))
    vm = wired.create()
    wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[added(nic_on(switch, group))])))
    wait(vm.PowerOnVM_Task())
    assert list(vm.network) == [group]
    assert list(group.vm) == [vm]
    nic: Any = next(d for d in vm.config.hardware.device if isinstance(d, vim.vm.device.VirtualVmxnet3))
    assert nic.connectable.connected
    assert nic.backing.port.portgroupKey == group.key
    with pytest.raises(vim.fault.ResourceInUse):
        wait(group.Destroy_Task())
    with pytest.raises(vim.fault.ResourceInUse):
        wait(switch.Destroy_Task())
    wait(vm.PowerOffVM_Task())
    wait(vm.Destroy_Task())
    wait(group.Destroy_Task())
    assert group not in switch.portgroup


def _segment_spec(name: str, **fields: str) -> Any:
    return vim.dvs.DistributedVirtualPortgroup.ConfigSpec(name=name, type="earlyBinding", backingType="nsx", **fields)


async def test_a_segment_of_nsx_is_a_port_group_whose_nics_have_vifs(wired: Site, switch: Any) -> None:
    logical = str(uuid.uuid4())
    group = wait(
        switch.CreateDVPortgroup_Task(
            _segment_spec(
                "web", logicalSwitchUuid=logical, segmentId="/infra/segments/web", transportZoneName="overlay"
            )
        )
    )
    config = group.config
    assert (config.backingType, config.logicalSwitchUuid, config.segmentId) == ("nsx", logical, "/infra/segments/web")
    told = {each.name: each for each in await wired.agents[0].client.port_groups()}
    assert (told["web"].segment, told["web"].vlan) == (logical, 0)
    vm = wired.create()
    wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[added(nic_on(switch, group))])))
    nic: Any = next(d for d in vm.config.hardware.device if isinstance(d, vim.vm.device.VirtualVmxnet3))
    assert nic.externalId == vif_id(vm.config.instanceUuid, nic.key)
    with pytest.raises(vmodl.fault.InvalidArgument):
        wait(group.ReconfigureDVPortgroup_Task(_group_spec("web", 7)))
    wait(vm.Destroy_Task())
    wait(group.Destroy_Task())


def test_port_groups_of_nsx_that_are_half_said_are_refused(switch: Any) -> None:
    for spec in (
        _segment_spec("half", segmentId="/infra/segments/web"),
        vim.dvs.DistributedVirtualPortgroup.ConfigSpec(name="half", segmentId="/infra/segments/web"),
    ):
        with pytest.raises(vmodl.fault.InvalidArgument):
            wait(switch.CreateDVPortgroup_Task(spec))
    assert "half" not in {group.name for group in switch.portgroup}


def test_networks_that_can_not_be_are_refused(wired: Site, switch: Any) -> None:
    wait(switch.CreateDVPortgroup_Task(_group_spec("Single", 1)))
    with pytest.raises(vim.fault.DuplicateName):
        wait(switch.CreateDVPortgroup_Task(_group_spec("Single", 2)))
    with pytest.raises(vmodl.fault.InvalidArgument):
        wait(switch.AddDVPortgroup_Task([_group_spec("Twin", 2), _group_spec("Twin", 3)]))
    with pytest.raises(vmodl.fault.InvalidArgument):
        wait(switch.CreateDVPortgroup_Task(_group_spec("Far", 4095)))
    trunk = _group_spec("Trunk")
    trunk.defaultPortConfig = _vmware.VmwarePortConfigPolicy(
        vlan=_vmware.TrunkVlanSpec(inherited=False, vlanId=[vim.NumericRange(start=1, end=5)])
    )
    with pytest.raises(vmodl.fault.NotSupported):
        wait(switch.CreateDVPortgroup_Task(trunk))
    lone = wait(
        wired.datacenter.networkFolder.CreateDVS_Task(
            vim.DistributedVirtualSwitch.CreateSpec(configSpec=_vmware.ConfigSpec(name="Lone"))
        )
    )
    unreachable = wait(lone.CreateDVPortgroup_Task(_group_spec("Unreachable")))
    device = [added(nic_on(lone, unreachable))]
    with pytest.raises(vim.fault.CannotAccessNetwork) as refused:
        wired.create("nowhere", devices=device)
    assert refused.value.network == unreachable
    wait(lone.Destroy_Task())
