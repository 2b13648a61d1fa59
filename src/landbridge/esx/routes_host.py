"""The host's own routes: information, events, datastores with their files, port groups."""

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from landbridge.esx.faults import Fault
from landbridge.esx.life import ON
from landbridge.esx.model import Datastore, DatastoreFile, Model, PortGroup
from landbridge.esx.upload import receive
from landbridge.esx.web import AGENT, body, number, reply
from landbridge.vsan.local import LocalDatastore

if TYPE_CHECKING:
    from landbridge.esx.agent import Agent


class Maintenance(Model):
    maintenance: bool


def add_routes(app: web.Application, agent: "Agent") -> None:
    """Add the routes; handlers find the agent in the application."""
    app[AGENT] = agent
    app.add_routes(
        [
            web.get("/v1/host", host),
            web.get("/v1/host/stats", host_stats),
            web.put("/v1/host/maintenance", set_maintenance),
            web.get("/v1/events", events),
            web.get("/v1/datastores", datastores),
            web.get("/v1/datastores/{datastore}/list/{path:.*}", list_files),
            web.put("/v1/datastores/{datastore}/directories/{path:.+}", make_directory),
            web.get("/v1/datastores/{datastore}/files/{path:.+}", download),
            web.put("/v1/datastores/{datastore}/files/{path:.+}", upload),
            web.delete("/v1/datastores/{datastore}/files/{path:.+}", delete_file),
            web.get("/v1/portgroups", port_groups),
            web.put("/v1/portgroups", set_port_groups),
        ]
    )


async def host(request: web.Request) -> web.Response:
    return reply(request.app[AGENT].info())


async def host_stats(request: web.Request) -> web.Response:
    return reply(request.app[AGENT].counters.host())


async def set_maintenance(request: web.Request) -> web.Response:
    agent = request.app[AGENT]
    agent.set_maintenance((await body(request, Maintenance)).maintenance)
    return reply(agent.info())


async def events(request: web.Request) -> web.Response:
    since, wait = int(number(request, "since")), number(request, "wait")
    return reply(await request.app[AGENT].events.since(since, wait))


# ------------------------------------------------------------------------------------------------- datastores


async def datastores(request: web.Request) -> web.Response:
    return reply([await asyncio.to_thread(_datastore, one) for one in request.app[AGENT].host.datastores])


def _datastore(one: LocalDatastore) -> Datastore:
    try:
        capacity, free = one.usage()
    except OSError:
        capacity, free = 0, 0
    accessible = capacity > 0
    return Datastore(
        name=one.name,
        url=one.url,
        type=one.type,
        capacity=capacity,
        free=free,
        accessible=accessible,
        shared=one.shared,
    )


def _named(request: web.Request) -> tuple[LocalDatastore, Path]:
    """The datastore and the file that a request's path names."""
    datastore = request.app[AGENT].host.datastores.get(request.match_info["datastore"])
    return datastore, datastore.resolve(request.match_info["path"])


async def list_files(request: web.Request) -> web.Response:
    datastore, directory = _named(request)
    return reply(await asyncio.to_thread(_list, datastore, directory))


def _list(datastore: LocalDatastore, directory: Path) -> list[DatastoreFile]:
    if not directory.is_dir():
        raise Fault("FileNotFound", f"{datastore.path_of(directory)} is not a directory")
    files = []
    for path in sorted(directory.iterdir()):
        # Names that begin with a dot are the agent's own: markers, uploads under way.
        if path.name.startswith(".") or path.is_symlink():
            continue
        status = path.stat()
        files.append(
            DatastoreFile(
                path=datastore.path_of(path), size=status.st_size, modified=status.st_mtime, directory=path.is_dir()
            )
        )
    return files


async def make_directory(request: web.Request) -> web.Response:
    datastore, directory = _named(request)
    try:
        directory.mkdir(parents=True)
    except (FileExistsError, NotADirectoryError):
        raise Fault("FileAlreadyExists", f"{datastore.path_of(directory)} is there already") from None
    return reply(None)


async def download(request: web.Request) -> web.StreamResponse:
    datastore, path = _named(request)
    if not path.is_file():
        raise Fault("FileNotFound", f"{datastore.path_of(path)} is not a file")
    user = request.app[AGENT].inventory.user_of(path)
    if user is not None and user.life in ON and path.suffix == ".vmdk":
        raise Fault("FileLocked", f"{datastore.path_of(path)} is in use by the running VM {user.name!r}")
    return web.FileResponse(path)


async def upload(request: web.Request) -> web.Response:
    datastore, path = _named(request)
    _refuse_used(request, datastore, path)
    if path.is_dir() or not path.parent.is_dir():
        raise Fault("FileNotFound", f"{datastore.path_of(path)}: its directory does not exist, or it is a directory")
    await receive(request.content, datastore, path, request.content_length)
    request.app[AGENT].events.add("datastore-changed", message=f"{datastore.path_of(path)} was uploaded")
    return reply(None)


async def delete_file(request: web.Request) -> web.Response:
    datastore, path = _named(request)
    if path == datastore.root:
        raise Fault("InvalidDatastorePath", "a datastore can not be deleted as a directory")
    if not path.exists():
        raise Fault("FileNotFound", f"{datastore.path_of(path)} is not there")
    _refuse_used(request, datastore, path)
    await asyncio.to_thread(shutil.rmtree if path.is_dir() else Path.unlink, path)
    request.app[AGENT].events.add("datastore-changed", message=f"{datastore.path_of(path)} was deleted")
    return reply(None)


def _refuse_used(request: web.Request, datastore: LocalDatastore, path: Path) -> None:
    user = request.app[AGENT].inventory.user_of(path)
    if user is not None:
        raise Fault("FileLocked", f"{datastore.path_of(path)} is used by VM {user.name!r}")


# ------------------------------------------------------------------------------------------------- port groups


async def port_groups(request: web.Request) -> web.Response:
    switch = request.app[AGENT].host.switch
    return reply(switch.port_groups() if switch else [])


async def set_port_groups(request: web.Request) -> web.Response:
    agent = request.app[AGENT]
    groups = await body(request, list[PortGroup])
    if agent.host.switch is None:
        raise Fault("NotSupported", f"host {agent.settings.name} has no switch: set [switch] in its configuration")
    if len({group.key for group in groups}) != len(groups):
        raise Fault("InvalidArgument", "port group keys must differ")
    # One that becomes a segment, or is none any more, is another network with the same key.
    segments = {group.key: bool(group.segment) for group in groups}
    now = agent.host.switch.port_groups()
    going = {group.key for group in now if segments.get(group.key) is not bool(group.segment)}
    for vm in [*agent.inventory.vms, *agent.inventory.incoming]:
        for nic in vm.config.nics:
            if nic.network in going:
                raise Fault("ResourceInUse", f"port group {nic.network} is used by VM {vm.name!r}", name=nic.network)
    await agent.host.switch.set_port_groups(groups)
    agent.events.add("host-changed", message="port groups changed")
    return reply(None)
