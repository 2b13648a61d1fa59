"""The store on SQLite and on PostgreSQL: nothing lost, nothing half done, and other managers see it."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from landbridge.nsx.policy import changes
from landbridge.nsx.policy.checks import check
from landbridge.nsx.policy.contents import Draft
from landbridge.nsx.policy.faults import Fault
from landbridge.nsx.policy.model.base import Intent
from landbridge.nsx.policy.model.fabric import Domain
from landbridge.nsx.policy.model.security import Rule, SecurityPolicy
from landbridge.nsx.policy.store import Store
from tests.integration.hcx.postgresql import cluster
from tests.integration.nsx.policy.bare import Api
from tests.integration.nsx.policy.managers import ADMIN, manager


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with cluster() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A URL; each test of PostgreSQL has the same database, so tests take paths of their own."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'nsx.sqlite'}"
    url: str = request.getfixturevalue("postgresql")
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


@contextlib.asynccontextmanager
async def _stores(url: str, count: int = 1) -> AsyncIterator[list[Store]]:
    stores = [Store(url) for _ in range(count)]
    try:
        yield stores
    finally:
        for store in stores:
            store.close()


def _patch(path: str, **fields: object) -> Callable[[Draft], None]:
    return lambda draft: changes.patch(draft, path, fields)


async def test_what_was_answered_for_is_there_after_a_restart(database: str) -> None:
    async with _stores(database) as (store,):
        await store.change(_patch("/infra/services/kept", description="d", tags=[{"scope": "a", "tag": "b"}]), "me")
        await store.change(_patch("/infra/services/dropped"), "me")
        await store.change(lambda draft: changes.delete(draft, "/infra/services/dropped"), "me")
        before = await store.contents()
    async with _stores(database) as (store,):
        after = await store.contents()
    assert after.sequence == before.sequence
    assert after.intents == before.intents
    assert after.changed == before.changed
    assert "/infra/services/dropped" not in after.intents


async def test_a_change_that_fails_leaves_nothing(database: str) -> None:
    def half(draft: Draft) -> None:
        changes.patch(draft, "/infra/services/half", {})
        changes.delete(draft, "/infra/services/nothing")

    async with _stores(database) as (store,):
        before = await store.contents()
        with pytest.raises(Fault):
            await store.change(half, "me")
        assert await store.contents() is before
    async with _stores(database) as (store,):
        assert "/infra/services/half" not in (await store.contents()).intents


async def test_a_manager_killed_while_it_writes_kept_what_it_said_and_nothing_by_half(database: str) -> None:
    writer = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.nsx.policy.writing_program",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    said = -1
    try:
        writer.stdin.write(f"{database}\n".encode())
        async with asyncio.timeout(60):
            while said < 20:
                said = int(await writer.stdout.readline())
    finally:
        writer.kill()
        rest, _ = await writer.communicate()
    said = max([said, *(int(line) for line in rest.splitlines() if line)])
    async with _stores(database) as (store,):
        kept = {path.removeprefix("/infra/services/") for path in (await store.contents()).intents}
        # The database is not left locked either.
        await asyncio.wait_for(store.change(_patch("/infra/services/after-the-kill"), "me"), 30)
    assert {f"pair-{number}-{half}" for number in range(said + 1) for half in "ab"} <= kept
    halves = [{path for path in kept if path.startswith("pair-") and path.endswith(half)} for half in "ab"]
    assert {path[:-1] for path in halves[0]} == {path[:-1] for path in halves[1]}


async def test_two_managers_on_one_database_lose_no_update(database: str) -> None:
    path = "/infra/services/counted"

    async def count(store: Store, times: int) -> None:
        for _ in range(times):
            while True:
                contents = await store.contents()
                current = contents.intents[path]
                body = {"_revision": current.revision, "description": str(int(current.description) + 1)}
                try:
                    await store.change(lambda draft, body=body: changes.put(draft, path, body), "me")  # type: ignore[misc]
                except Fault as fault:
                    if fault.code != 604:
                        raise
                else:
                    break

    async with _stores(database, 2) as stores:
        await stores[0].change(_patch(path, description="0"), "me")
        await asyncio.gather(*(count(store, 10) for store in stores for _ in range(2)))
        found = [(await store.contents()).intents[path] for store in stores]
    assert [(one.description, one.revision) for one in found] == [("40", 40)] * 2


async def test_two_managers_do_not_connect_what_the_other_deletes(database: str) -> None:
    """Of a deletion and of a reference to what is deleted at the same moment only one can be done."""

    def checked(work: Callable[[Draft], object]) -> Callable[[Draft], None]:
        def run(draft: Draft) -> None:
            work(draft)
            check(draft)

        return run

    async with _stores(database, 2) as (one, other):
        for number in range(5):
            config, tier1 = f"/infra/dhcp-server-configs/raced-{number}", f"/infra/tier-1s/raced-{number}"
            await one.change(_patch(config), "me")
            answers = await asyncio.gather(
                one.change(checked(lambda draft, path=config: changes.delete(draft, path)), "me"),  # type: ignore[misc]
                other.change(checked(_patch(tier1, dhcp_config_paths=[config])), "me"),
                return_exceptions=True,
            )
            assert sum(isinstance(answer, Fault) for answer in answers) == 1, answers
            contents = await one.contents()
            assert (config in contents.intents) == (tier1 in contents.intents)


async def test_who_waits_hears_of_a_change_here_and_of_another_managers(database: str) -> None:
    async with _stores(database, 2) as (one, other):
        start = (await one.contents()).sequence
        waiting = asyncio.create_task(one.newer(start, 20))
        await one.change(_patch("/infra/services/heard-here"), "me")
        here = await waiting
        assert "/infra/services/heard-here" in here.intents
        waiting = asyncio.create_task(one.newer(here.sequence, 20))
        await other.change(_patch("/infra/services/heard-there"), "me")
        there = await waiting
        assert "/infra/services/heard-there" in there.intents
        # Nothing new: the time is up, and what is known comes back.
        assert (await one.newer(there.sequence, 0.1)).sequence == there.sequence


async def test_rule_numbers_are_never_used_twice(database: str) -> None:
    policy = "/infra/domains/default/security-policies/numbered"

    def made(draft: Draft) -> Intent:
        if "/infra/domains/default" not in draft.intents:
            draft.put(draft.stamped(Domain(), None, "/infra/domains/default", "/infra"))
        return changes.put(draft, policy, {"rules": [{"id": "r", "action": "DROP"}]})

    numbers = []
    async with _stores(database, 2) as stores:
        for store in stores:
            await store.change(made, "me")
            contents = await store.contents()
            assert isinstance(contents.intents[policy], SecurityPolicy)
            rule = contents.get(f"{policy}/rules/r", Rule)
            assert rule is not None
            numbers.append(rule.rule_id)
            await store.change(lambda draft: changes.delete(draft, policy), "me")
    assert numbers[0] != numbers[1]


async def test_two_managers_answer_alike_and_one_stale_put_of_two_is_refused(tmp_path: Path, postgresql: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        managers = [
            await stack.enter_async_context(manager(tmp_path / name, database=postgresql)) for name in ("one", "two")
        ]
        one, two = [await stack.enter_async_context(Api(running, ADMIN)) for running in managers]
        made = await one.put("/infra/segments/both", {"description": "0"})
        assert await two.get("/infra/segments/both") == made
        answers = await asyncio.gather(
            *(api.call("PUT", "/infra/segments/both", {**made, "description": "1"}) for api in (one, two))
        )
        assert sorted(status for status, _ in answers) == [200, 412]
        assert await one.get("/infra/segments/both") == await two.get("/infra/segments/both")
