"""SessionManager: logging in and out, and who is logged in."""

from typing import Any, ClassVar

from pyVmomi import vim, vmodl

from landbridge.vcenter.calls import Call
from landbridge.vcenter.managed import Managed
from landbridge.vcenter.sessions import Session


class SessionManager(Managed):
    kind = vim.SessionManager
    durable = False
    defaults: ClassVar[dict[str, Any]] = {
        "message": "",
        "messageLocaleList": ["en"],
        "supportedLocaleList": ["en"],
        "defaultLocale": "en",
    }

    def __init__(self, inventory: Any, moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self.lazy("sessionList", lambda: [session.describe() for session in inventory.sessions.all()])

    def value_for(self, call: Call, name: str) -> Any:
        if name == "currentSession":
            return call.session.describe() if call.session is not None else None
        return self.value(name) if name != "sessionList" or call.session is not None else None

    async def login(self, call: Call, user_name: str, password: str, locale: str | None = None) -> vim.UserSession:
        if call.session is not None:
            raise vim.fault.InvalidLogin(msg="This connection is logged in already; log out first.")
        session = await self.inventory.sessions.login(user_name, password, call.address, call.user_agent, locale)
        call.session = session
        user_login = f"User {session.user} logged in from {call.address}"
        self.inventory.events.post(
            vim.event.UserLoginSessionEvent,
            message=user_login,
            user=session.user,
            ipAddress=call.address,
            userAgent=session.user_agent,
            locale=session.locale,
            sessionId=session.key,
        )
        return session.describe()

    async def logout(self, call: Call) -> None:
        assert call.session is not None
        await self._end(call.session)
        call.session = None

    async def terminate_session(self, call: Call, session_id: list[str]) -> None:
        sessions = [self._by_key(key) for key in session_id]
        if call.session in sessions:
            raise vmodl.fault.InvalidArgument(
                invalidProperty="sessionId", msg="A session can not terminate itself; use Logout."
            )
        for session in sessions:
            await self._end(session)

    async def session_is_active(self, call: Call, session_id: str, user_name: str) -> bool:
        session = self.inventory.sessions.by_key(session_id)
        return session is not None and session.user.casefold() == user_name.casefold()

    async def set_locale(self, call: Call, locale: str) -> None:
        if not locale.startswith("en"):
            raise vmodl.fault.InvalidArgument(invalidProperty="locale", msg=f"The locale {locale} is not supported.")
        assert call.session is not None
        call.session.locale = locale

    async def update_service_message(self, call: Call, message: str) -> None:
        self.set(message=message)

    def _by_key(self, key: str) -> Session:
        session = self.inventory.sessions.by_key(key)
        if session is None:
            raise vim.fault.NotFound(msg=f"There is no session {key}.")
        return session

    async def _end(self, session: Session) -> None:
        await self.inventory.sessions.end(session)
        self.inventory.events.post(
            vim.event.UserLogoutSessionEvent,
            message=f"User {session.user} logged out",
            user=session.user,
            ipAddress=session.address,
            userAgent=session.user_agent,
            callCount=session.calls,
            sessionId=session.key,
            loginTime=session.login_time,
        )
