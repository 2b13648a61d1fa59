"""The HCX manager: its parts, put together, and the order in which they start and end."""

import logging
import ssl

from aiohttp import web

from landbridge.hcx import inventory
from landbridge.hcx.config import ManagerConfig
from landbridge.hcx.extensions import Extensions
from landbridge.hcx.ix.client import IxClient
from landbridge.hcx.jobs import Jobs
from landbridge.hcx.mesh import Mesh
from landbridge.hcx.migrations.service import Migrations
from landbridge.hcx.ne.client import NeClient
from landbridge.hcx.pairing import Pairing
from landbridge.hcx.sessions import Sessions
from landbridge.hcx.store import Store
from landbridge.pki import Identity
from landbridge.vmodl.client import VCenter

_log = logging.getLogger(__name__)


class Manager:
    """One manager, connector or cloud."""

    def __init__(self, config: ManagerConfig) -> None:
        config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.config = config
        self._identity = Identity(config.pki_dir)
        self.store = Store(config.database_url())
        self.sessions = Sessions(self.store, config.administrator, config.session_timeout)
        self.jobs = Jobs(self.store)
        self.vcenter = VCenter(config.vcenter)
        self.ix = IxClient(config.ix.address, config.ix.port, self._identity)
        self.mesh = Mesh(config.ix, self.ix, self.vcenter)
        self.pairing = Pairing(config, self.store, self.jobs, self.ix, self.mesh)
        self.migrations = Migrations(config, self.store, self.pairing, self.mesh, self.ix, self.vcenter)
        self.extensions = Extensions(config, self.store, self.jobs, self.pairing, self.vcenter)
        self._runner: web.AppRunner | None = None

    def origin(self) -> dict[str, str]:
        """This site, as inventory items name where they are from."""
        return {"endpointId": self.pairing.endpoint, "name": self.config.name, "endpointType": "VC"}

    async def about(self) -> dict[str, str]:
        """This site's vCenter."""
        return {**await self.vcenter.run(inventory.about), "url": self.config.vcenter.url}

    async def start(self, application: web.Application) -> None:
        """Go on with what a former process left, then listen."""
        await self.sessions.prepare()
        await self.jobs.settle()
        await self.pairing.prepare()
        await self.migrations.start()
        ne = self.config.ne
        await self.extensions.prepare(NeClient(ne.address, ne.port, self._identity) if ne is not None else None)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        where = self.config.listen
        tls: ssl.SSLContext = self._identity.server_context(require_client=False)
        await web.TCPSite(self._runner, where.address, where.port, ssl_context=tls).start()
        _log.info("HCX %s %s listens on %s:%s", self.config.role, self.config.name, where.address, where.port)

    async def stop(self) -> None:
        """Stop listening. Migrations stop where they are; the next process goes on with them."""
        if self._runner is not None:
            await self._runner.cleanup()
        await self.jobs.close()
        await self.migrations.stop()
        await self.pairing.close()
        await self.extensions.close()
        await self.ix.close()
        await self.vcenter.close()
        self.store.close()
