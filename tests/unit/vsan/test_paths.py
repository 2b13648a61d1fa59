"""What a datastore lets out and in."""

import struct
from pathlib import Path

import pytest

from landbridge.vsan import image
from landbridge.vsan.faults import FileNotFound, InvalidDatastorePath, InvalidDisk, NoDiskSpace
from landbridge.vsan.local import Datastores, LocalDatastore


@pytest.fixture
def datastore(tmp_path: Path) -> LocalDatastore:
    return LocalDatastore("ds", tmp_path / "ds")


def qcow2(path: Path, backing: str = "", features: int = 0) -> Path:
    """A header as docs/interop/qcow2.txt of QEMU has it."""
    name = backing.encode()
    header = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 104 if name else 0, len(name), 16, 1 << 20)
    header = header.ljust(72, b"\0") + struct.pack(">Q", features)
    path.write_bytes(header.ljust(104, b"\0") + name.ljust(64, b"\0"))
    return path


@pytest.mark.parametrize("path", ["..", "a/../..", "a/../../b", "/etc/passwd", "a\x00b", "a/.landbridge-datastore"])
def test_a_path_never_leaves_its_datastore(datastore: LocalDatastore, path: str) -> None:
    with pytest.raises(InvalidDatastorePath):
        datastore.resolve(path)


def test_links_are_followed_inside_only(datastore: LocalDatastore, tmp_path: Path) -> None:
    (datastore.root / "real").mkdir()
    (datastore.root / "inside").symlink_to("real")
    (datastore.root / "outside").symlink_to(tmp_path)
    assert datastore.resolve("inside/file") == datastore.root / "real" / "file"
    with pytest.raises(InvalidDatastorePath):
        datastore.resolve("outside/file")


def test_a_directory_beside_with_the_same_beginning_is_outside(datastore: LocalDatastore) -> None:
    beside = datastore.root.with_name("ds-other")
    beside.mkdir()
    (datastore.root / "link").symlink_to(beside)
    with pytest.raises(InvalidDatastorePath):
        datastore.resolve("link/file")


def test_a_datastore_path_names_a_file_and_back(datastore: LocalDatastore) -> None:
    stores = Datastores([datastore])
    for path in ("[ds] web/web.vmx", "[ds] a [b] c/d", "[ds] ümlaut/x"):
        assert stores.path_of(stores.file(path)) == path
    assert stores.file("[ds]web/web.vmx") == datastore.root / "web" / "web.vmx"
    with pytest.raises(FileNotFound):
        stores.file("[other] x")
    for wrong in ("web/web.vmx", "[] x", "[ds"):
        with pytest.raises(InvalidDatastorePath):
            stores.file(wrong)


def test_a_datastore_is_the_same_wherever_it_is_seen(datastore: LocalDatastore) -> None:
    again = LocalDatastore("renamed", datastore.root)
    assert again.url == datastore.url
    file = datastore.root / "vm" / "disk.vmdk"
    stores = Datastores([again])
    assert stores.from_volume_path(stores.volume_path(file)) == file
    with pytest.raises(InvalidDatastorePath):
        stores.from_volume_path("/etc/passwd")


def test_a_chain_is_followed_to_its_base(datastore: LocalDatastore) -> None:
    base = qcow2(datastore.root / "base.vmdk")
    middle = qcow2(datastore.root / "middle.vmdk", "base.vmdk")
    top = qcow2(datastore.root / "top.vmdk", "middle.vmdk")
    assert Datastores([datastore]).chain(top) == [base, middle, top]


@pytest.mark.parametrize("backing", ["../../etc/shadow", "/etc/shadow"])
def test_a_backing_file_outside_is_refused(datastore: LocalDatastore, backing: str) -> None:
    with pytest.raises(InvalidDatastorePath):
        Datastores([datastore]).chain(qcow2(datastore.root / "trap.vmdk", backing))


@pytest.mark.parametrize("backing", ["json:{}", "trap.vmdk"])
def test_a_backing_file_that_is_none_is_refused(datastore: LocalDatastore, backing: str) -> None:
    with pytest.raises(InvalidDisk):
        Datastores([datastore]).chain(qcow2(datastore.root / "trap.vmdk", backing))


def test_data_in_another_file_is_refused(datastore: LocalDatastore) -> None:
    with pytest.raises(InvalidDisk, match="another file"):
        image.read_header(qcow2(datastore.root / "trap.vmdk", features=1 << 2))
    trap = datastore.root / "trap2.vmdk"
    trap.write_bytes(b"KDMV".ljust(512, b"\0"))
    with pytest.raises(InvalidDisk, match="another file"):
        image.image_format(trap)


def test_what_is_not_an_image_is_refused(datastore: LocalDatastore) -> None:
    text = datastore.root / "text.vmdk"
    text.write_text("hello")
    with pytest.raises(InvalidDisk):
        Datastores([datastore]).chain(text)


def test_what_does_not_fit_is_refused(datastore: LocalDatastore) -> None:
    capacity, free = datastore.usage()
    datastore.require_capacity(capacity, "a thin disk")
    with pytest.raises(NoDiskSpace):
        datastore.require_capacity(capacity + 1, "a thin disk")
    with pytest.raises(NoDiskSpace):
        datastore.require_space(free + 1, "a copy")
