"""`python -m landbridge.vcenter --config FILE`: runs until SIGTERM or SIGINT."""

import argparse
import asyncio
import gc
import logging
import signal
import sys
from pathlib import Path

from landbridge.vcenter.config import Config
from landbridge.vcenter.daemon import Daemon


async def _run(config: Config) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    daemon = Daemon(config)
    await daemon.start()
    # pyVmomi's registry is hundreds of thousands of objects that never go: no collection need look at them.
    gc.collect()
    gc.freeze()
    await stopping.wait()
    await daemon.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m landbridge.vcenter", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="TOML file, see docs/architecture.md")
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        config = Config.load(arguments.config)
    except (OSError, ValueError) as error:
        print(f"{arguments.config}: {error}", file=sys.stderr)
        return 2
    asyncio.run(_run(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
