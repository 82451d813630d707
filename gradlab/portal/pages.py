"""The portal's pages: server-rendered, complete without a script, for people who navigate to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from gradlab.portal.auth import FormVisitor, PageInstructor, PageVisitor, finish_login, xsrf_of
from gradlab.portal.context import Portal, portal_of
from gradlab.portal.gpucards import BLANK, FACTS, HOUR
from gradlab.portal.gpucards import gpu_page as gpu_cards
from gradlab.portal.hubauth import Visitor
from gradlab.portal.render import Renderer, short
from gradlab.portal.standing import ClassRow, class_rows, lab_of, lab_standings
from gradlab.portal.views import attempt_views, class_counts, class_faults, next_up

__all__ = ["add_pages", "error_page"]

_STOP_SECONDS = 30.0
_STOP_LOOK_SECONDS = 0.25
_RECENT = 4
_PAGE = 50
_MOST = 500


def add_pages(app: FastAPI, prefix: str) -> None:
    """Add all pages. They are no part of the API's document."""
    pages: dict[str, Callable[..., Any]] = {
        "/": labs_page,
        "/attempts": own_attempts_page,
        "/class": class_page,
        "/gpus": gpus_page,
        "/learners/{name:path}": learner_page,
        "/gpu/{slug}": gpu_page,
        "/oauth_callback": oauth_callback,
    }
    for path, endpoint in pages.items():
        app.add_api_route(prefix + path, endpoint, include_in_schema=False, response_class=HTMLResponse)
    app.add_api_route(
        f"{prefix}/gpu/{{slug}}",
        restart_with_gpu,
        methods=["POST"],
        include_in_schema=False,
        response_class=HTMLResponse,
    )


def labs_page(request: Request, visitor: PageVisitor) -> HTMLResponse:
    """The labs with the visitor's progress, and for instructors how the class is doing."""
    portal = portal_of(request)
    standings = lab_standings(portal.course, portal.store, visitor.name)
    recent = portal.store.attempts(visitor.name, limit=_RECENT)
    up = next_up(standings)
    return _page(
        request,
        visitor,
        "labs.html",
        here="labs",
        standings=standings,
        recent=attempt_views(portal.course, recent),
        up=up,
        exercise_up=next((row for row in up.exercises if not row.passed), None) if up else None,
        new_here=not recent,
        counts=class_counts(_rows(portal), portal.clock()) if visitor.instructor else None,
        hosted=portal.settings.spawner == "docker",
        gpus=portal.settings.gpus != "none",
    )


async def gpu_page(request: Request, visitor: PageVisitor, slug: str) -> Response:
    """Open a lab with a GPU. A server that runs without one would have to end first, which its owner decides."""
    portal = portal_of(request)
    _need_gpus(portal)
    filename = await run_in_threadpool(_filename, portal, visitor.name, slug)
    server = await portal.hub.server(visitor.name)
    if server is None or server.gpu:
        return RedirectResponse(portal.hub.open_url(filename, slug, gpu=True), status_code=302)
    lab = portal.course.lab(slug)
    return await run_in_threadpool(_page, request, visitor, "gpu.html", here="labs", lab=lab, filename=filename)


def _need_gpus(portal: Portal) -> None:
    if portal.settings.gpus == "none":
        raise HTTPException(404, "This server gives out no GPUs. Open the lab without one, from the labs page.")


async def restart_with_gpu(request: Request, visitor: FormVisitor, slug: str) -> RedirectResponse:
    """End the visitor's server, and open the lab in one with a GPU."""
    portal = portal_of(request)
    _need_gpus(portal)
    filename = await run_in_threadpool(_filename, portal, visitor.name, slug)
    await portal.hub.stop_server(visitor.name)
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            while await portal.hub.server(visitor.name) is not None:
                await asyncio.sleep(_STOP_LOOK_SECONDS)
    except TimeoutError:
        raise HTTPException(
            503,
            f"Your server has not ended within {_STOP_SECONDS:g} s. Wait a moment, then open the lab with a GPU again "
            "from the labs page; what is on disk stays as it is.",
        ) from None
    return RedirectResponse(portal.hub.open_url(filename, slug, gpu=True), status_code=303)


def own_attempts_page(
    request: Request, visitor: PageVisitor, lab: str | None = None, every: bool = False
) -> HTMLResponse:
    return _attempts_page(request, visitor, visitor.name, lab, every)


