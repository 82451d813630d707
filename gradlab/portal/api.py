"""The portal's API: JSON in and out, authorised by a Hub token or by the session of the portal's own pages."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Body, Depends, FastAPI, HTTPException, Query, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from gradlab.course import Exercise, Lab
from gradlab.errors import CourseError
from gradlab.portal import models
from gradlab.portal.auth import (
    ApiInstructor,
    ApiVisitor,
    StreamInstructor,
    UnseenVisitor,
    metrics_reader,
    still_instructor,
)
from gradlab.portal.body import read_notebook_body
from gradlab.portal.context import Portal, portal_of
from gradlab.portal.gpus import own_part
from gradlab.portal.live import Overrun
from gradlab.portal.metrics import CONTENT_TYPE, exposition
from gradlab.portal.standing import ClassRow, LabStanding, class_rows, lab_of, lab_standings
from gradlab.portal.views import class_faults
from gradlab.store import Submission

__all__ = ["add_api"]

LONGEST_WAIT = 60.0
RECHECK_SECONDS = 30.0
_HEARTBEAT_SECONDS = 15
# The end of the year 9999: no time that anybody means is later.
_LATEST = 253_402_300_799

_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": models.Problem, "description": "Not logged in."},
    403: {"model": models.Problem, "description": "Logged in, but not allowed."},
    404: {"model": models.Problem, "description": "There is no such thing, or it is somebody else's."},
    422: {"model": models.Problem, "description": "A parameter is malformed."},
    503: {"model": models.Problem, "description": "The Hub does not answer."},
}
_CHECK_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": models.Problem, "description": "The notebook cannot be judged at all."},
    413: {"model": models.Problem, "description": "The notebook is too large."},
}


def add_api(app: FastAPI, prefix: str) -> None:
    """Add all API routes and the event stream."""

    def add(path: str, endpoint: Callable[..., Any], method: str = "GET", **options: Any) -> None:
        responses = _REFUSALS | options.pop("responses", {})
        app.add_api_route(prefix + path, endpoint, methods=[method], responses=responses, **options)

    add("/api/me", me)
    add("/api/labs", labs)
    add("/api/notices", notices)
    add("/api/deliveries", deliveries, "POST", status_code=204)
    add(
        "/api/labs/{slug}/checks",
        check,
        "POST",
        status_code=202,
        responses=_CHECK_REFUSALS,
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {}}}}},
    )
    add("/api/labs/{slug}/exercises/{name}/hints", hints)
    add("/api/labs/{slug}/exercises/{name}/hints", open_hint, "POST")
    add("/api/submissions/{number}", submission)
    add("/api/class", class_table)
    add("/api/faults", faults)
    add("/api/learners/{name:path}/attempts", attempts)
    add("/api/gpu", gpu)
    add("/api/gpu/view", gpu_view)
    add("/api/gpu/history", gpu_history)
    add("/api/gpu/usage", gpu_usage, response_model=models.GpuUsageModel)
    add("/api/gpu/mine", own_gpus)
    add("/events/gpu", gpu_events, response_class=EventSourceResponse)
    text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}
    add("/metrics", gpu_metrics, response_model=None, responses=text, dependencies=[Depends(metrics_reader)])
    add("/events", events, response_class=EventSourceResponse)


def me(visitor: ApiVisitor) -> models.MeModel:
    """Who the token or session belongs to."""
    return models.MeModel(name=visitor.name, role=visitor.role)


def labs(request: Request, visitor: ApiVisitor) -> list[models.LabModel]:
    """The labs in curriculum order, with the caller's progress."""
    portal = portal_of(request)
    return [_lab_model(standing) for standing in lab_standings(portal.course, portal.store, visitor.name)]


def notices(request: Request, visitor: UnseenVisitor) -> list[models.NoticeModel]:
    """What the caller is to be told now, oldest first. Notebooks ask every half minute, so it is no sign of life."""
    portal = portal_of(request)
    found = portal.store.notices(visitor.name, portal.clock())
    return [models.NoticeModel.model_validate(asdict(notice)) for notice in found]


