"""VMs as files in datastores: laid out, registered from disk alone, deleted; and what must not get in or out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest

from landbridge.esx.client import HostError
from landbridge.esx.model import CreateVm, Disk, Firmware, PowerOperation, PowerState

from .hosts import MIB, TestHost, tool, vm_config


async def refused(call: Awaitable[object], fault: str) -> HostError:
    with pytest.raises(HostError) as error:
        await call
    assert error.value.type == fault, error.value.message
    return error.value


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def content(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_a_vm_is_laid_out_as_in_vsphere_and_destroyed_without_a_trace(host: TestHost) -> None:
    two = [Disk(key=2000 + unit, controller=1000, unit=unit, capacity=MIB) for unit in (0, 1)]
    vm = await host.create("web01", disks=two)
    assert vm.vmx == "[datastore1] web01/web01.vmx"
    assert [disk.path for disk in vm.config.disks] == [
        "[datastore1] web01/web01.vmdk",
        "[datastore1] web01/web01_1.vmdk",
    ]
    assert files(host.datastore / "web01") == ["web01.vmdk", "web01.vmx", "web01_1.vmdk"]
    await host.client.power(vm.config.instance_uuid, PowerOperation.ON)
    await host.client.power(vm.config.instance_uuid, PowerOperation.OFF)
    await host.client.destroy_vm(vm.config.instance_uuid)
    assert not (host.datastore / "web01").exists()
    await refused(host.client.vm(vm.config.instance_uuid), "ManagedObjectNotFound")


async def test_destroying_a_vm_spares_files_that_are_not_its_own(host: TestHost) -> None:
    vm = await host.create("guestbook")
    (host.datastore / "guestbook" / "notes.txt").write_text("keep")
    await host.client.destroy_vm(vm.config.instance_uuid)
    assert files(host.datastore / "guestbook") == ["notes.txt"]


async def test_a_second_vm_of_the_same_name_gets_a_directory_of_its_own(host: TestHost) -> None:
    first, second = await host.create("twin"), await host.create("twin")
    assert (first.vmx, second.vmx) == ("[datastore1] twin/twin.vmx", "[datastore1] twin_1/twin.vmx")


async def test_a_vm_is_registered_from_disk_alone(host: TestHost) -> None:
    vm = await host.create("wanderer", annotation='says "hi"', extra_config={"guestinfo.role": "db | cache"})
    await host.client.unregister_vm(vm.config.instance_uuid)
    await refused(host.client.vm(vm.config.instance_uuid), "ManagedObjectNotFound")
    (host.datastore / "wanderer").rename(host.datastore / "elsewhere")
    listed = await host.client.list_files("datastore1", "elsewhere")
    vmx = next(file.path for file in listed if file.path.endswith(".vmx"))
    again = await host.client.register_vm(vmx)
    moved = vm.config.disks[0].model_copy(update={"path": "[datastore1] elsewhere/wanderer.vmdk"})
    assert again.config == vm.config.model_copy(update={"disks": [moved]})
    on = await host.client.power(vm.config.instance_uuid, PowerOperation.ON)
    assert on.power_state is PowerState.ON
    await refused(host.client.register_vm(vmx), "AlreadyExists")


async def test_a_vmware_vmx_file_is_understood_and_its_unknown_keys_kept(host: TestHost) -> None:
    home = host.datastore / "legacy"
    home.mkdir()
    tool("qemu-img", "create", "-q", "-f", "qcow2", home / "legacy.vmdk", "32M")
    (home / "legacy.vmx").write_text(
        '.encoding = "UTF-8"\nconfig.version = "8"\nvirtualHW.version = "13"\ndisplayName = "legacy"\n'
        'guestOS = "debian10-64"\nmemsize = "64"\nscsi0.present = "TRUE"\nscsi0.virtualDev = "lsisas1068"\n'
        'scsi0:0.present = "TRUE"\nscsi0:0.fileName = "legacy.vmdk"\nide0:0.present = "TRUE"\n'
        'ide0:0.deviceType = "cdrom-raw"\nethernet0.present = "TRUE"\nethernet0.virtualDev = "e1000e"\n'
        'ethernet0.address = "00:0C:29:AA:BB:CC"\nuuid.bios = "56 4d 00 01 02 03 04 05-06 07 08 09 0a 0b 0c 0d"\n'
        'tools.syncTime = "TRUE"\n'
    )
    vm = await host.client.register_vm("[datastore1] legacy/legacy.vmx")
    assert vm.config.uuid == "564d0001-0203-0405-0607-08090a0b0c0d"
    assert vm.config.hardware_version == "vmx-13"
    assert vm.config.guest_id == "debian10_64Guest"
    assert vm.config.disks[0].capacity == 32 * MIB
    assert vm.config.nics[0].mac == "00:0c:29:aa:bb:cc"
    assert vm.config.extra_config == {"tools.syncTime": "TRUE"}
    assert vm.config.machine.startswith("pc-q35-")
    await host.client.power(vm.config.instance_uuid, PowerOperation.ON)
    assert 'tools.syncTime = "TRUE"' in (home / "legacy.vmx").read_text()


@pytest.mark.parametrize("name", ["a/b", "../../etc", "ärger 漢字", ".hidden", 'quote " | bar', "%2fescaped", "a,b=c"])
async def test_a_name_is_kept_whatever_the_directory_is_called(host: TestHost, name: str) -> None:
    vm = await host.create_running(name)
    assert vm.config.name == name
    home = (host.datastore / vm.vmx.removeprefix("[datastore1] ")).parent
    assert home.resolve().parent == host.datastore
    listed = await host.client.list_files("datastore1", home.name)
    assert vm.vmx in [file.path for file in listed]
    await host.client.power(vm.config.instance_uuid, PowerOperation.OFF)
    await host.client.destroy_vm(vm.config.instance_uuid)
    assert not home.exists()


@pytest.mark.parametrize("name", ["new\nline", "tab\t", "\x00", "\x1b[31m", "  "])
async def test_a_name_with_control_characters_is_refused(host: TestHost, name: str) -> None:
    before = files(host.datastore)
    await refused(host.create(name), "InvalidName")
    assert files(host.datastore) == before


@pytest.mark.parametrize(
    "path",
    ["[datastore1] ../secret.vmdk", "[datastore1] a/../../secret.vmdk", "[datastore1] /etc/passwd", "[nowhere] a.vmdk"],
)
async def test_a_path_that_climbs_out_is_refused(host: TestHost, path: str) -> None:
    fault = "FileNotFound" if "nowhere" in path else "InvalidDatastorePath"
    disk = Disk(key=2000, controller=1000, unit=0, capacity=MIB, path=path)
    config = vm_config("climber", disks=[disk])
    before = files(host.datastore)
    for existing in ([], [2000]):
        request = CreateVm(config=config, datastore="datastore1", existing_disks=existing)
        await refused(host.client.create_vm(request), fault)
    await refused(host.client.register_vm(path), fault)
    assert files(host.datastore) == before


async def test_a_link_that_leads_out_is_not_followed(host: TestHost, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("secret")
    (host.datastore / "link").symlink_to(secret)
    await refused(host.client.list_files("datastore1", "link"), "InvalidDatastorePath")
    await refused(host.client.upload("datastore1", "link/file", content(b"x")), "InvalidDatastorePath")
    await refused(host.client.delete_file("datastore1", "link/file"), "InvalidDatastorePath")
    assert (secret / "file").read_text() == "secret"
    (host.datastore / "link").unlink()


async def test_a_disk_whose_header_names_a_file_outside_is_not_used(host: TestHost, tmp_path: Path) -> None:
    secret = tmp_path / "secret.raw"
    secret.write_bytes(b"secret".ljust(MIB, b"\0"))
    trap = host.datastore / "trap.vmdk"
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, trap)
    disk = Disk(key=2000, controller=1000, unit=0, capacity=MIB)
    taken = vm_config("trapped", disks=[disk.model_copy(update={"path": "[datastore1] trap.vmdk"})])
    await refused(
        host.client.create_vm(CreateVm(config=taken, datastore="datastore1", existing_disks=[2000])),
        "InvalidDatastorePath",
    )
    copied = CreateVm(
        config=vm_config("copied", disks=[disk]), datastore="datastore1", disk_sources={2000: "[datastore1] trap.vmdk"}
    )
    await refused(host.client.create_vm(copied), "InvalidDatastorePath")
    assert not (host.datastore / "trapped").exists()
    assert not (host.datastore / "copied").exists()
    trap.unlink()


async def test_a_disk_that_does_not_fit_is_refused_and_nothing_is_left(host: TestHost) -> None:
    free = (await host.client.datastores())[0].free
    thick = Disk(key=2000, controller=1000, unit=0, capacity=(free // 512 + 1) * 512, thin=False)
    await refused(host.create("too fat", disks=[thick]), "NoDiskSpace")
    thin = Disk(key=2000, controller=1000, unit=0, capacity=1 << 60)
    await refused(host.create("too fat", disks=[thin]), "NoDiskSpace")
    assert not (host.datastore / "too fat").exists()


async def test_an_uploaded_disk_is_copied_into_a_new_vm_and_grown(host: TestHost, tmp_path: Path) -> None:
    source = tmp_path / "template.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", source, "8M")
    tool("qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 1M 2M", source)
    await host.client.make_directory("datastore1", "templates")
    await host.client.upload("datastore1", "templates/small.vmdk", source)
    uploaded = host.datastore / "templates" / "small.vmdk"
    assert uploaded.read_bytes() == source.read_bytes()
    disk = Disk(key=2000, controller=1000, unit=0, capacity=64 * MIB)
    request = CreateVm(
        config=vm_config("stamped", disks=[disk]),
        datastore="datastore1",
        disk_sources={2000: "[datastore1] templates/small.vmdk"},
    )
    await host.client.create_vm(request)
    disk_file = host.datastore / "stamped" / "stamped.vmdk"
    answer = tool("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0x5a 1M 2M", "-c", "length", disk_file)
    assert "verification failed" not in answer
    assert "64 MiB" in answer


async def test_an_upload_that_breaks_off_leaves_the_old_file(host: TestHost) -> None:
    await host.client.upload("datastore1", "file.iso", content(b"old"))

    async def broken() -> AsyncIterator[bytes]:
        yield b"new" * 1000
        raise ConnectionError

    with pytest.raises((ConnectionError, Exception)):
        await host.client.upload("datastore1", "file.iso", broken())
    for _ in range(100):
        if not list(host.datastore.glob(".*.upload")):
            break
        await asyncio.sleep(0.05)
    assert (host.datastore / "file.iso").read_bytes() == b"old"
    assert not list(host.datastore.glob(".*.upload"))
    assert b"".join([chunk async for chunk in host.client.download("datastore1", "file.iso")]) == b"old"
    await host.client.delete_file("datastore1", "file.iso")
    assert not (host.datastore / "file.iso").exists()


async def test_zeroes_of_an_upload_take_no_space(host: TestHost) -> None:
    await host.client.upload("datastore1", "sparse.raw", content(*[bytes(MIB)] * 16, b"end"))
    status = (host.datastore / "sparse.raw").stat()
    assert status.st_size == 16 * MIB + 3
    assert status.st_blocks * 512 < MIB


async def test_files_of_vms_are_not_deleted_or_replaced_behind_their_back(host: TestHost) -> None:
    vm = await host.create_running("guarded")
    for path in ("guarded", "guarded/guarded.vmdk", "guarded/guarded.vmx"):
        await refused(host.client.delete_file("datastore1", path), "FileLocked")
    await refused(host.client.upload("datastore1", "guarded/guarded.vmdk", content(b"x")), "FileLocked")
    with pytest.raises(HostError) as error:
        async for _ in host.client.download("datastore1", "guarded/guarded.vmdk"):
            pass
    assert error.value.type == "FileLocked"
    await refused(host.client.delete_file("datastore1", ""), "NotSupported")
    assert (await host.client.vm(vm.config.instance_uuid)).power_state is PowerState.ON


async def test_a_vm_whose_files_are_gone_is_shown_as_invalid(private_host: TestHost) -> None:
    vm = await private_host.create("lost")
    good = await private_host.create("found")
    (private_host.datastore / "lost" / "lost.vmx").unlink()
    await private_host.restart()
    states = {state.config.name: state for state in await private_host.client.vms()}
    assert states["lost"].invalid
    assert "lost.vmx" in states["lost"].invalid
    assert states["found"].invalid is None
    await refused(private_host.client.power(vm.config.instance_uuid, PowerOperation.ON), "InvalidState")
    await private_host.client.unregister_vm(vm.config.instance_uuid)
    await private_host.client.power(good.config.instance_uuid, PowerOperation.ON)


async def test_a_wrong_request_says_what_is_wrong(host: TestHost) -> None:
    good = vm_config("never")
    controller, disk = good.controllers[0], good.disks[0]
    wrong: dict[str, dict[str, Any]] = {
        "no controller": {"controllers": []},
        "key twice": {"disks": [disk, disk]},
        "unit taken": {"disks": [disk, disk.model_copy(update={"key": 2001})]},
        "unit of the controller": {"disks": [disk.model_copy(update={"unit": 7})]},
        "bus taken": {"controllers": [controller, controller.model_copy(update={"key": 1001})]},
        "odd size": {"disks": [disk.model_copy(update={"capacity": 1000})]},
    }
    for what, changes in wrong.items():
        error = await refused(host.create("never", **changes), "InvalidDeviceSpec")
        assert "device" in error.message, what
    await refused(host.create("never", machine="pc-q35-99.9"), "InvalidVmConfig")
    await refused(host.create("never", cpu_model="EPYC-Imaginary"), "CPUIncompatible")
    await refused(host.create("never", extra_config={"memSize": "1"}), "InvalidArgument")
    request = CreateVm(config=good, datastore="nowhere")
    await refused(host.client.create_vm(request), "FileNotFound")
    assert not (host.datastore / "never").exists()


@pytest.mark.parametrize("key", ["checkpoint.vmState", "nvram"])
async def test_a_vmx_file_can_not_reach_files_outside(host: TestHost, tmp_path: Path, key: str) -> None:
    outside = tmp_path / "precious"
    outside.write_text("precious")
    vm = await host.create(f"reaching {key}", firmware=Firmware.EFI)
    await host.client.unregister_vm(vm.config.instance_uuid)
    vmx = host.datastore / f"reaching {key}" / f"reaching {key}.vmx"
    vmx.write_text(f'{vmx.read_text()}{key} = "{outside}"\n')
    await host.client.register_vm(vm.vmx)
    for operation in (PowerOperation.ON, PowerOperation.OFF):
        # Refused, or a file of that name inside the datastore is meant.
        with contextlib.suppress(HostError):
            await host.client.power(vm.config.instance_uuid, operation)
    assert outside.read_text() == "precious"
