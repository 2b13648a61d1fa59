"""`python -m landbridge.nsx --config FILE`: the NSX manager."""

import asyncio
import sys

from landbridge.nsx.config import ManagerConfig
from landbridge.nsx.daemon import Manager
from landbridge.nsx.process import run_daemon


async def _serve(config: ManagerConfig, ended: asyncio.Event) -> int:
    manager = Manager(config)
    await manager.start()
    asked, failed = asyncio.create_task(ended.wait()), asyncio.create_task(manager.failed())
    await asyncio.wait({asked, failed}, return_when=asyncio.FIRST_COMPLETED)
    for task in (asked, failed):
        task.cancel()
    await manager.stop()
    return 0 if ended.is_set() else 1


if __name__ == "__main__":
    sys.exit(run_daemon("landbridge.nsx", ManagerConfig.load, _serve))
