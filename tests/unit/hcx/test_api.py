"""The REST API's manners: sessions, errors in JSON, what is refused."""

from typing import Any

from landbridge.hcx.manager import Manager
from landbridge.hcx.sessions import digest
from tests.unit.hcx.conftest import PASSWORD, Client

API = "/hybridity/api"


async def _login(api: Client, password: str = PASSWORD) -> tuple[int, dict[str, str], Any]:
    response = await api.post(f"{API}/sessions", json={"username": "admin", "password": password})
    header = {"x-hm-authorization": response.headers.get("x-hm-authorization", "")}
    return response.status, header, await response.json()


async def test_a_login_answers_the_token_in_its_header(api: Client) -> None:
    status, header, _ = await _login(api)
    assert status == 200
    response = await api.get(f"{API}/cloudConfigs", headers=header)
    assert response.status == 200
    assert (await response.json())["data"] == {"items": []}


async def test_a_wrong_password_is_a_401_in_hcx_form(api: Client) -> None:
    status, header, body = await _login(api, "wrong")
    assert status == 401
    assert not header["x-hm-authorization"]
    assert body["success"] is False
    assert body["errors"][0]["error"] == "Login failure"


async def test_too_many_wrong_passwords_lock_even_the_right_one_out(api: Client) -> None:
    for _ in range(5):
        assert (await _login(api, "wrong"))[0] == 401
    assert (await _login(api))[0] == 429


async def test_without_a_session_everything_else_is_401(api: Client) -> None:
    for path in ("cloudConfigs", "interconnect/serviceMesh", "nothing"):
        response = await api.get(f"{API}/{path}")
        assert response.status == 401
        assert (await response.json())["errors"]


async def test_an_expired_session_is_401(api: Client, manager: Manager) -> None:
    _, header, _ = await _login(api)
    manager.sessions._sessions[digest(header["x-hm-authorization"])].expires = 0.0
    response = await api.get(f"{API}/cloudConfigs", headers=header)
    assert response.status == 401


async def test_a_logout_ends_the_session(api: Client) -> None:
    _, header, _ = await _login(api)
    assert (await api.delete(f"{API}/sessions", headers=header)).status == 200
    assert (await api.get(f"{API}/cloudConfigs", headers=header)).status == 401


async def test_an_unknown_route_is_a_404_in_json(api: Client) -> None:
    _, header, _ = await _login(api)
    response = await api.get(f"{API}/l2Extensions", headers=header)
    assert response.status == 404
    assert (await response.json())["errors"][0]["error"] == "Not found"


async def test_malformed_json_is_a_400(api: Client) -> None:
    _, header, _ = await _login(api)
    for content in (b"{", b"[1]", b"[" * 100_000, b"\xff\xfe"):
        response = await api.post(f"{API}/cloudConfigs", data=content, headers=header)
        assert response.status == 400, content[:10]
        assert (await response.json())["errors"]


async def test_a_body_beyond_the_limit_is_refused_in_json(api: Client) -> None:
    _, header, _ = await _login(api)
    response = await api.post(f"{API}/cloudConfigs", data=b"x" * (5 << 20), headers=header)
    assert response.status == 413
    assert (await response.json())["errors"]


async def test_pairing_does_not_start_at_the_cloud(api: Client) -> None:
    _, header, _ = await _login(api)
    remote = {"url": "https://127.0.0.1", "username": "admin", "password": "x"}
    response = await api.post(f"{API}/cloudConfigs", json={"remote": remote}, headers=header)
    assert response.status == 400


async def test_an_action_migrations_do_not_have_is_refused(api: Client) -> None:
    _, header, _ = await _login(api)
    response = await api.post(f"{API}/migrations?action=pause", json={}, headers=header)
    assert response.status == 400


async def test_people_do_not_reach_the_halves(api: Client) -> None:
    _, header, _ = await _login(api)
    response = await api.post(f"{API}/interconnect/halves/target/m/abort", json={}, headers=header)
    assert response.status == 403


async def test_something_that_is_no_certificate_is_not_imported(api: Client) -> None:
    _, header, _ = await _login(api)
    response = await api.post(f"{API}/admin/certificates", json={"certificate": "nonsense"}, headers=header)
    assert response.status == 400
