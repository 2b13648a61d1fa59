"""The virtual hardware, asked from the QEMU that runs it."""

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from landbridge.esx import capabilities
from landbridge.esx.events import EventLog
from landbridge.esx.faults import Fault
from landbridge.esx.host import Host
from landbridge.esx.inventory import Inventory
from landbridge.esx.model import (
    Cdrom,
    Controller,
    ControllerType,
    CreateVm,
    Disk,
    Firmware,
    Nic,
    NicType,
    PowerOperation,
    ReconfigureVm,
    SerialPort,
)
from landbridge.esx.reconfigure import reconfigure
from landbridge.esx.settings import Management, Settings, VmotionListener
from landbridge.esx.vm import VirtualMachine
from landbridge.vsan.faults import NoDiskSpace
from landbridge.vsan.local import Datastores, LocalDatastore

from .hosts import MIB, read, vm_config

# PCI vendor and device ids, as VMware's hardware has them.
IDS = {
    ControllerType.PVSCSI: (0x15AD, 0x07C0),
    ControllerType.LSI_LOGIC: (0x1000, 0x0012),
    ControllerType.LSI_LOGIC_SAS: (0x1000, 0x0054),
    ControllerType.AHCI: (0x8086, 0x2922),
    ControllerType.NVME: (0x1B36, 0x0010),
    NicType.VMXNET3: (0x15AD, 0x07B0),
    NicType.E1000: (0x8086, 0x100E),
    NicType.E1000E: (0x8086, 0x10D3),
}
SVGA = (0x15AD, 0x0405)
CONTROLLERS = [
    Controller(key=1000, type=ControllerType.PVSCSI, bus=0),
    Controller(key=1001, type=ControllerType.LSI_LOGIC, bus=1),
    Controller(key=1002, type=ControllerType.LSI_LOGIC_SAS, bus=2),
    Controller(key=15000, type=ControllerType.AHCI, bus=0),
    Controller(key=31000, type=ControllerType.NVME, bus=0),
    Controller(key=200, type=ControllerType.IDE, bus=0),
]
NICS = [Nic(key=4000), Nic(key=4001, type=NicType.E1000), Nic(key=4002, type=NicType.E1000E)]


@pytest.fixture(scope="module")
async def inventory(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Inventory]:
    """The VMs of a host without an agent around it."""
    base = tmp_path_factory.mktemp("hardware")
    run_dir = Path(tempfile.mkdtemp(prefix="lbt", dir="/tmp"))
    settings = Settings(
        name="esx",
        site="s",
        state_dir=base / "state",
        run_dir=run_dir,
        pki_dir=base,
        management=Management(address="127.0.0.1"),
        vmotion=VmotionListener(address="127.0.0.1"),
    )
    datastores = Datastores([LocalDatastore("datastore1", base / "datastore1")])
    host = Host(settings, datastores, await capabilities.ask("tcg"), "tcg", None, EventLog())
    inventory = Inventory(host)
    await inventory.start()
    yield inventory
    for vm in inventory.vms:
        await vm.kill()
    await inventory.close()
    shutil.rmtree(run_dir)


@contextlib.asynccontextmanager
async def running(inventory: Inventory, name: str, **changes: Any) -> AsyncIterator[VirtualMachine]:
    """A VM that runs inside the `with`."""
    vm = await inventory.create(CreateVm(config=vm_config(name, **changes), datastore="datastore1"))
    await vm.power(PowerOperation.ON)
    try:
        yield vm
    finally:
        await vm.kill()


async def pci_devices(vm: VirtualMachine) -> dict[str, tuple[int, int]]:
    """Vendor and device id of every PCI device by its id, behind bridges too."""
    found: dict[str, tuple[int, int]] = {}

    def collect(devices: list[dict[str, Any]]) -> None:
        for device in devices:
            found[device["qdev_id"]] = (device["id"]["vendor"], device["id"]["device"])
            collect(device.get("pci_bridge", {}).get("devices", []))

    for bus in await vm.qmp.execute("query-pci"):
        collect(bus["devices"])
    return found


