"""The way to call an HCX manager: one method per call of its REST API, over HTTPS with the site's authority.

    async with HcxClient("https://10.10.0.9", ca_file) as hcx:
        await hcx.login("admin", password)
        await hcx.pair("https://10.20.0.9", "admin", remote_password)
        spec = await hcx.spec("vm-42", networks={"dvportgroup-8": "dvportgroup-12"})
        started = await hcx.start(spec)
        async for migration in hcx.follow(started):
            print(migration.state, migration.percent)

An answer that is an error is `HcxError`; a manager that can not be reached is `HcxUnreachable`.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

_CALL_TIMEOUT = 120.0  # seconds
_CONNECT_TIMEOUT = 10.0
_JOB_TIMEOUT = 300.0
_JOB_POLL = 0.25


class HcxError(Exception):
    """The manager refused: `error` is short and stable, the message is for people, `data` what came with it."""

    def __init__(self, status: int, error: str, text: str, data: list[dict[str, Any]] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.error = error
        self.text = text
        self.data = data or []


class HcxUnreachable(Exception):  # noqa: N818 - a state of the world more than an error of a call
    """No manager answered at the URL, or who answered was not one we trust."""


@dataclass(frozen=True)
class MigrationStatus:
    """A migration as `query` shows it: bytes, bytes a second, seconds; `silence_ms` is the guest's pause.

    `state` is MIGRATING, MIGRATE_CANCELLING, or one of the final MIGRATED, MIGRATE_FAILED and MIGRATE_CANCELED.
    """

    id: str
    vm: str
    type: str
    state: str
    step: str
    phase: str
    percent: int
    disk_total: int
    disk_done: int
    disks: dict[str, int]
    memory_total: int
    memory_done: int
    rate: float
    dirty_rate: float | None
    seconds_left: float | None
    elapsed: float
    ended: float | None  # seconds since the epoch, by the manager's clock
    silence_ms: float | None
    error: str
    warnings: list[str] = field(default_factory=list)

    @property
    def final(self) -> bool:
        return self.state in ("MIGRATED", "MIGRATE_FAILED", "MIGRATE_CANCELED")

    @classmethod
    def from_item(cls, item: dict[str, Any]) -> "MigrationStatus":
        """Read one of `items` of the query's answer."""
        info, job = item["migrationInfo"], item["jobInfo"]
        progress = info["progressDetails"]
        return cls(
            id=item["migrationId"],
            vm=info["entityDetails"]["entityName"],
            type=info["migrationType"],
            state=job["state"],
            step=progress["state"],
            phase=progress["phase"],
            percent=progress["progressPercentage"],
            disk_total=progress["diskTotalBytes"],
            disk_done=progress["diskCopyBytes"],
            disks=progress["diskBytes"],
            memory_total=progress["memoryTotalBytes"],
            memory_done=progress["memoryCopyBytes"],
            rate=progress["rate"],
            dirty_rate=progress["dirtyRate"],
            seconds_left=progress["estimatedSecondsLeft"],
            elapsed=job["elapsedSeconds"],
            ended=job["endDate"] / 1000 if job["endDate"] else None,
            silence_ms=progress["silenceMs"],
            error=info["message"],
            warnings=info["warnings"],
        )


