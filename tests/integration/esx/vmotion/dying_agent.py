"""A host agent that dies at one point of its work: MODULE CLASS.METHOD before|after, then its own arguments."""

import functools
import importlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from landbridge.esx.__main__ import main


def _die_at(module: str, method: str, when: str) -> None:
    owner_name, _, name = method.partition(".")
    owner = getattr(importlib.import_module(module), owner_name)
    work: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @functools.wraps(work)
    async def fatal(*arguments: Any, **options: Any) -> None:
        if when == "after":
            await work(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, fatal)


if __name__ == "__main__":
    _die_at(*sys.argv[1:4])
    del sys.argv[1:4]
    sys.exit(main())
