"""Where the time of a warm check goes: whole checks, taken apart into stages that follow one another.

``python -m bench.breakdown`` prints the table; ``make bench`` puts it into ``docs/benchmarks.md``. What ends one stage
and begins the next is seen by wrapping a few functions of this process, in the times that the kernel gives its
messages, and by a stop watch around the sandbox's streams, which the lab's first cell starts.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nbformat
import papermill
from rich.console import Console
from rich.table import Table

from bench import formats
from bench.host import Host, hosting, settings_for
from bench.measure import Failed, median
from checker.engine import Judge
from checker.kernels import KernelPool
from checker.results import Outcome
from checker.sandbox.confinement import detect

__all__ = ["STAGES", "Breakdown", "Dissection", "rows", "stages"]

STAGES = (
    "handed in: stored, and taken up by a thread",
    "the exercises' programs extracted, a judge taken",
    "papermill, before the first cell",
    "messages between papermill and the kernel",
    "the judge's own work in its cells",
    "the learner's programs: sent, run, asked, ended",
    "papermill, after the last cell",
    "results and report read",
    "verdict stored",
)
_CHECKS = 20
_QUIET_SECONDS = 0.5
_WARM_SECONDS = 120.0
# Into the lab's first cell, and after its last.
_STOP_WATCH = """
import time
from checker.sandbox.base import Sandbox
from checker.spec import Specification

def timed(function, counts):
    def called(*args):
        started = time.perf_counter()
        try:
            return function(*args)
        finally:
            waited[0] += time.perf_counter() - started
            waited[1] += counts
    return called

