"""A host as clients read it: hardware, runtime, summary and configuration, from what its agent tells."""

from pyVmomi import vim

from landbridge.esx.model import HostInfo, HostStats
from landbridge.vcenter.hardware.config_info import moment

_BOOLEANS = {info.name: False for info in vim.host.Capability._GetPropertyList() if info.type is bool}

CAPABILITY = vim.host.Capability(
    **{
        **_BOOLEANS,
        "maintenanceModeSupported": True,
        "recursiveResourcePoolsSupported": False,
        "rebootSupported": False,
        "shutdownSupported": False,
        "vmotionSupported": True,
        "vmotionWithStorageVMotionSupported": True,
        "storageVMotionSupported": True,
        "unsharedSwapVMotionSupported": True,
        "suspendedRelocateSupported": True,
        "encryptedVMotionSupported": True,
        "localSwapDatastoreSupported": False,
    }
)


def product(info: HostInfo) -> vim.AboutInfo:
    """What clients take for the hypervisor's version; the name says what it is."""
    return vim.AboutInfo(
        name="landbridge esx",
        fullName=f"landbridge esx {info.agent_version} (QEMU {info.qemu_version}, {info.accelerator})",
        vendor="landbridge",
        version="8.0.3",
        build=info.agent_version,
        osType="linux-x64",
        productLineId="embeddedEsx",
        apiType="HostAgent",
        apiVersion="8.0.3.0",
    )


def hardware(info: HostInfo) -> vim.host.HardwareInfo:
    """`HostSystem.hardware`."""
    hz = info.cpu_mhz * 1_000_000
    threads = max(1, info.cpu_threads // max(1, info.cpu_packages))
    vendor = "amd" if "AMD" in info.cpu_model else "intel"
    packages = [
        vim.host.CpuPackage(
            index=index,
            vendor=vendor,
            hz=hz,
            busHz=0,
            description=info.cpu_model,
            threadId=list(range(index * threads, (index + 1) * threads)),
        )
        for index in range(info.cpu_packages)
    ]
    return vim.host.HardwareInfo(
        systemInfo=vim.host.SystemInfo(vendor=info.vendor, model=info.model, uuid=info.uuid),
        cpuInfo=vim.host.CpuInfo(
            numCpuPackages=info.cpu_packages, numCpuCores=info.cpu_cores, numCpuThreads=info.cpu_threads, hz=hz
        ),
        cpuPkg=packages,
        memorySize=info.memory,
        smcPresent=False,
    )


def runtime(info: HostInfo, connection: str) -> vim.host.RuntimeInfo:
    """`HostSystem.runtime`. `connection`: connected, notResponding or disconnected."""
    return vim.host.RuntimeInfo(
        connectionState=vim.HostSystem.ConnectionState(connection),
        powerState="poweredOn" if connection == "connected" else "unknown",
        standbyMode="none",
        inMaintenanceMode=info.maintenance,
        inQuarantineMode=False,
        bootTime=moment(info.boot_time),
    )


def summary(
    host: vim.HostSystem,
    info: HostInfo,
    runtime_info: vim.host.RuntimeInfo,
    stats: HostStats | None,
    *,
    name: str,
    port: int,
    thumbprint: str | None,
    status: str,
) -> vim.host.Summary:
    """`HostSystem.summary`."""
    quick = vim.host.Summary.QuickStats()
    if stats is not None:
        quick = vim.host.Summary.QuickStats(
            overallCpuUsage=stats.cpu_mhz, overallMemoryUsage=stats.memory_mib, uptime=stats.uptime_seconds
        )
    return vim.host.Summary(
        host=host,
        hardware=vim.host.Summary.HardwareSummary(
            vendor=info.vendor,
            model=info.model,
            uuid=info.uuid,
            memorySize=info.memory,
            cpuModel=info.cpu_model,
            cpuMhz=info.cpu_mhz,
            numCpuPkgs=info.cpu_packages,
            numCpuCores=info.cpu_cores,
            numCpuThreads=info.cpu_threads,
            numNics=1,
            numHBAs=0,
        ),
        runtime=runtime_info,
        config=vim.host.Summary.ConfigSummary(
            name=name,
            port=port,
            sslThumbprint=thumbprint,
            product=product(info),
            vmotionEnabled=True,
            faultToleranceEnabled=False,
        ),
        quickStats=quick,
        overallStatus=vim.ManagedEntity.Status(status),
        rebootRequired=False,
    )


def config(host: vim.HostSystem, info: HostInfo) -> vim.host.ConfigInfo:
    """`HostSystem.config`: the product and the two addresses a host has."""
    nic = vim.host.VirtualNic
    interfaces = [
        nic(
            device=device,
            key=f"key-vim.host.VirtualNic-{device}",
            portgroup=label,
            spec=nic.Specification(ip=vim.host.IpConfig(dhcp=False, ipAddress=address)),
        )
        for device, label, address in (
            ("vmk0", "Management Network", info.management_address),
            ("vmk1", "vMotion", info.vmotion_address),
        )
        if address
    ]
    return vim.host.ConfigInfo(
        host=host, product=product(info), network=vim.host.NetworkInfo(vnic=interfaces, ipV6Enabled=False)
    )
