"""The lab's wires, in real namespaces: who reaches whom, and that nothing is left behind."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from landbridge.fleet import MachineError, NamespaceMachine
from landbridge.lab.network import Network
from landbridge.lab.topology import Node, Topology

REFUSED = "Connection refused"


@pytest.fixture(scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    directory = tmp_path_factory.mktemp("lab")
    topology = Topology(
        f"t{os.getpid()}"[:8],
        networks=("10.210.0.0/22", "10.220.0.0/22"),
        wan_mbit=100,
        state_root=directory / "state",
        run_root=directory / "run",
    )
    network = Network(topology)
    try:
        await network.build()
        yield network
    finally:
        await network.remove()


def sites(network: Network) -> tuple[dict[str, Node], dict[str, Node]]:
    onprem, cloud = network._topology.sites
    return {node.name: node for node in onprem.nodes}, {node.name: node for node in cloud.nodes}


async def connect(network: Network, source: Node, address: str, port: int) -> str:
    """Try a TCP connection from a machine: empty if it came about, else what the kernel said."""
    program = f"import socket; socket.create_connection(({address!r}, {port}), 3)"
    try:
        await network.node(source).execute("python3", "-c", program, timeout=20)
    except MachineError as error:
        return str(error).strip().splitlines()[-1]
    return ""


async def listen(machine: NamespaceMachine, address: str, port: int) -> None:
    program = (
        f"import socket; s = socket.create_server(({address!r}, {port})); print('up', flush=True)\n"
        "while True: s.accept()"
    )
    await machine.start(f"listener-{address}-{port}", ["python3", "-c", program])
    log = machine.state(f"listener-{address}-{port}").log
    async with asyncio.timeout(20):
        while not log.exists() or "up" not in log.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_machines_of_a_site_reach_each_other(network: Network) -> None:
    onprem, _ = sites(network)
    await listen(network.node(onprem["esx01"]), onprem["esx01"].management, 443)
    await listen(network.node(onprem["esx02"]), onprem["esx02"].leg("vmotion").address, 8000)
    assert await connect(network, onprem["vcenter"], onprem["esx01"].management, 443) == ""
    assert await connect(network, onprem["ix"], onprem["esx02"].leg("vmotion").address, 8000) == ""


async def test_only_the_appliances_and_the_connector_cross_the_wan(network: Network) -> None:
    onprem, cloud = sites(network)
    uplink = {site["ix"].site: site["ix"].leg("uplink").address for site in (onprem, cloud)}
    await listen(network.node(cloud["ix"]), uplink["cloud"], 4500)
    await listen(network.node(onprem["ix"]), uplink["onprem"], 4500)
    await listen(network.node(cloud["hcx"]), cloud["hcx"].management, 443)
    await listen(network.node(onprem["hcx"]), onprem["hcx"].management, 443)

    assert await connect(network, onprem["ix"], uplink["cloud"], 4500) == ""
    assert await connect(network, cloud["ix"], uplink["onprem"], 4500) == ""
    assert await connect(network, onprem["hcx"], cloud["hcx"].management, 443) == ""
    # The cloud never reaches in, and nothing but these ports.
    assert REFUSED in await connect(network, cloud["hcx"], onprem["hcx"].management, 443)
    assert REFUSED in await connect(network, onprem["ix"], uplink["cloud"], 22)


async def test_hosts_of_one_site_can_not_reach_hosts_of_the_other(network: Network) -> None:
    onprem, cloud = sites(network)
    there = cloud["esx01"].leg("vmotion").address
    await listen(network.node(cloud["esx01"]), there, 8000)
    assert "unreachable" in await connect(network, onprem["esx01"], there, 8000)
    # Not even with a route: the edge refuses.
    edge = network._topology.sites[0].gateway("hosts").address
    await network.node(onprem["esx01"]).links(f"route replace {there} via {edge}")
    assert REFUSED in await connect(network, onprem["esx01"], there, 8000)


async def test_this_machine_reaches_both_sites_but_is_no_way_between_them(network: Network) -> None:
    onprem, cloud = sites(network)
    for node in (onprem["vcenter"], cloud["vcenter"]):
        answer = await asyncio.to_thread(
            subprocess.run, ["ping", "-c1", "-W5", node.management], check=False, capture_output=True
        )
        assert answer.returncode == 0
    await listen(network.node(cloud["vcenter"]), cloud["vcenter"].management, 443)
    gateway = network._topology.sites[0].gateway("mgmt").address
    await network.node(onprem["vcenter"]).links(f"route replace {cloud['vcenter'].management} via {gateway}")
    assert REFUSED in await connect(network, onprem["vcenter"], cloud["vcenter"].management, 443)


async def test_the_wan_can_be_cut_and_given_back(network: Network) -> None:
    onprem, cloud = sites(network)
    uplink = cloud["ix"].leg("uplink").address
    await listen(network.node(cloud["ix"]), uplink, 4500)
    await network.cut_wan(cut=True)
    try:
        assert await connect(network, onprem["ix"], uplink, 4500) != ""
    finally:
        await network.cut_wan(cut=False)
    async with asyncio.timeout(30):
        while await connect(network, onprem["ix"], uplink, 4500):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def test_building_again_changes_nothing(network: Network) -> None:
    onprem, _ = sites(network)
    before = await network.node(onprem["esx01"]).execute("ip", "-br", "link")
    await network.build()
    assert await network.node(onprem["esx01"]).execute("ip", "-br", "link") == before


async def test_nothing_is_left_of_a_network_half_built(tmp_path: Path) -> None:
    topology = Topology(
        f"u{os.getpid()}"[:8],
        networks=("10.230.0.0/22", "10.240.0.0/22"),
        state_root=tmp_path / "state",
        run_root=tmp_path / "run",
    )
    network = Network(topology)
    building = asyncio.create_task(network.build())
    try:
        while not list(network.machines()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        building.cancel()
        # A fast machine may be done before it hears of it; then it is the whole network that has to go.
        await asyncio.wait([building])
    finally:
        await network.remove()
    assert list(network.machines()) == []
    links = await asyncio.to_thread(subprocess.run, ["ip", "-br", "link"], capture_output=True, text=True, check=True)
    assert topology.prefix not in links.stdout
