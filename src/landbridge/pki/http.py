"""aiohttp's end of mutual TLS: who is calling, and whether that role may."""

import ssl
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from landbridge.pki.identity import PeerName, TrustError, peer_name

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def caller(request: web.Request) -> PeerName:
    """The component at the other end of a mutual TLS request; TrustError if it does not name itself."""
    tls = request.transport.get_extra_info("ssl_object") if request.transport else None
    if not isinstance(tls, ssl.SSLObject | ssl.SSLSocket):
        raise TrustError("the connection is not TLS")
    return peer_name(tls)


def allow_roles(site: str, *roles: str) -> Middleware:
    """A middleware that lets in components of `site` with one of `roles`, and answers 403 to all others."""

    @web.middleware
    async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            who = caller(request)
        except TrustError as error:
            raise web.HTTPForbidden(text=str(error)) from error
        if who.site != site or who.role not in roles:
            raise web.HTTPForbidden(text=f"{who.role} {who.name} of site {who.site} has no business here")
        return await handler(request)

    return middleware
