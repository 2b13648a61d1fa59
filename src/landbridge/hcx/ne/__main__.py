"""`python -m landbridge.hcx.ne --config FILE`: the network extension appliance."""

import asyncio
from pathlib import Path

from landbridge.hcx.daemon import config_argument, log_to_stderr, until_terminated
from landbridge.hcx.ne.appliance import Appliance
from landbridge.hcx.ne.config import NeConfig
from landbridge.hcx.ne.server import Server


async def _serve(path: Path) -> None:
    config = NeConfig.load(path)
    appliance = Appliance(config)
    await appliance.start()
    server = Server(config, appliance)
    await server.start()
    await until_terminated()
    await server.stop()
    await appliance.close()


def main() -> None:
    """Run until SIGTERM; frames flow on."""
    log_to_stderr()
    asyncio.run(_serve(config_argument("the HCX network extension appliance")))


if __name__ == "__main__":
    main()
