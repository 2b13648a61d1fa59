"""The table of places: which path is what, and what lives below what."""

import pytest

from landbridge.nsx.policy.tree import PLACES, children_of, collection_of, parent_of, path_below, place_of


@pytest.mark.parametrize(
    ("path", "kind", "parent"),
    [
        ("/infra/segments/web", "Segment", "/infra"),
        ("/infra/tier-1s/t/segments/web", "Segment", "/infra/tier-1s/t"),
        ("/infra/segments/web/ports/p", "SegmentPort", "/infra/segments/web"),
        ("/infra/tier-1s/t/nat/USER/nat-rules/r", "PolicyNatRule", "/infra/tier-1s/t/nat/USER"),
        ("/infra/tier-0s/t/locale-services/l/interfaces/i", "Tier0Interface", "/infra/tier-0s/t/locale-services/l"),
        ("/infra/tier-1s/t/dns-forwarder", "PolicyDnsForwarder", "/infra/tier-1s/t"),
        ("/infra/domains/default/groups/g", "Group", "/infra/domains/default"),
        (
            "/infra/domains/default/security-policies/p/rules/r",
            "Rule",
            "/infra/domains/default/security-policies/p",
        ),
        ("/infra/settings/firewall/security/exclude-list", "PolicyExcludeList", "/infra"),
        ("/infra/sites/default/enforcement-points/default", "EnforcementPoint", "/infra/sites/default"),
    ],
)
def test_a_path_has_a_type_and_a_parent(path: str, kind: str, parent: str) -> None:
    place = place_of(path)
    assert place is not None
    assert (place.kind.kind, parent_of(place, path)) == (kind, parent)
    if not place.singleton:
        assert path_below(place, parent, path.rsplit("/", 1)[-1]) == path
        assert collection_of(path.rsplit("/", 1)[0]) is place


@pytest.mark.parametrize(
    "path", ["/infra", "/infra/segments", "/infra/fish/x", "/infra/segments/a b", "/infra/segments/", "/infra/nat/x"]
)
def test_other_paths_are_no_objects(path: str) -> None:
    assert place_of(path) is None


def test_a_singleton_is_no_collection() -> None:
    assert collection_of("/infra/tier-1s/t") is None
    assert collection_of("/infra/tier-1s/t/dns-forwarder") is None


def test_each_place_is_reached_from_the_root_by_the_names_of_children() -> None:
    reached = set()
    waiting = list(children_of(None))
    while waiting:
        place = waiting.pop()
        reached.add(place.pattern)
        names = [below.child_name for below in children_of(place)]
        assert len(names) == len(set(names)), place
        waiting += children_of(place)
    assert reached == {place.pattern for place in PLACES}