def deliveries(
    request: Request, visitor: ApiVisitor, delivered: Annotated[list[models.DeliveryModel], Body(max_length=200)]
) -> None:
    """Tell which labs now lie in the caller's home, and under which names; labs there are none of are left out."""
    portal = portal_of(request)
    for one in delivered:
        if lab_of(portal.course, one.lab) is not None:
            portal.store.deliver(visitor.name, one.lab, one.version, one.filename, now=portal.clock())


async def check(
    request: Request,
    visitor: ApiVisitor,
    slug: str,
    only: Annotated[str | None, Query(description="The one exercise to check.")] = None,
) -> models.AcceptedModel:
    """Hand in a notebook (the request's body). It is on disk when this answers; the verdict comes with
    `GET api/submissions/{id}?wait=20`."""
    portal = portal_of(request)
    notebook = await read_notebook_body(request, portal.settings.notebook_mb << 20)
    number = await run_in_threadpool(portal.checks.accept, visitor.name, slug, notebook, only=only)
    return models.AcceptedModel(id=number, state="accepted")


async def submission(
    request: Request,
    visitor: ApiVisitor,
    number: int,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT, description="Seconds to wait for the verdict.")] = 0,
) -> models.SubmissionModel:
    """One submission and, once it is judged, its verdict. Learners find only their own."""
    portal = portal_of(request)
    with portal.live.watch(number) as done:
        found = await run_in_threadpool(_own_submission, portal, visitor, number)
        if found.state == "accepted" and wait > 0:
            try:
                await asyncio.wait_for(done.wait(), wait)
            except TimeoutError:
                return _submission_model(portal, found)
            found = await run_in_threadpool(_own_submission, portal, visitor, number)
    return _submission_model(portal, found)


def hints(request: Request, visitor: ApiVisitor, slug: str, name: str) -> models.HintsModel:
    """The hints of an exercise that are already open."""
    portal = portal_of(request)
    lab, exercise = _exercise(portal, slug, name)
    opened = portal.store.hints(visitor.name, lab.slug).get(exercise.name, 0)
    return models.HintsModel(opened=list(exercise.hints[:opened]), of=len(exercise.hints))


def open_hint(request: Request, visitor: ApiVisitor, slug: str, name: str) -> models.HintModel:
    """Open the next hint; when all are open, the last one again."""
    portal = portal_of(request)
    lab, exercise = _exercise(portal, slug, name)
    available = len(exercise.hints)
    if not available:
        raise HTTPException(404, f"There is no hint for {exercise.name!r}. Read what the last check said about it.")
    opened = portal.store.open_hint(visitor.name, lab.slug, exercise.name, available=available, now=portal.clock())
    number = min(opened, available)
    return models.HintModel(number=number, of=available, hint=exercise.hints[number - 1])


def class_table(
    request: Request,
    _visitor: ApiInstructor,
    learner: Annotated[str | None, Query(description="Only this learner's row.")] = None,
) -> models.ClassModel:
    """Where every learner stands in every lab."""
    portal = portal_of(request)
    rows = class_rows(portal.course, portal.store, only=learner, without=portal.presence.instructors)
    heads = [models.LabHeadModel(slug=lab.slug, title=lab.title, max_points=lab.points) for lab in portal.course.labs]
    return models.ClassModel(labs=heads, learners=[_learner_model(row) for row in rows])


def faults(request: Request, _visitor: ApiInstructor) -> models.FaultsModel:
    """Checks that ended by our fault and have had no verdict since, with the judge's own words for the cause."""
    portal = portal_of(request)
    found = class_faults(portal.course, portal.store, portal.clock())
    return models.FaultsModel.model_validate(asdict(found) | {"heading": found.heading})


