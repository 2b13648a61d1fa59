"""Objects of the tree over HTTPS: made, read, changed, deleted, and refused where they must be."""

import asyncio
from collections.abc import Mapping

import aiohttp

from tests.integration.nsx.policy.bare import Api
from tests.integration.nsx.policy.managers import AUDIT, Manager

_DOMAIN = "/infra/domains/default"


async def _tier1(api: Api, name: str, **fields: object) -> str:
    path = f"/infra/tier-1s/{name}"
    await api.patch(path, fields)
    return path


async def test_what_is_put_comes_back_with_what_the_server_adds(api: Api) -> None:
    tier1 = await _tier1(api, "added")
    made = await api.put(
        "/infra/segments/added",
        {"connectivity_path": tier1, "subnets": [{"gateway_address": "10.9.0.1/24"}], "tags": [{"tag": "x"}]},
    )
    assert made["path"] == "/infra/segments/added"
    assert made["relative_path"] == made["id"] == made["display_name"] == "added"
    assert (made["parent_path"], made["resource_type"], made["_revision"]) == ("/infra", "Segment", 0)
    assert made["_create_user"] == "admin"
    assert made["subnets"][0]["network"] == "10.9.0.0/24"
    assert made["transport_zone_path"].endswith("/1b3a2f36-bfd1-443e-a0f6-4de01abc963e")
    assert made["type"] == "ROUTED"
    assert "description" not in made
    assert "domain_name" not in made
    assert made == await api.get("/infra/segments/added")


async def test_a_put_needs_the_revision_that_is_there(api: Api) -> None:
    first = await api.put("/infra/segments/revised", {"description": "one"})
    second = await api.put("/infra/segments/revised", {**first, "description": "two"})
    assert second["_revision"] == 1
    for stale in (first, {"description": "no revision"}):
        error = await api.refused("PUT", "/infra/segments/revised", stale, status=412)
        assert (error["error_code"], error["httpStatus"]) == (604, "PRECONDITION_FAILED")
    assert (await api.get("/infra/segments/revised"))["description"] == "two"


async def test_a_put_replaces_and_a_patch_merges(api: Api) -> None:
    made = await api.put("/infra/segments/merged", {"description": "d", "domain_name": "a.test"})
    await api.patch("/infra/segments/merged", {"domain_name": "b.test"})
    merged = await api.get("/infra/segments/merged")
    assert (merged["description"], merged["domain_name"], merged["_revision"]) == ("d", "b.test", 1)
    assert merged["unique_id"] == made["unique_id"]
    replaced = await api.put("/infra/segments/merged", {"_revision": 1, "description": "e"})
    assert "domain_name" not in replaced
    await api.patch("/infra/segments/merged", {"description": None})
    assert "description" not in await api.get("/infra/segments/merged")


async def test_a_patch_that_changes_nothing_makes_no_revision(api: Api) -> None:
    await api.patch("/infra/segments/idle", {"description": "same"})
    await api.patch("/infra/segments/idle", {"description": "same"})
    assert (await api.get("/infra/segments/idle"))["_revision"] == 0


async def test_what_is_in_use_stays_and_its_users_are_named(api: Api) -> None:
    tier1 = await _tier1(api, "used")
    await api.patch("/infra/segments/user", {"connectivity_path": tier1})
    error = await api.refused("DELETE", tier1)
    assert error["error_code"] == 500030
    assert "/infra/segments/user" in error["error_message"]
    await api.delete("/infra/segments/user")
    await api.delete(tier1)
    await api.refused("GET", tier1, status=404)
    await api.refused("GET", f"{tier1}/nat/USER/nat-rules", status=404)


async def test_a_reference_to_nothing_or_to_the_wrong_type_is_refused_by_name(api: Api) -> None:
    error = await api.refused("PATCH", "/infra/segments/lost", {"connectivity_path": "/infra/tier-1s/nowhere"})
    assert error["error_code"] == 500012
    assert "/infra/tier-1s/nowhere" in error["error_message"]
    await api.refused("PATCH", "/infra/segments/lost", {"connectivity_path": "/infra/services/SSH"})
    await api.refused("GET", "/infra/segments/lost", status=404)


