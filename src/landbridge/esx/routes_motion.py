"""The routes about moves, snapshots and long operations."""

from typing import TYPE_CHECKING

from aiohttp import web

from landbridge.esx import blockjobs, snapshots
from landbridge.esx.faults import Fault
from landbridge.esx.jobs import JobRun
from landbridge.esx.model import CloneVm, CreateSnapshot, IncomingVm, Model, OutgoingVm, RelocateStorage
from landbridge.esx.web import AGENT, body, number, reply

if TYPE_CHECKING:
    from landbridge.esx.agent import Agent
    from landbridge.esx.motion import Motion
    from landbridge.esx.vm import VirtualMachine


def add_routes(app: web.Application, agent: "Agent") -> None:  # noqa: ARG001 - one signature for all routes
    """Add the routes; handlers find the agent in the application."""
    app.add_routes(
        [
            web.post("/v1/vms/{vm}/snapshots", create_snapshot),
            web.delete("/v1/vms/{vm}/snapshots", remove_all_snapshots),
            web.put("/v1/vms/{vm}/snapshots/{snapshot}", rename_snapshot),
            web.delete("/v1/vms/{vm}/snapshots/{snapshot}", remove_snapshot),
            web.post("/v1/vms/{vm}/snapshots/{snapshot}/revert", revert_snapshot),
            web.post("/v1/vms/{vm}/clone", clone_vm),
            web.post("/v1/vms/{vm}/relocate", relocate_storage),
            web.get("/v1/jobs/{job}", job),
            web.delete("/v1/jobs/{job}", cancel_job),
            web.get("/v1/vmotion", vmotions),
            web.post("/v1/vmotion/incoming", incoming),
            web.post("/v1/vmotion/outgoing", outgoing),
            web.get("/v1/vmotion/{vmotion}", vmotion),
            web.delete("/v1/vmotion/{vmotion}", abort_vmotion),
            web.post("/v1/vmotion/{vmotion}/part", part_vmotion),
        ]
    )


def _motion(request: web.Request) -> "Motion":
    return request.app[AGENT].motion


def _seen(request: web.Request) -> tuple[int, float]:
    return int(number(request, "seen", -1)), number(request, "wait")


def _vm(request: web.Request) -> "VirtualMachine":
    return request.app[AGENT].inventory.get(request.match_info["vm"])


def _snapshot(request: web.Request) -> int:
    text = request.match_info["snapshot"]
    if not text.isdecimal():
        raise Fault("InvalidArgument", f"{text!r} is not the number of a snapshot")
    return int(text)


async def _measured(request: web.Request, vm: "VirtualMachine") -> None:
    await request.app[AGENT].inventory.measure(vm)


# ------------------------------------------------------------------------------------------------- snapshots


class Rename(Model):
    name: str
    description: str


async def create_snapshot(request: web.Request) -> web.Response:
    vm = _vm(request)
    snapshot = await snapshots.create(vm, await body(request, CreateSnapshot))
    await _measured(request, vm)
    return reply(snapshot)


async def rename_snapshot(request: web.Request) -> web.Response:
    wanted = await body(request, Rename)
    await snapshots.rename(_vm(request), _snapshot(request), wanted.name, wanted.description)
    return reply(None)


async def revert_snapshot(request: web.Request) -> web.Response:
    vm = _vm(request)
    await snapshots.revert(vm, _snapshot(request))
    await _measured(request, vm)
    return reply(vm.state())


async def remove_snapshot(request: web.Request) -> web.Response:
    vm, snapshot = _vm(request), _snapshot(request)
    snapshots.find(vm, snapshot)
    children = number(request, "children") != 0

    async def work(run: JobRun) -> None:
        await snapshots.remove(vm, snapshot, children=children, job=run)
        await _measured(request, vm)

    return reply(_motion(request).jobs.start("snapshot removal", work, vm.id))


async def remove_all_snapshots(request: web.Request) -> web.Response:
    vm = _vm(request)

    async def work(run: JobRun) -> None:
        await snapshots.remove_all(vm, run)
        await _measured(request, vm)

    return reply(_motion(request).jobs.start("snapshot removal", work, vm.id))


# ------------------------------------------------------------------------------------------------- long operations


async def clone_vm(request: web.Request) -> web.Response:
    vm, wanted, inventory = _vm(request), await body(request, CloneVm), request.app[AGENT].inventory

    async def work(run: JobRun) -> str:
        return await blockjobs.clone(inventory, vm, wanted, run)

    return reply(_motion(request).jobs.start("clone", work))


async def relocate_storage(request: web.Request) -> web.Response:
    vm, wanted, inventory = _vm(request), await body(request, RelocateStorage), request.app[AGENT].inventory

    async def work(run: JobRun) -> str:
        done = await blockjobs.relocate(inventory, vm, wanted, run)
        await _measured(request, vm)
        return done

    return reply(_motion(request).jobs.start("storage vMotion", work, vm.id))


async def job(request: web.Request) -> web.Response:
    return reply(await _motion(request).jobs.view(request.match_info["job"], *_seen(request)))


async def cancel_job(request: web.Request) -> web.Response:
    return reply(await _motion(request).jobs.cancel(request.match_info["job"]))


# ------------------------------------------------------------------------------------------------- moves


async def vmotions(request: web.Request) -> web.Response:
    return reply(_motion(request).vmotions.all())


async def incoming(request: web.Request) -> web.Response:
    return reply(await _motion(request).vmotions.incoming(await body(request, IncomingVm)))


async def outgoing(request: web.Request) -> web.Response:
    return reply(await _motion(request).vmotions.outgoing(await body(request, OutgoingVm)))


async def vmotion(request: web.Request) -> web.Response:
    return reply(await _motion(request).vmotions.view(request.match_info["vmotion"], *_seen(request)))


async def abort_vmotion(request: web.Request) -> web.Response:
    return reply(await _motion(request).vmotions.abort(request.match_info["vmotion"]))


async def part_vmotion(request: web.Request) -> web.Response:
    await _motion(request).vmotions.part(request.match_info["vmotion"])
    return reply(None)
