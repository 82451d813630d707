"""Other graders, each started as its user would start it: one command line, anew for every measurement."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from bench import formats
from bench.environments import ensure
from bench.formats import LAB, Exercise
from bench.measure import run
from bench.tools.base import Command

__all__ = ["Nbgrader", "Otter", "Papermill"]

# How many commands at a time, for tools that take one notebook a command.
AT_ONCE = os.cpu_count() or 1


class Nbgrader(Command):
    key, title = "nbgrader", "nbgrader"
    definition = (
        "`nbgrader autograde` and `nbgrader generate_feedback`, ten submissions in one call of each; the course is a "
        "fresh copy, made by `nbgrader generate_assignment` from the instructor's version"
    )

    def __init__(self, folder: Path, lab: tuple[Exercise, ...]) -> None:
        super().__init__(folder, lab, ensure("nbgrader") / "bin")
        self._course = folder / "course"
        source = self._course / "source" / LAB
        source.mkdir(parents=True)
        nbformat.write(formats.nbgrader(lab), source / "lab.ipynb")
        run(["nbgrader", "generate_assignment", LAB], cwd=self._course, env=self._env)
        self._released = nbformat.read(self._course / "release" / LAB / "lab.ipynb", as_version=4)

    def _place(self, place: Path, names: list[str]) -> None:
        shutil.copytree(self._course, place)
        for name in names:
            (place / "submitted" / name / LAB).mkdir(parents=True)
            nbformat.write(self._answered(self._answers(name)), place / "submitted" / name / LAB / "lab.ipynb")

    def _line(self, names: list[str]) -> str:
        return f"nbgrader autograde {LAB} && nbgrader generate_feedback {LAB}"

    def _marks(self, place: Path, names: list[str]) -> dict[str, float]:
        query = """
            SELECT a.student_id, SUM(g.auto_score) FROM grade g
            JOIN submitted_notebook n ON g.notebook_id = n.id JOIN submitted_assignment a ON n.assignment_id = a.id
            GROUP BY a.student_id
        """
        database = sqlite3.connect(place / "gradebook.db")
        marks = dict(database.execute(query).fetchall())
        database.close()
        with_feedback = {path.parent.parent.name for path in place.glob(f"feedback/*/{LAB}/lab.html")}
        return {name: mark for name, mark in marks.items() if name in with_feedback}

    def _answered(self, answers: Mapping[str, str]) -> NotebookNode:
        notebook = nbformat.from_dict(self._released)
        for cell in notebook.cells:
            name = cell.metadata.get("nbgrader", {}).get("grade_id")
            cell.source = answers.get(name, cell.source)
        return notebook


class Otter(Command):
    key, title = "otter", "otter-grader"
    definition = (
        "`otter run` with the archive that `otter assign` made; it takes one submission, so ten are ten commands, "
        f"{AT_ONCE} at a time"
    )

    def __init__(self, folder: Path, lab: tuple[Exercise, ...]) -> None:
        super().__init__(folder, lab, ensure("otter") / "bin")
        nbformat.write(formats.otter(lab), folder / "lab.ipynb")
        run(["otter", "assign", "--no-run-tests", "lab.ipynb", "assigned"], cwd=folder, env=self._env)
        self._archive = next((folder / "assigned" / "autograder").glob("*.zip"))

    def _place(self, place: Path, names: list[str]) -> None:
        for name in names:
            (place / name).mkdir(parents=True)
            nbformat.write(formats.learner(self._lab, self._answers(name)), place / f"{name}.ipynb")

    def _line(self, names: list[str]) -> str:
        return _each(names, f"otter run --no-logo -a {shlex.quote(str(self._archive))} -o {{}} {{}}.ipynb")

    def _marks(self, place: Path, names: list[str]) -> dict[str, float]:
        return {name: self._mark(place / name / "results.json") for name in names}

    @staticmethod
    def _mark(results: Path) -> float:
        return sum(float(test.get("score", 0)) for test in json.loads(results.read_text())["tests"])


class Papermill(Command):
    key, title = "papermill", "plain papermill"
    definition = (
        "`papermill` runs the learner's cells and then the tests as cells of the same notebook: no marks, only whether "
        f"it ran to its end; ten are ten commands, {AT_ONCE} at a time"
    )

    def __init__(self, folder: Path, lab: tuple[Exercise, ...]) -> None:
        super().__init__(folder, lab, Path(sys.executable).parent)

    def _place(self, place: Path, names: list[str]) -> None:
        place.mkdir()
        for name in names:
            nbformat.write(formats.papermill(self._lab, self._answers(name)), place / f"{name}.ipynb")

    def _line(self, names: list[str]) -> str:
        return _each(names, "papermill --no-progress-bar {}.ipynb {}.out.ipynb")

    def _marks(self, place: Path, names: list[str]) -> dict[str, float]:
        return {name: self._mark(place / f"{name}.out.ipynb") for name in names}

    def _mark(self, path: Path) -> float:
        """Of the exercises whose tests all ran without an error."""
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        tests = iter(cells[-sum(len(exercise.tests) for exercise in self._lab) :])
        ran = [[next(tests).metadata.papermill.status == "completed" for _ in exercise.tests] for exercise in self._lab]
        return float(sum(all(cells) for cells in ran))


def _each(names: list[str], command: str) -> str:
    """The command with each name in place of ``{}``, as many at a time as there are cores."""
    if len(names) == 1:
        return command.replace("{}", names[0])
    return f"printf '%s\\n' {' '.join(names)} | xargs -P {AT_ONCE} -I{{}} {command}"
