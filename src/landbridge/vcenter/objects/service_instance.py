"""ServiceInstance: the root of the API, what it names, and what this vCenter says it is."""

import datetime as dt
from typing import Any, ClassVar

from pyVmomi import vim

from landbridge.vcenter.calls import Call
from landbridge.vcenter.managed import Managed
from landbridge.vmodl.versions import API_VERSION

# What clients check before they use a feature: it says the vSphere release whose API this is.
_VERSION = "8.0.3"
_BUILD = "24022515"


def about(instance_uuid: str) -> vim.AboutInfo:
    """AboutInfo as vCenter 8 fills it; `name` and `vendor` are what clients compare."""
    return vim.AboutInfo(
        name="VMware vCenter Server",
        fullName=f"VMware vCenter Server {_VERSION} build-{_BUILD} (landbridge)",
        vendor="VMware, Inc.",
        version=_VERSION,
        build=_BUILD,
        localeVersion="INTL",
        localeBuild="000",
        osType="linux-x64",
        productLineId="vpx",
        apiType="VirtualCenter",
        apiVersion=API_VERSION,
        instanceUuid=instance_uuid,
        licenseProductName="VMware VirtualCenter Server",
        licenseProductVersion="8.0",
    )


class ServiceInstance(Managed):
    kind = vim.ServiceInstance
    durable = False
    defaults: ClassVar[dict[str, Any]] = {
        "capability": vim.Capability(
            provisioningSupported=True,
            multiHostSupported=True,
            userShellAccessSupported=False,
            networkBackupAndRestoreSupported=False,
            supportedEVCMode=[],
        )
    }

    async def retrieve_service_content(self, call: Call) -> vim.ServiceInstanceContent:
        content: vim.ServiceInstanceContent = self.value("content")
        return content

    async def current_time(self, call: Call) -> dt.datetime:
        return dt.datetime.now(dt.UTC)
