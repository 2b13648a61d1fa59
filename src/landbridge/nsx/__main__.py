"""`python -m landbridge.nsx --config FILE`: the NSX manager."""

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from pydantic import ValidationError

from landbridge.nsx.config import ManagerConfig
from landbridge.nsx.daemon import Manager


async def _serve(config: ManagerConfig) -> int:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    manager = Manager(config)
    await manager.start()
    asked, failed = asyncio.create_task(ended.wait()), asyncio.create_task(manager.failed())
    await asyncio.wait({asked, failed}, return_when=asyncio.FIRST_COMPLETED)
    failed.cancel()
    await manager.stop()
    return 0 if ended.is_set() else 1


def main() -> int:
    """Run until SIGTERM. Exit status 2 if the configuration is wrong."""
    parser = argparse.ArgumentParser(prog="python -m landbridge.nsx", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="TOML file; see docs/nsx.md")
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        config = ManagerConfig.load(arguments.config)
    except (OSError, ValueError, ValidationError) as error:
        sys.stderr.write(f"{arguments.config}: {error}\n")
        return 2
    return asyncio.run(_serve(config))


if __name__ == "__main__":
    sys.exit(main())
