"""The datastore engine `local`: a directory of one host's file system, disks as qcow2 files in it.

Nothing a caller names leaves the directory: paths with `..` are refused, symbolic links are followed only to where
they stay inside, and an image's backing files must be in a datastore too.
"""

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from landbridge.vsan import image
from landbridge.vsan.faults import FileNotFound, InvalidDatastorePath, InvalidDisk, NoDiskSpace

_MARKER = ".landbridge-datastore"
_PATH = re.compile(r"^\[([^\[\]/\n]+)\] ?([^\n\x00]*)$")
_VOLUMES = "/vmfs/volumes/"
# A file system filled to the last byte stops every VM on it, so this much stays free.
_RESERVE = 16 << 20
_LONGEST_CHAIN = 64


class LocalDatastore:
    """A datastore called `name` in the directory `root`, which is made if it is not there."""

    type = "local"

    def __init__(self, name: str, root: Path, *, shared: bool = False) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.root = root.resolve()
        self.shared = shared
        self.uuid = _identity(self.root)

    @property
    def url(self) -> str:
        """vSphere's form of a datastore's address; the same from wherever the directory is seen."""
        return f"ds://{_VOLUMES}{self.uuid}/"

    def usage(self) -> tuple[int, int]:
        """Capacity and free space in bytes."""
        usage = shutil.disk_usage(self.root)
        return usage.total, usage.free

    def resolve(self, path: str) -> Path:
        """The file that `path` (relative, as after the bracket of a datastore path) means; it need not exist.

        InvalidDatastorePath if it would leave the datastore.
        """
        parts = PurePosixPath(path).parts
        if "\x00" in path or path.startswith("/") or ".." in parts or _MARKER in parts:
            raise InvalidDatastorePath(f"[{self.name}] {path} does not stay inside its datastore")
        resolved = (self.root / path).resolve()
        if not resolved.is_relative_to(self.root):
            raise InvalidDatastorePath(f"[{self.name}] {path} is a link that leads out of its datastore")
        return resolved

    def path_of(self, file: Path) -> str:
        """The datastore path, `[name] folder/file`, of a file in this datastore."""
        relative = file.relative_to(self.root)
        return f"[{self.name}] {relative}" if relative.parts else f"[{self.name}]"

    def require_space(self, size: int, what: str) -> None:
        """NoDiskSpace if `size` bytes more do not fit. `what` is for the message."""
        free = self.usage()[1]
        if size > free - _RESERVE:
            raise NoDiskSpace(f"{what} needs {size} bytes, datastore {self.name} has {free} free: make room first")

    def require_capacity(self, size: int, what: str) -> None:
        """NoDiskSpace if `size` bytes could never fit: thin disks may promise more than is free, not more than is."""
        total = self.usage()[0]
        if size > total:
            raise NoDiskSpace(f"{what} has {size} bytes, datastore {self.name} has {total} in all: use a larger one")

    async def create_disk(self, path: Path, capacity: int, *, thin: bool = True) -> None:
        """Create a blank disk of `capacity` bytes; its space is taken now unless `thin`."""
        if thin:
            self.require_capacity(capacity, f"disk {path.name}")
        else:
            self.require_space(capacity, f"disk {path.name}")
        await image.create(path, capacity, thin=thin)


class Datastores:
    """The datastores of a host, by name; from datastore paths to files and back."""

    def __init__(self, datastores: Iterable[LocalDatastore]) -> None:
        self._by_name = {datastore.name: datastore for datastore in datastores}

    def __iter__(self) -> Iterator[LocalDatastore]:
        return iter(self._by_name.values())

    def get(self, name: str) -> LocalDatastore:
        """The datastore called `name`; FileNotFound if the host has none."""
        try:
            return self._by_name[name]
        except KeyError:
            raise FileNotFound(f"this host has no datastore {name!r}") from None

    def locate(self, path: str) -> tuple[LocalDatastore, Path]:
        """The datastore and file of a datastore path, `[datastore1] web01/web01.vmx`."""
        match = _PATH.match(path)
        if match is None:
            raise InvalidDatastorePath(f"{path!r} is not a datastore path like '[datastore1] folder/file'")
        datastore = self.get(match[1])
        return datastore, datastore.resolve(match[2])

    def file(self, path: str) -> Path:
        """The file that a datastore path means; it need not exist."""
        return self.locate(path)[1]

    def holding(self, file: Path) -> LocalDatastore:
        """The datastore in which `file` lies; InvalidDatastorePath if in none."""
        resolved = file.resolve()
        for datastore in self:
            if resolved.is_relative_to(datastore.root):
                return datastore
        raise InvalidDatastorePath(f"{file} is in none of the host's datastores")

    def path_of(self, file: Path) -> str:
        """The datastore path of a file."""
        resolved = file.resolve()
        return self.holding(resolved).path_of(resolved)

    def volume_path(self, file: Path) -> str:
        """The absolute form a VMX file uses for files elsewhere: `/vmfs/volumes/<uuid>/folder/file`."""
        datastore = self.holding(file)
        return f"{_VOLUMES}{datastore.uuid}/{file.resolve().relative_to(datastore.root)}"

    def from_volume_path(self, path: str) -> Path:
        """The file of `/vmfs/volumes/<uuid or name>/folder/file`."""
        volume, _, rest = path.removeprefix(_VOLUMES).partition("/")
        for datastore in self:
            if path.startswith(_VOLUMES) and volume in (datastore.uuid, datastore.name):
                return datastore.resolve(rest)
        raise InvalidDatastorePath(f"{path} is on no datastore of this host")

    def chain(self, top: Path) -> list[Path]:
        """The images a disk consists of, base first, `top` last. InvalidDisk if a link leads out or in circles."""
        chain = [top.resolve()]
        while True:
            header = image.read_header(chain[0])
            if header.backing is None:
                return chain
            if header.backing.startswith("json:") or "\x00" in header.backing:
                raise InvalidDisk(f"{chain[0].name} has a backing file of a kind that is not allowed")
            below = (chain[0].parent / header.backing).resolve()
            self.holding(below)
            if below in chain or len(chain) >= _LONGEST_CHAIN:
                raise InvalidDisk(f"{top.name} is backed by itself or by too many images")
            chain.insert(0, below)


def allocated(files: Iterable[Path]) -> int:
    """Bytes that files really take; those that are gone take none."""
    total = 0
    for file in files:
        try:
            total += file.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def _identity(root: Path) -> str:
    """The datastore's UUID, written into it once, so that every host that sees the directory knows it again."""
    marker = root / _MARKER
    try:
        descriptor = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return str(uuid.UUID(marker.read_text().strip()))
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{uuid.uuid4()}\n")
        file.flush()
        os.fsync(file.fileno())
    return str(uuid.UUID(marker.read_text().strip()))
