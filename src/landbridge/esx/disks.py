"""Making a VM's disks: blank, copied from a file in a datastore, or taken as they are."""

import asyncio
import shutil
from pathlib import Path

from landbridge.esx.faults import Fault
from landbridge.esx.layout import new_disk_file
from landbridge.esx.model import DatastorePath, Disk
from landbridge.vsan import image
from landbridge.vsan.local import Datastores, allocated


class NewDisks:
    """Disks being made for one VM. `undo` removes the files made so far."""

    def __init__(self, datastores: Datastores, home: Path, stem: str) -> None:
        self._datastores = datastores
        self._home = home
        self._stem = stem
        self._taken: set[Path] = set()
        self._made: list[Path] = []

    def place(self, disk: Disk) -> Path:
        """Where a new disk goes: where it says, or into the home under the next free name."""
        if not disk.path:
            return new_disk_file(self._home, self._stem, self._taken)
        path = self._datastores.file(disk.path)
        if path.exists() or path in self._taken:
            raise Fault("FileAlreadyExists", f"{disk.path} is there already; attach it as an existing disk")
        if not path.parent.is_dir():
            raise Fault("FileNotFound", f"the directory of {disk.path} does not exist")
        self._taken.add(path)
        return path

    async def blank(self, disk: Disk) -> Disk:
        """A blank disk."""
        path = self.place(disk)
        self._made.append(path)
        await self._datastores.holding(path.parent).create_disk(path, disk.capacity, thin=disk.thin)
        return self._at(disk, path)

    async def copy(self, disk: Disk, source: DatastorePath) -> Disk:
        """A copy of the disk in file `source` (qcow2, VMDK in one file, or raw), grown if `disk` is larger."""
        origin = self._datastores.file(source)
        kind = await asyncio.to_thread(image.image_format, origin)
        if kind == "qcow2":
            layers = await asyncio.to_thread(self._datastores.chain, origin)
            size = (await asyncio.to_thread(image.read_header, origin)).capacity
        else:
            layers = [origin]
            size = await image.virtual_size(origin, kind)
        if size > disk.capacity:
            raise Fault(
                "InvalidDeviceSpec",
                f"disk {disk.key} has {disk.capacity} bytes, its source {source} {size}: make it as large at least",
                key=str(disk.key),
            )
        path = self.place(disk)
        datastore = self._datastores.holding(path.parent)
        datastore.require_capacity(disk.capacity, f"disk {path.name}")
        datastore.require_space(allocated(layers) if disk.thin else disk.capacity, f"the copy of {source}")
        self._made.append(path)
        await image.convert(origin, path, thin=disk.thin, source_format=kind)
        if size < disk.capacity:
            await image.resize(path, disk.capacity)
        return self._at(disk, path)

    async def existing(self, disk: Disk) -> Disk:
        """A disk whose file is there; its capacity is what the file has."""
        if not disk.path:
            raise Fault("InvalidDeviceSpec", f"disk {disk.key} is to exist, but has no path", key=str(disk.key))
        path = self._datastores.file(disk.path)
        await asyncio.to_thread(self._datastores.chain, path)
        header = await asyncio.to_thread(image.read_header, path)
        return disk.model_copy(update={"capacity": header.capacity})

    def undo(self) -> None:
        """Remove what was made."""
        for path in self._made:
            path.unlink(missing_ok=True)

    def remove_directory(self) -> None:
        """Remove the home, which was made for this VM, with what else is in it."""
        shutil.rmtree(self._home, ignore_errors=True)

    def _at(self, disk: Disk, path: Path) -> Disk:
        return disk.model_copy(update={"path": self._datastores.path_of(path)})
