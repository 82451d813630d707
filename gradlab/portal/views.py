"""What pages show, prepared from the course and the store so that templates decide nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradlab.course import Course, Exercise
from gradlab.portal.standing import ClassRow, LabStanding, lab_of
from gradlab.store import Attempt

__all__ = ["AttemptView", "ClassCounts", "ResultView", "attempt_views", "class_counts", "next_up"]

ACTIVE_SECONDS = 600.0


@dataclass(frozen=True)
class ResultView:
    """One exercise of a verdict as the store has it; ``answer`` is the exercise once its answer may be read."""

    title: str
    result: Mapping[str, Any]
    answer: Exercise | None

    @property
    def has_more(self) -> bool:
        return bool(self.answer or any(self.result[key] for key in ("message", "checks", "output")))


@dataclass(frozen=True)
class AttemptView:
    """One attempt with the titles people know it by."""

    attempt: Attempt
    lab_title: str
    only_title: str | None
    results: tuple[ResultView, ...]

    @property
    def passed(self) -> int:
        return sum(view.result["outcome"] == "passed" for view in self.results)


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
    lab = lab_of(course, attempt.lab)
    exercises = {exercise.name: exercise for exercise in lab.exercises} if lab else {}

    def title(name: str) -> str:
        return exercises[name].title if name in exercises else name

    return AttemptView(
        attempt=attempt,
        lab_title=lab.title if lab else attempt.lab,
        only_title=None if attempt.only is None else title(attempt.only),
        results=tuple(
            ResultView(
                title=title(result["exercise"]),
                result=result,
                answer=exercises.get(result["exercise"]) if result["outcome"] == "passed" else None,
            )
            for result in (attempt.verdict["results"] if attempt.verdict else ())
        ),
    )
