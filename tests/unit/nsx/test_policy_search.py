"""The search language: what a query finds, and what is no query."""

from typing import Any

import pytest

from landbridge.nsx.policy.faults import Fault
from landbridge.nsx.policy.search import parse

_WEB = {
    "resource_type": "Segment",
    "id": "s1",
    "display_name": "Web Tier",
    "path": "/infra/segments/s1",
    "tags": [{"scope": "env", "tag": "prod"}, {"scope": "owner", "tag": "a:b"}],
    "subnets": [{"gateway_address": "10.0.0.1/24"}],
    "sequence_number": 10,
    "marked_for_delete": False,
}
_DB = {"resource_type": "Group", "id": "g1", "display_name": "db", "path": "/infra/domains/default/groups/g1"}


def _found(query: str) -> list[str]:
    predicate = parse(query)
    objects: list[dict[str, Any]] = [_WEB, _DB]
    return [one["id"] for one in objects if predicate(one)]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("resource_type:Segment", ["s1"]),
        ("resource_type:segment AND display_name:web*", ["s1"]),
        ("resource_type:Segment display_name:db", []),
        ("resource_type:Segment OR resource_type:Group", ["s1", "g1"]),
        ("resource_type:(Segment OR Group)", ["s1", "g1"]),
        ("NOT resource_type:Segment", ["g1"]),
        ("resource_type:* AND !resource_type:Segment", ["g1"]),
        ("resource_type:* -display_name:db", ["s1"]),
        ('display_name:"Web Tier"', ["s1"]),
        ('display_name:"Web"', []),
        ("display_name:*tier", ["s1"]),
        ("display_name:d?", ["g1"]),
        ("tags.scope:env AND tags.tag:prod", ["s1"]),
        ("tags.tag:dev", []),
        (r"tags.tag:a\:b", ["s1"]),
        ("tags:*", ["s1"]),
        ("subnets.gateway_address:10.0.0.*", ["s1"]),
        ("sequence_number:10 AND marked_for_delete:false", ["s1"]),
        ("path:/infra/segments/*", ["s1"]),
        ('path:"/infra/segments/s1"', ["s1"]),
        ("(id:s1 OR id:g1) AND NOT (display_name:db)", ["s1"]),
        ("prod", ["s1"]),
        ("*", ["s1", "g1"]),
        ("id:g1 OR id:s1 AND tags.scope:none", ["g1"]),
    ],
)
def test_a_query_finds(query: str, found: list[str]) -> None:
    assert _found(query) == found


@pytest.mark.parametrize(
    "query", ["", "  ", "AND", "id:s1 AND", "(id:s1", "id:s1)", 'id:"open', "id:", "(" * 60 + "a", "NOT " * 2000 + "a"]
)
def test_what_is_no_query_is_refused(query: str) -> None:
    with pytest.raises(Fault) as refused:
        parse(query)
    assert refused.value.status == 400


def test_many_wildcards_do_not_take_for_ever() -> None:
    assert not parse("display_name:" + "*a" * 200 + "b")({"display_name": "a" * 2000})
