"""The judge behind a Unix socket: the same verdicts, the same refusals, and what happens when it is not there."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from checker.engine import Assignment, NotebookError
from checker.results import CheckLine, Outcome, Result, Verdict
from gradlab.course import Course
from gradlab.errors import JudgeError
from gradlab.judge_service import RemoteJudge, course_digest, create_judge_app
from gradlab.judging import assignment
from tests.courses import write_course
from tests.waiting import until

VERDICT = Verdict(
    lab="tensors",
    results=(
        Result(
            "rank_of",
            Outcome.FAILED,
            0,
            2,
            "wrong axis",
            (CheckLine("shape", Outcome.FAILED, "2 ≠ 3"),),
            "printed",
            0.5,
        ),
        Result("second", Outcome.PASSED, 1, 1),
    ),
    seed=7,
    seconds=0.25,
    report='{"cells": []}',
)


class Judge:
    """Remembers what it was asked, and answers as ``answer`` says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes, str | None, int]] = []
        self.answer: Callable[[], Verdict] = lambda: VERDICT

    def check(self, assigned: Assignment, notebook: bytes, *, only: str | None = None, seed: int) -> Verdict:
        self.asked.append((assigned.slug, notebook, only, seed))
        return self.answer()


@contextlib.contextmanager
def serving(course: Course, judge: Judge, socket: Path, **options: Any) -> Iterator[None]:
    config = uvicorn.Config(create_judge_app(course, judge), uds=str(socket), log_level="critical", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    return write_course(tmp_path_factory.mktemp("course")).load()


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def remote(course: Course, judge: Judge, tmp_path: Path) -> Iterator[RemoteJudge]:
    socket = tmp_path / "judge.sock"
    with serving(course, judge, socket), contextlib.closing(RemoteJudge(socket)) as remote:
        yield remote


def ask(remote: RemoteJudge, course: Course, **more: Any) -> Verdict:
    return remote.check(assignment(course.labs[0]), b"a notebook", **{"seed": 7} | more)


def test_a_verdict_arrives_as_it_was_given(remote: RemoteJudge, course: Course, judge: Judge) -> None:
    assert ask(remote, course) == VERDICT
    assert ask(remote, course, only="rank_of", seed=8) == replace(VERDICT, seed=8)
    assert judge.asked == [("tensors", b"a notebook", None, 7), ("tensors", b"a notebook", "rank_of", 8)]


def test_an_unreadable_notebook_is_refused_with_the_judges_words(
    remote: RemoteJudge, course: Course, judge: Judge
) -> None:
    def refuse() -> Verdict:
        raise NotebookError("It is no notebook.")

    judge.answer = refuse
    with pytest.raises(NotebookError, match=r"^It is no notebook\.$"):
        ask(remote, course)


def test_a_failure_of_the_judge_is_told_and_the_service_goes_on(
    remote: RemoteJudge, course: Course, judge: Judge
) -> None:
    def fail() -> Verdict:
        raise RuntimeError("out of kernels")

    judge.answer = fail
    with pytest.raises(JudgeError, match=r"^The judge refused: RuntimeError: out of kernels$"):
        ask(remote, course)
    judge.answer = lambda: VERDICT
    assert ask(remote, course) == VERDICT


def test_a_connection_that_the_service_gives_up_is_no_end_of_the_judge(
    course: Course, judge: Judge, tmp_path: Path
) -> None:
    """It keeps one for five seconds; here it closes each after the answer, when the next check may be on its way."""
    socket = tmp_path / "gives-up.sock"
    with serving(course, judge, socket, timeout_keep_alive=0), contextlib.closing(RemoteJudge(socket)) as remote:
        assert [ask(remote, course) for _ in range(300)] == [VERDICT] * 300


def test_another_version_of_the_lab_is_no_ground_for_a_verdict(
    remote: RemoteJudge, course: Course, judge: Judge
) -> None:
    other = replace(assignment(course.labs[0]), template="{}")
    with pytest.raises(JudgeError, match=r"The lab 'tensors' .* another version than the portal's.*make images"):
        remote.check(other, b"", seed=1)
    assert judge.asked == []


def test_a_lab_that_the_judge_lacks_is_named(remote: RemoteJudge, course: Course) -> None:
    other = replace(assignment(course.labs[0]), slug="no-such-lab")
    with pytest.raises(JudgeError, match="no-such-lab"):
        remote.check(other, b"", seed=1)


def test_a_judge_that_is_started_again_is_waited_for(course: Course, judge: Judge, tmp_path: Path) -> None:
    socket = tmp_path / "judge.sock"
    with contextlib.closing(RemoteJudge(socket)) as remote:
        found: list[Verdict] = []
        asking = threading.Thread(target=lambda: found.append(ask(remote, course)))
        asking.start()
        time.sleep(0.3)
        assert found == []
        with serving(course, judge, socket):
            asking.join(20)
    assert found == [VERDICT]


def test_a_judge_that_never_comes_is_named_with_the_remedy(course: Course, tmp_path: Path) -> None:
    with (
        contextlib.closing(RemoteJudge(tmp_path / "judge.sock", patience=0.1)) as remote,
        pytest.raises(JudgeError, match=r"does not answer at .*/judge\.sock .*docker compose ps checker"),
    ):
        ask(remote, course)


def test_closing_ends_the_waiting(course: Course, tmp_path: Path) -> None:
    remote = RemoteJudge(tmp_path / "judge.sock")
    ended: list[str] = []

    def wait() -> None:
        try:
            ask(remote, course)
        except JudgeError as error:
            ended.append(str(error))

    asking = threading.Thread(target=wait)
    asking.start()
    time.sleep(0.3)
    remote.close()
    asking.join(10)
    assert len(ended) == 1


def test_a_judge_that_ends_during_a_check_is_not_asked_again(course: Course, judge: Judge, tmp_path: Path) -> None:
    class Gone(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            judge.asked.append(("", b"", None, 0))
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.")

    with contextlib.closing(RemoteJudge(tmp_path / "judge.sock")) as remote:
        remote._http = httpx.Client(transport=Gone())
        with pytest.raises(JudgeError, match=r"ended during the check \(RemoteProtocolError\)"):
            ask(remote, course)
    assert len(judge.asked) == 1


def test_the_digest_tells_labs_apart(course: Course) -> None:
    assigned = assignment(course.labs[0])
    assert course_digest(assigned) == course_digest(replace(assigned, checks=Path("/elsewhere")))
    assert course_digest(assigned) != course_digest(replace(assigned, tasks=assigned.tasks[:1]))
