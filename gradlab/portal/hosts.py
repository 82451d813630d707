"""Where the portal has a host name of its own: who comes to its old place, below the hub's, is sent on."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["OwnHost"]


class OwnHost:
    """ASGI middleware that sends browsers from the hub's host to ``own``, the portal's whole address.

    No page is shown there, where the hub's cookies are. Whoever brings a token in a header is a program and is
    answered: it would lose that header on the way to another host.
    """

    def __init__(self, app: ASGIApp, *, own: str, hub: str) -> None:
        self._app = app
        self._own = urlsplit(own)
        self._hub = urlsplit(hub).netloc

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if headers.get("host", "").lower() != self._hub or "authorization" in headers:
            await self._app(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        there = self._own._replace(path=scope["raw_path"].decode("latin-1"), query=query).geturl()
        await RedirectResponse(there, status_code=307)(scope, receive, send)
