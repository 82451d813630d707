"""What pages show, prepared from the course and the store so that templates decide nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradlab.course import Course, Exercise
from gradlab.portal.render import short
from gradlab.portal.standing import ClassRow, LabStanding, lab_of
from gradlab.store import Attempt, Fault, Store

__all__ = [
    "AttemptView",
    "ClassCounts",
    "FaultView",
    "FaultsView",
    "ResultView",
    "attempt_views",
    "class_counts",
    "class_faults",
    "next_up",
]

ACTIVE_SECONDS = 600.0
# A lab or exercise that is gone never gets the verdict that would end its fault: the page forgets it after two weeks.
FAULT_SECONDS = 14 * 86400.0
# When the judge is down, the whole class is listed with one cause.
_FAULTS = 20
_NO_CAUSE = "The judge gave no cause; `logs/portal.log` in the state folder may hold one."


@dataclass(frozen=True)
class ResultView:
    """One exercise of a verdict as the store has it; ``answer`` is the exercise once its answer may be read."""

    title: str
    result: Mapping[str, Any]
    answer: Exercise | None

    @property
    def scored(self) -> bool:
        """Whether its points count: what ended by our fault has none, which is not zero."""
        return bool(self.result["outcome"] != "our fault")

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
    def points(self) -> tuple[int, int] | None:
        """Those reached and those there were to reach; None where nothing was scored."""
        scored = [view.result for view in self.results if view.scored]
        return (sum(one["points"] for one in scored), sum(one["max_points"] for one in scored)) if scored else None

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


@dataclass(frozen=True)
class FaultView:
    """One check that ended by our fault; ``where`` is its lab and exercises by the titles people know."""

    submission: int
    learner: str
    where: str
    causes: tuple[str, ...]
    at: float


@dataclass(frozen=True)
class FaultsView:
    """The latest of these checks, and how many there are in all."""

    count: int
    latest: tuple[FaultView, ...]

    @property
    def heading(self) -> str:
        cut = f"; here are the latest {len(self.latest)}" if self.count > len(self.latest) else ""
        return f"{self.count} check{'' if self.count == 1 else 's'} ended by our fault{cut}"


def attempt_views(course: Course, attempts: Sequence[Attempt]) -> list[AttemptView]:
    return [_attempt_view(course, attempt) for attempt in attempts]


def class_counts(rows: Sequence[ClassRow], now: float) -> ClassCounts:
    return ClassCounts(
        learners=len(rows),
        active=sum(now - row.last_seen < ACTIVE_SECONDS for row in rows),
        passed=sum(row.passed for row in rows),
        points=sum(row.points for row in rows),
    )


def class_faults(course: Course, store: Store, now: float) -> FaultsView:
    """What the instructor must know of: our faults that no verdict has followed yet."""
    faults = store.faults(since=now - FAULT_SECONDS)
    return FaultsView(len(faults), tuple(_fault_view(course, fault) for fault in faults[:_FAULTS]))


def next_up(standings: Sequence[LabStanding]) -> LabStanding | None:
    """The lab to go on with: the unfinished one worked on last, else the first unfinished one, else None."""
    unfinished = [standing for standing in standings if not standing.done]

    def latest(standing: LabStanding) -> float:
        return max((row.cell.last_at for row in standing.exercises if row.cell is not None), default=float("-inf"))

    return max(unfinished, key=latest, default=None)  # of equals max takes the first: curriculum order


def _fault_view(course: Course, fault: Fault) -> FaultView:
    lab = lab_of(course, fault.lab)
    titles = {exercise.name: exercise.title for exercise in lab.exercises} if lab else {}
    known = [title for name, title in titles.items() if name in fault.exercises]
    # The fault of a lab that is gone is told under the lab's own name.
    gone = [name for name in fault.exercises if name not in titles and name != fault.lab]
    return FaultView(
        submission=fault.submission,
        learner=fault.learner,
        where=": ".join(filter(None, [short(lab.title) if lab else fault.lab, ", ".join([*known, *gone])])),
        causes=fault.causes or (_NO_CAUSE,),
        at=fault.at,
    )


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
