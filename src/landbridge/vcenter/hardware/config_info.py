"""A VM's configuration and state as clients read them: config, runtime, guest, summary, storage, snapshots."""

import datetime as dt
from collections.abc import Callable
from typing import Any

from pyVmomi import vim

from landbridge.esx.model import GuestState, PowerState, Snapshot, VmState
from landbridge.vcenter.hardware import guest_os
from landbridge.vcenter.hardware.devices import datastore_of, virtual_devices
from landbridge.vcenter.hardware.networks import Networks

_UNSUPPORTED = {info.name: False for info in vim.vm.Capability._GetPropertyList() if info.type is bool}

# What every VM here can and can not; one object for all of them.
CAPABILITY = vim.vm.Capability(
    **{
        **_UNSUPPORTED,
        "snapshotOperationsSupported": True,
        "multipleSnapshotsSupported": True,
        "poweredOffSnapshotsSupported": True,
        "memorySnapshotsSupported": True,
        "revertToSnapshotSupported": True,
        "quiescedSnapshotsSupported": True,
        "multipleCoresPerSocketSupported": True,
        "perVmEvcSupported": False,
    }
)


def power_state(state: PowerState) -> vim.VirtualMachine.PowerState:
    """The API's power state; the agent's has the same words."""
    return vim.VirtualMachine.PowerState(state.value)


def moment(seconds: float | None) -> dt.datetime | None:
    """A time of the agent's, seconds since the epoch."""
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)


def directory_of(vmx: str) -> str:
    """The VM's directory with its slash: `[ds1] web01/` of `[ds1] web01/web01.vmx`."""
    return vmx.rpartition("/")[0] + "/" if "/" in vmx else vmx[: vmx.find("]") + 1] + " "


def config_info(
    state: VmState,
    change_version: str,
    modified: float,
    networks: Networks,
    datastore: Callable[[str], vim.Datastore | None],
) -> vim.vm.ConfigInfo:
    """`VirtualMachine.config`. `datastore` finds the datastore a path is in; `modified` is seconds of the epoch."""
    config = state.config
    directory = directory_of(state.vmx)
    names = {datastore_of(path) for path in (state.vmx, *(disk.path for disk in config.disks))} - {""}
    return vim.vm.ConfigInfo(
        changeVersion=change_version,
        modified=moment(modified),
        name=config.name,
        guestFullName=guest_os.full_name(config.guest_id),
        version=config.hardware_version,
        uuid=config.uuid,
        instanceUuid=config.instance_uuid,
        template=config.template,
        guestId=config.guest_id,
        alternateGuestName="",
        annotation=config.annotation,
        files=vim.vm.FileInfo(
            vmPathName=state.vmx, snapshotDirectory=directory, suspendDirectory=directory, logDirectory=directory
        ),
        tools=vim.vm.ToolsConfigInfo(toolsVersion=0, toolsUpgradePolicy="manual", syncTimeWithHost=False),
        flags=vim.vm.FlagInfo(
            enableLogging=True,
            diskUuidEnabled=config.extra_config.get("disk.EnableUUID", "").upper() == "TRUE",
            snapshotDisabled=False,
            snapshotLocked=False,
        ),
        defaultPowerOps=vim.vm.DefaultPowerOpInfo(
            powerOffType="soft",
            suspendType="hard",
            resetType="soft",
            defaultPowerOffType="soft",
            defaultSuspendType="hard",
            defaultResetType="soft",
            standbyAction="checkpoint",
        ),
        rebootPowerOff=False,
        hardware=vim.vm.VirtualHardware(
            numCPU=config.cpus,
            numCoresPerSocket=config.cores_per_socket,
            memoryMB=config.memory_mib,
            virtualICH7MPresent=config.machine.find("q35") >= 0,
            virtualSMCPresent=False,
            device=virtual_devices(config, networks, datastore, running=state.power_state is PowerState.ON),
        ),
        cpuAllocation=unreserved(),
        memoryAllocation=unreserved(),
        memoryHotAddEnabled=False,
        cpuHotAddEnabled=False,
        cpuHotRemoveEnabled=False,
        extraConfig=[vim.option.OptionValue(key=key, value=value) for key, value in config.extra_config.items()],
        datastoreUrl=[
            vim.vm.ConfigInfo.DatastoreUrlPair(name=name, url=url)
            for name in sorted(names)
            if (url := _url(datastore(f"[{name}] "))) is not None
        ],
        swapPlacement="inherit",
        bootOptions=vim.vm.BootOptions(
            bootDelay=0, enterBIOSSetup=False, efiSecureBootEnabled=False, bootRetryEnabled=False, bootRetryDelay=10000
        ),
        changeTrackingEnabled=False,
        firmware=config.firmware.value,
        nestedHVEnabled=False,
        vPMCEnabled=False,
        memoryReservationLockedToMax=False,
    )


