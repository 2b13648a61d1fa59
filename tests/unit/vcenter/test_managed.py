"""Properties of managed objects: what counts as a change."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from pyVmomi import vim
from pyVmomi.VmomiSupport import GetVmodlType

from landbridge.vcenter.managed import Managed, same


class Thing(Managed):
    kind = vim.VirtualMachine
    durable = False
    defaults = {"overallStatus": "green"}  # noqa: RUF012 - as implementations write it


class Special(Thing):
    defaults = {"configStatus": "gray"}  # noqa: RUF012 - as implementations write it


@pytest.fixture
def touched() -> list[Managed]:
    return []


@pytest.fixture
def thing(touched: list[Managed]) -> Special:
    inventory: Any = SimpleNamespace(touch=touched.append)
    return Special(inventory, "vm-1")


def test_an_equal_value_is_no_change(thing: Special, touched: list[Managed]) -> None:
    for _ in range(3):
        thing.set(summary=vim.vm.Summary.QuickStats(overallCpuUsage=5), datastore=[vim.Datastore("ds-1", None)])
    assert len(touched) == 1
    thing.set(summary=vim.vm.Summary.QuickStats(overallCpuUsage=6))
    assert len(touched) == 2


def test_a_lazy_value_is_computed_once_until_it_is_invalid(thing: Special, touched: list[Managed]) -> None:
    numbers = itertools.count(1)
    thing.lazy("name", lambda: f"name-{next(numbers)}")
    assert (thing.value("name"), thing.value("name")) == ("name-1", "name-1")
    thing.invalidate("name")
    assert thing.value("name") == "name-2"
    assert touched == [thing]


def test_defaults_are_inherited_and_unknown_names_refused(thing: Special) -> None:
    assert (thing.value("overallStatus"), thing.value("configStatus"), thing.value("guest")) == ("green", "gray", None)
    with pytest.raises(KeyError):
        thing.value("nonsense")


@pytest.mark.parametrize(
    ("old", "new", "equal"),
    [
        ([1, 2], GetVmodlType("int[]")([1, 2]), True),
        ([1, 2], [2, 1], False),
        (vim.VirtualMachine("vm-1", None), vim.VirtualMachine("vm-1", None), True),
        (vim.VirtualMachine("vm-1", None), vim.VirtualMachine("vm-2", None), False),
        (vim.VirtualMachine("vm-1", None), [vim.VirtualMachine("vm-1", None)], False),
        (vim.VirtualMachine("x", None), vim.HostSystem("x", None), False),
        (vim.vm.FlagInfo(), vim.vm.FlagInfo(), True),
        (vim.vm.FlagInfo(vbsEnabled=True), vim.vm.FlagInfo(vbsEnabled=False), False),
        (None, [], False),
        (True, 1, False),
    ],
)
def test_values_are_equal_field_by_field(old: Any, new: Any, equal: bool) -> None:
    assert same(old, new) is equal
