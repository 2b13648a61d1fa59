"""Hosts as OVN chassis: VIFs on segments across real hosts, with the engines killed, and guests that move."""

from collections.abc import AsyncIterator

import pytest

from .cloud import Cloud, running_cloud, transfer

SEGMENT = "web"


@pytest.fixture(scope="module")
async def cloud() -> AsyncIterator[Cloud]:
    async with running_cloud() as one:
        one.central.nbctl("ls-add", SEGMENT)
        for number in (1, 2, 3):
            one.on_segment(SEGMENT, f"e{number}", number, f"10.77.0.{number}")
        one.central.nbctl("--wait=hv", "sync")
        yield one


async def test_a_segment_carries_full_frames_and_tcp_from_host_to_host(cloud: Cloud) -> None:
    assert await cloud.reaches("e1", "10.77.0.2", "-s1472", "-Mdo")
    assert await cloud.reaches("e3", "10.77.0.1", "-s1472", "-Mdo")
    sent, received = await transfer(cloud, "e1", "e2", "10.77.0.2", 4_000_000)
    assert sent == received
    status = await cloud.managers[0].overlay()
    assert (status.chassis, status.running, status.connected) == ("esx01.onprem", True, True)
    assert {(tunnel.chassis, tunnel.address, tunnel.state) for tunnel in status.tunnels} == {
        ("esx02.onprem", "10.66.0.2", "up"),
        ("esx03.onprem", "10.66.0.3", "up"),
    }
