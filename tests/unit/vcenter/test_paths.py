"""Property paths and what changed between two values."""

from typing import Any

import pytest
from pyVmomi import vim, vmodl

from landbridge.vcenter.paths import differences, parse


def hardware(*devices: Any, cpus: int = 1) -> Any:
    return vim.vm.VirtualHardware(numCPU=cpus, memoryMB=64, device=list(devices))


def nic(key: int, summary: str) -> Any:
    return vim.vm.device.VirtualVmxnet3(key=key, deviceInfo=vim.Description(label="nic", summary=summary))


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        ("name", (("name", None),)),
        ("config.hardware.device[2000].backing",
         (("config", None), ("hardware", None), ("device", "2000"), ("backing", None))),
        ('config.extraConfig["a.b[c"].value', (("config", None), ("extraConfig", "a.b[c"), ("value", None))),
    ],
)  # fmt: skip
def test_a_path_has_segments_and_keys(path: str, segments: Any) -> None:
    assert parse(path) == segments


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", "a[", "a]", "a[1", 'a["1]', "a b", "a[1]b", "a[]", "ü$"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(vmodl.query.InvalidProperty):
        parse(path)


def test_equal_values_have_no_differences() -> None:
    assert list(differences("h", hardware(nic(1, "a")), hardware(nic(1, "a")))) == []


def test_a_field_is_named_by_its_path() -> None:
    assert list(differences("h", hardware(cpus=1), hardware(cpus=2))) == [("h.numCPU", "assign", 2)]


def test_elements_come_go_and_change_by_their_key() -> None:
    new = nic(3, "c")
    found = list(differences("h", hardware(nic(1, "a"), nic(2, "b")), hardware(nic(2, "B"), new)))
    assert ("h.device[1]", "remove", None) in found
    assert ("h.device[2].deviceInfo.summary", "assign", "B") in found
    assert ("h.device[3]", "add", new) in found
    assert len(found) == 3


def test_string_keys_are_quoted() -> None:
    old, new = ([vim.option.OptionValue(key="k", value=value)] for value in ("1", "2"))
    assert list(differences("e", old, new)) == [('e["k"].value', "assign", "2")]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (None, 1),
        (1, None),
        (1, 2),
        ([1, 2], [2]),
        (vim.vm.FlagInfo(), vim.vm.ToolsConfigInfo()),
        ([vim.VirtualMachine("vm-1", None)], []),
        ([nic(1, "a"), nic(1, "b")], [nic(1, "a")]),
        (vim.VirtualMachine("vm-1", None), [vim.VirtualMachine("vm-1", None)]),
    ],
)
def test_what_has_no_finer_path_is_assigned_whole(old: Any, new: Any) -> None:
    assert list(differences("p", old, new)) == [("p", "assign", new)]
