"""EnvironmentBrowser: what VMs of a compute resource may be made of."""

from typing import Any

from pyVmomi import vim

from landbridge.vcenter.calls import Call
from landbridge.vcenter.hardware import host_info
from landbridge.vcenter.managed import Managed

_HARDWARE_VERSION = "vmx-20"


class EnvironmentBrowser(Managed):
    """Facts: owner (the compute resource's moId)."""

    kind = vim.EnvironmentBrowser
    prefix = "envbrowser"

    def __init__(self, inventory: Any, moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self.lazy("datastoreBrowser", self._browser)

    def _owner(self) -> Any:
        return self.inventory.get(self.facts["owner"])

    def _browser(self) -> vim.host.DatastoreBrowser | None:
        datastores = self._owner().value("datastore")
        return self.inventory.get(datastores[0]).value("browser") if datastores else None

    async def query_config_option_descriptor(self, call: Call) -> list[vim.vm.ConfigOptionDescriptor]:
        """The one hardware version new VMs have."""
        hosts = [host.ref for host in self._owner().hosts()]
        return [
            vim.vm.ConfigOptionDescriptor(
                key=_HARDWARE_VERSION,
                description="landbridge virtual hardware",
                host=hosts,
                createSupported=True,
                defaultConfigOption=True,
                runSupported=True,
                upgradeSupported=False,
            )
        ]

    async def query_target_capabilities(self, call: Call, host: vim.HostSystem | None = None) -> vim.host.Capability:
        return host_info.CAPABILITY

    async def query_config_target(self, call: Call, host: vim.HostSystem | None = None) -> vim.vm.ConfigTarget:
        """The datastores and networks VMs may use, and the CPUs there are."""
        owner = self._owner()
        hosts = [self.inventory.get(host)] if host is not None else owner.hosts()
        infos = [each.info for each in hosts]
        datastores = [d for d in self.inventory.all(vim.Datastore) if any(h.moid in d.facts["mounts"] for h in hosts)]
        groups = [g for each in hosts for s in each.switches() for g in s.groups()]
        unique = {group.moid: group for group in groups}
        return vim.vm.ConfigTarget(
            numCpus=sum(info.cpu_threads for info in infos),
            numCpuCores=sum(info.cpu_cores for info in infos),
            numNumaNodes=1,
            maxCpusPerHost=max((info.cpu_threads for info in infos), default=0),
            smcPresent=False,
            datastore=[
                vim.vm.DatastoreInfo(
                    name=d.name,
                    datastore=d.value("summary"),
                    capability=d.value("capability"),
                    maxFileSize=d.value("info").maxFileSize,
                    mode="readWrite",
                )
                for d in datastores
            ],
            distributedVirtualPortgroup=[
                vim.dvs.DistributedVirtualPortgroupInfo(
                    switchName=group.switch.name,
                    switchUuid=group.switch.uuid,
                    portgroupName=group.name,
                    portgroupKey=group.moid,
                    portgroupType="earlyBinding",
                    uplinkPortgroup=False,
                    portgroup=group.ref,
                )
                for group in unique.values()
            ],
        )
