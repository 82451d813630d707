"""What pages show, prepared from the course and the store so that templates decide nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradlab.course import Course, Exercise, Lab
from gradlab.errors import CourseError
from gradlab.portal.standing import ClassRow, LabStanding, answers
from gradlab.store import Attempt

__all__ = ["AttemptView", "ClassCounts", "ResultView", "attempt_views", "class_counts", "next_up"]

ACTIVE_SECONDS = 600.0


@dataclass(frozen=True)
class ResultView:
    """One exercise of a verdict; ``answer`` is the exercise whose interview answer may be shown."""

    title: str
    name: str
    outcome: str
    points: int
    max_points: int
    message: str
    checks: tuple[Mapping[str, Any], ...]
    output: str
    seconds: float
    answer: Exercise | None

    @property
    def has_more(self) -> bool:
        return bool(self.message or self.checks or self.output or self.answer)


@dataclass(frozen=True)
class AttemptView:
    """One attempt with the titles people know it by."""

    attempt: Attempt
    lab_title: str
    only_title: str | None
    results: tuple[ResultView, ...]

    @property
    def points(self) -> int:
        return sum(result.points for result in self.results)

    @property
    def max_points(self) -> int:
        return sum(result.max_points for result in self.results)

    @property
    def passed(self) -> int:
        return sum(result.outcome == "passed" for result in self.results)


@dataclass(frozen=True)
class ClassCounts:
    """The numbers above the class table."""

    learners: int
    active: int
    passed: int
    points: int


def attempt_views(course: Course, attempts: Sequence[Attempt]) -> list[AttemptView]:
    return [_attempt_view(course, attempt) for attempt in attempts]


def class_counts(rows: Sequence[ClassRow], now: float) -> ClassCounts:
    return ClassCounts(
        learners=len(rows),
        active=sum(now - row.last_seen < ACTIVE_SECONDS for row in rows),
        passed=sum(row.passed for row in rows),
        points=sum(row.points for row in rows),
    )


def next_up(standings: Sequence[LabStanding]) -> LabStanding | None:
    """The lab to go on with: the unfinished one worked on last, else the first unfinished one, else None."""
    unfinished = [standing for standing in standings if not standing.done]

    def latest(standing: LabStanding) -> float:
        return max((row.cell.last_at for row in standing.exercises if row.cell is not None), default=float("-inf"))

    return max(unfinished, key=latest, default=None)  # of equals max takes the first: curriculum order


def _attempt_view(course: Course, attempt: Attempt) -> AttemptView:
    lab = _lab(course, attempt.lab)
    titles = {exercise.name: exercise.title for exercise in lab.exercises} if lab else {}
    results = attempt.verdict["results"] if attempt.verdict else []
    shown = answers(course, attempt.lab, {result["exercise"] for result in results if result["outcome"] == "passed"})
    return AttemptView(
        attempt=attempt,
        lab_title=lab.title if lab else attempt.lab,
        only_title=None if attempt.only is None else titles.get(attempt.only, attempt.only),
        results=tuple(
            ResultView(
                title=titles.get(result["exercise"], result["exercise"]),
                name=result["exercise"],
                outcome=result["outcome"],
                points=result["points"],
                max_points=result["max_points"],
                message=result.get("message", ""),
                checks=tuple(result.get("checks", ())),
                output=result.get("output", ""),
                seconds=result.get("seconds", 0.0),
                answer=shown.get(result["exercise"]),
            )
            for result in results
        ),
    )


def _lab(course: Course, slug: str) -> Lab | None:
    try:
        return course.lab(slug)
    except CourseError:
        return None
