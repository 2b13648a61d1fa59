"""Whether KVM really runs guests here.

On some nested hypervisors /dev/kvm opens and makes a VM, and the guest then hangs or crawls: 18 s for a boot sector
that plain emulation runs in 0.1 s. So a guest is run, a boot sector that ends QEMU through its debug exit device, and
it must be done in time. The answer holds until the machine boots again, and is kept that long.
"""

import asyncio
import fcntl
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Literal

from landbridge.esx.vmx import replace_file

Accelerator = Literal["kvm", "tcg"]

_SHARED = Path("/run")
_ANSWER, _LOCK = "landbridge-accelerator.json", "landbridge-accelerator.lock"
_KVM = Path("/dev/kvm")
_log = logging.getLogger(__name__)
_PORT = 0xF4
_VALUE = 0x2A
_EXIT_STATUS = (_VALUE << 1) | 1  # as isa-debug-exit says it
_TIMEOUT = 5.0  # seconds; the probe takes 0.3 s where KVM works
# mov dx, 0xf4; mov al, 0x2a; out dx, al; hlt
_BOOT_SECTOR = bytes([0xBA, _PORT, 0x00, 0xB0, _VALUE, 0xEE, 0xF4]).ljust(510, b"\0") + b"\x55\xaa"


async def accelerator(state_dir: Path) -> Accelerator:
    """`kvm` if a guest has really booted with it since the machine started, else `tcg`."""
    if not _KVM.exists():  # noqa: ASYNC240 - a device node, not a disk
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()  # noqa: ASYNC240
    # What is true of the machine, its hosts need to find out but once, where they may write it down.
    directory = _SHARED if os.access(_SHARED, os.W_OK) else state_dir
    remembered = directory / _ANSWER
    with (directory / _LOCK).open("w") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        known = _recall(remembered, boot)
        if known is not None:
            return known
        answer: Accelerator = "kvm" if await boots("kvm") else "tcg"
        if answer == "tcg":
            _log.warning("/dev/kvm is there, but a guest does not boot with it: guests are emulated, and slow")
        replace_file(remembered, json.dumps({"boot_id": boot, "accelerator": answer}).encode())
        return answer


def forget() -> None:
    """Remove what is remembered for the machine; the next agent finds it out again."""
    for name in (_ANSWER, _LOCK):
        (_SHARED / name).unlink(missing_ok=True)


async def boots(accelerator: str, timeout: float = _TIMEOUT) -> bool:
    """Whether a guest boots with this accelerator and does what its code says."""
    with tempfile.TemporaryDirectory(prefix="lbp") as directory:
        disk = Path(directory) / "probe.img"
        disk.write_bytes(_BOOT_SECTOR.ljust(1 << 20, b"\0"))
        process = await asyncio.create_subprocess_exec(
            *("qemu-system-x86_64", "-machine", f"pc,accel={accelerator}", "-m", "16", "-nodefaults"),
            *("-no-user-config", "-display", "none", "-no-reboot"),
            *("-device", f"isa-debug-exit,iobase={_PORT:#x},iosize=4"),
            *("-drive", f"file={disk},format=raw,if=ide"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            status = await asyncio.wait_for(process.wait(), timeout)
        except TimeoutError:
            return False
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return status == _EXIT_STATUS


def _recall(path: Path, boot: str) -> Accelerator | None:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if known.get("boot_id") == boot and known.get("accelerator") in ("kvm", "tcg"):
        return "kvm" if known["accelerator"] == "kvm" else "tcg"
    return None
