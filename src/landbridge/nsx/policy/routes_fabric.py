"""VMs, their NICs and their tags."""

from typing import Any

from aiohttp import web

from landbridge.nsx.policy import faults
from landbridge.nsx.policy.http import CALLER, body
from landbridge.nsx.policy.machines import ADD, REMOVE, UPDATE, Machines
from landbridge.nsx.policy.service import Page, paged

_STATE = "/policy/api/v1/infra/realized-state"
_POINT = f"{_STATE}/enforcement-points/default"


def fabric_routes(machines: Machines) -> list[web.RouteDef]:
    """Routes of the inventory."""

    async def all_machines(request: web.Request) -> web.Response:
        return _filtered(request, await machines.all(), ("display_name", "external_id", "host_id", "power_state"))

    async def vifs(request: web.Request) -> web.Response:
        found = machines.vifs()
        if wanted := request.query.get("vm_id"):
            found = [vif for vif in found if vif["owner_vm_id"] == wanted]
        return _filtered(request, found, ("owner_vm_id", "host_id", "lport_attachment_id", "mac_address"))

    async def details(request: web.Request) -> web.Response:
        return web.json_response(await machines.get(request.match_info["id"]))

    async def tags(request: web.Request) -> web.Response:
        machine = await machines.get(request.match_info["id"])
        return web.json_response({"virtual_machine_id": machine["external_id"], "tags": machine.get("tags", [])})

    async def act(request: web.Request) -> web.Response:
        action = request.query.get("action", "")
        if action not in (UPDATE, ADD, REMOVE):
            raise faults.invalid(f"action: {action!r} is none of {UPDATE}, {ADD}, {REMOVE}")
        await machines.tag(action, _asked(await body(request)), request[CALLER].user)
        return web.Response(status=200 if request.path.startswith("/policy") else 204)

    async def replace(request: web.Request) -> web.Response:
        given = {"virtual_machine_id": request.match_info["id"], **await body(request)}
        if given["virtual_machine_id"] != request.match_info["id"]:
            raise faults.invalid("virtual_machine_id: it is not the one in the path")
        await machines.tag(UPDATE, _asked(given), request[CALLER].user)
        return web.Response()

    one = "virtual-machines/{id}"
    return [
        web.get("/api/v1/fabric/virtual-machines", all_machines),
        web.post("/api/v1/fabric/virtual-machines", act),
        web.get("/api/v1/fabric/vifs", vifs),
        *_group_routes(machines),
        web.get(f"{_STATE}/virtual-machines", all_machines),
        web.get(f"{_STATE}/{one}/tags", tags),
        web.post(f"{_STATE}/{one}/tags", replace),
        web.get(f"{_POINT}/virtual-machines", all_machines),
        web.post(f"{_POINT}/virtual-machines", act),
        web.get(f"{_POINT}/{one}/details", details),
        web.get(f"{_POINT}/{one}/tags", tags),
        web.post(f"{_POINT}/{one}/tags", replace),
        web.get(f"{_POINT}/vifs", vifs),
    ]


def _group_routes(machines: Machines) -> list[web.RouteDef]:
    async def members(request: web.Request) -> web.Response:
        found = await machines.of_group(f"/infra/domains/default/groups/{request.match_info['group']}")
        return _filtered(request, found, ())

    async def groups(request: web.Request) -> web.Response:
        machine = request.query.get("vm_external_id", "")
        if not machine:
            raise faults.invalid("vm_external_id: the request must name a VM")
        return _filtered(request, await machines.groups_of(machine), ())

    return [
        web.get("/policy/api/v1/infra/domains/default/groups/{group}/members/virtual-machines", members),
        web.get("/policy/api/v1/infra/virtual-machine-group-associations", groups),
    ]


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    """The Policy API calls the VM `virtual_machine_id`, the fabric's `external_id`."""
    asked = dict(given)
    if "virtual_machine_id" in asked:
        asked["external_id"] = asked.pop("virtual_machine_id")
    return asked


def _filtered(request: web.Request, found: list[dict[str, Any]], names: tuple[str, ...]) -> web.Response:
    for name in names:
        if (wanted := request.query.get(name)) is not None:
            found = [one for one in found if one.get(name) == wanted]
    return web.json_response(paged(found, Page.from_query(request.query)))
