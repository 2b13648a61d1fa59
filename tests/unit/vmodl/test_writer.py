"""The fast writer against pyVmomi's serializer: the same bytes for every data object type of the API."""

import datetime as dt
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest
from pyVmomi import VmomiSupport, vim, vmodl
from pyVmomi.VmomiSupport import BASE_VERSION, F_LINK, F_OPTIONAL, GetVmodlType, Object, versionMap

from landbridge.vmodl.responses import serialize
from landbridge.vmodl.versions import CURRENT
from landbridge.vmodl.writer import writer_for

OLD = versionMap["vim25/6.0"]
NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 600000, tzinfo=dt.UTC)
ANYTHING = cycle([
    "a<b>&c", 3, True, 2.5, NOW, vim.VirtualMachine("vm-1", None), vim.VirtualMachine.PowerState.poweredOn,
    vim.vm.FlagInfo(), VmomiSupport.binary(b"\x00\xff"), GetVmodlType("string[]")(["x", "y"]), vim.VirtualMachine,
    GetVmodlType("vim.VirtualMachine[]")([vim.VirtualMachine("vm-2", None)]), GetVmodlType("int[]")([]),
    GetVmodlType("vim.vm.device.VirtualDevice[]")([vim.vm.device.VirtualE1000(key=1)]),
])  # fmt: skip


def sample(kind: Any, depth: int = 0) -> Any:
    """A value of an API type with every field set, down to some depth."""
    if kind is object:
        return next(ANYTHING)
    if issubclass(kind, list):
        return kind([] if depth > 4 else [sample(kind.Item, depth + 1) for _ in range(2)])
    for base, value in (
        (VmomiSupport.ManagedMethod, vim.VirtualMachine.PowerOn),
        (VmomiSupport.Enum, None),
        (dt.datetime, NOW),
        (VmomiSupport.binary, VmomiSupport.binary(b"ab\x00")),
    ):
        if issubclass(kind, base):
            return value if value is not None else getattr(kind, kind.values[0]) if kind.values else kind("x")
    if kind is type:
        return vim.VirtualMachine
    if issubclass(kind, bool):
        return True
    if issubclass(kind, VmomiSupport.ManagedObject):
        return kind("x-1", None)
    if issubclass(kind, str):
        return kind("é&<>")
    if issubclass(kind, int | float):
        return kind(7)
    return sample_object(vim.vm.FlagInfo if kind is VmomiSupport.DataObject else kind, depth)


def sample_object(kind: Any, depth: int) -> Any:
    made = kind()
    for info in kind._GetPropertyList():
        if info.name in ("dynamicType", "dynamicProperty") or info.flags & F_LINK:
            continue
        if depth <= 3 or not info.flags & F_OPTIONAL:
            object.__setattr__(made, info.name, sample(info.type, depth + 1))
    return made


def data_object_types() -> Iterator[Any]:
    for name in list(VmomiSupport._dataDefMap):
        if name.startswith(("vim.", "vmodl.")):
            kind = GetVmodlType(name)
            if isinstance(kind, type) and issubclass(kind, VmomiSupport.DataObject):
                yield kind


def fast(value: Any, version: str) -> str:
    out: list[str] = []
    writer_for(version).any(out, "val", value)
    return "".join(out)


def slow(value: Any, version: str) -> str:
    return serialize(value, Object(name="val", type=object, version=BASE_VERSION, flags=0), version)


@pytest.mark.parametrize("version", [CURRENT, OLD])
def test_every_data_object_is_written_as_pyvmomi_writes_it(version: str) -> None:
    compared = 0
    for kind in data_object_types():
        value = sample_object(kind, 0)
        try:
            wanted = slow(value, version)
        except TypeError:
            with pytest.raises(TypeError):
                fast(value, version)
            continue
        assert fast(value, version) == wanted, kind.__name__
        compared += 1
    assert compared > 3000


@pytest.mark.parametrize(
    "kind",
    ["vim.VirtualMachine", "vim.ManagedEntity", "string", "int", "boolean", "vmodl.TypeName", "vmodl.MethodName"],
)
@pytest.mark.parametrize("count", [0, 2])
def test_arrays_are_written_as_pyvmomi_writes_them(kind: str, count: int) -> None:
    array = GetVmodlType(f"{kind}[]")
    value = array([sample(array.Item) for _ in range(count)])
    assert fast(value, CURRENT) == slow(value, CURRENT)


def test_a_subclass_in_a_field_names_its_type() -> None:
    nic = vim.vm.device.VirtualVmxnet3(key=4000, backing=vim.vm.device.VirtualEthernetCard.NetworkBackingInfo())
    text = fast(nic, CURRENT)
    assert text.startswith('<val xsi:type="VirtualVmxnet3">')
    assert '<backing xsi:type="VirtualEthernetCardNetworkBackingInfo">' in text


def test_fields_newer_than_the_client_are_left_out() -> None:
    info = vim.vm.FlagInfo(vbsEnabled=True)
    assert "vbsEnabled" in fast(info, CURRENT)
    assert "vbsEnabled" not in fast(info, OLD)


def test_a_missing_required_field_is_refused() -> None:
    task = vim.TaskInfo()
    with pytest.raises(TypeError):
        fast(task, CURRENT)


def test_characters_xml_can_not_carry_are_replaced() -> None:
    text = fast("a\x00b\x1b[31m\ud800", CURRENT)
    root = ET.fromstring(text.replace("xsi:", ""))
    assert root.text == "a\ufffdb\ufffd[31m\ufffd"


def test_a_fault_in_a_value_is_a_localized_one() -> None:
    fault = vim.fault.FileNotFound(file="[ds] a", msg="not there")
    missing = vmodl.query.PropertyCollector.MissingProperty(path="p", fault=fault)
    assert fast(missing, CURRENT) == slow(missing, CURRENT)
    assert "<localizedMessage>not there</localizedMessage>" in fast(missing, CURRENT)
