"""Who is logged in: passwords under argon2, sessions that expire, logins that are throttled."""

import asyncio
import datetime as dt
import logging
import secrets
import time
import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from pyVmomi import vim

from landbridge.vcenter.authorization import ADMINISTRATOR, READ_ONLY
from landbridge.vcenter.managed import Managed

if TYPE_CHECKING:
    from landbridge.vcenter.inventory import Inventory

log = logging.getLogger(__name__)
_DOMAIN = "vsphere.local"
_FAILURES = 5
_FAILURES_KEPT = 10_000
_MAX_SESSIONS = 1000
_MAX_OBJECTS = 5000
_ROLES = {"Administrator": ADMINISTRATOR, "ReadOnly": READ_ONLY}


class Session:
    """One login. `token` is the cookie's secret; `key` is what the API shows and names the session by."""

    def __init__(self, user: str, role: int, address: str, user_agent: str, locale: str) -> None:
        self.key = str(uuid.uuid4())
        self.token = secrets.token_hex(20)
        self.user = user
        self.role = role
        self.address = address
        self.user_agent = user_agent
        self.locale = locale
        self.login_time = dt.datetime.now(dt.UTC)
        self.last_active = self.login_time
        self.calls = 0
        # Calls under way: a session that waits for updates is in use.
        self.busy = 0
        self._seen = time.monotonic()
        # Views, filters, collectors: they end with the session.
        self.objects: dict[str, SessionObject] = {}

    def use(self) -> None:
        """A call came."""
        self.calls += 1
        self.last_active = dt.datetime.now(dt.UTC)
        self._seen = time.monotonic()

    def rest(self) -> None:
        """A call ended."""
        self._seen = time.monotonic()

    def idle(self) -> float:
        """Seconds since it was last used."""
        return 0.0 if self.busy else time.monotonic() - self._seen

    def describe(self) -> vim.UserSession:
        """As the API shows it."""
        return vim.UserSession(
            key=self.key,
            userName=self.user,
            fullName=self.user,
            loginTime=self.login_time,
            lastActiveTime=self.last_active,
            locale=self.locale,
            messageLocale=self.locale,
            extensionSession=False,
            ipAddress=self.address,
            userAgent=self.user_agent,
            callCount=self.calls,
        )


class SessionObject(Managed):
    """A managed object that belongs to one session: nobody else can reach it, and it ends with the session."""

    durable = False

    def __init__(self, inventory: "Inventory", session: Session) -> None:
        if len(session.objects) >= _MAX_OBJECTS:
            fault = vim.fault.LimitExceeded(limit=_MAX_OBJECTS)
            fault.msg = f"The session has {_MAX_OBJECTS} views, filters and collectors; destroy some first."
            raise fault
        super().__init__(inventory, f"session[{session.key}]{uuid.uuid4()}")
        self.session = session

    async def appear(self) -> None:
        """Become reachable."""
        self.session.objects[self.moid] = self
        await self.inventory.add(self)

    async def end(self) -> None:
        """Be gone, with all it holds."""
        self.session.objects.pop(self.moid, None)
        await self.inventory.remove(self)


