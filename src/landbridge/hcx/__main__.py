"""`python -m landbridge.hcx --config FILE`: an HCX manager, connector or cloud."""

import asyncio
import os
import sys
from pathlib import Path

from landbridge.hcx import routes_extensions, routes_inventory, routes_migrations, routes_pairing
from landbridge.hcx.config import ManagerConfig
from landbridge.hcx.daemon import config_argument, log_to_stderr, until_terminated
from landbridge.hcx.manager import Manager
from landbridge.hcx.server import application


async def _serve(path: Path) -> None:
    manager = Manager(ManagerConfig.load(path))
    routes = [
        *routes_pairing.routes(manager),
        *routes_inventory.routes(manager),
        *routes_migrations.routes(manager),
        *routes_extensions.routes(manager),
    ]
    await manager.start(application(manager.sessions, manager.pairing, routes))
    await until_terminated()
    await manager.stop()
    # Workflows under way must stop as if the machine had: cancelled, they would be recorded as failed.
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    """Run until SIGTERM."""
    log_to_stderr()
    asyncio.run(_serve(config_argument("an HCX manager")))


if __name__ == "__main__":
    main()
