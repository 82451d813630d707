"""What a check ends with: one result per exercise, each with a cause, and the verdict they make up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

__all__ = ["CheckLine", "Outcome", "Result", "Verdict"]


class Outcome(StrEnum):
    """How an exercise ended. Only PASSED gives points; OUR_FAULT is retried and never scores zero."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_ATTEMPTED = "not attempted"
    SKIPPED = "skipped"
    ERROR = "error in your code"
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    KILLED = "killed"
    OUR_FAULT = "our fault"


@dataclass(frozen=True)
class CheckLine:
    """One check of an exercise: what it promises (``title``) and how it ended; ``message`` is empty for a pass."""

    title: str
    outcome: Outcome
    message: str = ""


@dataclass(frozen=True)
class Result:
    """One exercise's part of a verdict: ``seconds`` on the judge's clock, ``output`` as the code printed it."""

    exercise: str
    outcome: Outcome
    points: int
    max_points: int
    message: str = ""
    checks: tuple[CheckLine, ...] = ()
    output: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """The judge's answer to one submission.

    ``seed`` repeats the same random inputs. ``report`` is the executed checker notebook (.ipynb JSON): it holds hidden
    checks, so it is for instructors and never part of ``to_dict``.
    """

    lab: str
    results: tuple[Result, ...]
    seed: int
    seconds: float
    report: str = field(default="", repr=False)

    @property
    def points(self) -> int:
        return sum(result.points for result in self.results)

    @property
    def max_points(self) -> int:
        return sum(result.max_points for result in self.results)

    @property
    def passed(self) -> bool:
        """True only if there is a result and every one of them passed."""
        return bool(self.results) and all(result.outcome is Outcome.PASSED for result in self.results)

    @property
    def our_fault(self) -> bool:
        return any(result.outcome is Outcome.OUR_FAULT for result in self.results)

    def result(self, exercise: str) -> Result:
        return next(result for result in self.results if result.exercise == exercise)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, seed: int, report: str = "") -> Verdict:
        """The verdict that ``to_dict`` was called on, given what it leaves out."""
        results = tuple(_result(one) for one in data["results"])
        return cls(lab=data["lab"], results=results, seed=seed, seconds=data["seconds"], report=report)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data for the store, the API and ``--json``; without the report and without the seed."""
        data = asdict(replace(self, report=""))
        del data["report"], data["seed"]
        return data | {"points": self.points, "max_points": self.max_points, "passed": self.passed}


def _result(data: Mapping[str, Any]) -> Result:
    checks = tuple(CheckLine(one["title"], Outcome(one["outcome"]), one["message"]) for one in data["checks"])
    return Result(**{**data, "outcome": Outcome(data["outcome"]), "checks": checks})
