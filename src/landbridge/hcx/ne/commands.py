"""Programs the appliance runs to their end: `ip`, `bridge`, `nft`, `wg`, `ethtool`."""

from landbridge.esx.commands import CommandError as CommandError
from landbridge.esx.commands import run_command

run = run_command


async def links(*commands: str) -> None:
    """`ip` commands (without the word `ip`), in one go."""
    await run("ip", "-batch", "-", content="".join(f"{line}\n" for line in commands))
