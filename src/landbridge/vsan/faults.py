"""What can go wrong with storage, named as vSphere names it."""


class StorageFault(Exception):  # noqa: N818 - vSphere's word for it
    """A storage operation was refused or failed. `type` is the vSphere fault's name."""

    type = "FileFault"


class FileNotFound(StorageFault):
    """A file, directory or datastore that was named is not there."""

    type = "FileNotFound"


class FileAlreadyExists(StorageFault):
    """Something stands where a new file or directory was to be."""

    type = "FileAlreadyExists"


class FileLocked(StorageFault):
    """The file is in use, by a running VM for example."""

    type = "FileLocked"


class InvalidDatastorePath(StorageFault):
    """The path is malformed or leaves its datastore."""

    type = "InvalidDatastorePath"


class NoDiskSpace(StorageFault):
    """The datastore has too little room."""

    type = "NoDiskSpace"


class InvalidDisk(StorageFault):
    """A file is no disk image that we may use."""

    type = "InvalidDiskFormat"
