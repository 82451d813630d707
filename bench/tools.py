"""The tools that are compared: each judges one notebook or ten of them, and says how long it took.

Every measurement is followed by a look at the marks: a row that measured a failure would be worthless.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbformat import NotebookNode
from pydantic import ValidationError

from bench import formats
from bench.environments import ensure
from bench.formats import LAB, Exercise
from bench.host import settings_for
from bench.measure import OUTPUT, Failed, Memory, MemoryWatch, Sample, cpu_seconds, living, run

__all__ = ["DOCKER_TITLE", "MANY", "Cold", "Floor", "Nbgrader", "Otter", "Papermill", "Tool", "Warm"]

MANY = 10
DOCKER_TITLE = "Gradlab, warm, Docker sandbox"
FULL = 4
# The exercise that the wrong notebook gets wrong: the last, so that a tool which stops early has to come so far.
WRONG = "lstm_parameters"
# How many commands at a time, for tools that take one notebook a command.
AT_ONCE = os.cpu_count() or 1
_QUIET_SECONDS = 0.4
_REFILL_SECONDS = 120.0
_END_SECONDS = 30.0
_ROOT = Path(__file__).resolve().parent.parent


class Tool(ABC):
    """One row of the table. ``checks`` is how many single checks are measured in each round."""

    key: str
    title: str
    definition: str
    checks = 1
    #: Why ten submissions are not measured; empty if they are.
    no_many = ""

    def one(self) -> Sample:
        return self._judge(["right"])[0]

    def many(self) -> Sample:
        return self._judge([f"right-{number}" for number in range(MANY)])[0]

    def memory(self) -> Memory:
        """Of one submission, measured in a run of its own."""
        found = self._judge(["right"], memory=True)[1]
        assert found is not None
        return found

    def wrong(self) -> None:
        """Judge the wrong notebook. Failed if it gets more or fewer marks than its right exercises are worth."""
        self._judge(["wrong"])

    def close(self) -> None:  # noqa: B027  (most have nothing to close)
        """End what was started."""

    @abstractmethod
    def _judge(self, names: list[str], *, memory: bool = False) -> tuple[Sample, Memory | None]:
        """Judge notebooks called ``right``, ``right-0`` … or ``wrong``, and check their marks with :meth:`_expect`."""

    def _expect(self, marks: Mapping[str, float], names: list[str]) -> None:
        """Every right notebook has full marks, a wrong one the marks of three exercises. Failed says what was found."""
        want = {name: FULL - 1.0 if name == "wrong" else float(FULL) for name in names}
        if dict(marks) != want:
            raise Failed(f"{self.title} gave {dict(marks)}, not {want}: its times would be those of a failure.")


class _Command(Tool):
    """A tool that is a command line, started anew for each measurement in a fresh folder."""

    def __init__(self, folder: Path, lab: tuple[Exercise, ...], programs: Path) -> None:
        self._folder = folder
        self._lab = lab
        self._used = 0
        folder.mkdir()
        (folder / "home").mkdir()
        # Nothing of the caller's Jupyter, IPython or Python configuration.
        self._env = {"PATH": f"{programs}:{os.defpath}", "HOME": str(folder / "home"), "LANG": "C.UTF-8"}

    def _judge(self, names: list[str], *, memory: bool = False) -> tuple[Sample, Memory | None]:
        self._used += 1
        place = self._folder / f"run-{self._used}"
        self._place(place, names)
        sample, found = run(["sh", "-c", self._line(names)], cwd=place, env=self._env, ok=(0, 1, 123), memory=memory)
        self._expect(self._marks(place, names), names)
        shutil.rmtree(place)
        return sample, found

    @abstractmethod
    def _place(self, place: Path, names: list[str]) -> None:
        """Make ``place`` with the notebooks in it."""

    @abstractmethod
    def _line(self, names: list[str]) -> str:
        """The command, to be run in that place."""

    @abstractmethod
    def _marks(self, place: Path, names: list[str]) -> dict[str, float]:
        """The marks by name, from what the command wrote; a notebook that has none is not there."""

    def _answers(self, name: str) -> dict[str, str]:
        return formats.answers(self._lab, WRONG if name == "wrong" else None)


class Nbgrader(_Command):
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


class Otter(_Command):
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


class Papermill(_Command):
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


class Cold(_Command):
    key, title = "cold", "Gradlab, cold"
    definition = "`gradlab check LAB NOTEBOOK --json`: one command, nothing started before it"
    no_many = "a server that judges many keeps judges warm"

    def __init__(self, folder: Path, lab: tuple[Exercise, ...]) -> None:
        super().__init__(folder, lab, Path(sys.executable).parent)
        labs, checks = formats.write_course(folder, lab)
        self._env |= {"GRADLAB_LABS_DIR": str(labs), "GRADLAB_CHECKS_DIR": str(checks)}

    def _place(self, place: Path, names: list[str]) -> None:
        place.mkdir()
        for name in names:
            nbformat.write(formats.learner(self._lab, self._answers(name)), place / f"{name}.ipynb")

    def _line(self, names: list[str]) -> str:
        return f"gradlab check {LAB} {names[0]}.ipynb --json"

    def _marks(self, place: Path, names: list[str]) -> dict[str, float]:
        return {names[0]: _verdict_marks(json.loads((place / OUTPUT).read_text()), self.title)}


class _Server(Tool):
    """A process that stays and answers one JSON line with another."""

    def _start(self, errors: Path, *argv: str) -> None:
        self._errors = errors
        with errors.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *argv],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )

    def _ask(self, question: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            last = self._errors.read_text(errors="replace").strip().splitlines()[-1:]
            raise Failed(f"{self.title} ended with status {self._process.returncode}: {' '.join(last)}")
        return json.loads(line)

    def close(self) -> None:
        try:
            self._process.communicate(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


class Warm(_Server):
    """Gradlab as its server runs it; every measured check begins with the pool full."""

    checks = 4

    def __init__(self, folder: Path, lab: tuple[Exercise, ...], sandbox: str) -> None:
        self.key = "docker" if sandbox == "docker" else "process"
        self.title = DOCKER_TITLE if sandbox == "docker" else "Gradlab, warm, process sandbox"
        what = "a Docker container" if sandbox == "docker" else sandbox
        self.definition = (
            f"from the moment a notebook is handed in to the stored verdict, confined by {what}; judges wait warm, "
            "each is used once, and the next check begins when the pool is full again; ten come from ten learners at "
            "one moment, so their time has the refilling in it"
        )
        self._containers = sandbox == "docker"
        folder.mkdir()
        if reason := self._why_not(sandbox, folder):
            raise Failed(reason)
        formats.write_course(folder, lab)
        for name in ("right", "wrong", *(f"right-{number}" for number in range(MANY))):
            answers = formats.answers(lab, WRONG if name == "wrong" else None)
            nbformat.write(formats.learner(lab, answers), folder / f"{name}.ipynb")
        self._folder = folder
        self._full = 0
        self._start(folder / "errors.txt", "bench.host", sandbox, str(folder))
        try:
            # Judges that were started before the first check may be made otherwise than those that refill the pool.
            self._judge([f"right-{number}" for number in range(MANY)])
            self._full = self._settle(seconds=1.5)
        except BaseException:
            self.close()
            raise

    def _judge(self, names: list[str], *, memory: bool = False) -> tuple[Sample, Memory | None]:
        self._settle()
        before = self._cpu_seconds()
        watch = MemoryWatch(self._process.pid, containers=self._containers) if memory else None
        answer = self._ask([str(self._folder / f"{name}.ipynb") for name in names])
        self._settle()
        found = watch.stop() if watch else None
        verdicts = zip(names, answer["verdicts"], strict=True)
        self._expect({name: _verdict_marks(verdict, self.title) for name, verdict in verdicts}, names)
        return Sample(answer["wall"], self._cpu_seconds() - before), found

    def _cpu_seconds(self) -> float:
        """Containers belong to the Docker daemon and take their times with them: there the whole machine counts."""
        if self._containers:
            times = psutil.cpu_times()
            return float(times.user + times.nice + times.system)
        return cpu_seconds(self._process.pid)

    def _settle(self, seconds: float = _QUIET_SECONDS) -> int:
        """Wait until nothing is being started any more; how many processes there are then.

        It is seen from outside, whatever the judge is made of: for some time no process used the processor, and there
        are no fewer than there were with a full pool.
        """
        deadline = time.monotonic() + _REFILL_SECONDS
        state, since = (-1.0, -1), time.monotonic()
        while time.monotonic() < deadline:
            now = (cpu_seconds(self._process.pid), len(living(self._process.pid)))
            if now[1] != state[1] or now[0] - state[0] > 0.02 or now[1] < self._full:
                state, since = now, time.monotonic()
            if time.monotonic() - since >= seconds:
                return now[1]
            time.sleep(0.05)
        raise Failed(f"{self.title}: the pool is not full again {_REFILL_SECONDS:g} s after a check.")

    @staticmethod
    def _why_not(sandbox: str, folder: Path) -> str:
        """Why the server has no such sandbox; empty if it has."""
        try:
            settings_for(sandbox, folder)
        except ValidationError:
            return f"the server has no setting GRADLAB_CHECK_SANDBOX={sandbox}"
        return ""


class Floor(_Server):
    key, title = "floor", "the floor: fork and run"
    definition = (
        "a process with torch imported and its lazy parts loaded forks; the child runs the answers and the tests: no "
        "notebook, no kernel, no confinement, no verdict"
    )
    checks = 4
    no_many = "it has nothing to share between submissions"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._start(folder / "errors.txt", "bench.floor")
        self._judge(["right"])

    def _judge(self, names: list[str], *, memory: bool = False) -> tuple[Sample, Memory | None]:
        wrong = names == ["wrong"]
        answer = self._ask({"wrong": WRONG if wrong else None, "memory": memory})
        if answer["passed"] == wrong:
            raise Failed(f"{self.title}: the tests {'passed' if wrong else 'failed'} for the {names[0]} answers.")
        found = Memory(answer["private"], answer["private"]) if memory else None
        return Sample(answer["wall"], answer["cpu"]), found


def _each(names: list[str], command: str) -> str:
    """The command with each name in place of ``{}``, as many at a time as there are cores."""
    if len(names) == 1:
        return command.replace("{}", names[0])
    return f"printf '%s\\n' {' '.join(names)} | xargs -P {AT_ONCE} -I{{}} {command}"


def _verdict_marks(verdict: Any, title: str) -> float:
    """The points of a verdict. Failed if there is none, or if it is the judge's own fault."""
    if verdict is None:
        raise Failed(f"{title} stored no verdict.")
    for result in verdict["results"]:
        if result["outcome"] == "our fault":
            raise Failed(f"{title} could not judge {result['exercise']}: {result['message']}")
    return float(verdict["points"])
