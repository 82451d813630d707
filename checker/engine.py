"""The judge: a notebook in, a verdict out.

``checker.extract`` finds each exercise's program, papermill runs the lab's hidden checker notebook in a warm kernel,
and the results that the kernel wrote are read back and made complete: no result is never a pass.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from checker.extract import Notebook, NotebookError, Program, extract
from checker.extract import read_notebook as _read_notebook
from checker.job import Job, JobTask, read_results
from checker.kernels import KernelPool, KernelUnavailable
from checker.notebook import checker_notebook
from checker.results import CheckLine, Outcome, Result, Verdict
from checker.sandbox.config import SandboxConfig
from checker.workplace import Workplace

__all__ = ["Assignment", "Judge", "JudgeConfig", "NotebookError", "Task", "read_notebook"]

# Longest a single cell of a checker notebook may take: the learner's limits act long before.
_CELL_SECONDS = 300

# Room for what a waiting judge has for itself, forked (`make bench` prints it) or with torch once more in a container,
# and the part of the free memory that all of them may take.
_JUDGE_MB = {False: 64, True: 400}
_SPARE = 4


@dataclass(frozen=True)
class Task:
    """One exercise as the judge needs it; ``seconds`` is the wall-clock budget of the learner's code."""

    name: str
    points: int
    defines: tuple[str, ...]
    needs: tuple[str, ...] = ()
    gpu: bool = False
    seconds: float = 10.0


@dataclass(frozen=True)
class Assignment:
    """One lab: its tasks in order, the blank learner notebook (.ipynb JSON) and the hidden checker notebook's path."""

    slug: str
    tasks: tuple[Task, ...]
    template: str
    checks: Path


@dataclass(frozen=True)
class JudgeConfig:
    """How learner code is confined, and how many judges wait warm (None: what the machine is good for)."""

    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    pool: int | None = None

    @property
    def waiting(self) -> int:
        """``pool``, or what this machine's cores and free memory are good for."""
        if self.pool is not None:
            return self.pool
        room = psutil.virtual_memory().available // _SPARE // (_JUDGE_MB[self.sandbox.method == "docker"] << 20)
        return max(1, min(2 * len(os.sched_getaffinity(0)), room))


def read_notebook(data: bytes, assignment: Assignment) -> Notebook:
    """Parse a learner's notebook without running it; NotebookError says why it cannot be judged at all."""
    return _read_notebook(data, [name for task in assignment.tasks for name in task.defines])


@functools.lru_cache(maxsize=64)
def _read_template(assignment: Assignment) -> Notebook:
    return read_notebook(assignment.template.encode(), assignment)


class Judge:
    """Gives verdicts; thread-safe. :meth:`warm` starts judges ahead, :meth:`close` ends every process."""

    def __init__(self, config: JudgeConfig) -> None:
        self._config = config
        self._workplace = Workplace()
        self._kernels = KernelPool(config.sandbox, config.waiting, self._workplace)

    def warm(self) -> None:
        """Start judges in the background until ``pool`` of them wait."""
        self._kernels.warm()
        import papermill  # noqa: F401  (loaded now, so that the first check finds it so)

    def check(self, assignment: Assignment, notebook: bytes, *, only: str | None = None, seed: int) -> Verdict:
        """Judge a notebook, or one exercise of it and what that builds on. NotebookError if it cannot be judged."""
        started = time.monotonic()
        tasks = _selected(assignment.tasks, only)
        learner = read_notebook(notebook, assignment)
        template = _read_template(assignment)
        programs = {task.name: extract(learner, task.name, task.defines, template) for task in tasks}
        if any(program.state == "ready" for program in programs.values()):
            results, report = self._run(assignment, tasks, programs, seed)
        else:
            results, report = [_unrun(task, programs[task.name]) for task in tasks], ""
        seconds = round(time.monotonic() - started, 4)
        return Verdict(lab=assignment.slug, results=tuple(results), seed=seed, seconds=seconds, report=report)

    def close(self) -> None:
        self._kernels.close()
        self._workplace.close()

    def _run(
        self, assignment: Assignment, tasks: tuple[Task, ...], programs: dict[str, Program], seed: int
    ) -> tuple[list[Result], str]:
        with tempfile.TemporaryDirectory(prefix="job-", dir=self._workplace.path) as folder:
            found = Path(folder, "results.jsonl")
            _job(tasks, programs, seed, bool(self._config.sandbox.gpus), found).write(Path(folder, "job.json"))
            fault = self._execute(
                assignment.checks, frozenset(programs), Path(folder, "job.json"), Path(folder, "report.ipynb")
            )
            report = _read_report(Path(folder, "report.ipynb"))
            rows = read_results(found)
        return [_result(task, rows, fault) for task in tasks], report

    def _execute(self, checks: Path, asked: frozenset[str], job: Path, report: Path) -> str:
        """Run the checker notebook and write it to ``report``, also if a check raised; what went wrong, or ``""``."""
        import papermill  # takes half a second to load, for which no server start should wait

        notebook = checker_notebook(checks, asked)
        try:
            kernel = self._kernels.take()
        except KernelUnavailable as error:
            return str(error)
        try:
            papermill.execute_notebook(
                notebook,
                report,
                parameters={"job": str(job)},
                km=kernel,
                kernel_name="judge",
                language="python",
                progress_bar=False,
                request_save_on_cell_execute=False,
                execution_timeout=_CELL_SECONDS,
            )
            return ""
        except Exception as error:
            # PapermillExecutionError, a dead kernel, a timeout: whatever it is, it is not the learner's doing.
            return f"The checker notebook failed: {type(error).__name__}: {_last_line(error)}"
        finally:
            self._kernels.retire(kernel)


