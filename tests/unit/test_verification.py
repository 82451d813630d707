"""What ``labs verify`` demands of a lab. The real judge proves a whole lab in tests/unit/test_cli.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest

from checker.engine import Assignment
from checker.results import CheckLine, Outcome, Result, Verdict
from gradlab.course import Lab
from gradlab.errors import CourseError
from gradlab.verification import (
    LabReport,
    Proof,
    answered_notebook,
    mistaken_notebook,
    report_data,
    solved_notebook,
    verify,
    verify_lab,
)
from tests.courses import CourseFolder, write_course


@pytest.fixture
def folder(tmp_path: Path) -> CourseFolder:
    return write_course(tmp_path)


def answers(notebook: str | bytes) -> dict[str, str]:
    cells = nbformat.reads(notebook if isinstance(notebook, str) else notebook.decode(), as_version=4).cells
    return {cell.metadata.exercise: cell.source for cell in cells if "exercise" in cell.metadata}


class KnowingJudge:
    """Knows the right answers and the known mistakes by their text; ``override`` says otherwise for some of them.

    Keys of ``override`` are ``reference``, ``blank`` or a mistake's name; values are an outcome and a message, or an
    exception to raise.
    """

    def __init__(self, lab: Lab, override: Mapping[str, tuple[Outcome, str] | Exception] | None = None) -> None:
        self.override = override or {}
        self.calls: list[tuple[str | None, int]] = []
        self.kinds = dict.fromkeys(answers(solved_notebook(lab)).values(), "reference")
        self.kinds |= dict.fromkeys(answers(lab.notebook).values(), "blank")
        self.kinds |= {mistake.source: mistake.name for mistake in lab.mistakes}
        self.answers = {mistake.name: (Outcome(mistake.outcome), f"Look: {mistake.says}") for mistake in lab.mistakes}
        self.answers |= {"reference": (Outcome.PASSED, ""), "blank": (Outcome.NOT_ATTEMPTED, "")}

    def check(self, assignment: Assignment, notebook: bytes, *, only: str | None = None, seed: int) -> Verdict:
        self.calls.append((only, seed))
        found = answers(notebook)
        results = []
        for task in assignment.tasks:
            kind = self.kinds[found[task.name]]
            answer = self.override.get(kind, self.answers[kind])
            if isinstance(answer, Exception):
                raise answer
            outcome, message = answer
            # The judge puts some messages on the exercise and some on a check line; both are read by the learner.
            lines = (CheckLine("A check.", outcome, message),)
            results.append(Result(task.name, outcome, 0, task.points, "" if kind != "blank" else message, lines))
        return Verdict(assignment.slug, tuple(results), seed, 0.01)


def prove(
    folder: CourseFolder, override: Mapping[str, Any] | None = None, seeds: tuple[int, ...] = (1, 2)
) -> LabReport:
    course = folder.load()
    lab = course.labs[0]
    return verify_lab(course, KnowingJudge(lab, override), lab, seeds=seeds, workers=2)


def failed(report: LabReport) -> list[Proof]:
    return [proof for proof in report.proofs if not proof.ok]


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_sound_lab_is_proven(folder: CourseFolder) -> None:
    report = prove(folder)
    assert report.problems == ()
    assert failed(report) == []
    assert report.proven
    kinds = [(proof.exercise, proof.kind, proof.name, proof.seed) for proof in report.proofs]
    assert sorted(kinds) == [
        ("double", "blank", "", 1),
        ("double", "mistake", "double_half", 1),
        ("double", "mistake", "double_square", 1),
        ("double", "reference", "", 1),
        ("double", "reference", "", 2),
        ("rank_of", "blank", "", 1),
        ("rank_of", "mistake", "rank_elements", 1),
        ("rank_of", "mistake", "rank_raises", 1),
        ("rank_of", "reference", "", 1),
        ("rank_of", "reference", "", 2),
    ]


def test_mistakes_of_different_exercises_share_a_notebook(folder: CourseFolder) -> None:
    course = folder.load()
    judge = KnowingJudge(course.labs[0])
    verify_lab(course, judge, course.labs[0], seeds=(5,), workers=1)
    # The blank, the reference, and two rounds of one mistake an exercise.
    assert judge.calls == [(None, 5)] * 4


def test_a_mistake_that_fails_in_company_is_judged_alone_and_that_counts(folder: CourseFolder) -> None:
    course = folder.load()
    lab = course.labs[0]

    class CompanyMatters(KnowingJudge):
        def check(self, assignment: Assignment, notebook: bytes, *, only: str | None = None, seed: int) -> Verdict:
            verdict = super().check(assignment, notebook, only=only, seed=seed)
            if only is not None or "double_half" not in {self.kinds[text] for text in answers(notebook).values()}:
                return verdict
            disturbed = [replace(result, outcome=Outcome.SKIPPED) for result in verdict.results]
            return replace(verdict, results=tuple(disturbed))

    judge = CompanyMatters(lab)
    assert verify_lab(course, judge, lab, seeds=(5,), workers=1).proven
    assert sorted(only for only, _ in judge.calls if only) == ["double", "rank_of"]


def test_mistakes_of_exercises_that_do_not_build_on_each_other_share_a_notebook(folder: CourseFolder) -> None:
    replace_in(folder.hidden / "exercises.toml", 'needs = ["rank_of"]', "")
    course = folder.load()
    judge = KnowingJudge(course.labs[0])
    report = verify_lab(course, judge, course.labs[0], seeds=(5,), workers=1)
    assert report.proven
    assert judge.calls == [(None, 5)] * 4  # blank, reference, and two notebooks with two mistakes each
    assert len([proof for proof in report.proofs if proof.kind == "mistake"]) == 4


def test_a_mistake_that_is_not_recognised_in_company_is_judged_alone(folder: CourseFolder) -> None:
    replace_in(folder.hidden / "exercises.toml", 'needs = ["rank_of"]', "")
    course = folder.load()
    lab = course.labs[0]

    class Confused(KnowingJudge):
        """Fails to recognise anything in a notebook with two mistakes."""

        def check(self, assignment: Assignment, notebook: bytes, *, only: str | None = None, seed: int) -> Verdict:
            kinds = {self.kinds[source] for source in answers(notebook).values()}
            if len(kinds - {"reference", "blank"}) > 1:
                self.calls.append((only, seed))
                raise RuntimeError("two at once")
            return super().check(assignment, notebook, only=only, seed=seed)

    judge = Confused(lab)
    assert verify_lab(course, judge, lab, seeds=(5,), workers=1).proven
    assert sorted(only for only, _ in judge.calls if only) == ["double", "double", "rank_of", "rank_of"]
    judge = Confused(lab, {"double_half": (Outcome.PASSED, "")})
    assert [proof.name for proof in failed(verify_lab(course, judge, lab, seeds=(5,), workers=1))] == ["double_half"]


@pytest.mark.parametrize(
    ("override", "kind", "outcome", "remedy"),
    [
        ({"reference": (Outcome.FAILED, "off by one")}, "reference", "failed", "solution.py or the checks"),
        ({"reference": (Outcome.OUR_FAULT, "no check")}, "reference", "our fault", "solution.py or the checks"),
        ({"blank": (Outcome.ERROR, "NameError")}, "blank", "error in your code", "raise NotImplementedError"),
        ({"double_half": (Outcome.PASSED, "")}, "mistake", "passed", "recognise it, or correct '# outcome:'"),
        ({"double_half": (Outcome.TIMED_OUT, "slow")}, "mistake", "timed out", "recognise it, or correct '# outcome:'"),
        ({"double_half": (Outcome.FAILED, "Wrong.")}, "mistake", "failed", "does not read 'That halves them.'"),
        ({"double_half": (Outcome.FAILED, "that halves them.")}, "mistake", "failed", "does not read"),
        ({"double_half": RuntimeError("no kernel")}, "mistake", "our fault", "recognise it"),
    ],
)
def test_a_proof_that_does_not_hold_names_outcome_and_remedy(
    folder: CourseFolder, override: dict[str, Any], kind: str, outcome: str, remedy: str
) -> None:
    report = prove(folder, override)
    assert not report.proven
    bad = failed(report)
    assert {(proof.kind, proof.outcome) for proof in bad} == {(kind, outcome)}
    assert all(remedy in proof.remedy for proof in bad)


def test_what_needs_a_gpu_is_skipped_without_one_and_nothing_is_claimed(folder: CourseFolder) -> None:
    replace_in(folder.hidden / "exercises.toml", 'name = "double"', 'name = "double"\ngpu = true')
    skipped = (Outcome.SKIPPED, "Needs a GPU, and checks on this server have none.")
    course = folder.load()
    lab = course.labs[0]

    class NoGpu(KnowingJudge):
        def check(self, assignment: Assignment, notebook: bytes, *, only: str | None = None, seed: int) -> Verdict:
            verdict = super().check(assignment, notebook, only=only, seed=seed)
            results = tuple(
                Result("double", skipped[0], 0, 3, skipped[1])
                if result.exercise == "double" and result.outcome is not Outcome.NOT_ATTEMPTED
                else result
                for result in verdict.results
            )
            return Verdict(verdict.lab, results, seed, 0.01)

    report = verify_lab(course, NoGpu(lab), lab, seeds=(1,), workers=1)
    assert report.proven
    assert [p.outcome for p in report.proofs if p.exercise == "double" and p.kind == "mistake"] == ["skipped"] * 2
    # without the GPU mark the same verdicts prove nothing
    replace_in(folder.hidden / "exercises.toml", "gpu = true", "gpu = false")
    course = folder.load()
    assert not verify_lab(course, NoGpu(course.labs[0]), course.labs[0], seeds=(1,), workers=1).proven


def problem(folder: CourseFolder) -> str:
    (sentence,) = prove(folder).problems
    return sentence


def test_an_exercise_needs_two_known_mistakes(folder: CourseFolder) -> None:
    (folder.hidden / "mistakes" / "rank_raises.py").unlink()
    assert problem(folder).startswith("Exercise 'rank_of' has 1 known mistakes; it needs 2. Add wrong answers")


def test_an_exercise_needs_two_hints(folder: CourseFolder) -> None:
    replace_in(folder.hidden / "exercises.toml", '["Count the dimensions.", "Tensors have .ndim."]', '["Count."]')
    assert problem(folder).startswith("Exercise 'rank_of' has 1 hints; it needs 2. Add them to")


def test_an_exercise_answers_a_question_and_each_question_has_an_exercise(folder: CourseFolder) -> None:
    replace_in(folder.hidden / "exercises.toml", 'questions = ["q010"]', "questions = []")
    unasked, unanswered = prove(folder).problems
    assert unasked.startswith("Exercise 'rank_of' answers no question. Name one in")
    assert unanswered.startswith(
        "Question q010 ('What is the rank of a tensor?') of topic 'tensors' is answered by no exercise. Name it in"
    )


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("def rank_of(x", "def rank(x", "The stub of 'rank_of' does not define rank_of. Define it in the stub cell."),
        (
            'raise NotImplementedError("Write rank_of.")',
            "return 0",
            "The stub of 'rank_of' does not raise NotImplementedError. Let its body do so.",
        ),
        ('raise NotImplementedError("Write rank_of.")', "return (", "The stub of 'rank_of' is not Python: line 3"),
    ],
)
def test_a_stub_defines_its_names_and_raises(folder: CourseFolder, old: str, new: str, says: str) -> None:
    replace_in(folder.labs / "04_tensors.py", old, new)
    assert problem(folder).startswith(says)


def test_outputs_in_the_learners_notebook_are_a_problem(folder: CourseFolder) -> None:
    course = folder.load()
    notebook = nbformat.reads(course.labs[0].notebook, as_version=4)
    index = next(index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    notebook.cells[index].outputs = [nbformat.v4.new_output("stream", text="42")]
    lab = replace(course.labs[0], notebook=nbformat.writes(notebook))
    report = verify_lab(course, KnowingJudge(lab), lab, seeds=(1,), workers=1)
    assert report.problems == (f"Cell {index + 1} of the learner's notebook has outputs. Clear them.",)


def test_an_outcome_that_does_not_exist_is_a_problem(folder: CourseFolder) -> None:
    replace_in(folder.hidden / "mistakes" / "double_half.py", "outcome: failed", "outcome: wrong")
    course = folder.load()
    lab = course.labs[0]
    with pytest.raises(ValueError, match="'wrong' is not a valid Outcome"):
        KnowingJudge(lab)  # so let the judge answer from another course
    sound = write_course(folder.labs.parent / "sound").load().labs[0]
    judge = KnowingJudge(sound)
    judge.kinds |= {mistake.source: mistake.name for mistake in lab.mistakes}
    report = verify_lab(course, judge, lab, seeds=(1,), workers=1)
    (sentence,) = report.problems
    assert sentence.startswith(
        "Mistake 'double_half' expects the outcome 'wrong', which does not exist. Use one of: passed,"
    )


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('# %% exercise="double"', "# %%", 'a cell after the first exercise has no exercise="…"'),
        ('# %% exercise="double"', '# %% exercise="rank_of"', "solves exercise 'rank_of' twice. Delete one"),
        ('# %% exercise="double"', '# %% exercise="halve"', "for ['halve', 'rank_of'], but the lab's exercises are"),
    ],
)
def test_a_solution_that_does_not_fit_is_a_problem_and_the_blank_is_still_proven(
    folder: CourseFolder, old: str, new: str, says: str
) -> None:
    sound = KnowingJudge(folder.load().labs[0])
    replace_in(folder.hidden / "solution.py", old, new)
    course = folder.load()
    report = verify_lab(course, sound, course.labs[0], seeds=(1,), workers=1)
    (sentence,) = report.problems
    assert says in sentence
    assert not report.proven
    assert {proof.kind for proof in report.proofs} == {"blank"}
    with pytest.raises(CourseError, match=r"solution\.py"):
        solved_notebook(course.labs[0])


def test_the_solved_notebook_differs_from_the_learners_in_exercise_cells_alone(folder: CourseFolder) -> None:
    lab = folder.load().labs[0]
    blank = nbformat.reads(lab.notebook, as_version=4)
    solved = nbformat.reads(solved_notebook(lab), as_version=4)
    nbformat.validate(solved)
    shared = [cell for cell in solved.cells if cell.id.startswith("shared-")]
    assert [cell.source for cell in shared] == ["import torch\n\nTWO = 2"]
    assert (
        solved.cells.index(shared[0])
        == solved.cells.index(next(c for c in solved.cells if "exercise" in c.metadata)) - 1
    )
    rest = [cell for cell in solved.cells if cell not in shared]
    different = [after.metadata.exercise for before, after in zip(blank.cells, rest, strict=True) if before != after]
    assert different == ["rank_of", "double"]
    assert answers(solved_notebook(lab))["rank_of"] == "def rank_of(x: torch.Tensor) -> int:\n    return x.ndim"


def test_a_mistaken_notebook_holds_one_mistake(folder: CourseFolder) -> None:
    lab = folder.load().labs[0]
    mistake = next(mistake for mistake in lab.mistakes if mistake.name == "double_half")
    found = answers(mistaken_notebook(lab, mistake))
    assert found == answers(solved_notebook(lab)) | {"double": mistake.source}


def test_an_exercise_without_an_answer_keeps_its_stub(folder: CourseFolder) -> None:
    lab = folder.load().labs[0]
    found = answers(answered_notebook(lab, {"double": "double = 2 .__mul__"}))
    assert found == answers(lab.notebook) | {"double": "double = 2 .__mul__"}


def test_the_report_is_json_with_labs_proofs_and_questions(folder: CourseFolder) -> None:
    course = folder.load()
    told: list[LabReport] = []
    reports = verify(course, KnowingJudge(course.labs[0]), seeds=(1,), told=told.append)
    assert told == reports
    data = json.loads(json.dumps(report_data(course, reports)))
    (lab,) = data["labs"]
    assert (lab["slug"], lab["version"], lab["proven"], lab["problems"]) == (
        "tensors",
        course.labs[0].version,
        True,
        [],
    )
    exercise = lab["exercises"][0]
    assert {key: exercise[key] for key in ("name", "title", "points", "questions")} == {
        "name": "rank_of",
        "title": "Rank",
        "points": 2,
        "questions": ["q010"],
    }
    assert set(exercise["proofs"][0]) >= {"kind", "name", "seed", "expected", "outcome", "message", "ok"}
    assert data["questions"] == [
        {"id": "q001", "asks": "What is PyTorch?", "topic": "environment", "exercises": []},
        {"id": "q010", "asks": "What is the rank of a tensor?", "topic": "tensors", "exercises": ["tensors/rank_of"]},
        {"id": "q011", "asks": "How do you double a tensor?", "topic": "tensors", "exercises": ["tensors/double"]},
    ]
