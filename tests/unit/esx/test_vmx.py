"""VMX files: what is written is read again, and nothing gets lost or smuggled in."""

import uuid
from pathlib import Path

import pytest

from landbridge.esx.faults import Fault
from landbridge.esx.model import (
    Cdrom,
    Controller,
    ControllerType,
    Disk,
    Firmware,
    Nic,
    NicType,
    SerialPort,
    VmConfig,
)
from landbridge.esx.vmx import VmxFile, is_own_key, parse, render

HOME = "[ds] vm/"


def to_path(name: str) -> str:
    return name.removeprefix("/vmfs/volumes/") if name.startswith("/") else HOME + name


def from_path(path: str) -> str:
    return path.removeprefix(HOME) if path.startswith(HOME) else f"/vmfs/volumes/{path}"


def config(**changes: object) -> VmConfig:
    everything = VmConfig(
        name='ärger "quoted" | 漢字',
        instance_uuid=str(uuid.uuid4()),
        uuid=str(uuid.uuid4()),
        hardware_version="vmx-19",
        guest_id="windows2019srv_64Guest",
        annotation='two\nlines, a "quote", a | bar, an = and a \u2028 separator',
        firmware=Firmware.EFI,
        machine="pc-q35-7.2",
        cpu_model="Nehalem-v1",
        memory_mib=4096,
        cpus=4,
        cores_per_socket=2,
        controllers=[
            Controller(key=200, type=ControllerType.IDE, bus=0),
            Controller(key=1000, type=ControllerType.PVSCSI, bus=0),
            Controller(key=1003, type=ControllerType.LSI_LOGIC_SAS, bus=3),
            Controller(key=15001, type=ControllerType.AHCI, bus=1),
            Controller(key=31002, type=ControllerType.NVME, bus=2),
        ],
        disks=[
            Disk(key=2000, controller=1000, unit=0, path=f"{HOME}vm.vmdk", capacity=1 << 30, uuid=str(uuid.uuid4())),
            Disk(key=2077, controller=1000, unit=40, path="[other] x/y.vmdk", capacity=512, thin=False),
            Disk(key=32128, controller=31002, unit=0, path=f"{HOME}vm_1.vmdk", capacity=1 << 20),
        ],
        cdroms=[
            Cdrom(key=3001, controller=200, unit=1),
            Cdrom(key=16030, controller=15001, unit=0, iso="[iso] debian.iso", connected=False),
        ],
        nics=[
            Nic(key=4000, mac="00:50:56:00:00:01", network="dvportgroup-7"),
            Nic(key=4003, type=NicType.E1000E, connected=False, start_connected=False),
        ],
        serial_ports=[SerialPort(key=9000), SerialPort(key=9001, file=f"{HOME}console.txt")],
        template=True,
        extra_config={"guestinfo.userdata": "a=b\n|", "disk.EnableUUID": "TRUE", "scsi0:0.mode": "persistent"},
    )
    return everything.model_copy(update=changes)


def round_trip(path: Path, file: VmxFile) -> VmxFile:
    capacities = {disk.path: disk.capacity for disk in file.config.disks}
    file.write(path, from_path)
    return VmxFile.read(path, to_path, capacities.get)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    written = VmxFile(config(), nvram="vm.nvram", suspend_image="vm.vmss")
    read = round_trip(tmp_path / "vm.vmx", written)
    assert read.config == written.config.model_copy(update={"annotation": read.config.annotation})
    assert read.config.annotation.splitlines()[0] == "two"
    assert (read.nvram, read.suspend_image) == ("vm.nvram", "vm.vmss")


@pytest.mark.parametrize("guest", ["otherLinux64Guest", "debian12_64Guest", "other3xLinuxGuest", "otherGuest64", "x"])
def test_every_guest_id_survives(tmp_path: Path, guest: str) -> None:
    assert round_trip(tmp_path / "vm.vmx", VmxFile(config(guest_id=guest))).config.guest_id == guest


def test_the_keys_are_vmwares(tmp_path: Path) -> None:
    path = tmp_path / "vm.vmx"
    VmxFile(config(uuid="564d0001-0203-0405-0607-08090a0b0c0d")).write(path, from_path)
    keys = parse(path.read_text())
    expected = {
        "scsi0.virtualDev": "pvscsi",
        "scsi0:0.fileName": "vm.vmdk",
        "scsi0:40.fileName": "/vmfs/volumes/[other] x/y.vmdk",
        "scsi3.virtualDev": "lsisas1068",
        "ethernet0.virtualDev": "vmxnet3",
        "ethernet0.address": "00:50:56:00:00:01",
        "uuid.bios": "56 4d 00 01 02 03 04 05-06 07 08 09 0a 0b 0c 0d",
        "firmware": "efi",
        "memSize": "4096",
        "numvcpus": "4",
        "guestOS": "windows2019srv-64",
        "sata1:0.deviceType": "cdrom-image",
        "guestinfo.userdata": "a=b\n|",
    }
    assert {key: keys.get(key) for key in expected} == expected


def test_a_value_can_not_add_a_line() -> None:
    text = render({"displayName": 'x"\nmemSize = "1'})
    assert len(text.splitlines()) == 1
    assert parse(text) == {"displayName": 'x"\nmemSize = "1'}


def test_keys_are_found_in_any_case(tmp_path: Path) -> None:
    path = tmp_path / "old.vmx"
    path.write_text('DisplayName = "old"\nMEMSIZE = "128"\nEthernet0.Present = "true"\n')
    read = VmxFile.read(path, to_path, lambda _: None).config
    assert (read.name, read.memory_mib, [nic.type for nic in read.nics]) == ("old", 128, [NicType.E1000])


@pytest.mark.parametrize("line", ['memSize = "lots"', 'firmware = "coreboot"', 'scsi0.virtualDev = "floppy"'])
def test_a_vmx_that_makes_no_sense_is_refused_by_name(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.vmx"
    path.write_text(f'displayName = "bad"\nscsi0.present = "TRUE"\n{line}\n')
    with pytest.raises(Fault, match=r"bad\.vmx") as error:
        VmxFile.read(path, to_path, lambda _: None)
    assert error.value.type == "InvalidVmConfig"


def test_hardware_is_not_extra_config() -> None:
    assert is_own_key("MemSize")
    assert is_own_key("ethernet12.Address")
    assert is_own_key("scsi0:0.landbridge.capacity")
    assert not is_own_key("guestinfo.address")
    assert not is_own_key("ethernet0.features")
