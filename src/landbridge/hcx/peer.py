"""The other manager of a site pair: what is kept about it, and the connector's calls to it."""

from pathlib import Path
from typing import Any, ClassVar

import aiohttp
from pydantic import Field

from landbridge.esx.model import Endpoint
from landbridge.hcx.faults import ApiFault
from landbridge.hcx.store import Document

_CALL_TIMEOUT = 60.0  # seconds
_CONNECT_TIMEOUT = 10.0
API = "/hybridity/api"


class Peer(Document):
    """A site pairing. The connector knows the cloud's URL; the cloud manager never calls the connector."""

    kind: ClassVar[str] = "peer"
    # id: the remote endpoint's id
    name: str
    site: str
    url: str = ""
    # The certificate the connector pinned, SHA-256 in hex.
    fingerprint: str = ""
    # At the cloud manager: SHA-256 of the token its service account uses.
    token_digest: str = ""
    username: str = ""
    # The remote appliance's probe stream
    uplink: Endpoint | None = None
    mesh_id: str = ""
    # The pairing is complete on this side.
    ready: bool = False
    vcenter: dict[str, str] = Field(default={})


class PeerUnreachable(Exception):  # noqa: N818 - a state of the world more than an error of a call
    """The other manager does not answer, or who answers is not who was paired."""


class PeerClient:
    """HTTPS calls to a manager whose certificate is pinned, as a user (`session`) or as the pair's service account."""

    def __init__(self, url: str, fingerprint: str, token_file: Path | None = None) -> None:
        self._url = url.rstrip("/")
        self._pin = aiohttp.Fingerprint(bytes.fromhex(fingerprint))
        self._token_file = token_file
        self._session_token = ""
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def login(self, user: str, password: str) -> None:
        """Log in as a person; ApiFault as the other manager answered it (401 `Login failure`)."""
        body = {"username": user, "password": password}
        headers, _ = await self._request("POST", "/sessions", body, _CALL_TIMEOUT)
        self._session_token = headers.get("x-hm-authorization", "")

    async def call(self, method: str, path: str, body: Any = None, *, extra_time: float = 0) -> Any:
        """The JSON a route below /hybridity/api answers. ApiFault: it refused; PeerUnreachable: nobody answered."""
        _, answer = await self._request(method, path, body, _CALL_TIMEOUT + extra_time)
        return answer

    async def _request(self, method: str, path: str, body: Any, timeout: float) -> tuple[Any, Any]:
        headers = {}
        if self._session_token:
            headers["x-hm-authorization"] = self._session_token
        elif self._token_file is not None and self._token_file.exists():
            headers["Authorization"] = f"Bearer {self._token_file.read_text().strip()}"
        limit = aiohttp.ClientTimeout(total=timeout, connect=_CONNECT_TIMEOUT)
        try:
            async with self._open().request(
                method, f"{self._url}{API}{path}", json=body, headers=headers, timeout=limit
            ) as response:
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise PeerUnreachable(f"{self._url}: {error or type(error).__name__}") from error
        if response.status >= 400:
            first = ((answer or {}).get("errors") or [{}])[0]
            text = first.get("text") or f"HTTP {response.status}"
            raise ApiFault(response.status, first.get("error") or "Remote error", text, first.get("data"))
        return response.headers, answer

    def _open(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._pin, limit=0), trust_env=False)
        return self._http
