"""What vCenter's inventory costs: 1,000 registered VMs, 8 properties of each listed, and the process's memory.

    .venv/bin/python benchmarks/vcenter_inventory.py [--vms 1000] [--runs 20] [--json]

A real vCenter process gets an inventory of VMs written to its store as a host would have told them (no host runs: a
powered-off VM costs vCenter the same). Times are of whole HTTPS requests on the loopback with the answer read but not
parsed, so `server_ms` is an upper bound of the server's time; `client_ms` adds what pyVmomi needs to parse it.
`server_cpu_ms` is the processor time of the main thread, which a busy machine does not change.
"""

import argparse
import asyncio
import gzip
import json
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from pyVmomi import SoapAdapter, vim, vmodl

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.integration.vcenter.core.vcenter_process import VcenterProcess, view_spec

from landbridge.esx.model import Controller, ControllerType, Disk, Nic, PowerState, VmConfig, VmState
from landbridge.vcenter.store import Store, default_url

PROPERTIES = [
    "name",
    "parent",
    "runtime.powerState",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.guestFullName",
    "guest.guestState",
    "summary.quickStats.overallCpuUsage",
]


def vm_state(number: int) -> VmState:
    """A VM with a disk and a NIC, as an agent tells it."""
    name = f"web-{number:04d}"
    config = VmConfig(
        name=name,
        instance_uuid=str(uuid.UUID(int=number)),
        uuid=str(uuid.UUID(int=number + 10**6)),
        memory_mib=4096,
        cpus=2,
        controllers=[Controller(key=1000, type=ControllerType.PVSCSI, bus=0)],
        disks=[Disk(key=2000, controller=1000, unit=0, path=f"[datastore1] {name}/{name}.vmdk", capacity=16 << 30)],
        nics=[Nic(key=4000, mac=f"00:50:56:00:{number >> 8:02x}:{number & 255:02x}")],
    )
    return VmState(config=config, vmx=f"[datastore1] {name}/{name}.vmx", power_state=PowerState.OFF)


async def fill(state_dir: Path, folder: str, vms: int) -> None:
    """Write VMs into a stopped vCenter's store."""
    store = await Store.open(default_url(state_dir))
    _, counter = await store.objects()
    for number in range(1, vms + 1):
        state = vm_state(number)
        facts = {
            "name": state.config.name,
            "parent": folder,
            "host": "host-0",
            "pool": None,
            "state": state.model_dump(mode="json", exclude={"stats", "guest", "storage_committed"}),
        }
        await store.put_object(f"vm-{counter + number}", "vim.VirtualMachine", facts, counter + vms)
    await store.close()


def list_vms(vcenter: VcenterProcess, si: Any, runs: int) -> dict[str, float]:
    """Time RetrievePropertiesEx of all VMs' PROPERTIES over a kept connection."""
    view = si.content.viewManager.CreateContainerView(si.content.rootFolder, [vim.VirtualMachine], True)
    spec = view_spec(view, vim.VirtualMachine, PROPERTIES)
    collector = si.content.propertyCollector
    options = vmodl.query.PropertyCollector.RetrieveOptions()
    method = type(collector).RetrievePropertiesEx.info
    request = si._stub.SerializeRequest(collector, method, [[spec], options])
    headers = {"Cookie": si._stub.cookie, "SOAPAction": si._stub.versionId, "Accept-Encoding": "gzip"}
    connection = vcenter.http()
    server, client, cpu, size, count = [], [], [], 0, 0
    for _ in range(runs):
        start, cpu_before = time.perf_counter(), cpu_ms(vcenter.pid)
        connection.request("POST", "/sdk", request, headers)
        answer = connection.getresponse()
        body = answer.read()
        server.append((time.perf_counter() - start) * 1000)
        cpu.append(cpu_ms(vcenter.pid) - cpu_before)
        text = gzip.decompress(body)
        found = SoapAdapter.SoapResponseDeserializer(None).Deserialize(text, method.result)
        client.append((time.perf_counter() - start) * 1000)
        size, count = len(text), len(found.objects)
    return {
        "vms": count,
        "response_bytes": size,
        "first_ms": round(server[0], 1),
        "server_cpu_ms": round(statistics.mean(cpu[1:]), 1),
        "server_ms": round(statistics.median(server[1:]), 1),
        "client_ms": round(statistics.median(client[1:]), 1),
    }


def cpu_ms(pid: int) -> float:
    """Processor time a process has used; what else the machine does is not in it."""
    return float(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return round(int(line.split()[1]) / 1024, 1)
    raise RuntimeError(f"process {pid} has no VmRSS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vms", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="lbbench"))
    try:
        result = run(directory, arguments.vms, arguments.runs)
    finally:
        shutil.rmtree(directory)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:16} {value}")


def run(directory: Path, vms: int, runs: int) -> dict[str, float]:
    vcenter = VcenterProcess(directory)
    vcenter.start()
    with vcenter.client() as si:
        folder = si.content.rootFolder.CreateDatacenter("dc").vmFolder._moId
    vcenter.stop()
    asyncio.run(fill(directory / "state", folder, vms))
    start = time.perf_counter()
    vcenter.start()
    started = round(time.perf_counter() - start, 2)
    try:
        registered = memory_mib(vcenter.pid)
        with vcenter.client() as si:
            timing = list_vms(vcenter, si, runs)
        return {**timing, "start_s": started, "rss_mib": registered, "rss_after_mib": memory_mib(vcenter.pid)}
    finally:
        vcenter.stop()


if __name__ == "__main__":
    main()
