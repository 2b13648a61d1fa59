"""Programs that are run to their end: `ip`, `ovs-vsctl`, `nft`, ... Neither arguments nor errors hold a secret."""

import asyncio
from collections.abc import Mapping

_TIMEOUT = 20.0  # seconds; a vsctl waits for vswitchd, which takes up to 2 s on a busy machine


class CommandError(Exception):
    """A program did not do what was asked: its command line and its complaint."""


async def run_command(
    *argv: str, content: str | None = None, environment: Mapping[str, str] | None = None, timeout: float = _TIMEOUT
) -> str:
    """Standard output of a program that got `content` on its standard input. CommandError if it fails or is late."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=environment,
        stdin=asyncio.subprocess.PIPE if content is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(
            process.communicate(content.encode() if content is not None else None), timeout
        )
    except TimeoutError:
        raise CommandError(f"{' '.join(argv)}: did not end in {timeout:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        complaint = errors.decode(errors="replace").strip() or f"exit status {process.returncode}"
        raise CommandError(f"{' '.join(argv)}: {complaint}")
    return output.decode(errors="replace")