def _url(datastore: Any) -> str | None:
    return f"ds:///vmfs/volumes/{datastore._moId}/" if datastore is not None else None


def unreserved() -> vim.ResourceAllocationInfo:
    """Nothing reserved, nothing limited, normal shares: what is true of every VM and pool here."""
    return vim.ResourceAllocationInfo(
        reservation=0,
        expandableReservation=False,
        limit=-1,
        shares=vim.SharesInfo(shares=1000, level=vim.SharesInfo.Level.normal),
    )


def runtime_info(state: VmState, host: vim.HostSystem | None, connection: str, cpu_mhz: int) -> vim.vm.RuntimeInfo:
    """`VirtualMachine.runtime`. `connection`: connected, disconnected, orphaned, inaccessible or invalid."""
    return vim.vm.RuntimeInfo(
        host=host,
        connectionState=vim.VirtualMachine.ConnectionState(connection),
        powerState=power_state(state.power_state),
        faultToleranceState="notConfigured",
        toolsInstallerMounted=False,
        bootTime=moment(state.boot_time),
        suspendInterval=0,
        memoryOverhead=0,
        maxCpuUsage=cpu_mhz * state.config.cpus or None,
        maxMemoryUsage=state.config.memory_mib,
        numMksConnections=0,
        recordReplayState="inactive",
        onlineStandby=False,
        consolidationNeeded=False,
        paused=False,
        snapshotInBackground=False,
    )


def tools_status(state: VmState) -> tuple[str, str, str]:
    """`toolsStatus`, `toolsRunningStatus` and `toolsVersionStatus2` of a VM."""
    if state.guest.tools_running:
        return "toolsOk", "guestToolsRunning", "guestToolsUnmanaged"
    if state.guest.tools_version:
        return "toolsNotRunning", "guestToolsNotRunning", "guestToolsUnmanaged"
    return "toolsNotInstalled", "guestToolsNotRunning", "guestToolsNotInstalled"


def main_address(state: VmState) -> str | None:
    """The address vSphere shows first: IPv4 of the first adapter that has one, else any that is not link-local."""
    ordered = [a for nic in state.config.nics if nic.mac for a in state.guest.ip_addresses.get(nic.mac, [])]
    usable = [address for address in ordered if not address.startswith(("169.254.", "fe80:", "127."))]
    return next((a for a in usable if ":" not in a), next(iter(usable), None))


def guest_info(state: VmState, networks: Networks) -> vim.vm.GuestInfo:
    """`VirtualMachine.guest`, from what the tools in the guest say."""
    guest: GuestState = state.guest
    status, running, version = tools_status(state)
    up = state.power_state is PowerState.ON
    known = bool(guest.os_full_name)
    return vim.vm.GuestInfo(
        toolsStatus=vim.vm.GuestInfo.ToolsStatus(status),
        toolsVersionStatus=version,
        toolsVersionStatus2=version,
        toolsRunningStatus=running,
        toolsVersion=guest.tools_version or "0",
        guestId=state.config.guest_id if known else None,
        guestFamily=guest_os.family(state.config.guest_id) if known else None,
        guestFullName=guest.os_full_name or None,
        hostName=guest.hostname or None,
        ipAddress=main_address(state),
        net=_guest_nics(state, networks),
        guestState="running" if up and guest.tools_running else "notRunning" if not up else "unknown",
        guestOperationsReady=False,
        interactiveGuestOperationsReady=False,
        guestStateChangeSupported=guest.tools_running,
        hwVersion=state.config.hardware_version,
    )


def _guest_nics(state: VmState, networks: Networks) -> list[vim.vm.GuestInfo.NicInfo]:
    nics = []
    for nic in state.config.nics:
        addresses = state.guest.ip_addresses.get(nic.mac or "")
        if addresses is None:
            continue
        group = networks.by_key(nic.network) if nic.network else None
        nics.append(
            vim.vm.GuestInfo.NicInfo(
                network=group.name if group else nic.network,
                ipAddress=addresses,
                macAddress=nic.mac,
                connected=nic.connected,
                deviceConfigId=nic.key,
            )
        )
    return nics


def heartbeat(state: VmState) -> str:
    """The guest's heartbeat: green while the tools answer, gray where there are none."""
    return "green" if state.guest.tools_running else "gray"