@pytest.mark.parametrize("machine", ["q35", "pc"])
async def test_every_controller_and_nic_is_the_device_its_name_says(inventory: Inventory, machine: str) -> None:
    disks = [
        Disk(key=2000 + number, controller=one.key, unit=0, capacity=16 * MIB) for number, one in enumerate(CONTROLLERS)
    ]
    cdroms = [Cdrom(key=3001, controller=200, unit=1), Cdrom(key=3002, controller=15000, unit=1)]
    config = {"machine": machine, "controllers": CONTROLLERS, "disks": disks, "cdroms": cdroms, "nics": NICS}
    async with running(inventory, f"all-{machine}", serial_ports=[SerialPort(key=9000)], **config) as vm:
        devices = await pci_devices(vm)
        for controller in CONTROLLERS:
            if controller.type is not ControllerType.IDE:
                assert devices[f"controller-{controller.key}"] == IDS[controller.type]
        assert devices["svga"] == SVGA
        # Behind a root port a NIC appears when the firmware has numbered the buses; its device is there at once.
        for nic in NICS:
            kind = await vm.qmp.execute("qom-get", path=f"/machine/peripheral/nic-{nic.key}", property="type")
            assert kind == nic.type.value
        assert set(await vm.device_nodes()) == {f"disk-{disk.key}" for disk in disks}
        assert await vm.disk_node(2000) == "disk-2000-0"
        drives = {block["qdev"] for block in await vm.qmp.execute("query-block") if block.get("removable")}
        assert drives == {"cdrom-3001", "cdrom-3002"}
        assert (vm.directory / "serial.log").exists()
        assert vm.process.vnc.is_socket()
        assert vm.config.machine in inventory.host.capabilities.machine_types


async def test_the_guest_reads_vmware_in_smbios(inventory: Inventory) -> None:
    async with running(inventory, "smbios") as vm:
        command = read(f"/proc/{vm.process.pid}/cmdline").decode().split("\0")
        uuids = await vm.qmp.execute("query-uuid")
        assert uuids["UUID"] == vm.config.uuid
        assert any("manufacturer=VMware,, Inc." in word for word in command)
        assert f"serial=VMware-{vm.config.uuid[:2]}" in " ".join(command)


async def test_disks_and_nics_come_and_go_while_the_vm_runs(inventory: Inventory) -> None:
    async with running(inventory, "hot") as vm:
        added = vm.config.model_copy(
            update={
                "disks": [*vm.config.disks, Disk(key=2001, controller=1000, unit=1, capacity=32 * MIB)],
                "nics": [*vm.config.nics, Nic(key=4001, type=NicType.E1000E)],
            }
        )
        await reconfigure(vm, ReconfigureVm(config=added, version=vm.version))
        assert await vm.disk_node(2001) == "disk-2001-0"
        second = vm.directory / "hot_1.vmdk"
        assert second.exists()
        assert await vm.qmp.execute("qom-get", path="/machine/peripheral/nic-4001", property="type") == "e1000e"

        without = vm.config.model_copy(update={"disks": vm.config.disks[:1]})
        await reconfigure(vm, ReconfigureVm(config=without, version=vm.version, destroy_disks=[2001]))
        assert set(await vm.device_nodes()) == {"disk-2000"}
        assert not second.exists()
        nodes = await vm.qmp.execute("query-named-block-nodes", flat=True)
        assert not [node for node in nodes if "2001" in node["node-name"]]


async def test_a_disk_grows_under_a_running_vm_and_never_shrinks(inventory: Inventory) -> None:
    async with running(inventory, "growing") as vm:
        larger = vm.config.disks[0].model_copy(update={"capacity": 128 * MIB})
        grown = vm.config.model_copy(update={"disks": [larger]})
        await reconfigure(vm, ReconfigureVm(config=grown, version=vm.version))
        blocks = await vm.qmp.execute("query-block")
        assert blocks[0]["inserted"]["image"]["virtual-size"] == 128 * MIB
        smaller = vm.config.model_copy(update={"disks": [larger.model_copy(update={"capacity": 64 * MIB})]})
        with pytest.raises(Fault, match="can not shrink"):
            await reconfigure(vm, ReconfigureVm(config=smaller, version=vm.version))


