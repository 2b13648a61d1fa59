"""One OVN central a module; each test begins with an empty tree."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.nsx.ovn.central import Site


@pytest.fixture(scope="module")
async def shared_site() -> AsyncIterator[Site]:
    directory = Path(tempfile.mkdtemp(prefix="lbovn"))
    site = Site(directory)
    try:
        await site.start()
        yield site
    finally:
        await site.stop()
        shutil.rmtree(directory)


@pytest.fixture
async def site(shared_site: Site) -> Site:
    await shared_site.settled(await shared_site.tree.clear())
    return shared_site
