"""What an appliance answers when a call fails: the host agent's form of errors, `ApiError`."""

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware
from pydantic import ValidationError

from landbridge.esx.model import ApiError

_log = logging.getLogger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def fault_answers(known: Callable[[Exception], tuple[int, str, str] | None]) -> Middleware:
    """A middleware. `known` gives status, type and message of the appliance's own errors, None for all others."""

    @web.middleware
    async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException:
            raise
        except Exception as error:
            status, kind, message = known(error) or _other(error)
            if status == 500:
                _log.exception("%s %s", request.method, request.path)
            answer = ApiError(type=kind, message=message)
            return web.json_response(text=answer.model_dump_json(), status=status)

    return middleware


def _other(error: Exception) -> tuple[int, str, str]:
    if isinstance(error, ValidationError | ValueError | TypeError):
        return 400, "InvalidArgument", str(error)
    return 500, "SystemError", f"{type(error).__name__}: {error}"
