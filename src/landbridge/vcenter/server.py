"""HTTPS: `/sdk` for SOAP, the versions document, `/folder` for files of datastores, `/healthz`."""

import asyncio
import contextlib
import gzip
import logging
import re

from aiohttp import web
from pyVmomi import vmodl

from landbridge.vcenter.calls import Call
from landbridge.vcenter.dispatch import dispatch
from landbridge.vcenter.files import FileAccess
from landbridge.vcenter.inventory import Inventory
from landbridge.vcenter.sessions import Session
from landbridge.vmodl import requests, responses, versions

log = logging.getLogger(__name__)
MAX_BODY = 32 << 20
# Larger requests are parsed, and larger responses compressed, in a thread: the event loop stays free.
_LARGE = 256 << 10
_WORTH_COMPRESSING = 1400
_COOKIE = "vmware_soap_session"
_COOKIE_VALUE = re.compile(rf'(?:^|[;,\s]){_COOKIE}="?([0-9a-f]+)"?')
# Calls that only wait: they end when their client goes away. All others run to their end.
_WAITING = ("WaitForUpdates", "WaitForUpdatesEx")


class Server:
    """The listener of one vCenter."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._runner: web.AppRunner | None = None
        self._calls: set[asyncio.Task[object]] = set()

    async def start(self) -> None:
        config = self._inventory.config
        application = web.Application(client_max_size=MAX_BODY)
        application.router.add_post("/sdk", self._soap)
        application.router.add_post("/sdk/", self._soap)
        application.router.add_get("/sdk/vimServiceVersions.xml", _versions)
        application.router.add_get("/healthz", self._health)
        files = FileAccess(self._inventory, self.session)
        application.router.add_route("*", "/folder{path:(/.*)?}", files.handle)
        # Clients keep connections for their whole life; one we closed too early costs them an error.
        self._runner = web.AppRunner(
            application, access_log=None, handler_cancellation=True, keepalive_timeout=3600, shutdown_timeout=1
        )
        await self._runner.setup()
        tls = self._inventory.identity.server_context(require_client=False)
        site = web.TCPSite(self._runner, config.listen.address, config.listen.port, ssl_context=tls, backlog=512)
        await site.start()
        log.info("listening on %s:%d", config.listen.address, config.listen.port)

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def session(self, request: web.Request) -> Session | None:
        """The session of a request's cookie.

        pyVmomi sends back the whole Set-Cookie line, attributes and all: the value is looked for, not parsed.
        """
        for header in request.headers.getall("Cookie", []):
            for token in _COOKIE_VALUE.findall(header):
                if (session := self._inventory.sessions.find(token)) is not None:
                    return session
        return None

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "name": self._inventory.config.name})

    # -- SOAP ---------------------------------------------------------------------------------------------

    async def _soap(self, http: web.Request) -> web.StreamResponse:
        version = versions.from_action(http.headers.get("SOAPAction"))
        body = await _read(http)
        if body is None:
            return _too_large(version)
        call = Call(
            self._inventory,
            self.session(http),
            version,
            address=http.remote or "",
            user_agent=http.headers.get("User-Agent", ""),
        )
        before = call.session
        try:
            request = await asyncio.to_thread(requests.parse, body) if len(body) > _LARGE else requests.parse(body)
            value = await self._call(request, call)
            content, status = _result(request.method, value, version)
        except vmodl.MethodFault as fault:
            content, status = _fault(fault, version), 500
        response = await _respond(http, content, status)
        if call.session is not before:
            _set_cookie(response, call.session)
        return response

    async def _call(self, request: requests.Request, call: Call) -> object:
        session = call.session
        if session is not None:
            session.use()
            session.busy += 1
        running = asyncio.create_task(dispatch(request, call), name=request.method.wsdl_name)
        self._calls.add(running)
        running.add_done_callback(self._ended)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            if request.method.wsdl_name in _WAITING:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError, vmodl.MethodFault):
                    await running
            raise
        finally:
            if session is not None:
                session.busy -= 1
                session.rest()

    def _ended(self, running: asyncio.Task[object]) -> None:
        self._calls.discard(running)
        if not running.cancelled():
            running.exception()  # of a call whose client went away: it was logged where it was raised


def _result(method: requests.Method, value: object, version: str) -> tuple[bytes, int]:
    try:
        return responses.result(method, value, version), 200
    except TypeError as error:
        log.exception("the result of %s can not be written", method.wsdl_name)
        fault = vmodl.fault.SystemError(reason=str(error), msg=f"The result can not be written: {error}")
        return responses.fault(fault, version), 500


def _fault(fault: vmodl.MethodFault, version: str) -> bytes:
    try:
        return responses.fault(fault, version)
    except TypeError as error:
        # A fault that lacks a required field: its text is still worth telling.
        log.exception("%s can not be written", type(fault).__name__)
        return responses.fault(vmodl.fault.SystemError(reason=str(error), msg=fault.msg), version)


async def _read(http: web.Request) -> bytes | None:
    """The body, or None if it is larger than MAX_BODY: said before it is read where the header tells."""
    if http.content_length is not None and http.content_length > MAX_BODY:
        return None
    chunks, size = [], 0
    async for chunk in http.content.iter_any():
        size += len(chunk)
        if size > MAX_BODY:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(version: str) -> web.Response:
    fault = vmodl.fault.InvalidRequest(msg=f"The request is larger than {MAX_BODY >> 20} MiB.")
    response = web.Response(status=413, body=responses.fault(fault, version))
    response.headers["Content-Type"] = "text/xml; charset=utf-8"
    response.force_close()
    return response


async def _respond(http: web.Request, content: bytes, status: int) -> web.Response:
    response = web.Response(status=status)
    response.headers["Content-Type"] = "text/xml; charset=utf-8"
    response.headers["Cache-Control"] = "no-cache"
    if len(content) > _WORTH_COMPRESSING and "gzip" in http.headers.get("Accept-Encoding", ""):
        if len(content) > _LARGE:
            content = await asyncio.to_thread(gzip.compress, content, 1)
        else:
            content = gzip.compress(content, 1)
        response.headers["Content-Encoding"] = "gzip"
    response.body = content
    return response


def _set_cookie(response: web.Response, session: Session | None) -> None:
    # The value is quoted: clients of other endpoints take it out between the quotes.
    value = f'"{session.token}"' if session is not None else '""; Max-Age=0'
    response.headers["Set-Cookie"] = f"{_COOKIE}={value}; Path=/; HttpOnly; Secure; SameSite=Strict"


async def _versions(_request: web.Request) -> web.Response:
    return web.Response(body=versions.document(), content_type="text/xml", charset="utf-8")
