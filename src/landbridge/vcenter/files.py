"""`/folder/PATH?dcPath=DC&dsName=DATASTORE`: files of datastores over HTTPS, streamed through a host's agent.

GET (with byte ranges not supported), HEAD, PUT, DELETE, as the vSphere Web Services guide describes them. Who asks
shows a session's cookie or user name and password (Basic).
"""

import base64
import binascii
import logging
import mimetypes
import posixpath
from collections.abc import AsyncIterator, Callable
from urllib.parse import unquote

from aiohttp import web
from pyVmomi import vim, vmodl

from landbridge.esx.client import HostClient, HostError, HostUnreachable
from landbridge.vcenter.authorization import allows
from landbridge.vcenter.inventory import Inventory
from landbridge.vcenter.managed import Entity
from landbridge.vcenter.sessions import Session

log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_READING = ("GET", "HEAD")
_STATUS = {"FileNotFound": 404, "FileAlreadyExists": 409, "FileLocked": 409, "NoDiskSpace": 507}


class FileAccess:
    """The handler of `/folder`."""

    def __init__(self, inventory: Inventory, session: Callable[[web.Request], Session | None]) -> None:
        self._inventory = inventory
        self._session = session

    async def handle(self, request: web.Request) -> web.StreamResponse:
        await self._authorize(request)
        client, datastore = self._datastore(request)
        path = _path(request)
        try:
            match request.method:
                case "PUT":
                    await client.upload(datastore, path, request.content.iter_chunked(_CHUNK))
                    return web.Response(status=201)
                case "DELETE":
                    await client.delete_file(datastore, path)
                    return web.Response(status=204)
                case "GET" | "HEAD":
                    return await _send(request, client, datastore, path)
                case _:
                    raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD", "PUT", "DELETE"])
        except HostError as error:
            raise _http_error(error) from error
        except HostUnreachable as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from error

    async def _authorize(self, request: web.Request) -> None:
        privilege = "System.View" if request.method in _READING else "Datastore.FileManagement"
        session = self._session(request)
        if session is not None:
            session.use()
            role = session.role
        else:
            role = await self._basic(request)
        if not allows(role, privilege):
            raise web.HTTPForbidden(text=f"{privilege} is needed to {request.method} files.")

    async def _basic(self, request: web.Request) -> int:
        refused = web.HTTPUnauthorized(headers={"WWW-Authenticate": 'Basic realm="VMware HTTP server"'})
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            raise refused
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
            return await self._inventory.sessions.check(user, password, request.remote or "")
        except (binascii.Error, UnicodeDecodeError, vim.fault.InvalidLogin) as error:
            raise refused from error

    def _datastore(self, request: web.Request) -> tuple[HostClient, str]:
        name, datacenter = request.query.get("dsName", ""), request.query.get("dcPath", "")
        if not name:
            raise web.HTTPBadRequest(text="dsName, the name of a datastore, is missing.")
        for datastore in self._inventory.all(vim.Datastore):
            if datastore.name == name and (not datacenter or _datacenter_path(datastore) == datacenter.strip("/")):
                try:
                    access: tuple[HostClient, str] = datastore.access()
                except vmodl.MethodFault as fault:
                    raise web.HTTPServiceUnavailable(text=str(fault.msg)) from fault
                return access
        raise web.HTTPNotFound(text=f"There is no datastore {name!r} in datacenter {datacenter!r}.")


def _datacenter_path(datastore: Entity) -> str:
    names: list[str] = []
    here = datastore.ancestor(vim.Datacenter)
    while isinstance(here, Entity) and here.parent is not None:
        names.insert(0, unquote(here.name))
        here = here.parent if isinstance(here.parent, Entity) else None
    return "/".join(names)


def _path(request: web.Request) -> str:
    path = request.match_info["path"].strip("/")
    # The agent refuses paths that climb too; here it is a clear answer before anything is opened.
    if ".." in path.split("/") or "\x00" in path or not path:
        raise web.HTTPBadRequest(text=f"{path!r} is not the path of a file in a datastore.")
    return path


async def _send(request: web.Request, client: HostClient, datastore: str, path: str) -> web.StreamResponse:
    directory, name = posixpath.split(path)
    entry = next(
        (e for e in await client.list_files(datastore, directory) if posixpath.basename(e.path.rstrip("/")) == name),
        None,
    )
    if entry is None or entry.directory:
        raise web.HTTPNotFound(text=f"There is no file {path!r} in datastore {datastore!r}.")
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    response = web.StreamResponse(headers={"Content-Type": kind, "Content-Length": str(entry.size)})
    if request.method == "HEAD":
        await response.prepare(request)
        return response
    await _stream(request, response, client.download(datastore, path))
    return response


async def _stream(request: web.Request, response: web.StreamResponse, content: AsyncIterator[bytes]) -> None:
    async for chunk in content:
        if not response.prepared:  # only now is it certain that the file can be read
            await response.prepare(request)
        await response.write(chunk)
    if not response.prepared:
        await response.prepare(request)
    await response.write_eof()


def _http_error(error: HostError) -> web.HTTPException:
    status = _STATUS.get(error.type, error.status if 400 <= error.status < 500 else 500)
    response: type[web.HTTPException] = {
        404: web.HTTPNotFound,
        409: web.HTTPConflict,
        507: web.HTTPInsufficientStorage,
        403: web.HTTPForbidden,
    }.get(status, web.HTTPBadRequest if status < 500 else web.HTTPInternalServerError)
    return response(text=error.message)
