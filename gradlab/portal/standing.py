"""Where people stand: the course and the store joined, for pages and API alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gradlab.course import Course, Exercise, Lab
from gradlab.errors import CourseError
from gradlab.store import Cell, Store

__all__ = ["ClassRow", "ExerciseStanding", "LabCell", "LabStanding", "class_rows", "lab_of", "lab_standings"]


@dataclass(frozen=True)
class ExerciseStanding:
    """One exercise of one learner; ``cell`` is None before the first attempt."""

    exercise: Exercise
    cell: Cell | None

    @property
    def points(self) -> int:
        """The best attempt's points, never more than the exercise is worth today."""
        return 0 if self.cell is None else min(self.cell.points, self.exercise.points)

    @property
    def passed(self) -> bool:
        return self.cell is not None and self.cell.passed

    @property
    def attempts(self) -> int:
        return 0 if self.cell is None else self.cell.attempts

    @property
    def last_outcome(self) -> str | None:
        return None if self.cell is None else self.cell.last_outcome

    @property
    def shown(self) -> str:
        """The outcome that counts: a pass stays a pass whatever came after it."""
        return "passed" if self.passed else self.last_outcome or "not attempted"


@dataclass(frozen=True)
class LabStanding:
    """One lab of one learner. ``filename`` is their notebook; ``newer_filename`` a newer version put beside it."""

    lab: Lab
    exercises: tuple[ExerciseStanding, ...]
    filename: str
    newer_filename: str | None

    @property
    def points(self) -> int:
        return sum(exercise.points for exercise in self.exercises)

    @property
    def passed(self) -> int:
        """How many exercises passed."""
        return sum(exercise.passed for exercise in self.exercises)

    @property
    def done(self) -> bool:
        return self.passed == len(self.exercises)


@dataclass(frozen=True)
class LabCell:
    """One lab of one row of the class table; ``passed`` counts exercises, ``last_at`` is the latest verdict's time."""

    points: int
    max_points: int
    passed: int
    last_at: float | None


@dataclass(frozen=True)
class ClassRow:
    """One learner of the class table."""

    name: str
    last_seen: float
    labs: Mapping[str, LabCell]

    @property
    def points(self) -> int:
        return sum(cell.points for cell in self.labs.values())

    @property
    def passed(self) -> int:
        return sum(cell.passed for cell in self.labs.values())


def lab_standings(course: Course, store: Store, learner: str) -> list[LabStanding]:
    """All labs in curriculum order as one learner sees them."""
    cells = {(cell.lab, cell.exercise): cell for cell in store.cells(learner=learner)}
    delivered = store.deliveries(learner)
    standings = []
    for lab in course.labs:
        names = [filename for _, filename in delivered.get(lab.slug, ())] or [lab.filename]
        standings.append(
            LabStanding(
                lab=lab,
                exercises=tuple(ExerciseStanding(ex, cells.get((lab.slug, ex.name))) for ex in lab.exercises),
                filename=names[0],
                newer_filename=names[-1] if names[-1] != names[0] else None,
            )
        )
    return standings


def class_rows(
    course: Course, store: Store, *, only: str | None = None, without: Collection[str] = ()
) -> list[ClassRow]:
    """The class table's rows by name: every learner the server has seen, or only one of them."""
    cells: defaultdict[tuple[str, str], dict[str, Cell]] = defaultdict(dict)
    for cell in store.cells(learner=only):
        cells[cell.learner, cell.lab][cell.exercise] = cell
    return [
        ClassRow(
            name=learner.name,
            last_seen=learner.last_seen,
            labs={lab.slug: _lab_cell(lab, cells.get((learner.name, lab.slug), {})) for lab in course.labs},
        )
        for learner in store.learners()
        if learner.name not in without and only in (None, learner.name)
    ]


def _lab_cell(lab: Lab, cells: Mapping[str, Cell]) -> LabCell:
    standings = [ExerciseStanding(ex, cells.get(ex.name)) for ex in lab.exercises]
    return LabCell(
        points=sum(standing.points for standing in standings),
        max_points=lab.points,
        passed=sum(standing.passed for standing in standings),
        last_at=max((cell.last_at for cell in cells.values()), default=None),
    )


def lab_of(course: Course, slug: str) -> Lab | None:
    """The lab, or None where the course no longer has it: attempts outlive their lab."""
    try:
        return course.lab(slug)
    except CourseError:
        return None
