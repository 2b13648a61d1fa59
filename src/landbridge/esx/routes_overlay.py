"""The routes about the overlay, and what the NSX manager may ask a host beside them."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from landbridge.esx.faults import Fault
from landbridge.esx.model import OverlayConfig, OverlayStatus
from landbridge.esx.web import AGENT, body, reply
from landbridge.pki.http import caller

if TYPE_CHECKING:
    from landbridge.esx.agent import Agent
    from landbridge.esx.overlay import Overlay
    from landbridge.esx.switch import Switch

_OF_NSX = frozenset(
    {
        ("PUT", "/v1/overlay"),
        ("DELETE", "/v1/overlay"),
        ("POST", "/v1/vmotion/{vmotion}/ports"),
    }
)
_READ_BY_NSX = frozenset(
    {
        "/v1/host",
        "/v1/events",
        "/v1/portgroups",
        "/v1/vms",
        "/v1/vms/{vm}",
        "/v1/vmotion",
        "/v1/vmotion/{vmotion}",
        "/v1/overlay",
        "/v1/overlay/ports",
    }
)


def add_routes(app: web.Application, agent: "Agent") -> None:  # noqa: ARG001 - one signature for all routes
    """Add the routes; handlers find the agent in the application."""
    app.add_routes(
        [
            web.get("/v1/overlay", overlay),
            web.put("/v1/overlay", configure_overlay),
            web.delete("/v1/overlay", remove_overlay),
            web.get("/v1/overlay/ports", overlay_ports),
            web.post("/v1/vmotion/{vmotion}/ports", open_ports),
        ]
    )


@web.middleware
async def keep_to_routes(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Who a caller is was checked before; each of the two managers has its own part of the API."""
    who, resource = caller(request), request.match_info.route.resource
    path = resource.canonical if resource is not None else request.path
    own = (request.method, path) in _OF_NSX
    reads = request.method in ("GET", "HEAD") and path in _READ_BY_NSX
    if not (own or reads if who.role == "nsx" else not own):
        raise web.HTTPForbidden(text=f"not for {who.role} {who.name}")
    return await handler(request)


def _switch(request: web.Request) -> "Switch | None":
    return request.app[AGENT].host.switch


def _overlay(request: web.Request) -> "Overlay":
    switch = _switch(request)
    if switch is None or switch.overlay is None:
        name = request.app[AGENT].settings.name
        raise Fault(
            "NotSupported",
            f"host {name} is no transport node: set tep and tep_address in [switch] of its configuration",
        )
    return switch.overlay


async def overlay(request: web.Request) -> web.Response:
    switch = _switch(request)
    if switch is None or switch.overlay is None:
        return reply(OverlayStatus(transport_node=False))
    return reply(await switch.overlay.status())


async def configure_overlay(request: web.Request) -> web.Response:
    node = _overlay(request)
    await node.configure(await body(request, OverlayConfig))
    request.app[AGENT].events.add("host-changed", message="the overlay was configured")
    return reply(await node.status())


async def remove_overlay(request: web.Request) -> web.Response:
    await _overlay(request).remove()
    request.app[AGENT].events.add("host-changed", message="the overlay was removed")
    return reply(None)


async def overlay_ports(request: web.Request) -> web.Response:
    switch = _switch(request)
    return reply([] if switch is None else await switch.segment_ports())


async def open_ports(request: web.Request) -> web.Response:
    return reply(await request.app[AGENT].motion.vmotions.open_ports(request.match_info["vmotion"]))
