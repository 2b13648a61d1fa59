"""One host agent for the tests of this package, and a private one for those that kill it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .hosts import TestHost, running_hosts


@pytest.fixture(scope="session")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TestHost]:
    """A host that tests share; each makes VMs of its own."""
    async with running_hosts(tmp_path_factory.mktemp("host"), "esx01.onprem") as (one,):
        yield one


@pytest.fixture
async def private_host(tmp_path: Path) -> AsyncIterator[TestHost]:
    """A host of one test's own."""
    async with running_hosts(tmp_path, "esx02.onprem") as (one,):
        yield one