class Sessions:
    """Logins and sessions of this vCenter."""

    def __init__(self, inventory: "Inventory") -> None:
        self._inventory = inventory
        self._by_token: dict[str, Session] = {}
        # Argon2 takes 64 MiB and tens of milliseconds each: one at a time.
        self._hashing = asyncio.Semaphore(1)
        self._hasher = PasswordHasher()
        self._users: dict[str, tuple[str, int]] = {}
        self._decoy = ""
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the users; at the first start make those of the configuration."""
        self._users = await self._inventory.store.users()
        config = self._inventory.config
        wanted = [(config.administrator.user, config.administrator.password_file, ADMINISTRATOR)]
        wanted += [(user.user, user.password_file, _ROLES[user.role]) for user in config.users]
        for user, file, role in wanted:
            if canonical(user) not in self._users:
                password = (await asyncio.to_thread(file.read_text)).strip("\r\n")
                await self.add_user(user, password, role)
        self._decoy = await asyncio.to_thread(self._hasher.hash, secrets.token_hex(16))
        self._sweeper = asyncio.create_task(self._sweep(), name="session expiry")

    async def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)

    async def add_user(self, user: str, password: str, role: int) -> None:
        """Make an account, or give one a new password and role. ValueError for an empty password."""
        if not password:
            raise ValueError(f"the password of {user} is empty")
        digest = await asyncio.to_thread(self._hasher.hash, password)
        await self._inventory.store.put_user(canonical(user), digest, role)
        self._users[canonical(user)] = (digest, role)

    async def set_role(self, user: str, role: int) -> None:
        """Give an account another role, for its sessions too. KeyError if there is no such account."""
        name = canonical(user)
        digest, _ = self._users[name]
        await self._inventory.store.put_user(name, digest, role)
        self._users[name] = (digest, role)
        for session in self.all():
            if session.user == display(name):
                session.role = role

    def users(self) -> dict[str, int]:
        """Role id by user name."""
        return {display(name): role for name, (_, role) in self._users.items()}

    async def login(
        self, user: str, password: str, address: str, user_agent: str = "", locale: str | None = None
    ) -> Session:
        """Check a password and open a session; InvalidLogin if it is wrong, or was wrong too often."""
        role = await self.check(user, password, address)
        if len(self._by_token) >= _MAX_SESSIONS:
            fault = vim.fault.LimitExceeded(limit=_MAX_SESSIONS)
            fault.msg = f"There are {_MAX_SESSIONS} sessions; log some out first."
            raise fault
        session = Session(display(canonical(user)), role, address, user_agent[:200], locale or "en")
        self._by_token[session.token] = session
        self._changed()
        return session

    async def check(self, user: str, password: str, address: str) -> int:
        """The role of a user whose password this is. InvalidLogin says nothing about why it is not."""
        name = canonical(user)
        refused = vim.fault.InvalidLogin(msg="Cannot complete login due to an incorrect user name or password.")
        throttle = (name[:200], address)
        async with self._hashing:
            failures, until = self._failures.get(throttle, (0, 0.0))
            if failures >= _FAILURES and time.monotonic() < until:
                raise refused
            digest, role = self._users.get(name, (self._decoy, 0))
            right = await asyncio.to_thread(self._verify, digest, password)
            if right and name in self._users:
                self._failures.pop(throttle, None)
                return role
            lockout = self._inventory.config.login_lockout
            if failures >= _FAILURES:  # its lockout is over
                failures = 0
            self._failures[throttle] = (failures + 1, time.monotonic() + lockout)
            self._failures.move_to_end(throttle)
            while len(self._failures) > _FAILURES_KEPT:
                self._failures.popitem(last=False)
        log.warning("login of %r from %s refused (%d in a row)", name[:200], address, failures + 1)
        raise refused

    def find(self, token: str) -> Session | None:
        """The session of a cookie, if it has not expired."""
        session = self._by_token.get(token)
        if session is None or session.idle() > self._inventory.config.session_timeout:
            return None
        return session

    def by_key(self, key: str) -> Session | None:
        return next((session for session in self._by_token.values() if session.key == key), None)

    def all(self) -> list[Session]:
        return list(self._by_token.values())

    async def end(self, session: Session) -> None:
        """Log a session out; its views and collectors go with it."""
        self._by_token.pop(session.token, None)
        for held in list(session.objects.values()):
            await held.end()
        self._changed()

    def _changed(self) -> None:
        if (manager := self._inventory.objects.get("SessionManager")) is not None:
            manager.invalidate("sessionList")

    def _verify(self, digest: str, password: str) -> bool:
        try:
            return bool(self._hasher.verify(digest, password))
        except (Argon2Error, InvalidHashError):
            return False

    async def _sweep(self) -> None:
        timeout = self._inventory.config.session_timeout
        while True:
            await asyncio.sleep(min(60.0, timeout / 2))
            for session in self.all():
                if session.idle() > timeout:
                    await self.end(session)


def canonical(user: str) -> str:
    """One form for `administrator@vsphere.local`, `VSPHERE.LOCAL\\Administrator` and plain `administrator`."""
    user = user.casefold()
    if "\\" in user:
        domain, _, name = user.partition("\\")
        return f"{name}@{domain}"
    return user if "@" in user else f"{user}@{_DOMAIN}"


def display(name: str) -> str:
    """As vCenter shows a user: `VSPHERE.LOCAL\\administrator`."""
    user, _, domain = name.rpartition("@")
    return f"{domain.upper()}\\{user}"