def summary(vm: vim.VirtualMachine, state: VmState, runtime: vim.vm.RuntimeInfo, overall: str) -> vim.vm.Summary:
    """`VirtualMachine.summary`."""
    config, stats = state.config, state.stats
    status, running, version = tools_status(state)
    full_name = guest_os.full_name(config.guest_id)
    return vim.vm.Summary(
        vm=vm,
        runtime=runtime,
        guest=vim.vm.Summary.GuestSummary(
            guestId=config.guest_id if state.guest.os_full_name else None,
            guestFullName=state.guest.os_full_name or None,
            toolsStatus=vim.vm.GuestInfo.ToolsStatus(status),
            toolsVersionStatus=version,
            toolsVersionStatus2=version,
            toolsRunningStatus=running,
            hostName=state.guest.hostname or None,
            ipAddress=main_address(state),
        ),
        config=vim.vm.Summary.ConfigSummary(
            name=config.name,
            template=config.template,
            vmPathName=state.vmx,
            memorySizeMB=config.memory_mib,
            cpuReservation=0,
            memoryReservation=0,
            numCpu=config.cpus,
            numEthernetCards=len(config.nics),
            numVirtualDisks=len(config.disks),
            uuid=config.uuid,
            instanceUuid=config.instance_uuid,
            guestId=config.guest_id,
            guestFullName=full_name,
            annotation=config.annotation,
            installBootRequired=False,
            tpmPresent=False,
            numVmiopBackings=0,
            hwVersion=config.hardware_version,
        ),
        storage=vim.vm.Summary.StorageSummary(
            committed=state.storage_committed,
            uncommitted=uncommitted(state),
            unshared=state.storage_committed,
            timestamp=dt.datetime.now(dt.UTC).replace(microsecond=0),
        ),
        quickStats=vim.vm.Summary.QuickStats(
            overallCpuUsage=stats.cpu_mhz,
            overallCpuDemand=stats.cpu_mhz,
            guestMemoryUsage=None,
            hostMemoryUsage=stats.memory_mib,
            guestHeartbeatStatus=vim.ManagedEntity.Status(heartbeat(state)),
            uptimeSeconds=stats.uptime_seconds,
        ),
        overallStatus=vim.ManagedEntity.Status(overall),
    )


def uncommitted(state: VmState) -> int:
    """Bytes the VM's disks may still grow by."""
    return max(0, sum(disk.capacity for disk in state.config.disks) - state.storage_committed)


def storage_info(state: VmState, datastore: vim.Datastore | None) -> vim.vm.StorageInfo:
    """`VirtualMachine.storage`: what the VM takes, shown on the datastore of its directory."""
    usage = vim.vm.StorageInfo.UsageOnDatastore
    entries = []
    if datastore is not None:
        entries.append(
            usage(
                datastore=datastore,
                committed=state.storage_committed,
                uncommitted=uncommitted(state),
                unshared=state.storage_committed,
            )
        )
    return vim.vm.StorageInfo(perDatastoreUsage=entries, timestamp=dt.datetime.now(dt.UTC).replace(microsecond=0))


def layout_ex(state: VmState) -> vim.vm.FileLayoutEx:
    """`VirtualMachine.layoutEx`: the files the configuration names. Sizes are the disks' capacities, not what is used:
    the agent tells that for the VM as a whole (`storage`)."""
    file = vim.vm.FileLayoutEx.FileInfo
    unit, layout = vim.vm.FileLayoutEx.DiskUnit, vim.vm.FileLayoutEx.DiskLayout
    files = [file(key=0, name=state.vmx, type="config", size=0, accessible=state.invalid is None)]
    disks = []
    for index, disk in enumerate(state.config.disks, 1):
        files.append(file(key=index, name=disk.path, type="diskExtent", size=disk.capacity, accessible=True))
        disks.append(layout(key=disk.key, chain=[unit(fileKey=[index])]))
    return vim.vm.FileLayoutEx(file=files, disk=disks, timestamp=dt.datetime.now(dt.UTC).replace(microsecond=0))


def snapshot_tree(
    vm: vim.VirtualMachine, snapshots: list[Snapshot], reference: Callable[[int], vim.vm.Snapshot]
) -> list[vim.vm.SnapshotTree]:
    """The root snapshots with their children under them. `reference` makes a snapshot's reference from its id."""
    children: dict[int | None, list[Snapshot]] = {}
    known = {snapshot.id for snapshot in snapshots}
    for snapshot in sorted(snapshots, key=lambda item: (item.created, item.id)):
        children.setdefault(snapshot.parent if snapshot.parent in known else None, []).append(snapshot)

    def below(parent: int | None) -> list[vim.vm.SnapshotTree]:
        return [
            vim.vm.SnapshotTree(
                snapshot=reference(snapshot.id),
                vm=vm,
                name=snapshot.name,
                description=snapshot.description,
                id=snapshot.id,
                createTime=moment(snapshot.created),
                state=power_state(snapshot.power_state),
                quiesced=snapshot.quiesced,
                childSnapshotList=below(snapshot.id),
                replaySupported=False,
            )
            for snapshot in children.get(parent, [])
        ]

    return below(None)
