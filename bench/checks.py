"""How long a check takes: Gradlab beside nbgrader, otter-grader and plain papermill. ``make bench`` runs it.

``python -m bench.checks`` measures everything in one run, prints the table and writes ``docs/benchmarks.md``. The exit
status is 1 if a target is missed, which is then named.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from bench import tools
from bench.breakdown import Dissection
from bench.breakdown import rows as stages
from bench.environments import BenchError, ensure, version_in
from bench.formats import exercises
from bench.kernels import LAB_KERNELS, jupyter_server, kernel_ready, no_kernel
from bench.machine import this_machine
from bench.measure import Failed
from bench.report import Kernels, Machine, Row, markdown, publish, table, targets
from bench.tools import MANY, Tool
from checker.sandbox.confinement import detect

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
# Ten submissions are ten checks already; more rounds of them would take the whole run past ten minutes.
ROUNDS, MANY_ROUNDS = 5, 3
TAKEN_APART = 4  # of each of our sandboxes in each round
PLAIN_KERNEL = LAB_KERNEL = "python3"

Say = Callable[[str], None]
# The lines of its table, by the key of the row.
Breakdowns = dict[str, list[tuple[str, str]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status."""
    options = _parser().parse_args(arguments)
    rounds, many_rounds = (2, 1) if options.quick else (ROUNDS, MANY_ROUNDS)
    # Into a file the tables go as wide as they are.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", file=sys.stderr, flush=True)

    try:
        rows, kernels, breakdowns = _measured(rounds, many_rounds, say)
    except (BenchError, Failed) as error:
        print(f"The benchmark ended: {error}", file=sys.stderr)
        return 1
    found = targets({row.key: row for row in rows}, kernels)
    console.print(table(rows))
    text = None if options.quick else lambda: markdown(rows, kernels, _machine(), breakdowns)
    return publish(found, console, PAGE, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two repetitions (one of ten submissions) and no page")
    return parser


def _measured(rounds: int, many_rounds: int, say: Say) -> tuple[list[Row], Kernels, Breakdowns]:
    say("the peers' environments (made at the first run, a minute or two)")
    for name in ("nbgrader", "otter"):
        ensure(name)
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="gradlab-bench-", ignore_cleanup_errors=True))
        )
        rows, used = _tools(folder, stack, say)
        for tool in used:
            say(f"{tool.title}: the wrong notebook; memory")
            tool.wrong()
            rows[tool.key].memory = tool.memory()  # the warm-up, too: files are in memory now
        ours = {"process": detect(), "docker": "docker"}
        dissections = {tool.key: stack.enter_context(Dissection(ours[tool.key])) for tool in used if tool.key in ours}
        for number in range(rounds):
            say(f"one submission, round {number + 1} of {rounds}")
            for tool in used:
                rows[tool.key].ones += [tool.one() for _ in range(tool.checks)]
                if tool.key in dissections:
                    dissections[tool.key].check(TAKEN_APART)
        for number in range(many_rounds):
            say(f"ten submissions, round {number + 1} of {many_rounds}")
            for tool in used:
                if not tool.no_many:
                    rows[tool.key].manys.append(tool.many())
        breakdowns = {key: stages(dissection.breakdown) for key, dissection in dissections.items()}
    return list(rows.values()), _kernels(rounds, say), breakdowns


def _tools(folder: Path, stack: ExitStack, say: Say) -> tuple[dict[str, Row], list[Tool]]:
    """The rows of the table in order, and the tools that can be used here."""
    lab = exercises()
    makers: list[tuple[str, Callable[[Path], Tool]]] = [
        ("nbgrader", lambda place: tools.Nbgrader(place, lab)),
        ("otter", lambda place: tools.Otter(place, lab)),
        ("papermill", lambda place: tools.Papermill(place, lab)),
        ("cold", lambda place: tools.Cold(place, lab)),
        ("process", lambda place: tools.Warm(place, lab, detect())),
        ("docker", lambda place: tools.Warm(place, lab, "docker")),
        ("floor", tools.Floor),
    ]
    rows: dict[str, Row] = {}
    used: list[Tool] = []
    for key, make in makers:
        say(f"{key}: set up")
        try:
            tool = make(folder / key)
        except Failed as error:
            # The one thing that a machine may lack.
            if key != "docker":
                raise
            reason = str(error).splitlines()[0]
            rows[key] = Row(key, tools.DOCKER_TITLE, f"not measured here: {reason}", MANY, reason=reason)
            continue
        stack.callback(tool.close)
        used.append(tool)
        rows[key] = Row(key, tool.title, tool.definition, MANY, no_many=tool.no_many)
    return rows, used


def _kernels(rounds: int, say: Say) -> Kernels:
    """Both kernels in turns; the first round does not count."""
    found = Kernels(reason=no_kernel(PLAIN_KERNEL, None) or no_kernel(LAB_KERNEL, LAB_KERNELS))
    if found.reason:
        return found
    say("kernels with torch ready")
    with jupyter_server():
        for number in range(rounds + 1):
            plain, ours = kernel_ready(PLAIN_KERNEL), kernel_ready(LAB_KERNEL, LAB_KERNELS)
            if number:
                found.plain.append(plain)
                found.ours.append(ours)
    return found


def _machine() -> Machine:
    peers = {
        name: version_in(ensure(folder), name) for name, folder in (("nbgrader", "nbgrader"), ("otter-grader", "otter"))
    }
    ours = {name: version(name) for name in ("papermill", "ipykernel", "torch", "gradlab")}
    return this_machine({**peers, **ours}, "make bench")


if __name__ == "__main__":
    sys.exit(main())
