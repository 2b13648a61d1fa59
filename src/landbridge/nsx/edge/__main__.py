"""`python -m landbridge.nsx.edge --config FILE`: an edge node."""

import asyncio
import sys

from landbridge.nsx.edge.node import EdgeConfig, EdgeNode
from landbridge.nsx.process import run_daemon


async def _serve(config: EdgeConfig, ended: asyncio.Event) -> int:
    edge = EdgeNode(config)
    await edge.start()
    await ended.wait()
    await edge.stop()
    return 0


if __name__ == "__main__":
    sys.exit(run_daemon("landbridge.nsx.edge", EdgeConfig.load, _serve))
