"""Proof that a lab works: its reference passes, the blank notebook is not attempted, every known mistake is recognised.

A proof is one exercise of one judged notebook: what had to come out, and what did. What needs no judge (hints, stubs,
questions without an exercise) is a problem, a sentence. A lab is proven if every proof holds and it has no problem.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import Any, Literal

import jupytext
import nbformat

from checker.engine import NotebookError
from checker.results import Outcome, Result, Verdict
from gradlab.course import Course, Exercise, Lab, Mistake
from gradlab.errors import CourseError
from gradlab.judging import Judging, assignment

__all__ = [
    "LabReport",
    "Proof",
    "answered_notebook",
    "mistaken_notebook",
    "reference_answers",
    "report_data",
    "solved_notebook",
    "verify",
    "verify_lab",
]

MISTAKES_EACH = 2
HINTS_EACH = 2

Kind = Literal["reference", "blank", "mistake"]


@dataclass(frozen=True)
class Proof:
    """One exercise of one judged notebook. ``message`` is what the learner reads; ``remedy`` is for the author."""

    exercise: str
    kind: Kind
    name: str
    seed: int
    expected: str
    outcome: str
    message: str
    ok: bool
    remedy: str = ""


@dataclass(frozen=True)
class LabReport:
    """Everything that was tried with one lab."""

    lab: Lab
    proofs: tuple[Proof, ...]
    problems: tuple[str, ...]
    seconds: float

    @property
    def proven(self) -> bool:
        return not self.problems and bool(self.proofs) and all(proof.ok for proof in self.proofs)

    def to_dict(self) -> dict[str, Any]:
        exercises = []
        for exercise in self.lab.exercises:
            proofs = [asdict(proof) for proof in self.proofs if proof.exercise == exercise.name]
            exercises.append(
                {
                    "name": exercise.name,
                    "title": exercise.title,
                    "points": exercise.points,
                    "questions": list(exercise.questions),
                    "proofs": proofs,
                }
            )
        return {
            "slug": self.lab.slug,
            "version": self.lab.version,
            "proven": self.proven,
            "seconds": self.seconds,
            "exercises": exercises,
            "problems": list(self.problems),
        }


@dataclass(frozen=True)
class _Trial:
    """One notebook to judge, and what to make of the verdict."""

    notebook: str
    only: str | None
    seed: int
    prove: Callable[[Verdict], list[Proof]]


def reference_answers(lab: Lab) -> dict[str, str]:
    """What the reference solution has in the cell of each exercise; CourseError if one is missing or one too many."""
    return _solution(lab)[1]


def answered_notebook(lab: Lab, answers: Mapping[str, str]) -> str:
    """The learner's notebook with these answers, by exercise, in the exercise cells, as .ipynb JSON.

    An exercise without an answer keeps its stub. What stands before the first exercise cell of ``solution.py`` (shared
    imports, constants) goes before the notebook's first exercise cell. CourseError as of :func:`reference_answers`.
    """
    shared, _ = _solution(lab)
    notebook = nbformat.reads(lab.notebook, as_version=4)
    cells = []
    for cell in notebook.cells:
        name = cell.metadata.get("exercise")
        if name is not None:
            cells += [nbformat.v4.new_code_cell(source, id=f"shared-{index}") for index, source in enumerate(shared)]
            shared = []
            cell.source = answers.get(name, cell.source)
        cells.append(cell)
    notebook.cells = cells
    text: str = nbformat.writes(notebook)
    return text


def solved_notebook(lab: Lab) -> str:
    """The learner's notebook with the reference solution in its exercise cells, as :func:`answered_notebook` has it."""
    return answered_notebook(lab, reference_answers(lab))


def mistaken_notebook(lab: Lab, *mistakes: Mistake) -> str:
    """The solved notebook in which some exercises' cells hold a known mistake instead, at most one each."""
    return answered_notebook(lab, reference_answers(lab) | {mistake.exercise: mistake.source for mistake in mistakes})


def verify(
    course: Course,
    judge: Judging,
    labs: Sequence[Lab] | None = None,
    *,
    seeds: Sequence[int] = (1, 2, 3),
    workers: int = 2,
    told: Callable[[LabReport], None] = lambda report: None,
) -> list[LabReport]:
    """Prove these labs (all of them by default), one after another; ``told`` hears of each as soon as it is done."""
    reports = []
    for lab in course.labs if labs is None else labs:
        report = verify_lab(course, judge, lab, seeds=seeds, workers=workers)
        told(report)
        reports.append(report)
    return reports


def report_data(course: Course, reports: Iterable[LabReport]) -> dict[str, Any]:
    """The whole result as JSON data: the labs, and every question of the catalogue with what answers it."""
    questions = [
        {
            "id": question.id,
            "asks": question.asks,
            "topic": question.topic,
            "exercises": [f"{lab.slug}/{exercise.name}" for lab, exercise in course.answering(question.id)],
        }
        for question in course.questions
    ]
    return {"labs": [report.to_dict() for report in reports], "questions": questions}


