"""Headers on every answer: what a browser may do with the portal's pages. Hardly anything."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HEADERS", "SecurityHeaders", "harden", "headers_beside"]

HEADERS = {
    # Only our own files, no inline script or style: text that slipped through escaping would still be inert.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=()",
}


def headers_beside(hub: str) -> Mapping[str, str]:
    """The headers where the hub lies at this address. On another host than the portal's: a form that is sent to us may
    end on its pages and, through them, on those of servers, whose hosts are below it. Chromium asks for each step."""
    parts = urlsplit(hub)
    if not parts.netloc:
        return HEADERS
    hosts = f"{parts.scheme}://{parts.netloc} {parts.scheme}://*.{parts.netloc}"
    policy = HEADERS["Content-Security-Policy"]
    return HEADERS | {"Content-Security-Policy": policy.replace("form-action 'self'", f"form-action 'self' {hosts}")}


def harden(headers: MutableHeaders, ours: Mapping[str, str]) -> None:
    """Add our headers; pages and data of one person are never stored, unless the answer says otherwise itself."""
    for name, value in ours.items():
        headers.setdefault(name, value)
    headers.setdefault("Cache-Control", "no-store")


class SecurityHeaders:
    """ASGI middleware that hardens every answer of the app inside."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                harden(MutableHeaders(scope=message), self._headers)
            await send(message)

        await self._app(scope, receive, hardened if scope["type"] == "http" else send)
