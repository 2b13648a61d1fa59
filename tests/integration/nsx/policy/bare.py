"""Bare HTTP against a manager, for what clients do not show."""

import ssl
from types import TracebackType
from typing import Any

import aiohttp

from tests.integration.nsx.policy.managers import Manager

POLICY = "/policy/api/v1"


class Api:
    """JSON calls with Basic credentials, or none; `source` is the address they come from."""

    def __init__(self, manager: Manager, user: tuple[str, str] | None = None, source: str = "") -> None:
        context = ssl.create_default_context(cafile=str(manager.ca))
        self.session = aiohttp.ClientSession(
            manager.url,
            headers={"Authorization": aiohttp.encode_basic_auth(*user)} if user else None,
            connector=aiohttp.TCPConnector(ssl=context, local_addr=(source, 0) if source else None),
            timeout=aiohttp.ClientTimeout(total=30),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def __aenter__(self) -> "Api":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.close()

    async def call(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        """Status and JSON (None if there is none); a path below `/infra` is the Policy API's."""
        where = f"{POLICY}{path}" if path.startswith(("/infra", "/search", "/aaa")) else path
        async with self.session.request(method, where, json=body, **options) as answer:
            text = await answer.read()
            return answer.status, await answer.json() if text else None

    async def get(self, path: str, **options: Any) -> Any:
        status, body = await self.call("GET", path, **options)
        assert status == 200, (path, status, body)
        return body

    async def put(self, path: str, body: Any) -> Any:
        status, answer = await self.call("PUT", path, body)
        assert status == 200, (path, status, answer)
        return answer

    async def patch(self, path: str, body: Any) -> None:
        status, answer = await self.call("PATCH", path, body)
        assert (status, answer) == (200, None), (path, status, answer)

    async def delete(self, path: str) -> None:
        status, answer = await self.call("DELETE", path)
        assert (status, answer) == (200, None), (path, status, answer)

    async def refused(self, method: str, path: str, body: Any = None, *, status: int = 400) -> dict[str, Any]:
        """The error's body; it must come with this status, and in NSX's form."""
        got, answer = await self.call(method, path, body)
        assert got == status, (path, got, answer)
        assert answer.keys() == {"httpStatus", "error_code", "module_name", "error_message"}
        assert isinstance(answer, dict)
        return answer
