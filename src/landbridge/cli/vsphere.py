"""vCenter as the command line sees it: log in with pyVmomi, find things by name, follow tasks.

Everything here is the public vSphere API; the same calls work against any vCenter.
"""

import contextlib
import ssl
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import click
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from landbridge.lab.build import Login

_POLL = 0.2  # seconds between looks at a task
PropertyCollector = vmodl.query.PropertyCollector


def message_of(fault: Exception) -> str:
    """What a vSphere fault says, for people: its text, or its type where it has none."""
    text = getattr(fault, "msg", None) or str(fault)
    return f"{type(fault).__name__.rsplit('.', 1)[-1]}: {text}"


@contextlib.contextmanager
def session(login: Login) -> Iterator[Any]:
    """A logged-in ServiceInstance; every vSphere fault leaves as a message, not as a traceback."""
    parts = urlsplit(login.url)
    trust = ssl.create_default_context(cafile=str(login.ca))
    try:
        service = SmartConnect(
            host=parts.hostname,
            port=parts.port or 443,
            user=login.user,
            pwd=login.password,
            sslContext=trust,
            connectionPoolTimeout=-1,
        )
    except vim.fault.InvalidLogin as error:
        raise click.ClickException(
            f"{login.url} refused user {login.user}: check the password in {login.password_file}"
        ) from error
    except OSError as error:
        raise click.ClickException(f"vCenter at {login.url} can not be reached: {error}") from error
    try:
        yield service
    except vmodl.MethodFault as fault:
        raise click.ClickException(message_of(fault)) from fault
    finally:
        with contextlib.suppress(Exception):
            Disconnect(service)


def rows(service: Any, kind: type, properties: list[str]) -> list[tuple[Any, dict[str, Any]]]:
    """Every object of `kind` with the named properties, in one call."""
    content = service.content
    view = content.viewManager.CreateContainerView(content.rootFolder, [kind], True)
    try:
        walk = PropertyCollector.TraversalSpec(name="view", path="view", skip=False, type=vim.view.ContainerView)
        spec = PropertyCollector.FilterSpec(
            objectSet=[PropertyCollector.ObjectSpec(obj=view, selectSet=[walk], skip=True)],
            propSet=[PropertyCollector.PropertySpec(type=kind, all=False, pathSet=properties)],
        )
        options = PropertyCollector.RetrieveOptions(maxObjects=1000)
        found: list[Any] = []
        answer = content.propertyCollector.RetrievePropertiesEx([spec], options)
        while answer is not None:
            found += answer.objects
            if not answer.token:
                break
            answer = content.propertyCollector.ContinueRetrievePropertiesEx(answer.token)
        return [(item.obj, {p.name: p.val for p in item.propSet}) for item in found]
    finally:
        view.Destroy()


def find(service: Any, kind: type, name: str) -> Any:
    """The one object of `kind` called `name`; a message that lists what there is otherwise."""
    everything = rows(service, kind, ["name"])
    matches = [item for item, values in everything if values.get("name") == name]
    if len(matches) == 1:
        return matches[0]
    label = kind.__name__.rsplit(".", 1)[-1]
    if matches:
        raise click.ClickException(f"{len(matches)} objects of type {label} are called {name!r}; rename all but one")
    known = ", ".join(sorted(str(values.get("name")) for _, values in everything)) or "none"
    raise click.ClickException(f"no {label} is called {name!r} (there are: {known})")


def follow(task: Any, title: str, *, quiet: bool = False) -> Any:
    """Wait for a task, its progress on the terminal; its result, or its fault as a message."""
    console = Console(stderr=True, quiet=quiet)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=not console.is_terminal) as bars:
        bar = bars.add_task(title, total=100)
        while True:
            info = task.info
            if info.state == vim.TaskInfo.State.success:
                bars.update(bar, completed=100)
                return info.result
            if info.state == vim.TaskInfo.State.error:
                raise click.ClickException(f"{title} failed. {message_of(info.error)}")
            bars.update(bar, completed=info.progress or 0)
            time.sleep(_POLL)