def verify_lab(course: Course, judge: Judging, lab: Lab, *, seeds: Sequence[int], workers: int) -> LabReport:
    """Prove one lab. ``workers`` notebooks are judged at a time."""
    started = time.monotonic()
    problems = list(_problems(course, lab))
    trials = [_blank(lab, seeds[0])]
    try:
        solved = solved_notebook(lab)
    except CourseError as error:
        problems.append(str(error))
    else:
        trials += [_reference(lab, solved, seed) for seed in seeds]
        trials += [_mistakes(lab, together, seeds[0], None) for together in _rounds(lab)]
    with ThreadPoolExecutor(workers) as executor:

        def prove(trials: Iterable[_Trial]) -> list[Proof]:
            return [proof for found in executor.map(lambda trial: _try(judge, lab, trial), trials) for proof in found]

        first = prove(trials)
        # A mistake may fail only for its company (what builds on it, a helper of the same name): alone it counts.
        again = [proof for proof in first if proof.kind == "mistake" and not proof.ok]
        mistakes = {mistake.name: mistake for mistake in lab.mistakes}
        alone = (_mistakes(lab, [mistakes[proof.name]], seeds[0], proof.exercise) for proof in again)
        proofs = [proof for proof in first if proof not in again] + prove(alone)
    return LabReport(lab, tuple(proofs), tuple(problems), round(time.monotonic() - started, 2))


# -- notebooks that are judged -------------------------------------------------------------------------------------


def _try(judge: Judging, lab: Lab, trial: _Trial) -> list[Proof]:
    try:
        verdict = judge.check(assignment(lab), trial.notebook.encode(), only=trial.only, seed=trial.seed)
    except Exception as error:  # one broken trial must not hide what the others prove
        said = str(error) if isinstance(error, NotebookError) else f"{type(error).__name__}: {error}"
        names = [exercise.name for exercise in lab.exercises if trial.only in (None, exercise.name)]
        results = tuple(Result(name, Outcome.OUR_FAULT, 0, 0, message=said) for name in names)
        verdict = Verdict(lab.slug, results, trial.seed, 0.0)
    return trial.prove(verdict)


def _blank(lab: Lab, seed: int) -> _Trial:
    def prove(verdict: Verdict) -> list[Proof]:
        remedy = "Make the stub raise NotImplementedError and let no other cell define the exercise's names."
        return [_proof(exercise, "blank", "", seed, "not attempted", verdict, remedy) for exercise in lab.exercises]

    return _Trial(lab.notebook, None, seed, prove)


def _reference(lab: Lab, solved: str, seed: int) -> _Trial:
    def prove(verdict: Verdict) -> list[Proof]:
        remedy = f"Correct {lab.solution} or the checks of this exercise in {lab.checks}."
        return [_proof(exercise, "reference", "", seed, "passed", verdict, remedy) for exercise in lab.exercises]

    return _Trial(solved, None, seed, prove)


def _rounds(lab: Lab) -> list[list[Mistake]]:
    """The mistakes in as few notebooks as possible: the first of every exercise, then the second of every one, …"""
    of_each = [[mistake for mistake in lab.mistakes if mistake.exercise == exercise.name] for exercise in lab.exercises]
    return [[m for m in together if m is not None] for together in zip_longest(*of_each)]


def _mistakes(lab: Lab, mistakes: Sequence[Mistake], seed: int, only: str | None) -> _Trial:
    def prove(verdict: Verdict) -> list[Proof]:
        return [_mistake_proof(lab, mistake, seed, verdict) for mistake in mistakes]

    return _Trial(mistaken_notebook(lab, *mistakes), only, seed, prove)


def _mistake_proof(lab: Lab, mistake: Mistake, seed: int, verdict: Verdict) -> Proof:
    path = lab.solution.parent / "mistakes" / f"{mistake.name}.py"
    remedy = f"Let a check in {lab.checks} recognise it, or correct '# outcome:' in {path}."
    exercise = lab.exercise(mistake.exercise)
    proof = _proof(exercise, "mistake", mistake.name, seed, mistake.outcome, verdict, remedy)
    if not proof.ok or proof.outcome == Outcome.SKIPPED or mistake.says in _read_by_learner(verdict, exercise.name):
        return proof
    remedy = f"The learner does not read {mistake.says!r}. Say so in a check, or correct '# says:' in {path}."
    return replace(proof, ok=False, remedy=remedy)


