"""Between HTTP and the agent: bodies checked against their shapes, answers as JSON, every error as an `ApiError`."""

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from aiohttp import web
from pydantic import BaseModel, TypeAdapter, ValidationError

from landbridge.esx.faults import Fault, as_fault

if TYPE_CHECKING:
    from landbridge.esx.agent import Agent

_log = logging.getLogger(__name__)
_Shape = TypeVar("_Shape")
_LONGEST_WAIT = 120.0

AGENT: "web.AppKey[Agent]" = web.AppKey("agent")


@web.middleware
async def errors_as_faults(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer every error as an `ApiError`, with a status that fits."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        kind = {403: "NoPermission", 404: "NotSupported", 405: "NotSupported", 413: "InvalidArgument"}
        text = f"{request.method} {request.path}: {error.text or error.reason}"
        return _answer(Fault(kind.get(error.status, "InvalidRequest"), text), error.status)
    except ValidationError as error:
        return _answer(Fault("InvalidArgument", _first_problem(error)), 400)
    except ConnectionResetError:
        raise
    except Exception as error:  # the last resort: the caller gets an answer, the log the trace
        fault = as_fault(error)
        if fault.type == "SystemError":
            _log.exception("%s %s", request.method, request.path)
        else:
            _log.info("%s %s: %s: %s", request.method, request.path, fault.type, fault.message)
        return _answer(fault, fault.status)


def _answer(fault: Fault, status: int) -> web.Response:
    return web.json_response(text=fault.error.model_dump_json(), status=status)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the body"
    return f"{where}: {problem['msg']}"


async def body(request: web.Request, shape: type[_Shape]) -> _Shape:
    """The request's body as `shape`; an error that says where it is not one is answered with 400."""
    try:
        return TypeAdapter(shape).validate_python(json.loads(await request.read()))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Fault("InvalidRequest", f"the body is not JSON: {error}") from error


def reply(answer: BaseModel | Sequence[BaseModel] | None) -> web.Response:
    """A shape, a list of shapes, or nothing, as JSON."""
    if answer is None:
        return web.Response(status=204)
    if isinstance(answer, BaseModel):
        return web.json_response(text=answer.model_dump_json())
    return web.json_response(text=f"[{','.join(one.model_dump_json() for one in answer)}]")


def number(request: web.Request, name: str, default: float = 0) -> float:
    """A number of the query string. Waits are cut to two minutes."""
    text = request.query.get(name)
    try:
        value = float(text) if text is not None else default
    except ValueError:
        raise Fault("InvalidArgument", f"{name} is {text!r}, not a number") from None
    if value != value or (name == "wait" and value < 0):
        raise Fault("InvalidArgument", f"{name} can not be {text!r}")
    return min(value, _LONGEST_WAIT) if name == "wait" else value
