"""Programs the appliance runs to their end: `ip`, `bridge`, `nft`, `wg`, `ethtool`. Arguments never hold a secret."""

import asyncio

_TIMEOUT = 20.0  # seconds


class CommandError(Exception):
    """A program did not do what was asked; its complaint."""


async def run(*argv: str, content: str | None = None) -> str:
    """Standard output of a program that got `content` on its standard input."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE if content is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(
            process.communicate(content.encode() if content is not None else None), _TIMEOUT
        )
    except TimeoutError:
        raise CommandError(f"{' '.join(argv)}: no end in {_TIMEOUT:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise CommandError(f"{' '.join(argv)}: {errors.decode(errors='replace').strip() or process.returncode}")
    return output.decode(errors="replace")


async def links(*commands: str) -> None:
    """`ip` commands (without the word `ip`), in one go."""
    await run("ip", "-batch", "-", content="".join(f"{line}\n" for line in commands))
