"""OptionManager: vCenter's settings, of which scripts read the identity; none can be changed here."""

from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from landbridge.vcenter.calls import Call
from landbridge.vcenter.managed import Managed

if TYPE_CHECKING:
    from landbridge.vcenter.inventory import Inventory


class OptionManager(Managed):
    kind = vim.option.OptionManager
    durable = False

    def __init__(self, inventory: "Inventory", moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        settings = {
            "VirtualCenter.FQDN": inventory.config.name,
            "VirtualCenter.InstanceName": inventory.config.name,
            "config.vpxd.hostnameUrl": inventory.config.name,
        }
        self.set(setting=[vim.option.OptionValue(key=key, value=value) for key, value in settings.items()])

    async def query_options(self, call: Call, name: str | None = None) -> list[Any]:
        options: list[Any] = self.value("setting")
        if not name:
            return options
        found = [
            option for option in options if option.key == name or (name[-1] == "." and option.key.startswith(name))
        ]
        if not found:
            raise vim.fault.InvalidName(name=name, msg=f"There is no option '{name}'.")
        return found
