"""What the store gives back: plain data that cannot change, each kind made of the rows that the store has read."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradlab.store.tables import LearnerRow, NoticeRow, SubmissionRow

__all__ = ["Attempt", "Cell", "Fault", "GpuUsage", "Learner", "Notice", "Submission"]


@dataclass(frozen=True)
class Submission:
    """An accepted notebook; ``verdict`` is the judge's JSON data once ``state`` is ``judged``."""

    id: int
    learner: str
    lab: str
    only: str | None
    notebook: bytes
    seed: int
    state: str
    tries: int
    accepted_at: float
    judged_at: float | None
    verdict: dict[str, Any] | None
    report: str | None

    @classmethod
    def of(cls, row: SubmissionRow) -> Submission:
        return cls(
            id=row.id,
            learner=row.learner,
            lab=row.lab,
            only=row.only,
            notebook=zlib.decompress(row.notebook),
            seed=row.seed,
            state=row.state,
            tries=row.tries,
            accepted_at=row.accepted_at,
            judged_at=row.judged_at,
            verdict=_verdict(row.verdict),
            report=None if row.report is None else zlib.decompress(row.report).decode(),
        )


@dataclass(frozen=True)
class Attempt:
    """A submission without its notebook and report, for lists."""

    id: int
    lab: str
    only: str | None
    state: str
    accepted_at: float
    judged_at: float | None
    verdict: dict[str, Any] | None

    @classmethod
    def of(cls, row: Any) -> Attempt:
        """Of a row that has a column for each field: whoever lists many reads no notebooks."""
        return cls(
            id=row.id,
            lab=row.lab,
            only=row.only,
            state=row.state,
            accepted_at=row.accepted_at,
            judged_at=row.judged_at,
            verdict=_verdict(row.verdict),
        )


@dataclass(frozen=True)
class Cell:
    """Where one learner stands in one exercise: the best and the latest outcome over ``attempts`` judged attempts."""

    learner: str
    lab: str
    exercise: str
    points: int
    passed: bool
    attempts: int
    last_outcome: str
    last_at: float

    @classmethod
    def of(cls, row: Any) -> Cell:
        """Of the latest result, beside the best points and the numbers of attempts and passes."""
        return cls(
            learner=row.learner,
            lab=row.lab,
            exercise=row.exercise,
            points=row.points,
            passed=row.passes > 0,
            attempts=row.attempts,
            last_outcome=row.outcome,
            last_at=row.judged_at,
        )


@dataclass(frozen=True)
class Fault:
    """A submission whose ``exercises`` ended by our fault; ``causes`` are each told once, and for instructors alone."""

    submission: int
    learner: str
    lab: str
    exercises: tuple[str, ...]
    causes: tuple[str, ...]
    at: float

    @classmethod
    def of(cls, rows: Sequence[Any]) -> Fault:
        """Of the results of one submission, one or more."""
        return cls(
            submission=rows[0].submission_id,
            learner=rows[0].learner,
            lab=rows[0].lab,
            exercises=tuple(row.exercise for row in rows),
            causes=tuple(dict.fromkeys(row.cause for row in rows if row.cause)),
            at=rows[0].judged_at,
        )


@dataclass(frozen=True)
class Learner:
    """A person the server has seen."""

    name: str
    first_seen: float
    last_seen: float

    @classmethod
    def of(cls, row: LearnerRow) -> Learner:
        return cls(row.name, row.first_seen, row.last_seen)


@dataclass(frozen=True)
class GpuUsage:
    """What a learner had of GPUs in one lab on one day (UTC): GPU-seconds held and busy, and the most bytes at once."""

    learner: str
    lab: str
    day: str
    held: float
    busy: float
    peak: int


@dataclass(frozen=True)
class Notice:
    """Something to tell a learner; told first at ``at``, and no longer true at ``until``."""

    key: str
    text: str
    at: float
    until: float

    @classmethod
    def of(cls, row: NoticeRow) -> Notice:
        return cls(row.key, row.text, row.at, row.until)


def _verdict(text: str | None) -> dict[str, Any] | None:
    return None if text is None else json.loads(text)
