"""Hosts in the inventory: added, away, back, in maintenance, removed."""

from pathlib import Path

import pytest
from pyVmomi import vim, vmodl

from landbridge.esx.model import PowerOperation
from tests.integration.esx.hosts import loopback, running_hosts

from .site import Site, until, wait


def _add(site: Site, address: str, thumbprint: str | None = None) -> object:
    spec = vim.host.ConnectSpec(hostName=address, sslThumbprint=thumbprint, force=False)
    return wait(site.cluster.AddHost_Task(spec, True))


def test_a_host_is_added_once(site: Site) -> None:
    with pytest.raises(vim.fault.AlreadyConnected):
        _add(site, site.agents[0].address)


def test_a_host_that_is_not_there_is_said_so(site: Site) -> None:
    with pytest.raises(vim.fault.NoHost):
        _add(site, loopback())


async def test_a_host_is_taken_in_with_the_right_thumbprint_only(site: Site, tmp_path: Path) -> None:
    async with running_hosts(tmp_path, "esx09.onprem") as (stranger,):
        # It has a certificate of another authority: nobody here trusts it.
        with pytest.raises(vim.fault.SSLVerifyFault) as refused:
            _add(site, stranger.address)
        assert refused.value.thumbprint == stranger.identity.thumbprint()
    wrong = ":".join(["AA"] * 32)
    ours = loopback()
    with pytest.raises((vim.fault.SSLVerifyFault, vim.fault.NoHost)):
        _add(site, ours, wrong)


def test_a_server_that_is_no_host_is_refused(site: Site) -> None:
    with pytest.raises(vim.fault.HostConnectFault):
        _add(site, site.vcenter.address)


async def test_what_a_host_does_by_itself_shows_in_the_inventory(site: Site) -> None:
    agent = site.agents[1]
    state = await agent.create("by itself")
    folder = site.datacenter.vmFolder
    vm = until(lambda: next((each for each in folder.childEntity if each.name == "by itself"), None))
    assert vm.runtime.host == site.hosts[1]
    await agent.client.power(state.config.instance_uuid, PowerOperation.ON)
    until(lambda: vm.runtime.powerState == "poweredOn")
    await agent.client.power(state.config.instance_uuid, PowerOperation.OFF)
    await agent.client.destroy_vm(state.config.instance_uuid)
    until(lambda: vm not in folder.childEntity)


def test_maintenance_waits_for_running_vms_and_can_be_called_off(site: Site) -> None:
    host = site.hosts[1]
    vm = site.create_running(host=1)
    with pytest.raises(vim.fault.Timedout):
        wait(host.EnterMaintenanceMode_Task(1))
    waiting = host.EnterMaintenanceMode_Task(0)
    until(lambda: waiting.info.cancelable)
    waiting.CancelTask()
    with pytest.raises(vmodl.fault.RequestCanceled):
        wait(waiting)
    assert not host.runtime.inMaintenanceMode
    for each in host.vm:
        if each.runtime.powerState == "poweredOn":
            wait(each.PowerOffVM_Task())
    wait(host.EnterMaintenanceMode_Task(60))
    try:
        assert host.runtime.inMaintenanceMode
        assert site.cluster.summary.numEffectiveHosts == 1
        with pytest.raises(vim.fault.InvalidState):
            wait(vm.PowerOnVM_Task())
        with pytest.raises(vim.fault.InvalidState):
            site.create(host=1)
    finally:
        wait(host.ExitMaintenanceMode_Task(0))
    wait(vm.PowerOnVM_Task())


def test_a_disconnected_hosts_vms_can_not_be_changed_until_it_is_back(site: Site) -> None:
    host = site.hosts[1]
    vm = site.create(host=1)
    with pytest.raises(vim.fault.InvalidState):
        wait(host.Destroy_Task())
    wait(host.DisconnectHost_Task())
    assert host.runtime.connectionState == "disconnected"
    assert vm.runtime.connectionState == "disconnected"
    with pytest.raises(vmodl.fault.HostNotConnected):
        wait(vm.PowerOnVM_Task())
    wait(host.ReconnectHost_Task(None, None))
    assert host.runtime.connectionState == "connected"
    assert vm.runtime.connectionState == "connected"
    wait(vm.PowerOnVM_Task())


async def test_a_killed_agent_is_noticed_and_found_again_with_its_vms_running(private_site: Site) -> None:
    site = private_site
    vm = site.create_running()
    await site.agents[0].kill()
    until(lambda: site.hosts[0].runtime.connectionState == "notResponding")
    assert vm.runtime.connectionState == "disconnected"
    await site.agents[0].start()
    until(lambda: site.hosts[0].runtime.connectionState == "connected")
    until(lambda: vm.runtime.connectionState == "connected")
    assert vm.runtime.powerState == "poweredOn"
    # A host without running VMs leaves the inventory, its VMs and datastore with it.
    wait(vm.PowerOffVM_Task())
    wait(site.hosts[0].EnterMaintenanceMode_Task(30))
    wait(site.hosts[0].Destroy_Task())
    assert list(site.cluster.host) == [site.hosts[1]]
    assert [each.name for each in site.datacenter.datastore] == [site.datastore(1).name]
    assert list(site.datacenter.vmFolder.childEntity) == []