async def test_unknown_fields_values_paths_and_bodies_are_refused_and_named(api: Api) -> None:
    error = await api.refused("PATCH", "/infra/segments/odd", {"colour": "blue"})
    assert "colour" in error["error_message"]
    error = await api.refused("PATCH", "/infra/segments/odd", {"subnets": [{"gateway_address": "10.1.1.1"}]})
    assert "subnets.0.gateway_address" in error["error_message"]
    await api.refused("PATCH", "/infra/segments/odd", [1])
    await api.refused("PATCH", "/infra/segments/odd", {"id": "even"})
    await api.refused("PATCH", "/infra/segments/odd", {"resource_type": "Tier1"})
    await api.refused("PATCH", "/infra/segments/o%20d", {}, status=404)
    error = await api.refused("GET", "/infra/fish", status=404)
    assert error["error_code"] == 600
    await api.refused("GET", "/infra/segments/odd", status=404)
    await api.refused("DELETE", "/infra/segments/odd", status=404)
    await api.refused("POST", "/infra/segments/odd?action=jump", {}, status=405)
    async with api.session.patch("/policy/api/v1/infra/segments/odd", data=b"{no json") as answer:
        assert answer.status == 400
        assert (await answer.json())["httpStatus"] == "BAD_REQUEST"


async def test_what_is_not_supported_holds_nothing_and_takes_nothing(api: Api) -> None:
    await api.patch("/infra/segments/plainest", {"metadata_proxy_paths": [], "evpn_tenant_config_path": ""})
    assert "metadata_proxy_paths" not in await api.get("/infra/segments/plainest")
    await api.refused("PATCH", "/infra/segments/plainest", {"metadata_proxy_paths": ["/infra/metadata-proxies/m"]})
    for path in ("/infra/ip-pools", "/infra/segments/plainest/segment-qos-profile-binding-maps"):
        page = await api.get(path)
        assert (page["results"], page["result_count"]) == ([], 0)
        await api.refused("PATCH", f"{path}/one", {}, status=404)
    await api.refused("GET", "/infra/segments/none/segment-qos-profile-binding-maps", status=404)


async def test_a_body_without_end_is_refused(api: Api) -> None:
    endless = b'{"description": "' + b"x" * (33 << 20) + b'"}'
    async with api.session.patch("/policy/api/v1/infra/segments/huge", data=endless) as answer:
        assert answer.status == 413
        assert (await answer.json())["module_name"] == "policy"
    await api.refused("GET", "/infra/segments/huge", status=404)


async def test_a_body_counts_whatever_its_content_type(api: Api) -> None:
    headers = {"Content-Type": "text/plain"}
    async with api.session.patch("/policy/api/v1/infra/segments/plain", data=b"{}", headers=headers) as answer:
        assert answer.status == 200


async def test_lists_come_in_pages_that_changes_do_not_shift(api: Api) -> None:
    for number in range(5):
        await api.patch(f"/infra/services/page-{number}", {"display_name": f"zzz-{number}"})
    seen: list[str] = []
    cursor: dict[str, str] = {"sort_by": "display_name", "sort_ascending": "false"}
    while True:
        page = await api.get("/infra/services", params={"page_size": "2", **cursor})
        seen += [one["display_name"] for one in page["results"]]
        if len(seen) == 2:
            await api.delete("/infra/services/page-4")
        if "cursor" not in page:
            break
        cursor["cursor"] = page["cursor"]
    assert [name for name in seen if name.startswith("zzz")] == [f"zzz-{number}" for number in (4, 3, 2, 1, 0)]
    assert len(seen) == len(set(seen)) == page["result_count"] + 1
    await api.refused("GET", "/infra/services?page_size=1001")
    await api.refused("GET", "/infra/services?cursor=nonsense")


