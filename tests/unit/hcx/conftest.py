"""A cloud manager's API without a site behind it: what it answers before it asks anybody."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from landbridge.hcx import routes_inventory, routes_migrations, routes_pairing
from landbridge.hcx.config import ManagerConfig
from landbridge.hcx.manager import Manager
from landbridge.hcx.server import application
from landbridge.pki import Authority, PeerName

Client = TestClient[web.Request, web.Application]
PASSWORD = "correct horse"


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[Manager]:
    authority = Authority.create(tmp_path / "ca", "site")
    authority.issue(tmp_path / "pki", PeerName("cloud", "hcx", "hcx.cloud"), dns=["hcx.cloud"])
    (tmp_path / "password").write_text(PASSWORD)
    config = ManagerConfig.model_validate(
        {
            "name": "hcx.cloud",
            "site": "cloud",
            "role": "cloud",
            "state_dir": tmp_path / "state",
            "run_dir": tmp_path / "run",
            "pki_dir": tmp_path / "pki",
            "listen": {"address": "127.0.0.1"},
            "administrator": {"password_file": tmp_path / "password"},
            "vcenter": {
                "url": "https://127.0.0.1:1",
                "user": "administrator@vsphere.local",
                "password_file": tmp_path / "password",
                "ca_file": tmp_path / "ca" / "ca.pem",
            },
            "ix": {"name": "ix.cloud", "address": "127.0.0.1", "port": 1, "uplink_address": "127.0.0.1"},
            "session_timeout": 600,
        }
    )
    made = Manager(config)
    await made.sessions.prepare()
    await made.pairing.prepare()
    yield made
    await made.stop()


@pytest.fixture
async def api(manager: Manager) -> AsyncIterator[Client]:
    routes = [
        *routes_pairing.routes(manager),
        *routes_inventory.routes(manager),
        *routes_migrations.routes(manager),
    ]
    async with TestClient(TestServer(application(manager.sessions, manager.pairing, routes))) as client:
        yield client
