"""A vCenter through its public API, for products beside it: pyVmomi in threads, a new login when a session ended."""

import asyncio
import contextlib
import http.client
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")
_THREADS = 32  # a task that is watched holds one
_SOCKET_TIMEOUT = 90  # seconds
_POLL = 30  # seconds a WaitForUpdatesEx may wait
_UNREACHABLE = (OSError, http.client.HTTPException, ssl.SSLError)


class VCenterLogin(BaseModel):
    """Where a vCenter is and who logs in; a section of a configuration file."""

    model_config = ConfigDict(extra="forbid")
    url: str
    user: str
    password_file: Path
    ca_file: Path


class VCenterUnreachable(Exception):  # noqa: N818 - a state of the world more than an error of a call
    """vCenter does not answer, or does not let us in."""


def fault_text(fault: BaseException | None) -> str:
    """What a fault says, for people: its message, or at least its name."""
    if fault is None:
        return "no reason given"
    name = type(fault).__name__.rpartition(".")[2]
    message = getattr(fault, "msg", "") or getattr(fault, "localizedMessage", "") or ""
    return f"{name}: {message}" if message else name


class VCenter:
    """One vCenter and a session there."""

    def __init__(self, login: VCenterLogin) -> None:
        self._login = login
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="vsphere")
        self._instance: Any = None
        self._connecting = asyncio.Lock()

    @property
    def url(self) -> str:
        return self._login.url

    async def close(self) -> None:
        instance, self._instance = self._instance, None
        if instance is not None:
            with contextlib.suppress(*_UNREACHABLE, vmodl.MethodFault):
                await self._thread(Disconnect, instance)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Callable[Concatenate[Any, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run `work(service_instance, ...)` in a thread, once more after a new login if the session was gone.

        VCenterUnreachable if vCenter does not answer; faults of the work's own calls pass.
        """
        for attempt in (1, 2):
            instance = await self._connected()
            try:
                return await self._thread(work, instance, *args, **kwargs)
            except vim.fault.NotAuthenticated as fault:
                if attempt == 2:
                    raise VCenterUnreachable(f"{self.url}: {fault_text(fault)}") from fault
            except _UNREACHABLE as error:
                await self._drop(instance)
                raise VCenterUnreachable(f"{self.url}: {error or type(error).__name__}") from error
            await self._drop(instance)
        raise AssertionError("unreachable")

    async def watch(self, task: str) -> AsyncIterator[Any]:
        """`vim.TaskInfo` of a task: as it is, then at every change, until it is final."""
        collector = None
        try:
            collector = await self.run(_watcher, task)
            version = ""
            while True:
                update, version = await self.run(_next_update, collector, version, task)
                if update is not None:
                    yield update
                    if update.state in ("success", "error"):
                        return
        finally:
            if collector is not None:
                with contextlib.suppress(Exception):  # it ends with the session anyway
                    await self.run(_destroy, collector)

    async def finish(self, task: str) -> Any:
        """The final `vim.TaskInfo` of a task."""
        last = None
        async for info in self.watch(task):
            last = info
        return last

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._instance is None:
                try:
                    self._instance = await self._thread(_connect, self._login)
                except vim.fault.InvalidLogin as fault:
                    raise VCenterUnreachable(
                        f"{self.url} refuses user {self._login.user}: check {self._login.password_file}"
                    ) from fault
                except (*_UNREACHABLE, vmodl.MethodFault) as error:
                    text = fault_text(error) if isinstance(error, vmodl.MethodFault) else str(error)
                    raise VCenterUnreachable(f"{self.url}: {text or type(error).__name__}") from error
            return self._instance

    async def _drop(self, instance: Any) -> None:
        async with self._connecting:
            if self._instance is instance:
                self._instance = None

    async def _thread(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))


def _connect(login: VCenterLogin) -> Any:
    parts = urlsplit(login.url)
    return SmartConnect(
        host=parts.hostname,
        port=parts.port or 443,
        user=login.user,
        pwd=login.password_file.read_text().strip(),
        sslContext=ssl.create_default_context(cafile=str(login.ca_file)),
        httpConnectionTimeout=_SOCKET_TIMEOUT,
    )


def _task(instance: Any, task: str) -> Any:
    return vim.Task(task, instance._stub)


def _watcher(instance: Any, task: str) -> Any:
    """A property collector of our own that watches the task's `info`."""
    collector = instance.content.propertyCollector.CreatePropertyCollector()
    query = vmodl.query.PropertyCollector
    spec = query.FilterSpec(
        objectSet=[query.ObjectSpec(obj=_task(instance, task))],
        propSet=[query.PropertySpec(type=vim.Task, pathSet=["info"])],
    )
    collector.CreateFilter(spec, False)
    return collector


def _destroy(_instance: Any, collector: Any) -> None:
    collector.DestroyPropertyCollector()


def _next_update(instance: Any, collector: Any, version: str, task: str) -> tuple[Any, str]:
    """The task's info when it changed (None if it did not in time), and the version to go on from."""
    options = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=_POLL)
    found = collector.WaitForUpdatesEx(version, options)
    if found is None:
        return None, version
    for group in found.filterSet:
        for change in group.objectSet:
            if change.kind == "leave":
                raise vmodl.fault.ManagedObjectNotFound(msg=f"task {task} is gone")
    # A filter without partial updates sends the whole property; reading it once is simpler than patching.
    return _task(instance, task).info, found.version


def collect(instance: Any, kind: Any, paths: list[str]) -> list[dict[str, Any]]:
    """Properties of every object of a kind: `obj` and one entry per path that has a value."""
    content = instance.content
    view = content.viewManager.CreateContainerView(content.rootFolder, [kind], True)
    query = vmodl.query.PropertyCollector
    try:
        traversal = query.TraversalSpec(name="view", path="view", skip=False, type=vim.view.ContainerView)
        spec = query.FilterSpec(
            objectSet=[query.ObjectSpec(obj=view, skip=True, selectSet=[traversal])],
            propSet=[query.PropertySpec(type=kind, pathSet=paths)],
        )
        page = content.propertyCollector.RetrievePropertiesEx([spec], query.RetrieveOptions())
        objects = []
        while page is not None:
            objects += page.objects
            if not page.token:
                break
            page = content.propertyCollector.ContinueRetrievePropertiesEx(page.token)
    finally:
        view.DestroyView()
    return [{"obj": item.obj, **{change.name: change.val for change in item.propSet}} for item in objects]