def learner_page(
    request: Request, visitor: PageInstructor, name: str, lab: str | None = None, every: bool = False
) -> HTMLResponse:
    if name not in {learner.name for learner in portal_of(request).store.learners()}:
        raise HTTPException(404, f"Nobody called {name!r} has been here yet. The class page lists everybody.")
    return _attempts_page(request, visitor, name, lab, every)


def class_page(request: Request, visitor: PageInstructor) -> HTMLResponse:
    """The class table, our faults and the GPUs. The script keeps them up to date; without it they are as of now."""
    portal = portal_of(request)
    rows = _rows(portal)
    now = portal.clock()
    return _page(
        request,
        visitor,
        "class.html",
        here="class",
        rows=rows,
        labs=portal.course.labs,
        max_points=sum(lab.points for lab in portal.course.labs),
        counts=class_counts(rows, now),
        faults=class_faults(portal.course, portal.store, now),
        gpu=portal.gpu.reading(),
    )


def gpus_page(request: Request, visitor: PageInstructor) -> HTMLResponse:
    """Who uses which GPU how much. The script keeps it up to date; without it all is as of now."""
    portal = portal_of(request)
    now = portal.clock()
    today = datetime.fromtimestamp(now, UTC).date().isoformat()
    titles = {lab.slug: short(lab.title) for lab in portal.course.labs}
    usage = portal.store.gpu_usage(since=today)
    return _page(
        request,
        visitor,
        "gpus.html",
        here="gpus",
        gpus=gpu_cards(portal.gpu.view(), portal.gpu.history(now - HOUR), usage, titles),
        fact_names=FACTS,
        blank=BLANK,
        titles=titles,
        today=today,
    )


async def oauth_callback(
    request: Request,
    code: str = "",
    state: str = "",
    error: str = "",
    error_description: Annotated[str, Query(max_length=500)] = "",
) -> RedirectResponse:
    """Where the Hub sends the browser back to after a login."""
    if error or not code:
        said = error_description or error or "it sent no code"
        raise HTTPException(403, f"The Hub refused the login: {said}. Open the portal again, or ask your instructor.")
    return await finish_login(request, code, state)


def error_page(request: Request, status: int, detail: str) -> HTMLResponse:
    """The same look for what went wrong; it does not know, and does not need to know, who is asking."""
    renderer: Renderer = request.app.state.renderer
    titles = {
        401: "Please log in",
        403: "Not allowed here",
        404: "Not found",
        413: "Too large",
        503: "Back in a moment",
    }
    title = titles.get(status, "That did not work")
    portal = portal_of(request)
    html = renderer.page(
        "error.html",
        visitor=None,
        here="",
        xsrf="",
        now=portal.clock(),
        notices=(),
        banner=portal.settings.banner,
        title=title,
        status=status,
        detail=detail,
    )
    return HTMLResponse(html, status_code=status)


def _attempts_page(request: Request, visitor: Visitor, name: str, lab: str | None, every: bool) -> HTMLResponse:
    portal = portal_of(request)
    limit = _MOST if every else _PAGE
    chosen = lab_of(portal.course, lab) if lab else None
    found = portal.store.attempts(name, lab or None, limit=limit + 1)
    return _page(
        request,
        visitor,
        "attempts.html",
        here="attempts" if name == visitor.name else "class",
        learner=name,
        own=name == visitor.name,
        standings=lab_standings(portal.course, portal.store, name),
        attempts=attempt_views(portal.course, found[:limit]),
        more=len(found) > limit,
        every=every,
        chosen=lab or None,
        chosen_title=chosen.title if chosen else lab,
    )


def _filename(portal: Portal, learner: str, slug: str) -> str:
    """The name of a lab's notebook in the learner's home."""
    for standing in lab_standings(portal.course, portal.store, learner):
        if standing.lab.slug == slug:
            return standing.filename
    raise HTTPException(404, f"There is no lab {slug!r}. The labs page lists all of them.")


def _rows(portal: Portal) -> list[ClassRow]:
    return class_rows(portal.course, portal.store, without=portal.presence.instructors)


def _page(request: Request, visitor: Visitor, template: str, **values: Any) -> HTMLResponse:
    renderer: Renderer = request.app.state.renderer
    portal = portal_of(request)
    now = portal.clock()
    notices = portal.store.notices(visitor.name, now)
    common = {"visitor": visitor, "xsrf": xsrf_of(request), "now": now, "notices": notices}
    return HTMLResponse(renderer.page(template, banner=portal.settings.banner, **common, **values))
