"""Gradlab, cold and warm, and the floor below it: to fork and to run, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import psutil
from pydantic import ValidationError

from bench import formats
from bench.formats import LAB, Exercise
from bench.host import settings_for
from bench.measure import OUTPUT, Failed, Memory, MemoryWatch, Sample, cpu_seconds, living
from bench.tools.base import MANY, WRONG, Command, Tool
from gradlab.settings import ROOT

__all__ = ["DOCKER_TITLE", "Cold", "Floor", "Warm"]

DOCKER_TITLE = "Gradlab, warm, Docker sandbox"
_QUIET_SECONDS = 0.4
_REFILL_SECONDS = 120.0
_END_SECONDS = 30.0


class Cold(Command):
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
                cwd=ROOT,
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


def _verdict_marks(verdict: Any, title: str) -> float:
    """The points of a verdict. Failed if there is none, or if it is the judge's own fault."""
    if verdict is None:
        raise Failed(f"{title} stored no verdict.")
    for result in verdict["results"]:
        if result["outcome"] == "our fault":
            raise Failed(f"{title} could not judge {result['exercise']}: {result['message']}")
    return float(verdict["points"])
