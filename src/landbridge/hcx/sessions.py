"""Who may call the manager: the administrator by password and session, the paired manager by its token."""

import asyncio
import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import ClassVar

import argon2

from landbridge.hcx.config import Administrator
from landbridge.hcx.faults import ApiFault
from landbridge.hcx.store import Document, Store

_FAILURES_ALLOWED = 5
_LOCKED_FOR = 30.0  # seconds
_KNOWN_FAILURES = 10_000


class _Account(Document):
    kind: ClassVar[str] = "account"
    password_hash: str


@dataclass
class Session:
    """A login of a person. `expires` is on the monotonic clock and moves with every call."""

    user: str
    expires: float


@dataclass
class _Failures:
    count: int = 0
    locked_until: float = 0.0


def digest(token: str) -> str:
    """What is kept of a token: enough to know it again, nothing to use it with."""
    return hashlib.sha256(token.encode()).hexdigest()


class Sessions:
    """Passwords under argon2, sessions that end when nobody uses them, logins slowed down after failures."""

    def __init__(self, store: Store, administrator: Administrator, timeout: float) -> None:
        self._store = store
        self._administrator = administrator
        self._timeout = timeout
        self._hasher = argon2.PasswordHasher()
        self._sessions: dict[str, Session] = {}
        self._failures: dict[tuple[str, str], _Failures] = {}

    async def prepare(self) -> None:
        """Take the administrator's password from its file, where that has a new one; keep only the hash."""
        file = self._administrator.password_file
        known = await self._store.get(_Account, self._administrator.user)
        if not file.exists():
            if known is None:
                raise ValueError(f"{file} holds no password for {self._administrator.user}: write it there, mode 0600")
            return
        password = file.read_text().strip()
        if known is None or not await self._matches(known.password_hash, password):
            hashed = await asyncio.to_thread(self._hasher.hash, password)
            await self._store.put(_Account(id=self._administrator.user, password_hash=hashed))

    async def login(self, user: str, password: str, address: str) -> str:
        """A new session's token. ApiFault 401 for a wrong name or password, 429 after too many of them."""
        failures = self._failures.setdefault((user, address), _Failures())
        if failures.locked_until > time.monotonic():
            wait = failures.locked_until - time.monotonic()
            raise ApiFault(429, "Login throttled", f"Too many failed logins: try again in {wait:.0f} s")
        account = await self._store.get(_Account, user)
        if account is None or not await self._matches(account.password_hash, password):
            self._count(failures)
            raise ApiFault(401, "Login failure", "The user name or the password is wrong")
        self._failures.pop((user, address), None)
        self._forget_expired()
        token = secrets.token_urlsafe(32)
        self._sessions[digest(token)] = Session(user, time.monotonic() + self._timeout)
        return token

    def session(self, token: str) -> Session:
        """The session of a token, which lives on for its timeout; ApiFault 401 if there is none."""
        session = self._sessions.get(digest(token))
        if session is None or session.expires < time.monotonic():
            self._sessions.pop(digest(token), None)
            raise ApiFault(401, "Unauthorized", "No such session, or it expired: log in at /hybridity/api/sessions")
        session.expires = time.monotonic() + self._timeout
        return session

    def logout(self, token: str) -> None:
        self._sessions.pop(digest(token), None)

    async def _matches(self, hashed: str, password: str) -> bool:
        try:
            return await asyncio.to_thread(self._hasher.verify, hashed, password)
        except argon2.exceptions.VerificationError:
            return False

    def _count(self, failures: _Failures) -> None:
        failures.count += 1
        if failures.count >= _FAILURES_ALLOWED:
            failures.locked_until = time.monotonic() + _LOCKED_FOR
            failures.count = 0
        if len(self._failures) > _KNOWN_FAILURES:  # names made up by an attacker must not fill the memory
            self._failures.clear()

    def _forget_expired(self) -> None:
        now = time.monotonic()
        self._sessions = {key: session for key, session in self._sessions.items() if session.expires >= now}
