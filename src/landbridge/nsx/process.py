"""What the manager and the edge share as processes: arguments, log lines, the end by a signal."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

_Config = TypeVar("_Config")


def run_daemon(
    module: str, load: Callable[[Path], _Config], serve: Callable[[_Config, asyncio.Event], Awaitable[int]]
) -> int:
    """Read the configuration and serve until SIGTERM sets the event. Exit status 2 if the configuration is wrong."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--config", type=Path, required=True, help="TOML file; see docs/nsx.md")
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        config = load(arguments.config)
    except (OSError, ValueError) as error:  # pydantic's errors are ValueErrors
        sys.stderr.write(f"{arguments.config}: {error}\n")
        return 2
    return asyncio.run(_serve(config, serve))


async def _serve(config: _Config, serve: Callable[[_Config, asyncio.Event], Awaitable[int]]) -> int:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    return await serve(config, ended)