def _selected(tasks: tuple[Task, ...], only: str | None) -> tuple[Task, ...]:
    """The task called ``only`` and those it builds on, in the lab's order; all of them if ``only`` is None."""
    if only is None:
        return tasks
    by_name = {task.name: task for task in tasks}
    wanted: set[str] = set()
    pending = [only]
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted.add(name)
            pending += by_name[name].needs
    return tuple(task for task in tasks if task.name in wanted)


def _job(tasks: Iterable[Task], programs: dict[str, Program], seed: int, gpu: bool, results: Path) -> Job:
    return Job(
        seed=seed,
        gpu=gpu,
        results=str(results),
        tasks=tuple(
            JobTask(
                name=task.name,
                seconds=task.seconds,
                needs=task.needs,
                gpu=task.gpu,
                state=programs[task.name].state,
                message=programs[task.name].message,
                segments=[{"source": s.source, "cell": s.cell, "line": s.line} for s in programs[task.name].segments],
                future=list(programs[task.name].future),
            )
            for task in tasks
        ),
    )


def _unrun(task: Task, program: Program) -> Result:
    outcome = Outcome.NOT_ATTEMPTED if program.state == "not attempted" else Outcome.ERROR
    return Result(task.name, outcome, points=0, max_points=task.points, message=program.message)


def _result(task: Task, rows: list[dict[str, Any]], fault: str) -> Result:
    """One exercise's result. If the checker notebook did not run to its end, nothing passes because of it."""
    row = next((row for row in rows if row["exercise"] == task.name), None)
    if row is None:
        return Result(task.name, Outcome.OUR_FAULT, 0, task.points, message=fault or "The checker gave no result.")
    outcome = Outcome(row["outcome"])
    result = Result(
        exercise=task.name,
        outcome=outcome,
        points=task.points if outcome is Outcome.PASSED else 0,
        max_points=task.points,
        message=row["message"],
        checks=tuple(CheckLine(c["title"], Outcome(c["outcome"]), c["message"]) for c in row["checks"]),
        output=row["output"],
        seconds=row["seconds"],
    )
    if fault and outcome in (Outcome.PASSED, Outcome.OUR_FAULT):
        return replace(result, outcome=Outcome.OUR_FAULT, points=0, message=fault)
    return result


def _read_report(path: Path) -> str:
    """The executed notebook; ``""`` if papermill came to no end with it."""
    if not path.is_file():
        return ""
    report = json.loads(path.read_text(encoding="utf-8"))
    # The whole input once more, and a path in a folder that is about to go.
    for name in ("input_path", "output_path"):
        report["metadata"]["papermill"].pop(name, None)
    return json.dumps(report, ensure_ascii=False)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else ""
