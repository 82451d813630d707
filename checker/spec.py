"""What a hidden checker notebook is written with.

The first cells of every ``checks.py``::

    # %% tags=["parameters"]
    job = ""

    # %%
    from checker.spec import begin
    check, student, draw = begin(job)

Then one cell a check. The function's docstring is the promise the learner reads; it runs as soon as it is defined::

    # %%
    @check("rank_of")
    def counts_axes():
        "A tensor of any rank is answered with its number of axes."
        for rank in range(5):
            x = draw.tensor(*draw.shape(rank, low=2))
            student.rank_of(x).equals(rank, diagnose={"That is the number of elements.": x.numel()})

An exercise passes if it has at least one check and all of them pass. After every check the results so far are written
to the job's folder, which no sandbox can see; the notebook's own outputs are never read for a verdict.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from checker.draw import Draw
from checker.job import Job, JobTask
from checker.results import CheckLine, Outcome
from checker.sandbox.base import OutputFlood, Sandbox, SandboxBroken, SandboxTimeout
from checker.sandbox.pool import SandboxPool, SandboxUnavailable, sandboxes
from checker.student import Answer, Failure, ProgramEnded, Student, StudentError

__all__ = ["Answer", "Failure", "Specification", "begin", "end"]

MAX_OUTPUT = 20_000


@dataclass
class Judged:
    """What is known of one exercise so far."""

    task: JobTask
    lines: list[CheckLine] = field(default_factory=list)
    decided: Outcome | None = None
    message: str = ""
    output: str = ""
    seconds: float = 0.0

    @property
    def outcome(self) -> Outcome:
        """PASSED only with at least one check and nothing against it."""
        if self.decided is not None:
            return self.decided
        bad = next((line.outcome for line in self.lines if line.outcome is not Outcome.PASSED), None)
        return bad or (Outcome.PASSED if self.lines else Outcome.OUR_FAULT)

    def to_dict(self) -> dict[str, Any]:
        first = next((line.message for line in self.lines if line.outcome is not Outcome.PASSED), "")
        unchecked = "" if self.lines or self.decided else "The checker has no check for this exercise."
        return {
            "exercise": self.task.name,
            "outcome": self.outcome,
            "message": self.message or first or unchecked,
            "checks": [asdict(line) for line in self.lines],
            "output": self.output[:MAX_OUTPUT],
            "seconds": round(self.seconds, 4),
        }


class Specification:
    """Runs checks as they are defined and keeps the results. One job, one use."""

    def __init__(self, job: Job, pool: SandboxPool) -> None:
        self._job = job
        self._pool = pool
        self._judged = {task.name: Judged(task, *_settled(task)) for task in job.tasks}
        self._sandbox: Sandbox | None = None
        self._open: Judged | None = None
        self._student: Student | None = None
        self._checking = False
        self._draw = Draw(job.seed)
        self._write()

    def check(self, exercise: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
        """Decorator: run the function now as a check of ``exercise``. Unknown exercises are not part of this job."""

        def run(function: Callable[[], None]) -> Callable[[], None]:
            judged = self._judged.get(exercise)
            if judged is not None and judged.decided is None:
                self._run(judged, function)
                self._write()
            return function

        return run

    @property
    def student(self) -> Student:
        """The program of the exercise whose check is running."""
        # Between two checks there may be a program, which is the last exercise's.
        if self._student is None or not self._checking:
            raise RuntimeError("student is only there inside a check")
        return self._student

    @property
    def draw(self) -> Draw:
        return self._draw

    def close(self) -> None:
        """End the last program with its sandbox: nobody waits for it to come to its end by itself."""
        if self._open is not None and self._sandbox is not None:
            self._open.output = self._sandbox.take_output()
            self._open = self._student = None
        self._drop_sandbox()
        self._write()

    # -- running -----------------------------------------------------------------------------------------------------

    def _run(self, judged: Judged, function: Callable[[], None]) -> None:
        title = (function.__doc__ or function.__name__.replace("_", " ")).strip()
        started = time.monotonic()
        try:
            if judged is not self._open and not self._begin_program(judged):
                return
            self._draw = Draw(self._job.seed, f"{judged.task.name}/{function.__name__}/{len(judged.lines)}")
            self._checking = True
            function()
            judged.lines.append(CheckLine(title, Outcome.PASSED))
        except Failure as failure:
            judged.lines.append(CheckLine(title, Outcome.FAILED, str(failure)))
        except StudentError as error:
            judged.lines.append(CheckLine(title, error.outcome, str(error)))
        except ProgramEnded as end:
            judged.lines.append(CheckLine(title, end.outcome, str(end)))
            judged.decided, judged.message = end.outcome, str(end)
        except SandboxUnavailable as error:
            judged.decided, judged.message = Outcome.OUR_FAULT, str(error)
        except Exception as error:
            # A fault of the course, and of this exercise alone. The executed notebook keeps the traceback.
            judged.decided = Outcome.OUR_FAULT
            judged.message = f"The check {function.__name__!r} is broken: {type(error).__name__}: {error}"
            traceback.print_exc()
        finally:
            self._checking = False
            judged.seconds += time.monotonic() - started

    def _begin_program(self, judged: Judged) -> bool:
        """Start the exercise's program; False if what it needs has not passed or its own statements fail."""
        self._end_program()
        missing = [name for name in judged.task.needs if self._judged[name].outcome is not Outcome.PASSED]
        if missing:
            judged.decided = Outcome.SKIPPED
            judged.message = f"Not judged yet: it builds on {', '.join(missing)}, which has not passed."
            return False
        if judged.task.gpu and not self._job.gpu:
            judged.decided, judged.message = Outcome.SKIPPED, "Needs a GPU, and checks on this server have none."
            return False
        used = self._sandbox is not None
        try:
            self._load(judged)
        except (StudentError, ProgramEnded) as error:
            if used and error.outcome is Outcome.KILLED:
                # Perhaps the words of the last program, which spoke for the agent before it went. Nobody else has
                # spoken in a new sandbox.
                self._open = self._student = None
                self._drop_sandbox()
                return self._begin_program(judged)
            judged.decided, judged.message = error.outcome, str(error)
            self._end_program()
            return False
        return True

    def _load(self, judged: Judged) -> None:
        """Start the exercise's program, in the sandbox that there is or a new one."""
        if self._sandbox is None:
            self._sandbox = self._pool.take()
        seeds = Draw(self._job.seed, f"{judged.task.name}/student").integer(0, 2**62)
        self._open, self._student = judged, Student(self._sandbox, seconds=judged.task.seconds, seed=seeds)
        # A seed of its own: the job's seed would tell the program what inputs come.
        seed = Draw(self._job.seed, f"{judged.task.name}/program").integer(0, 2**31)
        self._student._load(judged.task.segments, judged.task.future, seed)

    def _end_program(self) -> None:
        """Leave the open exercise: collect what it printed, keep the sandbox if it is still sound."""
        if self._open is None or self._sandbox is None or self._student is None:
            return
        judged, sandbox, student = self._open, self._sandbox, self._student
        self._open = self._student = None
        # Who said that a program ended before it was asked to may have been the program.
        sound = student._ended is None
        try:
            student._end()
        except (SandboxBroken, SandboxTimeout, OutputFlood):
            sound = False
        judged.output = sandbox.take_output()
        if not (sound and sandbox.sound):
            self._drop_sandbox()

    def _drop_sandbox(self) -> None:
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None

    def _write(self) -> None:
        self._job.add_results([judged.to_dict() for judged in self._judged.values()])


class _Current:
    """``student`` and ``draw`` of the running check, under names that stay the same for the whole notebook."""

    def __init__(self, specification: Specification, attribute: str) -> None:
        self._specification = specification
        self._attribute = attribute

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(self._specification, self._attribute), name)


# The job whose checks this process runs: a notebook has no other way to its end.
_running: Specification | None = None


def begin(job: str) -> tuple[Callable[[str], Callable[[Callable[[], None]], Callable[[], None]]], Any, Any]:
    """``check, student, draw`` for the job file at this path; the judge's kernel has a sandbox waiting for it."""
    global _running
    end()
    _running = specification = Specification(Job.read(Path(job)), sandboxes())
    return specification.check, _Current(specification, "student"), _Current(specification, "draw")


def end() -> None:
    """End what :func:`begin` began: the last cell does."""
    global _running
    if _running is not None:
        _running.close()
        _running = None


def _settled(task: JobTask) -> tuple[list[CheckLine], Outcome | None, str]:
    outcome = {"not attempted": Outcome.NOT_ATTEMPTED, "error": Outcome.ERROR}.get(task.state)
    return [], outcome, task.message
