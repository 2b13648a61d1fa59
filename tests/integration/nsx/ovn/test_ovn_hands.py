"""Somebody's hand in the northbound database, and passes that have nothing to do."""

from collections.abc import Sequence

import pytest

from landbridge.nsx.policy.model.security import Rule, SecurityPolicy
from landbridge.nsx.policy.model.segments import Segment
from tests.integration.nsx.ovn.central import Site, machine, until

WEB = "/infra/segments/web"
POLICY = "/infra/domains/default/security-policies/p"


async def build(site: Site) -> None:
    rule = Rule(path=f"{POLICY}/rules/r", parent_path=POLICY, action="DROP", destination_groups=["10.0.0.0/8"])
    machines = [machine(number, WEB) for number in (1, 2)]
    await site.put(Segment(path=WEB), SecurityPolicy(path=POLICY), rule, machines=machines)


async def state(site: Site) -> list[object]:
    """All that is ours but for the UUIDs, which a row that was deleted can not have again."""
    return [
        await site.rows("Logical_Switch", "name", "other_config", "external_ids"),
        await site.rows("Logical_Switch_Port", "name", "addresses", "port_security", "enabled", "options"),
        await site.rows("ACL", "match", "priority", "action", "direction"),
        await site.rows("Port_Group", "name"),
        (await site.nbctl("show")).count("vif-"),
    ]


async def test_the_same_snapshot_again_writes_nothing(site: Site) -> None:
    await build(site)
    before = site.reconciler.transactions
    await site.put()
    await site.put()
    assert site.reconciler.transactions == before


@pytest.mark.parametrize(
    "command",
    [
        ["ls-del", WEB],
        ["lsp-del", "vif-1"],
        ["lsp-set-addresses", "vif-1", "00:00:00:00:00:09 10.0.0.9"],
        ["lsp-set-enabled", "vif-2", "disabled"],
        ["lsp-set-options", "vif-2", "requested-chassis=nowhere"],
        ["clear", "Logical_Switch", WEB, "external_ids"],
        ["clear", "Logical_Switch_Port", "vif-1", "external_ids"],
        ["lsp-add", WEB, "intruder"],
    ],
    ids=" ".join,
)
async def test_a_change_of_our_rows_by_hand_is_put_back(site: Site, command: Sequence[str]) -> None:
    await build(site)
    before = await state(site)
    await site.nbctl(*command)

    async def healed() -> bool:
        return await state(site) == before

    if command[:2] == ["clear", "Logical_Switch"]:
        # A switch without our key is somebody's: it stays, and ours is made anew beside it.
        async def anew() -> bool:
            return len(await site.rows("Logical_Switch", "name")) == 2

        await until(anew, "our switch is there again")
        for uuid, ids in await site.rows("Logical_Switch", "_uuid", "external_ids"):
            if ids == ["map", []]:
                await site.nbctl("ls-del", uuid[1])
    await until(healed, f"{' '.join(command)} is undone")


async def test_rules_deleted_by_hand_come_back(site: Site) -> None:
    await build(site)
    before = await state(site)
    for (name,) in await site.rows("Port_Group", "name"):
        await site.nbctl("--type=port-group", "acl-del", name)

    async def healed() -> bool:
        return await state(site) == before

    await until(healed, "the rules are there again")


async def test_rows_of_others_are_left_alone(site: Site) -> None:
    await build(site)
    await site.nbctl("ls-add", "theirs", "--", "lsp-add", "theirs", "their-port", "--", "lr-add", "their-router")
    await site.put(machines=[machine(3, WEB)])
    await site.tree.clear()
    await site.settled()
    assert await site.rows("Logical_Switch", "name") == [["theirs"]]
    assert await site.rows("Logical_Switch_Port", "name") == [["their-port"]]
    await site.nbctl("ls-del", "theirs", "--", "lr-del", "their-router")
