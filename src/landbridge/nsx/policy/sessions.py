"""Who may call: accounts with passwords, sessions with a token against forged requests, and what a role may do."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from enum import StrEnum

import argon2

from landbridge.nsx.policy import faults
from landbridge.nsx.policy.config import Account, PolicyConfig
from landbridge.nsx.policy.store import Store

_FAILURES_ALLOWED = 5
_LOCKED_FOR = 30.0  # seconds
_KNOWN_FAILURES = 10_000
_MOST_SESSIONS = 10_000
# A password that was right a while ago is not put through argon2 again with each call.
_BASIC_LIFE = 300.0  # seconds
_HASHES_AT_ONCE = 2  # argon2 takes 64 MiB and a core


class Role(StrEnum):
    ADMIN = "enterprise_admin"
    AUDITOR = "auditor"


@dataclass
class Session:
    """A login. `expires` is on the monotonic clock and moves with every call."""

    user: str
    role: Role
    token: str  # X-XSRF-TOKEN
    expires: float


@dataclass(frozen=True)
class Caller:
    user: str
    role: Role


@dataclass
class _Failures:
    count: int = 0
    locked_until: float = 0.0
    # Attempts come one after the other: many at once must not slip through together.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


def _digest(text: str) -> str:
    """What is kept of a session's id: enough to know it again, nothing to use it with."""
    return hashlib.sha256(text.encode()).hexdigest()


class Sessions:
    """Passwords under argon2, sessions that end when nobody uses them, logins slowed down after failures."""

    def __init__(self, store: Store, config: PolicyConfig) -> None:
        self._store = store
        self._timeout = config.session_timeout
        self._accounts: dict[str, tuple[Account, Role]] = {
            config.administrator.user: (config.administrator, Role.ADMIN)
        }
        if config.auditor is not None:
            self._accounts[config.auditor.user] = (config.auditor, Role.AUDITOR)
        self._hasher = argon2.PasswordHasher()
        self._hashing = asyncio.Semaphore(_HASHES_AT_ONCE)
        self._sessions: dict[str, Session] = {}
        self._failures: dict[tuple[str, str], _Failures] = {}
        self._secret = secrets.token_bytes(32)
        self._basic: dict[bytes, tuple[Caller, float]] = {}

    async def prepare(self) -> None:
        """Take passwords from their files, where those have new ones; keep only hashes."""
        for user, (account, _) in self._accounts.items():
            known = await self._store.password_hash(user)
            if not account.password_file.exists():
                if known is None:
                    raise ValueError(f"{account.password_file} holds no password for {user}: write it there, mode 0600")
                continue
            password = account.password_file.read_text().strip()
            if not password:
                raise ValueError(f"{account.password_file} is empty: it must hold the password for {user}")
            if known is None or not await self._matches(known, password):
                hashed = await asyncio.to_thread(self._hasher.hash, password)
                await self._store.keep_password_hash(user, hashed)

    async def login(self, user: str, password: str, address: str) -> tuple[str, Session]:
        """A new session and its id; Fault 403 for wrong credentials, and after too many of them."""
        caller = await self._check(user, password, address)
        now = time.monotonic()
        self._sessions = {key: session for key, session in self._sessions.items() if session.expires >= now}
        if len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        key = secrets.token_hex(32)
        session = Session(caller.user, caller.role, secrets.token_urlsafe(32), now + self._timeout)
        self._sessions[_digest(key)] = session
        return key, session

    def session(self, key: str) -> Session:
        """The session of an id, which lives on for its timeout; Fault 401 if there is none."""
        session = self._sessions.get(_digest(key))
        if session is None or session.expires < time.monotonic():
            self._sessions.pop(_digest(key), None)
            raise faults.no_credentials()
        session.expires = time.monotonic() + self._timeout
        return session

    def logout(self, key: str) -> None:
        self._sessions.pop(_digest(key), None)

    async def basic(self, header: str, address: str) -> Caller:
        """Who calls with these Basic credentials; Fault 403 if they are wrong."""
        known = self._basic.get(self._basic_key(header))
        if known is not None and known[1] > time.monotonic():
            return known[0]
        try:
            user, _, password = base64.b64decode(header, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise faults.bad_credentials() from None
        caller = await self._check(user, password, address)
        now = time.monotonic()
        self._basic = {key: value for key, value in self._basic.items() if value[1] > now}
        self._basic[self._basic_key(header)] = (caller, now + _BASIC_LIFE)
        return caller

    def _basic_key(self, header: str) -> bytes:
        return hmac.digest(self._secret, header.encode(), "sha256")

    async def _check(self, user: str, password: str, address: str) -> Caller:
        failures = self._failures_of(user, address)
        async with failures.lock:
            if failures.locked_until > time.monotonic():
                raise faults.bad_credentials()
            # For a name that nobody has somebody else's hash: it must not show by the time it takes.
            known = await self._store.password_hash(user if user in self._accounts else next(iter(self._accounts)))
            right = known is not None and await self._matches(known, password)
            if not right or user not in self._accounts:
                failures.count += 1
                if failures.count >= _FAILURES_ALLOWED:
                    failures.locked_until = time.monotonic() + _LOCKED_FOR
                    failures.count = 0
                raise faults.bad_credentials()
            failures.count = 0
        return Caller(user, self._accounts[user][1])

    def _failures_of(self, user: str, address: str) -> _Failures:
        if len(self._failures) >= _KNOWN_FAILURES:  # names made up by an attacker must not fill the memory
            self._failures.clear()
        return self._failures.setdefault((user, address), _Failures())

    async def _matches(self, hashed: str, password: str) -> bool:
        try:
            async with self._hashing:
                return await asyncio.to_thread(self._hasher.verify, hashed, password)
        except argon2.exceptions.VerificationError:
            return False