async def test_a_policy_carries_its_rules_and_a_put_drops_those_it_leaves_out(api: Api) -> None:
    policy = f"{_DOMAIN}/security-policies/carrier"
    rule = {"action": "DROP", "services": ["/infra/services/SSH"], "source_groups": ["10.0.0.0/8"]}
    await api.patch(policy, {"category": "Application", "rules": [{"id": "b", "sequence_number": 2, **rule}]})
    await api.patch(f"{policy}/rules/a", {"sequence_number": 1, **rule})
    shown = await api.get(policy)
    assert [one["id"] for one in shown["rules"]] == ["a", "b"]
    assert shown["rule_count"] == 2
    assert len({one["rule_id"] for one in shown["rules"]}) == 2
    kept = await api.put(policy, {**shown, "rules": shown["rules"][:1]})
    assert [(one["id"], one["_revision"]) for one in kept["rules"]] == [("a", 0)]
    bare = await api.put(policy, {**kept, "rules": [{"id": "a", "action": "DROP", "_revision": 0}]})
    assert (bare["rules"][0]["source_groups"], bare["rules"][0]["_revision"]) == (["ANY"], 1)
    await api.refused("PUT", policy, {**bare, "rules": kept["rules"]}, status=412)
    # Who has not seen a rule that came meanwhile does not drop it.
    await api.patch(f"{policy}/rules/unseen", rule)
    await api.refused("PUT", policy, bare, status=412)
    await api.delete(f"{policy}/rules/unseen")
    await api.refused("PUT", policy, bare, status=412)
    await api.refused("GET", f"{policy}/rules/b", status=404)
    await api.delete(policy)
    await api.refused("GET", f"{policy}/rules/a", status=404)


async def test_entries_of_a_service_have_paths_of_their_own(api: Api) -> None:
    service = "/infra/services/entries"
    entry = {"resource_type": "L4PortSetServiceEntry", "l4_protocol": "TCP", "destination_ports": ["80"]}
    await api.patch(service, {"service_entries": [{"id": "one", **entry}]})
    await api.patch(f"{service}/service-entries/two", {**entry, "destination_ports": ["8000-8010"]})
    await api.patch(f"{service}/service-entries/one", {"destination_ports": ["81"]})
    listed = await api.get(f"{service}/service-entries")
    assert [one["destination_ports"] for one in listed["results"]] == [["81"], ["8000-8010"]]
    await api.delete(f"{service}/service-entries/two")
    assert [one["id"] for one in (await api.get(service))["service_entries"]] == ["one"]
    await api.refused("PATCH", f"{service}/service-entries/bad", {**entry, "destination_ports": ["99999"]})


async def test_a_hierarchical_patch_is_done_as_a_whole_or_not_at_all(api: Api) -> None:
    def tree(gateway: str) -> dict[str, object]:
        segment = {"id": "h-web", "connectivity_path": gateway, "subnets": [{"gateway_address": "10.77.0.1/24"}]}
        domain = {"resource_type": "Domain", "id": "default", "children": [_child("Group", {"id": "h-group"})]}
        return {
            "resource_type": "Infra",
            "children": [
                _child("Segment", segment),
                _child("Tier1", {"id": "h-t1", "display_name": "H"}),
                {"resource_type": "ChildDomain", "Domain": domain},
            ],
        }

    await api.refused("PATCH", "/infra", tree("/infra/tier-1s/other"))
    for path in ("/infra/segments/h-web", "/infra/tier-1s/h-t1", f"{_DOMAIN}/groups/h-group"):
        await api.refused("GET", path, status=404)
    await api.patch("/infra", tree("/infra/tier-1s/h-t1"))
    assert (await api.get("/infra/segments/h-web"))["connectivity_path"] == "/infra/tier-1s/h-t1"
    gone = {"resource_type": "ChildTier1", "marked_for_delete": True, "Tier1": {"id": "h-t1"}}
    error = await api.refused("PATCH", "/infra", {"children": [gone]})
    assert error["error_code"] == 500030
    segment = {"resource_type": "ChildSegment", "marked_for_delete": True, "Segment": {"id": "h-web"}}
    reference = {
        "resource_type": "ChildResourceReference",
        "target_type": "Domain",
        "id": "default",
        "children": [_child("Group", {"id": "h-group"}) | {"marked_for_delete": True}],
    }
    await api.patch("/infra", {"children": [gone, segment, reference]})
    for path in ("/infra/segments/h-web", "/infra/tier-1s/h-t1", f"{_DOMAIN}/groups/h-group"):
        await api.refused("GET", path, status=404)


