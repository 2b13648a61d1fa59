"""`python -m landbridge.esx --config FILE`: the host agent in the foreground, its log on standard error."""

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from pydantic import ValidationError

from landbridge.esx.agent import Agent
from landbridge.esx.settings import Settings

_log = logging.getLogger("landbridge.esx")


async def _serve(settings: Settings) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    agent = Agent(settings)
    await agent.start()
    await ended.wait()
    _log.info("host %s: the agent ends, VMs go on", settings.name)
    await agent.stop()


def main() -> int:
    """Run the agent until SIGTERM. Exit status 2 if the configuration is wrong."""
    parser = argparse.ArgumentParser(prog="python -m landbridge.esx", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="TOML file")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # It logs every event and every command of every VM.
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
    try:
        settings = Settings.load(arguments.config)
    except (OSError, ValueError, ValidationError) as error:
        sys.stderr.write(f"{arguments.config}: {error}\n")
        return 2
    asyncio.run(_serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
