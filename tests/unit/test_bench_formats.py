"""The benchmark's lab: written once, the same tests in every tool's format."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from bench import formats
from bench.formats import Exercise
from gradlab.course import Course
from gradlab.verification import solved_notebook

LAB = formats.exercises()
FUNCTIONS = [exercise.function for exercise in LAB]


def failing(given: dict[str, str]) -> set[str]:
    """The functions at least one of whose tests fails with these answers."""
    names: dict[str, Any] = {}
    exec("import torch", names)
    for answer in given.values():
        exec(answer, names)
    found = set()
    for exercise in LAB:
        for test in exercise.tests:
            exec(test.source, names)
            try:
                names[test.name](names[exercise.function])
            except AssertionError:
                found.add(exercise.function)
    return found


def test_right_answers_pass_and_each_mistake_fails_alone() -> None:
    assert len(LAB) == 4
    assert failing(formats.answers(LAB)) == set()
    for exercise in LAB:
        assert failing(formats.answers(LAB, exercise.function)) == {exercise.function}


def test_an_unknown_mistake_is_not_taken_for_a_right_notebook() -> None:
    with pytest.raises(KeyError, match="no_such"):
        formats.answers(LAB, "no_such")


def in_papermill(_folder: Path) -> str:
    return joined(formats.papermill(LAB, formats.answers(LAB)))


def in_nbgrader(_folder: Path) -> str:
    return joined(formats.nbgrader(LAB))


def in_otter(_folder: Path) -> str:
    return joined(formats.otter(LAB))


def in_gradlab(folder: Path) -> str:
    _, checks = formats.write_course(folder, LAB)
    return (checks / formats.STEM / "checks.py").read_text()


def joined(notebook: nbformat.NotebookNode) -> str:
    nbformat.validate(notebook)
    return "\n\n".join(cell.source for cell in notebook.cells)


@pytest.mark.parametrize("written", [in_papermill, in_nbgrader, in_otter, in_gradlab])
def test_every_format_has_the_same_tests(written: Callable[[Path], str], tmp_path: Path) -> None:
    text = written(tmp_path)
    for exercise in LAB:
        for test in exercise.tests:
            assert text.count(test.source) == 1, f"{test.name} of {exercise.function}"
            assert text.index(test.source) < text.rindex(test.name), f"nothing calls {test.name}"


def test_every_answer_of_the_learner_is_in_each_notebook_and_no_test_is() -> None:
    given = formats.answers(LAB, "lstm_parameters")
    text = joined(formats.learner(LAB, given))
    assert [answer for answer in given.values() if answer not in text] == []
    assert not any(test.name in text for exercise in LAB for test in exercise.tests)


def test_nbgrader_hides_the_tests_and_asks_for_every_function() -> None:
    marks = {
        cell.metadata.nbgrader.grade_id: cell for cell in formats.nbgrader(LAB).cells if "nbgrader" in cell.metadata
    }
    assert set(marks) == {*FUNCTIONS, *(f"test_{name}" for name in FUNCTIONS)}
    for name in FUNCTIONS:
        test = marks[f"test_{name}"]
        assert test.source.startswith("### BEGIN HIDDEN TESTS\n")
        assert test.source.endswith("\n### END HIDDEN TESTS")
        assert (test.metadata.nbgrader.grade, test.metadata.nbgrader.points) == (True, formats.POINTS)
        assert marks[name].metadata.nbgrader.solution


def test_otter_hides_every_test() -> None:
    cells = [cell.source for cell in formats.otter(LAB).cells]
    tests = [source for source in cells if "# BEGIN TEST CONFIG" in source]
    assert len(tests) == sum(len(exercise.tests) for exercise in LAB)
    assert all("hidden: true" in source for source in tests)


def test_gradlab_reads_the_lab_as_a_course(tmp_path: Path) -> None:
    lab = Course.load(*formats.write_course(tmp_path, LAB)).lab(formats.LAB)
    assert [exercise.name for exercise in lab.exercises] == FUNCTIONS
    assert lab.points == formats.POINTS * len(LAB)
    assert [test.title for exercise in LAB for test in exercise.tests if test.title not in lab.checks.read_text()] == []
    solved = joined(nbformat.reads(solved_notebook(lab), as_version=4))
    assert [exercise.function for exercise in LAB if exercise.solution not in solved] == []
    ast.parse(lab.checks.read_text())


def rewritten(folder: Path, old: str, new: str) -> Path:
    """All exercises in a folder of their own, with something replaced in that of the softmax."""
    for path in formats.LABS.glob("*.py"):
        text = path.read_text()
        (folder / path.name).write_text(text.replace(old, new) if path.stem == "softmax" else text)
    return folder


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"softmax.py has 0 cells with part='mistake'; it takes one"):
        formats.exercises(rewritten(tmp_path, 'part="mistake"', 'part="test"'))


def test_a_part_that_is_there_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"softmax.py has 2 cells with part='solution'"):
        formats.exercises(rewritten(tmp_path, 'part="mistake"', 'part="solution"'))


def test_an_unknown_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"softmax.py: a cell has part='extra'; a part is one of question, stub"):
        formats.exercises(rewritten(tmp_path, 'part="mistake"', 'part="extra"'))


def test_titles_come_from_the_questions() -> None:
    made = Exercise("f", "# %%\n## Text".removeprefix("# %%\n"), "", "", "", ())
    assert made.title == "Text"