def _child(kind: str, body: Mapping[str, object]) -> dict[str, object]:
    return {"resource_type": f"Child{kind}", kind: body}


async def test_the_systems_own_objects_are_there_and_stay_as_they_are(api: Api) -> None:
    zones = await api.get("/infra/sites/default/enforcement-points/default/transport-zones")
    assert {zone["tz_type"] for zone in zones["results"]} == {"OVERLAY_STANDARD", "VLAN_BACKED"}
    clusters = await api.get("/infra/sites/default/enforcement-points/default/edge-clusters")
    edges = await api.get(clusters["results"][0]["path"] + "/edge-nodes")
    assert [edge["display_name"] for edge in edges["results"]] == ["edge01.cloud", "edge02.cloud"]
    for name in ("SSH", "HTTP", "HTTPS", "DNS", "DNS-UDP", "ICMP-ALL", "RDP", "MySQL", "NTP"):
        assert (await api.get(f"/infra/services/{name}"))["_system_owned"]
    await api.refused("DELETE", "/infra/services/SSH", status=403)
    await api.refused("PATCH", zones["results"][0]["path"], {"display_name": "mine"}, status=403)
    await api.refused("DELETE", _DOMAIN, status=403)
    rule = f"{_DOMAIN}/security-policies/default-layer3-section/rules/default-layer3-rule"
    await api.patch(rule, {"action": "DROP"})
    assert (await api.get(rule))["action"] == "DROP"
    await api.refused("PATCH", rule, {"source_groups": ["10.0.0.0/8"]}, status=403)
    await api.refused("DELETE", rule, status=403)
    await api.patch(rule, {"action": "ALLOW"})


async def test_the_exclude_list_is_changed_and_never_deleted(api: Api) -> None:
    path = "/infra/settings/firewall/security/exclude-list"
    await api.patch("/infra/segments/excluded", {})
    await api.patch(path, {"members": ["/infra/segments/excluded"]})
    error = await api.refused("DELETE", "/infra/segments/excluded")
    assert path in error["error_message"]
    await api.refused("DELETE", path, status=403)
    await api.patch(path, {"members": []})
    await api.delete("/infra/segments/excluded")


async def test_a_tree_that_was_read_as_a_whole_restores_what_is_lost(api: Api) -> None:
    await api.patch("/infra/tier-1s/saved", {"tags": [{"scope": "s", "tag": "t"}]})
    await api.patch("/infra/tier-1s/saved/segments/deep", {"subnets": [{"gateway_address": "10.88.0.1/24"}]})
    rule = {"id": "r", "action": "REJECT", "source_groups": [f"{_DOMAIN}/groups/saved"]}
    await api.patch(f"{_DOMAIN}/groups/saved", {"description": "kept"})
    await api.patch(f"{_DOMAIN}/security-policies/saved", {"rules": [rule]})
    saved = await api.get("/infra", params={"filter": "Type-Tier1|Segment|Group|SecurityPolicy|Rule"})
    for path in (f"{_DOMAIN}/security-policies/saved", f"{_DOMAIN}/groups/saved"):
        await api.delete(path)
    await api.delete("/infra/tier-1s/saved/segments/deep")
    await api.delete("/infra/tier-1s/saved")
    await api.patch("/infra", saved)
    assert (await api.get("/infra/tier-1s/saved"))["tags"] == [{"scope": "s", "tag": "t"}]
    deep = await api.get("/infra/tier-1s/saved/segments/deep")
    assert deep["connectivity_path"] == "/infra/tier-1s/saved"
    assert (await api.get(f"{_DOMAIN}/groups/saved"))["description"] == "kept"
    (restored,) = (await api.get(f"{_DOMAIN}/security-policies/saved"))["rules"]
    assert (restored["id"], restored["action"]) == ("r", "REJECT")
    below = await api.get("/infra", params={"base_path": "/infra/tier-1s/saved"})
    (only,) = below["children"]
    assert [child["Segment"]["id"] for child in only["Tier1"]["children"] if "Segment" in child] == ["deep"]
    await api.refused("GET", "/infra?filter=Name-x")
    await api.refused("GET", "/infra?filter=Type-Fish")


