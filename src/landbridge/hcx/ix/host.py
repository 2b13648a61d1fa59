"""What the mobility agent says about itself as a host: true where it has something, large where it sets no limit."""

import os
import time
import uuid

import landbridge
from landbridge.esx.model import Datastore, HostInfo, HostStats
from landbridge.hcx.config import IxConfig

# Nothing is stored on the transit datastore, so it is never what a move does not fit into.
_TRANSIT_CAPACITY = 1 << 46


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _boot_time() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def datastore_name(ix: str) -> str:
    return f"hcx-{ix}"


def describe(config: IxConfig, epoch: str, maintenance: bool) -> HostInfo:
    cores = os.cpu_count() or 1
    return HostInfo(
        name=config.name,
        uuid=str(uuid.uuid5(uuid.NAMESPACE_DNS, config.name)),
        vendor="landbridge",
        model="HCX interconnect appliance",
        cpu_model="mobility agent (runs no guests)",
        cpu_mhz=1000,
        cpu_packages=1,
        cpu_cores=cores,
        cpu_threads=cores,
        memory=_memory(),
        boot_time=_boot_time(),
        agent_version=landbridge.__version__,
        epoch=epoch,
        qemu_version="",
        accelerator="tcg",
        cpu_baselines=[],
        machine_types=[],
        management_address=config.management.address,
        vmotion_address=config.vmotion.address,
        maintenance=maintenance,
    )


def stats() -> HostStats:
    return HostStats(
        cpu_mhz=0,
        memory_mib=0,
        uptime_seconds=int(time.clock_gettime(time.CLOCK_BOOTTIME)),
        net_rx_bytes=0,
        net_tx_bytes=0,
        disk_read_bytes=0,
        disk_write_bytes=0,
    )


def datastore(ix: str) -> Datastore:
    identity = uuid.uuid5(uuid.NAMESPACE_DNS, f"datastore.{ix}")
    return Datastore(
        name=datastore_name(ix),
        url=f"ds:///vmfs/volumes/{identity}/",
        type="HCX",
        capacity=_TRANSIT_CAPACITY,
        free=_TRANSIT_CAPACITY,
    )
