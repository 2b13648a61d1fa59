"""Roles and what they may: Administrator everything, ReadOnly looking only."""

from typing import TYPE_CHECKING

from pyVmomi import vim

from landbridge.vcenter.managed import Managed

if TYPE_CHECKING:
    from landbridge.vcenter.sessions import Session

# Role ids as vCenter numbers them.
ADMINISTRATOR = -1
READ_ONLY = -2
NO_ACCESS = -5
READ_PRIVILEGES = ("System.Anonymous", "System.Read", "System.View")


def allows(role: int, privilege: str | None) -> bool:
    """Whether a role has a privilege; methods that need none have None or the empty string."""
    if role == ADMINISTRATOR or not privilege or privilege == "System.Anonymous":
        return True
    return role == READ_ONLY and privilege in READ_PRIVILEGES


def refuse_unless(session: "Session | None", privilege: str | None, managed: Managed) -> None:
    """NotAuthenticated before the login, NoPermission if the session's role lacks the privilege."""
    if not privilege or privilege == "System.Anonymous":
        return
    if session is None:
        raise vim.fault.NotAuthenticated(
            object=managed.ref, privilegeId=privilege, msg="The session is not authenticated."
        )
    if not allows(session.role, privilege):
        raise vim.fault.NoPermission(
            object=managed.ref,
            privilegeId=privilege,
            msg=f"Permission to perform this operation was denied: {session.user} lacks {privilege}.",
        )
