"""The portal as one ASGI application, made from its parts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import Scope

from gradlab import __version__
from gradlab.course import Course
from gradlab.credentials import Credentials
from gradlab.errors import GradlabError, SubmissionRefused
from gradlab.portal.api import add_api
from gradlab.portal.auth import LoginNeeded, start_login
from gradlab.portal.context import Portal, Presence, portal_of
from gradlab.portal.gpus import GpuFeed, Source
from gradlab.portal.headers import SecurityHeaders, harden, headers_beside
from gradlab.portal.hosts import OwnHost
from gradlab.portal.hubauth import HubClient
from gradlab.portal.live import Checks, Live
from gradlab.portal.pages import add_pages, error_page
from gradlab.portal.render import STATIC_DIR, Renderer, static_links
from gradlab.portal.sessions import Sessions
from gradlab.settings import Settings
from gradlab.store import Store

__all__ = ["create_app"]

_FOREVER = "public, max-age=31536000, immutable"


def create_app(
    *,
    settings: Settings,
    credentials: Credentials,
    course: Course,
    store: Store,
    checks: Checks,
    hub: HubClient,
    gpu: Source,
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """The whole portal under ``hub.prefix``. It listens to the checks while it runs, and closes only the Hub client:
    store, checks and GPU monitor belong to the caller. ``gpu`` answers within seconds whatever the driver does."""
    portal = Portal(
        settings=settings,
        course=course,
        store=store,
        checks=checks,
        hub=hub,
        sessions=Sessions(credentials.cookie_key, clock=clock),
        live=Live(checks),
        gpu=gpu,
        gpu_feed=GpuFeed(gpu.view),
        presence=Presence(store, clock),
        clock=clock,
    )
    prefix = portal.prefix.rstrip("/")
    app = FastAPI(
        title="Gradlab portal",
        version=__version__,
        description="Labs, checks, verdicts and progress. Send a Hub token as `Authorization: token …`.",
        openapi_url=f"{prefix}/api/openapi.json",
        docs_url=None,  # both viewers would load scripts from other sites
        redoc_url=None,
        lifespan=_lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.portal = portal
    app.state.renderer = Renderer(
        prefix=portal.prefix, static=static_links(portal.prefix), hub=hub, login=settings.login, product="Gradlab"
    )
    add_api(app, prefix)
    add_pages(app, prefix)
    app.mount(f"{prefix}/static", _Files(directory=STATIC_DIR), name="static")
    headers = headers_beside(hub.hub_prefix)
    if hub.public:
        app.add_middleware(OwnHost, own=hub.public, hub=hub.hub_prefix)
    app.add_middleware(SecurityHeaders, headers=headers)
    _handle_errors(app, headers)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    portal: Portal = app.state.portal
    portal.live.start()
    try:
        yield
    finally:
        portal.live.stop()
        await portal.hub.close()


class _Files(StaticFiles):
    """Our own files; with the digest of their content in the address they never change."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if response.status_code == 200:
            response.headers["Cache-Control"] = _FOREVER if b"v=" in scope["query_string"] else "no-cache"
        return response


def _handle_errors(app: FastAPI, headers: Mapping[str, str]) -> None:
    async def login_needed(request: Request, _error: Exception) -> RedirectResponse:
        return start_login(request)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        unknown = error.status_code == 404 and error.detail == "Not Found"
        detail = f"There is nothing at {request.url.path} here." if unknown else str(error.detail)
        return _problem(request, error.status_code, detail, dict(error.headers or {}))

    async def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"][1:])
        return _problem(request, 422, f"{where}={str(first.get('input'))[:80]!r} is not usable: {first['msg']}.")

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, GradlabError)
        status = error.status if isinstance(error, SubmissionRefused) else 500
        return _problem(request, status, str(error))

    async def unexpected(request: Request, _error: Exception) -> Response:
        response = _problem(
            request, 500, "This is our fault, not yours: the portal met an error, and its log says which. Try again."
        )
        harden(response.headers, headers)  # Starlette answers this one outside of all middleware
        return response

    app.add_exception_handler(LoginNeeded, login_needed)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(GradlabError, ours)
    app.add_exception_handler(Exception, unexpected)


def _problem(request: Request, status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    prefix = portal_of(request).prefix
    response: JSONResponse | HTMLResponse
    if request.url.path.startswith((f"{prefix}api/", f"{prefix}events", f"{prefix}metrics")):
        response = JSONResponse({"detail": detail}, status_code=status)
    else:
        response = error_page(request, status, detail)
    response.headers.update(headers or {})
    return response
