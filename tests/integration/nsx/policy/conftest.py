"""One manager for the package's tests; each takes ids of its own."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.nsx.policy.bare import Api
from tests.integration.nsx.policy.managers import ADMIN, Manager, manager


@pytest.fixture(scope="package")
async def nsx(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Manager]:
    async with manager(tmp_path_factory.mktemp("nsx")) as running:
        yield running


@pytest.fixture(scope="package")
async def api(nsx: Manager) -> AsyncIterator[Api]:
    async with Api(nsx, ADMIN) as client:
        yield client
