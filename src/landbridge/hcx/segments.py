"""The cloud's segments, through NSX's Policy API: a port for the appliance, and the gateway's connection."""

import ssl
from typing import Any

import aiohttp

from landbridge.hcx.config import NsxLogin
from landbridge.hcx.faults import ApiFault

_TIMEOUT = 30.0  # seconds
_POLICY = "/policy/api/v1"


class Segments:
    """Calls as NSX's administrator, whose password is read from its file each time."""

    def __init__(self, login: NsxLogin) -> None:
        self._login = login

    async def connected(self, segment: str) -> bool:
        """Whether the segment (its path) has a gateway that answers on it."""
        found = await self._call("GET", segment)
        connectivity = (found.get("advanced_config") or {}).get("connectivity", "ON")
        return bool(found.get("connectivity_path")) and connectivity == "ON"

    async def connect(self, segment: str) -> None:
        """Have the segment's gateway answer on it."""
        await self._call("PATCH", segment, {"advanced_config": {"connectivity": "ON"}})

    async def add_port(self, segment: str, port: str, vif: str, name: str) -> None:
        """A port of the segment that is where `vif` is; without addresses of its own it is for any."""
        await self._call("PATCH", f"{segment}/ports/{port}", {"display_name": name, "attachment": {"id": vif}})

    async def remove_port(self, segment: str, port: str) -> None:
        """A port that is gone already is no error."""
        try:
            await self._call("DELETE", f"{segment}/ports/{port}")
        except ApiFault as fault:
            if fault.status != 404:
                raise

    async def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        login = self._login
        password = login.password_file.read_text().strip()
        url = f"{login.url.rstrip('/')}{_POLICY}{path}"
        try:
            async with aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(login.ca_file))),
                headers={"Authorization": aiohttp.encode_basic_auth(login.user, password)},
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT),
                trust_env=False,
            ) as session:
                async with session.request(method, url, json=body) as response:
                    content = await response.read()
                    answer = await response.json(content_type=None) if content else {}
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiFault(503, "NSX unavailable", f"{login.url}: {error or type(error).__name__}") from error
        if response.status >= 400:
            text = answer.get("error_message") or f"HTTP {response.status}"
            raise ApiFault(404 if response.status == 404 else 409, "NSX refused", f"{method} {path}: {text}")
        return dict(answer or {})
