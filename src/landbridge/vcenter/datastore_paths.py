"""Paths between vCenter's names of datastores and each host's own.

Two hosts may both call their disk `datastore1`; in the inventory the second becomes `datastore1 (1)`, and paths are
rewritten on their way to and from the host.
"""

from dataclasses import dataclass, field

from landbridge.esx.model import VmConfig, VmState


def split_path(path: str) -> tuple[str, str]:
    """`("ds1", "web/web.vmdk")` of `[ds1] web/web.vmdk`; ValueError if it is no datastore path."""
    if not path.startswith("[") or "]" not in path:
        raise ValueError(f"{path!r} is not a datastore path like '[datastore1] folder/file'")
    name, _, rest = path[1:].partition("]")
    return name, rest.strip()


@dataclass
class DatastoreNames:
    """One host's names of datastores, to and from vCenter's. A name neither side knows passes as it is."""

    to_host: dict[str, str] = field(default_factory=dict)
    from_host: dict[str, str] = field(default_factory=dict)

    def add(self, ours: str, hosts: str) -> None:
        """vCenter calls `ours` what the host calls `hosts`."""
        self.to_host[ours] = hosts
        self.from_host[hosts] = ours

    def path_to_host(self, path: str) -> str:
        return _renamed(path, self.to_host)

    def path_from_host(self, path: str) -> str:
        return _renamed(path, self.from_host)

    def config_to_host(self, config: VmConfig) -> VmConfig:
        return _renamed_config(config, self.to_host)

    def config_from_host(self, config: VmConfig) -> VmConfig:
        return _renamed_config(config, self.from_host)

    def state_from_host(self, state: VmState) -> VmState:
        """A VM's state as the host tells it, in vCenter's names."""
        if not _differs(self.from_host):
            return state
        return state.model_copy(
            update={"vmx": self.path_from_host(state.vmx), "config": self.config_from_host(state.config)}
        )


def _differs(names: dict[str, str]) -> bool:
    return any(key != value for key, value in names.items())


def _renamed(path: str, names: dict[str, str]) -> str:
    if not path.startswith("["):
        return path
    name, rest = split_path(path)
    return f"[{names.get(name, name)}] {rest}"


def _renamed_config(config: VmConfig, names: dict[str, str]) -> VmConfig:
    if not _differs(names):
        return config
    copy = config.model_copy(deep=True)
    for disk in copy.disks:
        disk.path = _renamed(disk.path, names)
    for cdrom in copy.cdroms:
        cdrom.iso = _renamed(cdrom.iso, names) if cdrom.iso else None
    for port in copy.serial_ports:
        port.file = _renamed(port.file, names)
    return copy
