"""What scripts rely on: the lab's status as JSON, and the command line with what it says."""

import asyncio
import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stage import Stage, other

pytestmark = pytest.mark.timeout(300)
_TIMEOUT = 200  # seconds


async def landbridge(*words: str) -> Any:
    """The JSON that a command prints."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("landbridge"),
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(_TIMEOUT):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return json.loads(output)


async def status(stage: Stage) -> Any:
    return await landbridge("lab", "status", "--json", "--prefix", stage.lab.topology.prefix)


def login(site: Any, product: str) -> list[str]:
    """The options that name one API of a site."""
    there = site[product]
    return [
        *("--url", there["url"], "--user", there["user"]),
        *("--password-file", there["password_file"], "--ca", site["ca"]),
    ]


def check_site(site: Any, *products: str) -> None:
    """Its keys are those that scripts read, its files are there, and nobody else reads the passwords."""
    assert set(site) == {"ca", *products}
    assert "BEGIN CERTIFICATE" in Path(site["ca"]).read_text()
    for product in products:
        assert set(site[product]) == {"url", "user", "password_file"}
        assert site[product]["url"].startswith("https://")
        password = Path(site[product]["password_file"])
        assert stat.S_IMODE(password.stat().st_mode) == 0o600
        assert password.read_text().strip()


async def test_the_status_says_where_both_sites_are_and_how_to_log_in(stage: Stage) -> None:
    shown = await status(stage)
    assert set(shown) == {"sites", "running", "processes"}
    assert shown["running"] is True
    assert all(process["running"] for process in shown["processes"])
    assert set(shown["sites"]) == {"onprem", "cloud"}
    check_site(shown["sites"]["onprem"], "vcenter", "hcx")
    check_site(shown["sites"]["cloud"], "vcenter", "hcx", "nsx")


async def test_the_command_line_lists_and_moves_a_vm_with_the_logins_of_the_status(stage: Stage) -> None:
    source = await stage.at()
    sites = (await status(stage))["sites"]

    async def listed(site: str) -> Any:
        return await landbridge("vm", *login(sites[site], "vcenter"), "list", "--json")

    [before] = await listed(source)
    assert (before["name"], before["power"]) == (stage.guest.name, "poweredOn")
    assert await listed(other(source)) == []
    back = ["--back"] if source == "cloud" else []
    moved = await landbridge("hcx", *login(sites["onprem"], "hcx"), "migrate", stage.guest.name, *back, "--json")
    assert (moved["state"], moved["vm"]) == ("MIGRATED", stage.guest.name)
    assert await listed(source) == []
    [after] = await listed(other(source))
    assert (after["name"], after["power"], after["uuid"]) == (stage.guest.name, "poweredOn", before["uuid"])
    assert await stage.at() == other(source)
