"""One site that the tests of this package share, and a private one for those that kill parts of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .site import Site, running_site


@pytest.fixture(scope="session")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Two hosts in a cluster; each test makes VMs of its own."""
    async with running_site(tmp_path_factory.mktemp("site")) as one:
        yield one


@pytest.fixture
async def private_site(tmp_path: Path) -> AsyncIterator[Site]:
    """A site of one test's own."""
    async with running_site(tmp_path) as one:
        yield one