class HcxClient:
    """Calls to one manager. Use it as an async context manager or `close` it."""

    def __init__(self, url: str, ca_file: Path) -> None:
        self._url = url.rstrip("/") + "/hybridity/api"
        self._tls = ssl.create_default_context(cafile=str(ca_file))
        self._http: aiohttp.ClientSession | None = None
        self._token = ""

    async def __aenter__(self) -> "HcxClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    # ------------------------------------------------------------------------------- session, pairing

    async def login(self, user: str, password: str) -> None:
        """Begin a session. HcxError 401 for a wrong name or password, 429 after too many of them."""
        headers, _ = await self._request("POST", "/sessions", {"username": user, "password": password})
        self._token = headers["x-hm-authorization"]

    async def logout(self) -> None:
        await self.call("DELETE", "/sessions")
        self._token = ""

    async def pairings(self) -> list[dict[str, Any]]:
        return list((await self.call("GET", "/cloudConfigs"))["data"]["items"])

    async def extensions(self) -> list[dict[str, Any]]:
        """Network extensions, in HCX's form."""
        return list((await self.call("GET", "/l2Extensions"))["items"])

    async def extend(self, source: str, destination: str) -> str:
        """Extend a network into one of the other site (ids of distributed port groups); its id when it is done."""
        networks = {"sourceNetwork": {"networkId": source}, "destinationNetwork": {"networkId": destination}}
        started = await self.call("POST", "/l2Extensions", networks)
        await self.finish_job(started["jobId"])
        return str(started["stretchId"])

    async def pair(self, url: str, user: str, password: str, *, accept_certificate: bool = False) -> None:
        """Pair with the cloud manager at `url` and wait until the mesh is there.

        HcxError `Certificate not trusted` carries the certificate in `data[0]`; with `accept_certificate` whatever is
        shown is imported, which is right only where nobody else could have answered.
        """
        remote = {"remote": {"url": url, "username": user, "password": password}}
        try:
            answer = await self.call("POST", "/cloudConfigs", remote)
        except HcxError as error:
            if not accept_certificate or not error.data or "certificate" not in error.data[0]:
                raise
            await self.import_certificate(error.data[0]["certificate"])
            answer = await self.call("POST", "/cloudConfigs", remote)
        await self.finish_job(answer["data"]["jobId"])

    async def import_certificate(self, pem: str) -> None:
        """Trust a server's certificate from now on."""
        await self.call("POST", "/admin/certificates", {"certificate": pem})

    async def unpair(self, endpoint: str, *, force: bool = False) -> None:
        """Remove a site pairing and wait until it is gone."""
        answer = await self.call("DELETE", f"/endpointPairing/{endpoint}?force={str(force).lower()}")
        await self.finish_job(answer["data"]["jobId"])

    async def finish_job(self, job: str) -> None:
        """Wait for a job; HcxError says why it failed."""
        async with asyncio.timeout(_JOB_TIMEOUT):
            while True:
                state = await self.call("GET", f"/jobs/{job}")
                if state["didFail"]:
                    raise HcxError(500, "Job failed", state["message"])
                if state["isDone"]:
                    return
                await asyncio.sleep(_JOB_POLL)

    async def meshes(self) -> list[dict[str, Any]]:
        """Service meshes with the state of their tunnels, measured when asked."""
        return list((await self.call("GET", "/interconnect/serviceMesh"))["items"])

    # ------------------------------------------------------------------------------- inventory

    async def inventory(self, what: str, *, remote: bool = False, **chosen: Any) -> list[dict[str, Any]]:
        """`vc/list`, `networks`, `virtualmachines`, `vc/datastores/query` or `resourcecontainer/list` of a site."""
        body = {"filter": {"cloud": {"local": not remote, "remote": remote}, **chosen}}
        return list((await self.call("POST", f"/service/inventory/{what}", body))["data"]["items"])

    # ------------------------------------------------------------------------------- migrations

    async def spec(
        self,
        vm: str,
        *,
        networks: dict[str, str],
        kind: str = "vMotion",
        back: bool = False,
        placement: dict[str, str] | None = None,
        datastore: str = "",
        remove_snapshots: bool = False,
        remove_isos: bool = False,
    ) -> dict[str, Any]:
        """The `input` of a migration: `vm` is a moRef at the source, `networks` maps its networks' moRefs to the
        target's, `placement` is by containerType (`host`, `cluster`, `folder`, ...) a moRef; `back` migrates from the
        remote site to this one.
        """
        here = (await self.inventory("resourcecontainer/list"))[0]["endpoint"]
        there = (await self.inventory("resourcecontainer/list", remote=True))[0]["endpoint"]
        ends = [
            {"endpointType": "VC", "endpointId": end["endpointId"], "endpointName": end["name"]}
            for end in (here, there)
        ]
        source, destination = reversed(ends) if back else ends
        return {
            "migrationType": kind,
            "entityDetails": {"entityId": vm},
            "source": source,
            "destination": destination,
            "placement": [{"containerType": key, "containerId": value} for key, value in (placement or {}).items()],
            "storage": {"datastoreId": datastore, "diskProvisionType": "sameAsSource"},
            "networks": {
                "retainMac": True,
                "targetNetworks": [
                    {"srcNetworkValue": ours, "destNetworkValue": theirs} for ours, theirs in networks.items()
                ],
            },
            "decisionRules": {"removeSnapshots": remove_snapshots, "removeISOs": remove_isos},
            "schedule": {},
        }

    async def validate(self, spec: dict[str, Any]) -> list[str]:
        """What would keep a migration from succeeding; empty if nothing is known."""
        answer = await self.call("POST", "/migrations?action=validate", {"migrations": [{"input": spec}]})
        found = answer["migrations"][0]["validationInfo"]["validationResult"]["errors"]
        return [item["message"] for item in found or []]

    async def start(self, spec: dict[str, Any]) -> str:
        """Start a migration; its id. HcxError `Validation failed` says what is in the way."""
        answer = await self.call("POST", "/migrations?action=start", {"migrations": [{"input": spec}]})
        return str(answer["migrations"][0]["migrationId"])

    async def query(self, *migrations: str) -> list[MigrationStatus]:
        """The migrations asked for, or all."""
        body = {"filter": {"migrationId": list(migrations)}} if migrations else {}
        answer = await self.call("POST", "/migrations?action=query", body)
        return [MigrationStatus.from_item(item) for item in answer["items"]]

    async def follow(self, migration: str, interval: float = 0.5) -> AsyncIterator[MigrationStatus]:
        """A migration's status every `interval` seconds, the final one last. HcxError 404 if there is none."""
        while True:
            found = await self.query(migration)
            if not found:
                raise HcxError(404, "Not found", f"no migration {migration}")
            yield found[0]
            if found[0].final:
                return
            await asyncio.sleep(interval)

    async def cancel(self, migration: str) -> None:
        """Cancel a migration. HcxError `Not cancellable` when it is over or past its switchover."""
        await self.call("POST", "/migrations?action=cancel", {"migrations": [{"migrationId": migration}]})

    # ------------------------------------------------------------------------------- transport

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON a route below /hybridity/api answers."""
        return (await self._request(method, path, body))[1]

    async def _request(self, method: str, path: str, body: Any) -> tuple[Any, Any]:
        headers = {"x-hm-authorization": self._token} if self._token else {}
        try:
            async with self._open().request(method, self._url + path, json=body, headers=headers) as response:
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise HcxUnreachable(f"{self._url}: {error or type(error).__name__}") from error
        errors = answer.get("errors") if isinstance(answer, dict) else None
        if response.status >= 400 or errors:
            first = (errors or [{}])[0]
            text = first.get("text") or f"HTTP {response.status}"
            raise HcxError(response.status, first.get("error") or "Error", text, first.get("data"))
        return response.headers, answer

    def _open(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls),
                timeout=aiohttp.ClientTimeout(total=_CALL_TIMEOUT, connect=_CONNECT_TIMEOUT),
                trust_env=False,
            )
        return self._http
