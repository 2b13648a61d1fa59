"""What the manager and the appliance share as processes: arguments, log lines, the end by a signal."""

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path


def config_argument(what: str) -> Path:
    """The file `--config` names."""
    parser = argparse.ArgumentParser(description=f"landbridge: {what}")
    parser.add_argument("--config", type=Path, required=True, help="TOML file; see docs/hcx.md")
    path: Path = parser.parse_args().config
    return path


def log_to_stderr() -> None:
    """One line a record on standard error; who started the daemon decides where that goes."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")


async def until_terminated() -> None:
    """Wait for SIGTERM or SIGINT."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await ended.wait()