async def test_a_cd_is_changed_while_the_vm_runs(inventory: Inventory) -> None:
    for name in ("one.iso", "two.iso"):
        inventory.host.datastores.file(f"[datastore1] {name}").write_bytes(bytes(MIB))
    changes = {
        "controllers": CONTROLLERS[3:4],
        "disks": [],
        "cdroms": [Cdrom(key=16000, controller=15000, unit=0, iso="[datastore1] one.iso")],
    }
    async with running(inventory, "cd", **changes) as vm:

        async def medium() -> str | None:
            blocks = await vm.qmp.execute("query-block")
            drive = next(block for block in blocks if block["qdev"] == "cdrom-16000")
            return Path(drive["inserted"]["file"]).name if "inserted" in drive else None

        async def insert(iso: str | None) -> None:
            cdrom = vm.config.cdroms[0].model_copy(update={"iso": iso})
            config = vm.config.model_copy(update={"cdroms": [cdrom]})
            await reconfigure(vm, ReconfigureVm(config=config, version=vm.version))

        assert await medium() == "one.iso"
        await insert("[datastore1] two.iso")
        assert await medium() == "two.iso"
        await insert(None)
        assert await medium() is None
        with pytest.raises(Fault) as error:
            await insert("[datastore1] three.iso")
        assert error.value.type == "FileNotFound"


async def test_what_a_running_vm_can_not_change_is_refused_and_nothing_changes(inventory: Inventory) -> None:
    async with running(inventory, "stubborn") as vm:
        before = vm.config
        for changes in (
            {"memory_mib": 64},
            {"cpus": 2},
            {"firmware": Firmware.EFI},
            {"controllers": [*before.controllers, CONTROLLERS[3]]},
            {"nics": [before.nics[0].model_copy(update={"type": NicType.E1000})]},
        ):
            config = before.model_copy(update=changes)
            with pytest.raises(Fault) as error:
                await reconfigure(vm, ReconfigureVm(config=config, version=vm.version))
            assert error.value.type == "InvalidPowerState", changes
        assert vm.config == before
        assert VirtualMachine.load(inventory.host, vm.vmx).config == before


async def test_a_failed_change_leaves_no_disk_behind(inventory: Inventory) -> None:
    async with running(inventory, "halfway") as vm:
        config = vm.config.model_copy(
            update={
                "disks": [
                    *vm.config.disks,
                    Disk(key=2001, controller=1000, unit=1, capacity=32 * MIB),
                    Disk(key=2002, controller=1000, unit=2, capacity=1 << 60),
                ]
            }
        )
        with pytest.raises(NoDiskSpace):
            await reconfigure(vm, ReconfigureVm(config=config, version=vm.version))
        assert sorted(path.name for path in vm.directory.glob("*.vmdk")) == ["halfway.vmdk"]
        assert set(await vm.device_nodes()) == {"disk-2000"}


async def test_a_change_from_an_old_version_is_refused(inventory: Inventory) -> None:
    vm = await inventory.create(CreateVm(config=vm_config("raced"), datastore="datastore1"))
    version = vm.version
    await reconfigure(vm, ReconfigureVm(config=vm.config.model_copy(update={"annotation": "first"}), version=version))
    with pytest.raises(Fault) as error:
        await reconfigure(vm, ReconfigureVm(config=vm.config.model_copy(update={"memory_mib": 64}), version=version))
    assert error.value.type == "ConcurrentAccess"
    assert vm.config.annotation == "first"
    assert vm.config.memory_mib == 32


async def test_a_vm_whose_nvme_can_not_be_suspended_goes_on(inventory: Inventory) -> None:
    changes = {"controllers": CONTROLLERS[4:5], "disks": [Disk(key=2000, controller=31000, unit=0, capacity=MIB)]}
    async with running(inventory, "nvme", **changes) as vm:
        with pytest.raises(Fault) as error:
            await vm.power(PowerOperation.SUSPEND)
        assert error.value.type == "NotSupported"
        assert (await vm.qmp.execute("query-status"))["running"]
        assert not list(vm.directory.glob("*.vmss"))
