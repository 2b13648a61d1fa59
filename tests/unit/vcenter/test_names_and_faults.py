"""Names of objects, paths of datastores, and agents' errors as vSphere's faults."""

import pytest
from pyVmomi import vim, vmodl

from landbridge.esx.client import HostError, HostUnreachable
from landbridge.esx.model import ApiError, Disk, VmConfig
from landbridge.vcenter.datastore_paths import DatastoreNames, split_path
from landbridge.vcenter.host_faults import agent_faults, fault_of
from landbridge.vcenter.naming import written_name


@pytest.mark.parametrize(
    ("name", "written"),
    [("web", "web"), ("a/b", "a%2fb"), ("a\\b", "a%5cb"), ("100%", "100%25"), ("a%2fb", "a%2fb"), ("東京", "東京")],
)
def test_a_name_is_written_so_that_it_can_be_part_of_a_path(name: str, written: str) -> None:
    assert written_name(name) == written
    assert written_name(written) == written


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x00b", "a\x7fb", "x" * 81, "/" * 27])
def test_names_that_can_not_be_are_refused(name: str) -> None:
    with pytest.raises(vim.fault.InvalidName):
        written_name(name)


def test_an_agents_error_becomes_the_fault_it_is_named_after() -> None:
    error = HostError(
        ApiError(
            type="InvalidPowerState",
            message="it runs",
            details={"requestedState": "poweredOff", "existingState": "poweredOn"},
        )
    )
    fault = fault_of(error)
    assert isinstance(fault, vim.fault.InvalidPowerState)
    assert (fault.requestedState, fault.existingState, fault.msg) == ("poweredOff", "poweredOn", "it runs")


@pytest.mark.parametrize("name", ["NoDiskSpace", "FileNotFound", "NotSupported", "InvalidDeviceSpec", "TaskInProgress"])
def test_a_fault_without_details_can_still_be_sent(name: str) -> None:
    fault = fault_of(HostError(ApiError(type=name, message="because")))
    assert type(fault).__name__.endswith(name)
    assert fault.msg == "because"


def test_an_error_the_api_has_no_name_for_is_a_system_error_that_tells_it() -> None:
    fault = fault_of(HostError(ApiError(type="Gremlins", message="in the works")))
    assert isinstance(fault, vmodl.fault.SystemError)
    assert "Gremlins: in the works" in fault.reason


def test_a_host_that_is_away_is_a_communication_fault() -> None:
    with pytest.raises(vmodl.fault.HostCommunication), agent_faults():
        raise HostUnreachable("nobody answers")


def test_paths_are_rewritten_to_the_hosts_names_and_back() -> None:
    names = DatastoreNames()
    names.add("datastore1 (1)", "datastore1")
    config = VmConfig(
        name="web",
        instance_uuid="11111111-2222-3333-4444-555555555555",
        uuid="11111111-2222-3333-4444-555555555555",
        memory_mib=64,
        disks=[Disk(key=2000, controller=1000, unit=0, path="[datastore1 (1)] web/web.vmdk", capacity=512)],
    )
    there = names.config_to_host(config)
    assert there.disks[0].path == "[datastore1] web/web.vmdk"
    assert names.config_from_host(there) == config
    assert names.path_to_host("[elsewhere] a") == "[elsewhere] a"
    assert names.path_to_host("") == ""


def test_a_path_without_a_datastore_is_no_datastore_path() -> None:
    assert split_path("[ds] a/b.vmx") == ("ds", "a/b.vmx")
    with pytest.raises(ValueError, match="not a datastore path"):
        split_path("a/b.vmx")