async def test_two_that_change_the_same_revision_at_once_do_not_both_win(api: Api) -> None:
    made = await api.put("/infra/segments/raced", {"description": "start"})
    answers = await asyncio.gather(
        *(api.call("PUT", "/infra/segments/raced", {**made, "description": str(number)}) for number in range(6))
    )
    assert sorted(status for status, _ in answers) == [200, 412, 412, 412, 412, 412]


async def test_sessions_need_their_token_for_changes_and_end(nsx: Manager) -> None:
    async with Api(nsx) as api:
        form = {"j_username": "admin", "j_password": "VMware1!VMware1!"}
        async with api.session.post("/api/session/create", data=form) as answer:
            assert answer.status == 200
            set_cookie, token = answer.headers["Set-Cookie"], answer.headers["X-XSRF-TOKEN"]
        assert set_cookie.startswith("JSESSIONID=")
        assert {"Secure", "HttpOnly"} <= {word.strip() for word in set_cookie.split(";")}
        cookie = {"Cookie": set_cookie.split(";")[0]}
        assert (await api.call("GET", "/infra/segments", headers=cookie))[0] == 200
        assert (await api.call("PATCH", "/infra/segments/session", {}, headers=cookie))[0] == 403
        both = {**cookie, "X-XSRF-TOKEN": token}
        assert (await api.call("PATCH", "/infra/segments/session", {}, headers=both))[0] == 200
        assert (await api.call("POST", "/api/session/destroy", headers=both))[0] == 200
        assert (await api.call("GET", "/infra/segments", headers=cookie))[0] == 401
        await api.refused("GET", "/infra/segments", status=401)


async def test_wrong_passwords_are_refused_and_soon_not_even_looked_at(nsx: Manager) -> None:
    async with Api(nsx, source="127.0.0.2") as api:
        for _ in range(5):
            form = {"j_username": "audit", "j_password": "wrong"}
            async with api.session.post("/api/session/create", data=form) as answer:
                assert answer.status == 403
                assert (await answer.json())["error_code"] == 403
        form["j_password"] = AUDIT[1]
        async with api.session.post("/api/session/create", data=form) as answer:
            assert answer.status == 403
    async with Api(nsx, ("admin", "wrong")) as api:
        await api.refused("GET", "/infra/segments", status=403)


async def test_an_auditor_reads_and_changes_nothing(nsx: Manager) -> None:
    async with Api(nsx, AUDIT) as api:
        await api.get("/infra/segments")
        assert (await api.get("/aaa/user-info"))["roles"][0]["role"] == "auditor"
        error = await api.refused("PATCH", "/infra/segments/audited", {}, status=403)
        assert error["error_code"] == 289
        await api.refused("DELETE", "/infra/services/HTTP", status=403)


async def test_a_manager_says_what_it_is_and_that_it_lives(api: Api, nsx: Manager) -> None:
    assert (await api.get("/api/v1/node/version"))["product_version"].startswith("4.1")
    assert (await api.get("/api/v1/node"))["hostname"] == "nsx"
    assert (await api.get("/api/v1/reverse-proxy/node/health"))["healthy"] is True
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as anyone:
        async with anyone.get(f"{nsx.url}/healthz") as answer:
            assert answer.status == 200
        async with anyone.get(f"{nsx.url}/api/v1/node/version") as answer:
            assert answer.status == 401
