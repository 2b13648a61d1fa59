"""The real managers and vCenters, made to die by SIGKILL exactly where a test says.

    python -m tests.integration.hcx.mortal_program

imports the programs once and forks one for each order on standard input, a JSON object a line (`program`, `config`,
`log`, `fate`); it answers with the process id. So a restart is without the seconds that importing takes.

On its way a program passes points, named below. `fate` is a file: its first line is what happens next, and where:
`kill POINT`; `hold POINT`, which waits until the file with the suffix `.held` is gone; or `fail POINT`, an exception
that nobody expects. Without the file, or with another point in it, the program is what it always is. Who was killed
there is in the file with the suffix `.deaths`.
"""

import asyncio
import contextvars
import functools
import importlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

_Work = Callable[..., Awaitable[Any]]
_fate: list[Path] = []
_step: contextvars.ContextVar[str] = contextvars.ContextVar("step")


async def reach(point: str) -> None:
    """Meet the fate that waits at this point, if one does; each is met once."""
    try:
        first, *others = _fate[0].read_text().splitlines()
    except (OSError, ValueError):
        return
    verb, _, where = first.partition(" ")
    if where != point:
        return
    held = _fate[0].with_suffix(".held")
    if verb == "hold":
        held.touch()
    following = _fate[0].with_suffix(".new")
    following.write_text("\n".join(others))
    following.rename(_fate[0])
    if verb == "kill":
        with _fate[0].with_suffix(".deaths").open("a") as deaths:
            deaths.write(f"{os.getpid()}\n")
        os.kill(os.getpid(), signal.SIGKILL)
    if verb == "fail":
        raise RuntimeError(f"fate at {point}")
    while held.exists():  # noqa: ASYNC110 - what is waited for happens in another process
        await asyncio.sleep(0.02)


def between(function: _Work, point: str) -> _Work:
    """The function with a point where it begins and one where its work is done, well or not."""

    @functools.wraps(function)
    async def mortal(*args: Any, **kwargs: Any) -> Any:
        await reach(f"{point}:begun")
        try:
            return await function(*args, **kwargs)
        finally:
            await reach(f"{point}:done")

    return mortal


def after(function: _Work, point: Callable[..., str]) -> _Work:
    """The function with a point where its work is done; `point` names it by the arguments."""

    @functools.wraps(function)
    async def mortal(*args: Any, **kwargs: Any) -> Any:
        try:
            return await function(*args, **kwargs)
        finally:
            await reach(point(*args, **kwargs))

    return mortal


def _mortal_steps() -> None:
    """STEP:called, STEP:begun (noted as the one the migration is in) and STEP:done, before DBOS keeps that it is."""
    from dbos import DBOS

    decorator = DBOS.step

    def step(**options: Any) -> Callable[[_Work], Any]:
        def decorate(function: _Work) -> Any:
            name = function.__name__

            @functools.wraps(function)
            async def mortal(*args: Any) -> Any:
                _step.set(name)
                await reach(f"{name}:called")
                try:
                    return await function(*args)
                finally:
                    await reach(f"{name}:done")

            return decorator(**options)(mortal)

        return decorate

    DBOS.step = step  # type: ignore[method-assign, assignment]


def _mortal_manager() -> None:
    """The steps; END.VERB of each half; launch; and `asked.MODULE_FUNCTION` for what was asked of vCenter."""
    _mortal_steps()
    from landbridge.hcx.migrations.halves import SOURCE_VERBS, TARGET_VERBS
    from landbridge.hcx.migrations.service import Migrations
    from landbridge.hcx.migrations.source import LocalSource
    from landbridge.hcx.migrations.target import LocalTarget
    from landbridge.vmodl.client import VCenter

    halves: tuple[tuple[Any, str, Any], ...] = (
        (LocalSource, "source", SOURCE_VERBS),
        (LocalTarget, "target", TARGET_VERBS),
    )
    for half, end, verbs in halves:
        for verb in verbs:
            setattr(half, verb, between(getattr(half, verb), f"{end}.{verb}"))
    service: Any = Migrations
    service._launch = between(service._launch, "launch")
    service.enter = after(service.enter, lambda *_: f"{_step.get()}:begun")
    vcenter: Any = VCenter
    vcenter.run = after(
        vcenter.run, lambda _self, work, *_: f"asked.{work.__module__.rpartition('.')[2]}{work.__name__}"
    )


def _mortal_vcenter() -> None:
    """What a relocation is made of, and what is asked of hosts for it."""
    from landbridge.esx.client import HostClient
    from landbridge.vcenter import relocate, vmotion
    from landbridge.vcenter.tasks import TaskHandle, Tasks

    modules: Any = relocate
    modules._relocate = between(modules._relocate, "relocate")
    modules._arrived = between(modules._arrived, "arrived")
    modules._settle = between(modules._settle, "settle")
    vmotion.run = after(vmotion.run, lambda *_, **__: "verdict")  # type: ignore[assignment]
    client: Any = HostClient
    for name in ("register_vm", "unregister_vm", "prepare_incoming", "start_outgoing", "vmotion"):
        setattr(client, name, between(getattr(client, name), name))
    handle: Any = TaskHandle
    handle.note = after(handle.note, lambda _self, **facts: f"noted.{next(iter(facts))}")
    tasks: Any = Tasks
    tasks._end = after(tasks._end, lambda _self, task, **_: f"ended.{task.info.descriptionId}")


def _become(order: dict[str, str], main: Callable[[], object]) -> None:
    """Be the program that was ordered, in this process, to its end."""
    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(number, target)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _fate[:] = [Path(order["fate"])]
    sys.argv = [order["program"], "--config", order["config"]]
    main()


def serve() -> None:
    """Fork what is ordered until standard input ends."""
    _mortal_manager()
    programs = {name: importlib.import_module(f"{name}.__main__") for name in ("landbridge.hcx", "landbridge.vcenter")}
    _mortal_vcenter()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who dies is gone at once
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                _become(order, programs[order["program"]].main)
            finally:
                os._exit(1)
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