def _proof(exercise: Exercise, kind: Kind, name: str, seed: int, expected: str, verdict: Verdict, remedy: str) -> Proof:
    result = verdict.result(exercise.name)
    if exercise.gpu and kind != "blank" and result.outcome is Outcome.SKIPPED:
        expected = str(Outcome.SKIPPED)  # no GPU here: nothing is proven, and nothing is wrong
    ok = result.outcome == expected
    outcome, message = str(result.outcome), result.message
    return Proof(exercise.name, kind, name, seed, expected, outcome, message, ok, "" if ok else remedy)


def _read_by_learner(verdict: Verdict, exercise: str) -> str:
    result = verdict.result(exercise)
    return "\n".join([result.message, *(line.message for line in result.checks)])


# -- what needs no judge -------------------------------------------------------------------------------------------


def _problems(course: Course, lab: Lab) -> Iterator[str]:
    for exercise in lab.exercises:
        yield from _exercise_problems(lab, exercise)
    for question in course.questions:
        if question.topic == lab.slug and not course.answering(question.id):
            yield (
                f"Question {question.id} ({question.asks!r}) of topic {lab.slug!r} is answered by no exercise. "
                f"Name it in 'questions' of an exercise in {lab.checks.parent / 'exercises.toml'}."
            )
    for mistake in lab.mistakes:
        if mistake.outcome not in set(Outcome):
            yield (
                f"Mistake {mistake.name!r} expects the outcome {mistake.outcome!r}, which does not exist. "
                f"Use one of: {', '.join(Outcome)}."
            )
    for index, cell in enumerate(_cells(lab), start=1):
        if cell.get("outputs"):
            yield f"Cell {index} of the learner's notebook has outputs. Clear them."


def _exercise_problems(lab: Lab, exercise: Exercise) -> Iterator[str]:
    folder = lab.checks.parent
    mistakes = sum(mistake.exercise == exercise.name for mistake in lab.mistakes)
    if mistakes < MISTAKES_EACH:
        yield (
            f"Exercise {exercise.name!r} has {mistakes} known mistakes; it needs {MISTAKES_EACH}. "
            f"Add wrong answers that people give to {folder / 'mistakes'}."
        )
    if len(exercise.hints) < HINTS_EACH:
        yield (
            f"Exercise {exercise.name!r} has {len(exercise.hints)} hints; it needs {HINTS_EACH}. "
            f"Add them to {folder / 'exercises.toml'}."
        )
    if not exercise.questions:
        yield f"Exercise {exercise.name!r} answers no question. Name one in {folder / 'exercises.toml'}."
    stubs = [cell.source for cell in _cells(lab) if cell.metadata.get("exercise") == exercise.name]
    for stub in stubs:
        yield from _stub_problems(exercise, stub)


def _stub_problems(exercise: Exercise, stub: str) -> Iterator[str]:
    try:
        tree = ast.parse(stub)
    except SyntaxError as error:
        yield f"The stub of {exercise.name!r} is not Python: line {error.lineno}: {error.msg}. Correct it."
        return
    missing = set(exercise.defines) - set(_bound(tree))
    if missing:
        yield f"The stub of {exercise.name!r} does not define {', '.join(sorted(missing))}. Define it in the stub cell."
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    names = {getattr(exc.func if isinstance(exc, ast.Call) else exc, "id", None) for exc in raised}
    if "NotImplementedError" not in names:
        yield f"The stub of {exercise.name!r} does not raise NotImplementedError. Let its body do so."


def _bound(tree: ast.Module) -> Iterator[str]:
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))


def _cells(lab: Lab) -> list[nbformat.NotebookNode]:
    cells: list[nbformat.NotebookNode] = nbformat.reads(lab.notebook, as_version=4).cells
    return cells


def _solution(lab: Lab) -> tuple[list[str], dict[str, str]]:
    """The cells before the first exercise, and each exercise's source. Text cells are for the author alone."""
    shared: list[str] = []
    answers: dict[str, str] = {}
    for cell in jupytext.reads(lab.solution.read_text(encoding="utf-8"), fmt="py:percent").cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        name = cell.metadata.get("exercise")
        if name is None and answers:
            raise CourseError(
                f'{lab.solution}: a cell after the first exercise has no exercise="…". Move it to the front, or into '
                f"the cell of the exercise that uses it. It begins: {cell.source.splitlines()[0]!r}."
            )
        if name is None:
            shared.append(cell.source)
        elif name in answers:
            raise CourseError(f"{lab.solution} solves exercise {name!r} twice. Delete one of the cells.")
        else:
            answers[name] = cell.source
    wanted = {exercise.name for exercise in lab.exercises}
    if set(answers) != wanted:
        raise CourseError(
            f'{lab.solution} has cells marked exercise="…" for {sorted(answers)}, '
            f"but the lab's exercises are {sorted(wanted)}. Each exercise has exactly one."
        )
    return shared, answers