def attempts(
    request: Request,
    _visitor: ApiInstructor,
    name: str,
    lab: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> list[models.AttemptModel]:
    """A learner's submissions, newest first."""
    found = portal_of(request).store.attempts(name, lab, limit=limit)
    return [models.AttemptModel.model_validate(asdict(attempt)) for attempt in found]


def gpu(request: Request, _visitor: ApiInstructor) -> models.GpuModel:
    """What the server's GPUs are doing now."""
    return models.GpuModel.model_validate(portal_of(request).gpu.reading())


def gpu_view(request: Request, _visitor: ApiInstructor) -> models.GpuViewModel:
    """Which learner has which GPU and uses it how much, who holds one without using it, and who waits."""
    return models.GpuViewModel.model_validate(portal_of(request).gpu.view())


def gpu_history(
    request: Request,
    _visitor: ApiInstructor,
    since: Annotated[
        float, Query(ge=0, le=_LATEST, allow_inf_nan=False, description="Seconds since the epoch; an hour is kept.")
    ] = 0.0,
) -> models.GpuHistoryModel:
    """The last hour, one number a second. A null is no sample, which is not the same as 0."""
    return models.GpuHistoryModel.model_validate(portal_of(request).gpu.history(since))


def gpu_usage(
    request: Request,
    _visitor: StreamInstructor,
    since: Annotated[str | None, Query(pattern=r"^\d{4}-\d\d-\d\d$", description="The first day (UTC).")] = None,
    format: Annotated[Literal["json", "csv"], Query()] = "json",
) -> models.GpuUsageModel | Response:
    """GPU-seconds held and used, and the most memory at once, by learner, lab and day. A link to it needs the XSRF
    token in its query where browsers do not say that somebody follows it: on plain http to another machine."""
    rows = [asdict(one) for one in portal_of(request).store.gpu_usage(since)]
    if format == "json":
        return models.GpuUsageModel.model_validate({"rows": rows})
    file = io.StringIO()
    table = csv.DictWriter(file, list(models.GpuUsageRowModel.model_fields))
    table.writeheader()
    table.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    name = {"Content-Disposition": 'attachment; filename="gpu-usage.csv"'}
    return Response(file.getvalue(), media_type="text/csv", headers=name)


def _cell(value: Any) -> Any:
    """A value for a spreadsheet, which would run a text that begins like a formula; an apostrophe makes it a text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def own_gpus(request: Request, visitor: UnseenVisitor) -> models.OwnGpusModel:
    """The caller's own part of the GPUs; all others are one block without names. Notebooks ask for this every second
    while they show it."""
    portal = portal_of(request)
    view = portal.gpu.view()
    # In a trial learners' servers are processes of this machine, which nothing keeps from its GPUs.
    free_for_all = portal.settings.spawner == "process" and view["mode"] == "none"
    found = own_part(view, visitor.name, free_for_all=free_for_all)
    today = portal.store.gpu_usage(_day(portal.clock()), visitor.name)
    usage = {
        "held": sum(one.held for one in today),
        "busy": sum(one.busy for one in today),
        "peak": max((one.peak for one in today), default=0),
    }
    return models.OwnGpusModel.model_validate(found | {"usage": usage})


def gpu_metrics(request: Request) -> Response:
    """GPU use for Prometheus, by GPU, learner, server and lab."""
    portal = portal_of(request)
    text = exposition(portal.gpu.view(), portal.store.gpu_usage(by_day=False), portal.clock())
    return Response(text, media_type=CONTENT_TYPE)


async def gpu_events(request: Request, _visitor: StreamInstructor) -> EventSourceResponse:
    """Server-sent events: `hello`, and then `gpu` with the view (as of `api/gpu/view`), once a second."""
    return EventSourceResponse(_gpu_stream(request), ping=_HEARTBEAT_SECONDS, send_timeout=30)


async def events(request: Request, _visitor: StreamInstructor) -> EventSourceResponse:
    """Server-sent events. `hello` comes first: read the class table then, as nothing is replayed. After it one `class`
    event for everything that happens to a submission."""
    return EventSourceResponse(_stream(request), ping=_HEARTBEAT_SECONDS, send_timeout=30)


async def _stream(request: Request) -> AsyncIterator[ServerSentEvent]:
    with portal_of(request).live.listen() as listener:

        async def news(timeout: float) -> ServerSentEvent | None:
            event = await listener.next(timeout)
            if event is None:
                return None
            data = {"kind": event.kind, "learner": event.learner, "lab": event.lab, "submission": event.submission}
            return ServerSentEvent(event="class", data=json.dumps(data))

        with suppress(Overrun):  # the browser connects again and reads everything anew
            async for event in _watching(request, news):
                yield event


async def _gpu_stream(request: Request) -> AsyncIterator[ServerSentEvent]:
    with portal_of(request).gpu_feed.watch() as watcher:

        async def news(timeout: float) -> ServerSentEvent | None:
            view = await watcher.next(timeout)
            return None if view is None else ServerSentEvent(event="gpu", data=json.dumps(view))

        async for event in _watching(request, news):
            yield event


async def _watching(
    request: Request, news: Callable[[float], Awaitable[ServerSentEvent | None]]
) -> AsyncIterator[ServerSentEvent]:
    """`hello`, and then the news, for as long as the login behind the stream is an instructor's."""
    yield ServerSentEvent(event="hello", data="{}", retry=2000)
    loop = asyncio.get_running_loop()
    recheck = loop.time() + RECHECK_SECONDS
    while True:
        if loop.time() >= recheck:
            if not await still_instructor(request):
                return
            recheck = loop.time() + RECHECK_SECONDS
        event = await news(recheck - loop.time())
        if event is not None:
            yield event


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def _own_submission(portal: Portal, visitor: ApiVisitor, number: int) -> Submission:
    found = portal.store.submission(number) if abs(number) < 1 << 63 else None
    if found is None or not (visitor.instructor or found.learner == visitor.name):
        raise HTTPException(404, f"You have no submission {number}. Your attempts are listed in the portal.")
    return found


def _exercise(portal: Portal, slug: str, name: str) -> tuple[Lab, Exercise]:
    try:
        lab = portal.course.lab(slug)
        return lab, lab.exercise(name)
    except CourseError as error:
        raise HTTPException(404, str(error)) from None


def _lab_model(standing: LabStanding) -> models.LabModel:
    return models.LabModel(
        slug=standing.lab.slug,
        title=standing.lab.title,
        points=standing.points,
        max_points=standing.lab.points,
        exercises=[
            models.ExerciseModel(
                name=row.exercise.name,
                title=row.exercise.title,
                points=row.points,
                max_points=row.exercise.points,
                passed=row.passed,
                attempts=row.attempts,
                last_outcome=row.last_outcome,
            )
            for row in standing.exercises
        ],
        filename=standing.filename,
        newer_filename=standing.newer_filename,
    )


def _submission_model(portal: Portal, found: Submission) -> models.SubmissionModel:
    results = found.verdict["results"] if found.verdict else ()
    passed = {result["exercise"] for result in results if result["outcome"] == "passed"}
    lab = lab_of(portal.course, found.lab)
    shown = {
        exercise.name: models.AnswerModel(title=exercise.title, answer=exercise.answer, follow_up=exercise.follow_up)
        for exercise in (lab.exercises if lab else ())
        if exercise.name in passed
    }
    return models.SubmissionModel.model_validate(asdict(found) | {"answers": shown})  # the model leaves the rest out


def _learner_model(row: ClassRow) -> models.LearnerModel:
    cells = {slug: models.LabCellModel.model_validate(asdict(cell)) for slug, cell in row.labs.items()}
    return models.LearnerModel(name=row.name, last_seen=row.last_seen, labs=cells)
