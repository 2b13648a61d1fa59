"""Sessions and passwords: what ends, what is kept, what a wrong guess costs."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from landbridge.nsx.policy.config import Account, PolicyConfig
from landbridge.nsx.policy.faults import Fault
from landbridge.nsx.policy.sessions import Role, Sessions
from landbridge.nsx.policy.store import Store

_HERE = "192.0.2.1"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store(f"sqlite:///{tmp_path / 'nsx.sqlite'}")
    yield opened
    opened.close()


def _config(directory: Path, timeout: float = 600) -> PolicyConfig:
    return PolicyConfig(
        state_dir=directory,
        administrator=Account(user="admin", password_file=directory / "admin"),
        session_timeout=timeout,
    )


async def _ready(store: Store, directory: Path, password: str, timeout: float = 600) -> Sessions:
    (directory / "admin").write_text(password + "\n")
    sessions = Sessions(store, _config(directory, timeout))
    await sessions.prepare()
    return sessions


async def test_a_session_that_nobody_uses_ends(store: Store, tmp_path: Path) -> None:
    sessions = await _ready(store, tmp_path, "right", timeout=0.05)
    key, session = await sessions.login("admin", "right", _HERE)
    assert session.role is Role.ADMIN
    await asyncio.sleep(0.06)
    with pytest.raises(Fault) as ended:
        sessions.session(key)
    assert ended.value.status == 401


async def test_only_a_hash_is_kept_and_a_new_password_in_the_file_counts(store: Store, tmp_path: Path) -> None:
    await _ready(store, tmp_path, "first")
    kept = await store.password_hash("admin")
    assert kept is not None
    assert kept.startswith("$argon2id$")
    assert "first" not in kept
    sessions = await _ready(store, tmp_path, "second")
    await sessions.login("admin", "second", _HERE)
    with pytest.raises(Fault):
        await sessions.login("admin", "first", _HERE)
    # The file may go once the hash is there; without either there is no manager.
    (tmp_path / "admin").unlink()
    await Sessions(store, _config(tmp_path)).prepare()
    other = _config(tmp_path).model_copy(
        update={"administrator": Account(user="root", password_file=tmp_path / "none")}
    )
    with pytest.raises(ValueError, match="holds no password"):
        await Sessions(store, other).prepare()


async def test_guesses_lock_one_name_at_one_address(store: Store, tmp_path: Path) -> None:
    sessions = await _ready(store, tmp_path, "right")
    # At once, as an attacker would.
    answers = await asyncio.gather(
        *(sessions.login("admin", f"guess {number}", _HERE) for number in range(5)), return_exceptions=True
    )
    assert all(isinstance(answer, Fault) and answer.status == 403 for answer in answers)
    header = base64.b64encode(b"admin:right").decode()
    with pytest.raises(Fault):
        await sessions.basic(header, _HERE)
    caller = await sessions.basic(header, "192.0.2.2")
    assert (caller.user, caller.role) == ("admin", Role.ADMIN)
    for bad in ("!", base64.b64encode(b"admin").decode(), base64.b64encode(b"\xff\xfe").decode()):
        with pytest.raises(Fault):
            await sessions.basic(bad, "192.0.2.3")
