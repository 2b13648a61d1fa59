"""The command line as a function of the configuration: addresses that never move."""

import itertools
import json
import uuid
from pathlib import Path
from typing import Any

from landbridge.esx.hardware import MachineFiles, command_line, disk_device, disk_nodes, nic_device
from landbridge.esx.model import Controller, ControllerType, Disk, Nic, VmConfig
from landbridge.esx.process import QemuProcess


def config(**changes: Any) -> VmConfig:
    settings: dict[str, Any] = {
        "name": "a,b",
        "instance_uuid": str(uuid.uuid4()),
        "uuid": str(uuid.uuid4()),
        "memory_mib": 64,
        "machine": "pc-q35-7.2",
        "cpu_model": "Nehalem-v1",
        "controllers": [Controller(key=1000, type=ControllerType.PVSCSI, bus=0)],
    }
    return VmConfig(**settings | changes)


def devices(vm: VmConfig, files: MachineFiles) -> dict[str, dict[str, Any]]:
    """The JSON of `-device`, by id."""
    command = command_line(vm, files, QemuProcess(Path("/run/x")), "tcg")
    texts = [value for option, value in itertools.pairwise(command) if option == "-device"]
    return {device["id"]: device for device in map(json.loads, texts) if "id" in device}


def test_a_device_has_the_same_place_whatever_else_there_is() -> None:
    disks = [Disk(key=2000 + unit, controller=1000, unit=unit, capacity=512) for unit in range(3)]
    nics = [Nic(key=4000 + number, mac=f"00:50:56:00:00:0{number}") for number in range(3)]
    chains = {disk.key: [Path(f"/d/{disk.key}")] for disk in disks}
    many = devices(config(disks=disks, nics=nics), MachineFiles(chains=chains))
    few = devices(config(disks=disks[2:], nics=nics[2:]), MachineFiles(chains=chains))
    assert many["disk-2002"] == few["disk-2002"]
    assert many["nic-4002"] == few["nic-4002"]
    assert {name for name in many if name.startswith("nic-port")} == {
        name for name in few if name.startswith("nic-port")
    }


def test_a_plugged_device_is_the_one_of_the_next_power_on() -> None:
    disk, nic = Disk(key=2005, controller=1000, unit=5, capacity=512), Nic(key=4001, mac="00:50:56:00:00:01")
    vm = config(disks=[disk], nics=[nic])
    cold = devices(vm, MachineFiles(chains={2005: [Path("/d/a")]}))
    assert cold["disk-2005"] == disk_device(vm, disk, "disk-2005-0")
    assert cold["nic-4001"] == nic_device(vm, nic)


def test_no_two_devices_share_an_address() -> None:
    for machine in ("pc-q35-7.2", "pc-i440fx-7.2"):
        controllers = [Controller(key=1000 + bus, type=ControllerType.PVSCSI, bus=bus) for bus in range(4)]
        controllers += [Controller(key=15000 + bus, type=ControllerType.AHCI, bus=bus) for bus in range(4)]
        controllers += [Controller(key=31000 + bus, type=ControllerType.NVME, bus=bus) for bus in range(4)]
        nics = [Nic(key=4000 + number, mac=f"00:50:56:00:00:0{number}") for number in range(10)]
        found = devices(config(machine=machine, controllers=controllers, nics=nics), MachineFiles())
        places = [(one["bus"], one["addr"]) for one in found.values() if "addr" in one]
        assert len(places) == len(set(places))


def test_a_chain_is_opened_from_its_base_and_written_at_its_top() -> None:
    disk = Disk(key=2000, controller=1000, unit=0, capacity=512)
    nodes = disk_nodes(disk, [Path("/d/base"), Path("/d/middle"), Path("/d/top")])
    assert [(node["node-name"], node["backing"], node["read-only"]) for node in nodes] == [
        ("disk-2000-0", None, True),
        ("disk-2000-1", "disk-2000-0", True),
        ("disk-2000-2", "disk-2000-1", False),
    ]


def test_a_name_with_a_comma_stays_one_value() -> None:
    command = command_line(config(), MachineFiles(), QemuProcess(Path("/run/x")), "tcg")
    assert command[command.index("-name") + 1] == "guest=a,,b,debug-threads=on"
