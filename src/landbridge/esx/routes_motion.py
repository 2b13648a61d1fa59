"""The routes about moves, snapshots and long operations."""

from typing import TYPE_CHECKING

from aiohttp import web

from landbridge.esx.model import IncomingVm, OutgoingVm
from landbridge.esx.web import AGENT, body, number, reply

if TYPE_CHECKING:
    from landbridge.esx.agent import Agent
    from landbridge.esx.motion import Motion


def add_routes(app: web.Application, agent: "Agent") -> None:  # noqa: ARG001 - one signature for all routes
    """Add the routes; handlers find the agent in the application."""
    app.add_routes(
        [
            web.get("/v1/jobs/{job}", job),
            web.delete("/v1/jobs/{job}", cancel_job),
            web.get("/v1/vmotion", vmotions),
            web.post("/v1/vmotion/incoming", incoming),
            web.post("/v1/vmotion/outgoing", outgoing),
            web.get("/v1/vmotion/{vmotion}", vmotion),
            web.delete("/v1/vmotion/{vmotion}", abort_vmotion),
        ]
    )


def _motion(request: web.Request) -> "Motion":
    return request.app[AGENT].motion


def _seen(request: web.Request) -> tuple[int, float]:
    return int(number(request, "seen", -1)), number(request, "wait")


# ------------------------------------------------------------------------------------------------- long operations


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
