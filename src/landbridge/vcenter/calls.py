"""A call of an API method: who makes it, of which API version, and whether that user may."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from landbridge.vcenter.authorization import refuse_unless
from landbridge.vcenter.managed import Managed

if TYPE_CHECKING:
    from landbridge.vcenter.inventory import Inventory
    from landbridge.vcenter.sessions import Session


@dataclass
class Call:
    """Passed to every method: the session (None before the login), the inventory and the client's API version."""

    inventory: "Inventory"
    session: "Session | None"
    # pyVmomi's name of the version the client speaks: `vim.version.v8_0_3_0`
    version: str
    address: str = ""
    user_agent: str = ""

    @property
    def user(self) -> str:
        """The user's name (`VSPHERE.LOCAL\\Administrator`), empty before the login."""
        return self.session.user if self.session is not None else ""

    def require(self, privilege: str, managed: Managed) -> None:
        """NoPermission unless the user's role has `privilege`; the dispatcher asks for each method's own already."""
        refuse_unless(self.session, privilege, managed)
