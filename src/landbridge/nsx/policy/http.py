"""What the handlers share: the caller, bodies and answers."""

import json
from typing import Any

from aiohttp import web

from landbridge.nsx.policy import faults
from landbridge.nsx.policy.sessions import Caller

CALLER = web.RequestKey("caller", Caller)


def answer_fault(fault: faults.Fault) -> web.Response:
    return web.json_response(fault.body(), status=fault.status)


async def body(request: web.Request) -> dict[str, Any]:
    """The request's JSON object, whatever its Content-Type says; Fault 400 if it is none."""
    content = await request.read()
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise faults.Fault(400, faults.INVALID_FIELD, f"The body is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise faults.Fault(400, faults.INVALID_FIELD, "The body must be a JSON object")
    return parsed
