"""`python -m landbridge.hcx.ix --config FILE`: the interconnect appliance."""

import asyncio
from pathlib import Path

from landbridge.hcx.config import IxConfig
from landbridge.hcx.daemon import config_argument, log_to_stderr, until_terminated
from landbridge.hcx.ix.agent import MobilityAgent


async def _serve(path: Path) -> None:
    agent = MobilityAgent(IxConfig.load(path))
    await agent.start()
    await until_terminated()
    await agent.stop()


def main() -> None:
    """Run until SIGTERM; the relay goes on."""
    log_to_stderr()
    asyncio.run(_serve(config_argument("the HCX interconnect appliance")))


if __name__ == "__main__":
    main()
