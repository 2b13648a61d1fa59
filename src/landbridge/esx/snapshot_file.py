"""VMSD files: the tree of a VM's snapshots, under VMware's own keys, beside the VMX file.

What a snapshot froze, hardware and disk files, stands in `<name>-Snapshot<n>.vmsn`, in the form of a VMX file; its
memory, if any, in `<name>-Snapshot<n>.vmem`.
"""

from collections.abc import Sequence
from pathlib import Path

from landbridge.esx.faults import Fault
from landbridge.esx.model import PowerState, Snapshot
from landbridge.esx.vmx import Keys, parse, render, replace_file


def vmsd_file(vmx: Path) -> Path:
    return vmx.with_suffix(".vmsd")


def vmsn_file(vmx: Path, snapshot: int) -> Path:
    """The hardware and disks that a snapshot froze."""
    return vmx.with_name(f"{vmx.stem}-Snapshot{snapshot}.vmsn")


def memory_file(vmx: Path, snapshot: int) -> Path:
    """The memory that a snapshot froze."""
    return vmx.with_name(f"{vmx.stem}-Snapshot{snapshot}.vmem")


def read(vmx: Path) -> tuple[list[Snapshot], int | None]:
    """The snapshots of the VM with this VMX file, and which is the current one. None if there is no VMSD file.

    Fault `InvalidVmConfig` if the file makes no sense.
    """
    try:
        keys = parse(vmsd_file(vmx).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [], None
    except (OSError, UnicodeDecodeError) as error:
        raise Fault("InvalidVmConfig", f"{vmsd_file(vmx).name} can not be read: {error}") from error
    try:
        snapshots = [_read(keys, number) for number in range(int(keys.get("snapshot.numSnapshots", "0")))]
        current = int(keys.get("snapshot.current", "0"))
    except (KeyError, ValueError) as error:
        raise Fault("InvalidVmConfig", f"{vmsd_file(vmx).name} makes no sense: {error}") from error
    return snapshots, current or None


def _read(keys: Keys, number: int) -> Snapshot:
    def get(key: str, default: str = "") -> str:
        return keys.get(f"snapshot{number}.{key}", default)

    # Microseconds in two halves of 32 bits, the lower one signed.
    microseconds = (int(get("createTimeHigh", "0")) << 32) + (int(get("createTimeLow", "0")) & 0xFFFFFFFF)
    return Snapshot(
        id=int(keys[f"snapshot{number}.uid"]),
        name=get("displayName"),
        description=get("description"),
        created=microseconds / 1e6,
        parent=int(get("parent", "0")) or None,
        power_state=PowerState(get("landbridge.powerState", PowerState.OFF.value)),
        memory=get("type", "0") == "1",
        quiesced=get("landbridge.quiesced") == "TRUE",
    )


def write(vmx: Path, snapshots: Sequence[Snapshot], current: int | None) -> None:
    """Replace the VMSD file; without snapshots there is none, but the last number given stays known by the files."""
    path = vmsd_file(vmx)
    if not snapshots:
        path.unlink(missing_ok=True)
        return
    keys: Keys = {
        ".encoding": "UTF-8",
        "snapshot.lastUID": str(max(snapshot.id for snapshot in snapshots)),
        "snapshot.current": str(current or 0),
        "snapshot.numSnapshots": str(len(snapshots)),
    }
    for number, snapshot in enumerate(snapshots):
        microseconds = round(snapshot.created * 1e6)
        low = microseconds & 0xFFFFFFFF
        values = {
            "uid": str(snapshot.id),
            "filename": vmsn_file(vmx, snapshot.id).name,
            "parent": str(snapshot.parent or 0),
            "displayName": snapshot.name,
            "description": snapshot.description,
            "createTimeHigh": str(microseconds >> 32),
            "createTimeLow": str(low - (1 << 32) if low >= 1 << 31 else low),
            "type": "1" if snapshot.memory else "0",
            "landbridge.powerState": snapshot.power_state.value,
            "landbridge.quiesced": "TRUE" if snapshot.quiesced else "FALSE",
        }
        keys |= {f"snapshot{number}.{key}": value for key, value in values.items()}
    replace_file(path, render(keys).encode())
