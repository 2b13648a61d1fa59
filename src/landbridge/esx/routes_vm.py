"""The routes about virtual machines: list, create, register, destroy, reconfigure, power."""

from typing import TYPE_CHECKING

from aiohttp import web

from landbridge.esx.model import CreateVm, Power, ReconfigureVm, RegisterVm
from landbridge.esx.reconfigure import reconfigure
from landbridge.esx.web import AGENT, body, reply

if TYPE_CHECKING:
    from landbridge.esx.agent import Agent
    from landbridge.esx.vm import VirtualMachine


def add_routes(app: web.Application, agent: "Agent") -> None:  # noqa: ARG001 - one signature for all routes
    """Add the routes; handlers find the agent in the application."""
    app.add_routes(
        [
            web.get("/v1/vms", list_vms),
            web.post("/v1/vms", create_vm),
            web.post("/v1/vms/register", register_vm),
            web.get("/v1/vms/{vm}", get_vm),
            web.delete("/v1/vms/{vm}", destroy_vm),
            web.post("/v1/vms/{vm}/unregister", unregister_vm),
            web.put("/v1/vms/{vm}/config", reconfigure_vm),
            web.post("/v1/vms/{vm}/power", power),
        ]
    )


def _vm(request: web.Request) -> "VirtualMachine":
    return request.app[AGENT].inventory.get(request.match_info["vm"])


async def list_vms(request: web.Request) -> web.Response:
    return reply([vm.state() for vm in request.app[AGENT].inventory.vms])


async def create_vm(request: web.Request) -> web.Response:
    vm = await request.app[AGENT].inventory.create(await body(request, CreateVm))
    return reply(vm.state())


async def register_vm(request: web.Request) -> web.Response:
    vm = await request.app[AGENT].inventory.register((await body(request, RegisterVm)).vmx)
    return reply(vm.state())


async def get_vm(request: web.Request) -> web.Response:
    return reply(_vm(request).state())


async def destroy_vm(request: web.Request) -> web.Response:
    await request.app[AGENT].inventory.destroy(request.match_info["vm"])
    return reply(None)


async def unregister_vm(request: web.Request) -> web.Response:
    await request.app[AGENT].inventory.unregister(request.match_info["vm"])
    return reply(None)


async def reconfigure_vm(request: web.Request) -> web.Response:
    vm = _vm(request)
    await reconfigure(vm, await body(request, ReconfigureVm))
    await request.app[AGENT].inventory.measure(vm)
    return reply(vm.state())


async def power(request: web.Request) -> web.Response:
    vm = _vm(request)
    await vm.power((await body(request, Power)).operation)
    return reply(vm.state())