waited = [0.0, 0]
Sandbox.send, Sandbox.receive = timed(Sandbox.send, 1), timed(Sandbox.receive, 0)
Specification._drop_sandbox = timed(Specification._drop_sandbox, 0)
"""
_WAITED = "\nfrom checker.spec import end\nend()\nprint(*waited)\n"


@dataclass(frozen=True)
class Breakdown:
    """Median seconds of each of STAGES, of the whole check, and of starting the judge that replaces the used one.

    ``cells`` are those that the kernel ran in one check, ``requests`` those that the sandbox got.
    """

    stages: tuple[float, ...]
    whole: float
    refill: float
    cells: int
    requests: int


class Dissection:
    """Checks in one kind of sandbox, taken apart: a few at a time, in turns with what they are compared with.

    A context manager: its judges wait warm from its beginning to its end.
    """

    def __init__(self, sandbox: str) -> None:
        self._sandbox = sandbox
        self._stack = ExitStack()
        self._watch = _Watch()
        self._found: list[_Check] = []

    def __enter__(self) -> Dissection:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gradlab-breakdown-")))
            self._notebook = _course(folder)
            with _watched(self._watch):
                self._host = stack.enter_context(hosting(settings_for(self._sandbox, folder)))
                self._watch.settle(0)
                _taken_apart(self._host, self._notebook, self._watch)  # the warm-up
            self._watch.starts.clear()  # those that filled the pool had the cores for themselves, or fought for them
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def check(self, times: int) -> None:
        """Take apart so many checks, each begun with a full pool. Failed if one has not full marks."""
        with _watched(self._watch):
            self._found += [_taken_apart(self._host, self._notebook, self._watch) for _ in range(times)]

    @property
    def breakdown(self) -> Breakdown:
        """Of all checks so far, of which there must be one."""
        return Breakdown(
            stages=tuple(median(seconds) for seconds in zip(*(check.stages for check in self._found), strict=True)),
            whole=median(sum(check.stages) for check in self._found),
            refill=median(self._watch.starts),
            cells=self._found[0].cells,
            requests=self._found[0].requests,
        )


def stages(marks: Mapping[str, float], cells: Sequence[tuple[float, float]], waited: float) -> tuple[float, ...]:
    """Seconds of each of STAGES.

    ``marks`` has when the check came to ``accept``, ``judge``, ``papermill``, ``papermill done``, ``judge done`` and
    ``stored``; ``cells`` has when the kernel began and ended each cell; ``waited`` is how long it waited for the
    sandbox.
    """
    busy = sum(ended - began for began, ended in cells)
    first, last = cells[0][0], cells[-1][1]
    return (
        marks["judge"] - marks["accept"],
        marks["papermill"] - marks["judge"],
        first - marks["papermill"],
        last - first - busy,
        busy - waited,
        waited,
        marks["papermill done"] - last,
        marks["judge done"] - marks["papermill done"],
        marks["stored"] - marks["judge done"],
    )


def rows(found: Breakdown) -> list[tuple[str, str]]:
    """Each stage, the whole, and what goes on beside it, with its milliseconds."""
    notes = {STAGES[3]: f" ({found.cells} cells)", STAGES[5]: f" ({found.requests} requests)"}
    named = [(f"{name}{notes.get(name, '')}", seconds) for name, seconds in zip(STAGES, found.stages, strict=True)]
    named += [("the whole check", found.whole), ("beside it: a new judge is started", found.refill)]
    return [(name, f"{seconds * 1000:.1f}") for name, seconds in named]


# -- one check ---------------------------------------------------------------------------------------------------------


class _Watch:
    """When functions began and ended (seconds since the epoch, as the kernel's messages have it), what they returned,
    and how long judges took to start."""

    def __init__(self) -> None:
        self.marks: dict[str, float] = {}
        self.returned: dict[str, Any] = {}
        self.starts: list[float] = []
        self._starting = 0
        self._changed = time.monotonic()

    def around(self, function: Callable[..., Any], begins: str, ends: str) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.marks[begins] = time.time()
            returned = function(*args, **kwargs)
            self.marks[ends] = time.time()
            self.returned[begins] = returned
            return returned

        return watched

    def around_start(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any) -> Any:
            began = self._changed = time.monotonic()
            self._starting += 1
            try:
                return function(*args)
            finally:
                self._starting -= 1
                self._changed = time.monotonic()
                self.starts.append(self._changed - began)

        return watched

    def settle(self, before: int) -> None:
        """Wait until more judges have started than there were ``before``, and none is being started any more."""
        deadline = time.monotonic() + _WARM_SECONDS
        self._changed = time.monotonic()
        while len(self.starts) <= before or self._starting or time.monotonic() - self._changed < _QUIET_SECONDS:
            if time.monotonic() > deadline:
                raise Failed(f"The pool of judges is not full {_WARM_SECONDS:g} s after a check.")
            time.sleep(0.05)


@contextmanager
def _watched(watch: _Watch) -> Iterator[None]:
    """Only while its own checks run: all judges are of this process, and others take their turns here, too."""
    execute = watch.around(papermill.execute_notebook, "papermill", "papermill done")
    with (
        patch.object(papermill, "execute_notebook", execute),
        patch.object(Judge, "check", watch.around(Judge.check, "judge", "judge done")),
        patch.object(Host, "check", watch.around(Host.check, "accept", "stored")),
        patch.object(KernelPool, "_start", watch.around_start(KernelPool._start)),
    ):
        yield


@dataclass(frozen=True)
class _Check:
    stages: tuple[float, ...]
    cells: int
    requests: int


def _taken_apart(host: Host, notebook: bytes, watch: _Watch) -> _Check:
    before = len(watch.starts)
    host.check([notebook])
    watch.settle(before)
    verdict = watch.returned["judge"]
    if not all(result.outcome is Outcome.PASSED for result in verdict.results):
        raise Failed(f"A check that was to be taken apart has not full marks: {verdict.results}")
    cells = json.loads(verdict.report)["cells"]
    ran = [times for cell in cells if (times := cell["metadata"].get("execution"))]
    waited, requests = "".join(cells[-1]["outputs"][0]["text"]).split()
    return _Check(stages(watch.marks, [_busy(times) for times in ran], float(waited)), len(ran), int(requests))


def _busy(times: Mapping[str, str]) -> tuple[float, float]:
    began, ended = (datetime.fromisoformat(times[f"iopub.status.{state}"]).timestamp() for state in ("busy", "idle"))
    return began, ended


def _course(folder: Path) -> bytes:
    """The lab of the benchmark with a stop watch in its checks; the notebook with the right answers."""
    lab = formats.exercises()
    _, checks = formats.write_course(folder, lab)
    page = checks / formats.STEM / "checks.py"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("check, student, draw", f"{_STOP_WATCH}\ncheck, student, draw") + _WAITED)
    text = nbformat.writes(formats.learner(lab, formats.answers(lab)))
    return str(text).encode()


def main() -> None:
    sandbox = sys.argv[1] if len(sys.argv) > 1 else detect()
    table = Table("stage", "ms", title=f"Where the time of a check goes: {sandbox}")
    table.columns[1].justify = "right"
    with Dissection(sandbox) as dissection:
        dissection.check(_CHECKS)
    for row in rows(dissection.breakdown):
        table.add_row(*row)
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
