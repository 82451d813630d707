"""The judge as a service of its own: both ends of one small protocol over HTTP on a Unix socket.

On a hosted server the portal, which everybody reaches, must not have Docker's socket, and the judge, which has it, must
not be reached by anybody else. So the judge runs in a container without a network, and the portal calls it through a
socket in a folder that the two share: whoever can open the socket may ask.

    POST /checks?lab=tensors&seed=7[&only=rank_of]&course=DIGEST     the notebook → {"verdict": {…}, "report": "…"}
    GET  /health                                                     → {"state": "ok"}

The request names the lab; checks and solutions come from the judge's own course. ``course`` is a digest of what the
portal knows of the lab: images of different versions are told apart before a verdict is given by the wrong checks.

A judge that is being started again is waited for. One that ends during a check is not asked again here: the notebook
may be what ended it, and :class:`gradlab.checks.Checks` counts the tries.
"""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from checker.engine import Assignment, NotebookError
from checker.results import Verdict
from gradlab.course import Course
from gradlab.errors import CourseError, GradlabError, JudgeError
from gradlab.judging import Judging, assignment

__all__ = ["JUDGE_SOCKET", "RemoteJudge", "course_digest", "create_judge_app"]

JUDGE_SOCKET = "judge.sock"

# The longest check there is ends long before: the judge bounds every cell.
_CHECK_SECONDS = 3600.0
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.25


def course_digest(assigned: Assignment) -> str:
    """What both ends must agree on: the lab's exercises and its blank notebook."""
    return hashlib.sha256(repr((assigned.slug, assigned.tasks, assigned.template)).encode()).hexdigest()[:16]


class RemoteJudge:
    """A :class:`gradlab.judging.Judging` that asks the service at this socket. Safe to call from several threads."""

    def __init__(self, socket: Path, *, patience: float = _PATIENCE_SECONDS) -> None:
        self._socket = socket
        self._patience = patience
        self._closing = threading.Event()
        timeout = httpx.Timeout(_CHECK_SECONDS, connect=5.0)
        # A connection is used once. The service closes one after a while, and a check that is sent in that moment would
        # seem to have ended the judge.
        once = httpx.HTTPTransport(uds=str(socket), limits=httpx.Limits(max_keepalive_connections=0))
        self._http = httpx.Client(transport=once, timeout=timeout)

    def check(self, assignment: Assignment, notebook: bytes, *, only: str | None = None, seed: int) -> Verdict:
        """The verdict; NotebookError as the judge has it, JudgeError if there is none."""
        query: dict[str, Any] = {"lab": assignment.slug, "seed": seed, "course": course_digest(assignment)}
        reply = self._post(query if only is None else query | {"only": only}, notebook)
        data = reply.json()
        if reply.status_code == 400:
            raise NotebookError(data["detail"])
        if reply.status_code != 200:
            raise JudgeError(f"The judge refused: {data['detail']}")
        return Verdict.from_dict(data["verdict"], seed=seed, report=data["report"])

    def close(self) -> None:
        self._closing.set()
        self._http.close()

    def _post(self, query: dict[str, Any], notebook: bytes) -> httpx.Response:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._http.post("http://judge/checks", params=query, content=notebook)
            except httpx.ConnectError as error:
                if time.monotonic() > deadline or self._closing.wait(_PAUSE_SECONDS):
                    raise JudgeError(
                        f"The judge does not answer at {self._socket} ({error}). See whether its service runs: "
                        "docker compose ps checker."
                    ) from None
            except httpx.HTTPError as error:
                raise JudgeError(f"The judge ended during the check ({type(error).__name__}).") from error


def create_judge_app(course: Course, judge: Judging) -> FastAPI:
    """The service's side, as an ASGI application."""
    app = FastAPI(title="Gradlab judge", openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"state": "ok"}

    @app.post("/checks")
    async def check(
        request: Request,
        lab: str,
        seed: int,
        digest: Annotated[str, Query(alias="course")],
        only: str | None = None,
    ) -> dict[str, Any]:
        notebook = await request.body()
        return await run_in_threadpool(_judge, course, judge, lab, notebook, only, seed, digest)

    @app.exception_handler(NotebookError)
    async def unreadable(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=400)

    @app.exception_handler(GradlabError)
    async def refused(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=409)

    @app.exception_handler(Exception)
    async def failed(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": f"{type(error).__name__}: {error}"}, status_code=500)

    return app


def _judge(
    course: Course, judge: Judging, lab: str, notebook: bytes, only: str | None, seed: int, digest: str
) -> dict[str, Any]:
    assigned = assignment(course.lab(lab))
    if course_digest(assigned) != digest:
        raise CourseError(
            f"The lab {lab!r} of the judge is another version than the portal's. Build the images anew (make images) "
            "and start all services with them."
        )
    verdict = judge.check(assigned, notebook, only=only, seed=seed)
    return {"verdict": verdict.to_dict(), "report": verdict.report}
