"""A guest's memory in a file: written when it is suspended or a snapshot wants its memory, read when it resumes.

QEMU writes its migration stream into a file that we open and hand over, so that it needs no right to open any. The
guest stands still meanwhile. `fd:` is what QEMU 7.2 has for files; the named `file:` came with 8.2.
"""

import asyncio
import os
from pathlib import Path

from qemu.qmp import EventListener

from landbridge.esx.faults import Fault
from landbridge.esx.qmp import Qmp, QmpError

_FD = "memory-image"


async def save(qmp: Qmp, path: Path, timeout: float) -> None:
    """Write the memory of a stopped guest to `path`, and sync it. The file is not removed on failure.

    Fault `NotSupported` if a device's state can not be saved (QEMU's NVMe), `GenericVmConfigFault` on other errors,
    TimeoutError after `timeout` seconds. The guest can be continued after a failure.
    """
    descriptor = await asyncio.to_thread(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        await _prepare(qmp)
        await qmp.send_fd(descriptor, _FD)
        with qmp.listener("MIGRATION") as events:
            try:
                await qmp.execute("migrate", uri=f"fd:{_FD}")
            except QmpError as error:
                raise Fault("NotSupported", f"the VM's memory can not be saved: {error.description}") from error
            await _finished(qmp, events, timeout)
        await asyncio.to_thread(os.fsync, descriptor)
    finally:
        os.close(descriptor)


async def load(qmp: Qmp, path: Path, timeout: float) -> None:
    """Fill a QEMU that was started with `-incoming defer` from `path`; the guest stands still until `cont`."""
    try:
        descriptor = await asyncio.to_thread(os.open, path, os.O_RDONLY)
    except FileNotFoundError:
        raise Fault("FileNotFound", f"the suspended memory {path.name} is gone; power off to drop it") from None
    try:
        await _prepare(qmp)
        await qmp.send_fd(descriptor, _FD)
        with qmp.listener("MIGRATION") as events:
            await qmp.execute("migrate-incoming", uri=f"fd:{_FD}")
            await _finished(qmp, events, timeout)
    finally:
        os.close(descriptor)


async def _prepare(qmp: Qmp) -> None:
    wanted = {"events": True, "pause-before-switchover": False, "multifd": False}
    known = {one["capability"] for one in await qmp.execute("query-migrate-capabilities")}
    capabilities = [{"capability": name, "state": state} for name, state in wanted.items() if name in known]
    await qmp.execute("migrate-set-capabilities", capabilities=capabilities)
    # Unlimited in effect: the default of 128 MiB/s is for networks.
    await qmp.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 40})


async def _finished(qmp: Qmp, events: EventListener, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            async for event in events:
                status = event["data"]["status"]  # type: ignore[index]
                if status == "completed":
                    return
                if status in ("failed", "cancelled"):
                    answer = await qmp.execute("query-migrate")
                    reason = answer.get("error-desc", "QEMU gives no reason")
                    raise Fault("GenericVmConfigFault", f"the memory could not be saved or restored: {reason}")
    except TimeoutError:
        raise TimeoutError(f"saving or restoring memory took more than {timeout:g} s") from None
