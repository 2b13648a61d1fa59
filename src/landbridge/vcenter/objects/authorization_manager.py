"""AuthorizationManager: the roles there are, who has which, and what they may."""

from functools import cache
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from landbridge.vcenter.authorization import ADMINISTRATOR, NO_ACCESS, READ_ONLY, READ_PRIVILEGES, allows
from landbridge.vcenter.calls import Call
from landbridge.vcenter.managed import IMPLEMENTATIONS, Managed
from landbridge.vcenter.sessions import canonical, display

if TYPE_CHECKING:
    from landbridge.vcenter.inventory import Inventory

_ROOT = "group-d1"
_Permission = vim.AuthorizationManager.Permission


class AuthorizationManager(Managed):
    """Each user has one role, for the whole inventory: its permission stands at the root folder."""

    kind = vim.AuthorizationManager
    durable = False

    def __init__(self, inventory: "Inventory", moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self.lazy("roleList", _roles)
        self.lazy("privilegeList", _privileges)

    async def retrieve_all_permissions(self, call: Call) -> list[Any]:
        return self._permissions()

    async def retrieve_role_permissions(self, call: Call, role_id: int) -> list[Any]:
        _check_role(role_id)
        return [permission for permission in self._permissions() if permission.roleId == role_id]

    async def retrieve_entity_permissions(self, call: Call, entity: Any, inherited: bool) -> list[Any]:
        self.inventory.get(entity)
        return self._permissions() if inherited or entity._moId == _ROOT else []

    async def has_privilege_on_entity(self, call: Call, entity: Any, session_id: str, priv_id: list[str]) -> list[bool]:
        self.inventory.get(entity)
        role = self._session_role(session_id)
        return [allows(role, privilege) for privilege in priv_id]

    async def has_privilege_on_entities(
        self, call: Call, entity: list[Any], session_id: str, priv_id: list[str]
    ) -> list[Any]:
        return self._availability(entity, self._session_role(session_id), priv_id)

    async def has_user_privilege_on_entities(
        self, call: Call, entities: list[Any], user_name: str, priv_id: list[str]
    ) -> list[Any]:
        return self._availability(entities, self._user_role(user_name), priv_id)

    async def fetch_user_privilege_on_entities(self, call: Call, entities: list[Any], user_name: str) -> list[Any]:
        role = self._user_role(user_name)
        privileges = _role(role).privilege
        found = [self.inventory.get(entity).ref for entity in entities]
        return [vim.AuthorizationManager.UserPrivilegeResult(entity=ref, privileges=privileges) for ref in found]

    async def set_entity_permissions(self, call: Call, entity: Any, permission: list[Any]) -> None:
        if entity._moId != _ROOT:
            raise vmodl.fault.NotSupported(msg="Permissions are for the whole inventory: set them at the root folder.")
        known = self.inventory.sessions.users()
        for each in permission:
            _check_role(each.roleId)
            if each.group or not each.propagate:
                raise vmodl.fault.NotSupported(msg="Permissions of groups, and those for one object, are not served.")
            if display(canonical(each.principal)) not in known:
                raise vim.fault.UserNotFound(
                    principal=each.principal, unresolved=True, msg=f"There is no user {each.principal}."
                )
        roles = {**known, **{display(canonical(each.principal)): each.roleId for each in permission}}
        if ADMINISTRATOR not in roles.values():
            raise vim.fault.AuthMinimumAdminPermission(msg="One user must keep the role Administrator.")
        for each in permission:
            await self.inventory.sessions.set_role(each.principal, each.roleId)

    # -- inside -------------------------------------------------------------------------------------------

    def _permissions(self) -> list[Any]:
        root = self.inventory.get(_ROOT).ref
        return [
            _Permission(entity=root, principal=user, group=False, roleId=role, propagate=True)
            for user, role in self.inventory.sessions.users().items()
        ]

    def _availability(self, entities: list[Any], role: int, privileges: list[str]) -> list[Any]:
        available = [
            vim.AuthorizationManager.PrivilegeAvailability(privId=privilege, isGranted=allows(role, privilege))
            for privilege in privileges
        ]
        found = [self.inventory.get(entity).ref for entity in entities]
        return [vim.AuthorizationManager.EntityPrivilege(entity=ref, privAvailability=available) for ref in found]

    def _session_role(self, key: str) -> int:
        session = self.inventory.sessions.by_key(key)
        if session is None:
            raise vmodl.fault.InvalidArgument(invalidProperty="sessionId", msg=f"There is no session {key}.")
        return session.role

    def _user_role(self, user: str) -> int:
        return self.inventory.sessions.users().get(display(canonical(user)), NO_ACCESS)


def _check_role(role: int) -> None:
    if role not in (ADMINISTRATOR, READ_ONLY, NO_ACCESS):
        raise vim.fault.NotFound(msg=f"There is no role {role}.")


@cache
def _privilege_ids() -> tuple[str, ...]:
    """All privileges that methods of the types served here ask for."""
    found = set(READ_PRIVILEGES)
    for kind in IMPLEMENTATIONS:
        for base in kind.__mro__:
            for name in getattr(base, "_methodInfo", {}):
                found.add(getattr(kind, name).info.privId or "System.View")
    return tuple(sorted(found))


def _role(role: int) -> Any:
    return next(each for each in _roles() if each.roleId == role)


@cache
def _roles() -> list[Any]:
    described = (
        (NO_ACCESS, "NoAccess", "No access", ()),
        (READ_ONLY, "ReadOnly", "See details of objects, but not make changes", READ_PRIVILEGES),
        (ADMINISTRATOR, "Admin", "Full access rights", _privilege_ids()),
    )
    return [
        vim.AuthorizationManager.Role(
            roleId=role,
            system=True,
            name=name,
            info=vim.Description(label=name, summary=summary),
            privilege=list(privileges),
        )
        for role, name, summary, privileges in described
    ]


def _privileges() -> list[Any]:
    return [
        vim.AuthorizationManager.Privilege(
            privId=privilege,
            onParent=False,
            name=privilege.rpartition(".")[2],
            privGroupName=privilege.rpartition(".")[0],
        )
        for privilege in _privilege_ids()
    ]
