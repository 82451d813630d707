"""What the measurements amount to: the table, the targets, and ``docs/benchmarks.md``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.measure import Memory, Sample, median, quantile

__all__ = [
    "Kernels",
    "Machine",
    "Row",
    "Target",
    "cells",
    "grid",
    "markdown",
    "plain",
    "publish",
    "table",
    "targets",
    "targets_table",
]

# From how many measurements on a 95th percentile says anything.
MOST_OF = 20
OURS = "process"
NOTHING = "-"


@dataclass
class Row:
    """One tool's measurements. ``reason`` says why there are none, ``no_many`` why none of ten submissions."""

    key: str
    title: str
    definition: str
    submissions: int
    ones: list[Sample] = field(default_factory=list)
    manys: list[Sample] = field(default_factory=list)
    memory: Memory | None = None
    reason: str = ""
    no_many: str = ""

    @property
    def one(self) -> float | None:
        """Median seconds for one submission."""
        return median(sample.wall for sample in self.ones) if self.ones else None

    @property
    def each(self) -> float | None:
        """Median seconds for ten submissions, divided by ten."""
        return median(sample.wall for sample in self.manys) / self.submissions if self.manys else None

    @property
    def one_cpu(self) -> float | None:
        return median(sample.cpu for sample in self.ones) if self.ones else None

    @property
    def each_cpu(self) -> float | None:
        return median(sample.cpu for sample in self.manys) / self.submissions if self.manys else None

    @property
    def most(self) -> float | None:
        """95th percentile of the seconds for one submission, if there are enough of them."""
        return quantile((sample.wall for sample in self.ones), 0.95) if len(self.ones) >= MOST_OF else None


@dataclass
class Kernels:
    """Seconds until a fresh kernel can use torch: a plain one and the lab's, in turns; ``reason`` if there is none."""

    plain: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    reason: str = ""


@dataclass(frozen=True)
class Machine:
    """What the numbers hold for."""

    date: str
    cores: int
    processor: str
    memory_gib: float
    versions: Mapping[str, str]
    command: str


@dataclass(frozen=True)
class Target:
    """A bound on a number; ``at_least`` turns it round. ``reason`` says why the number is not there."""

    name: str
    value: float | None
    bound: float
    unit: str
    at_least: bool = False
    reason: str = ""

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def words(self) -> tuple[str, str, str]:
        """The bound, the number, and whether it is reached."""
        bound = f"{'≥' if self.at_least else '≤'} {plain(self.bound)}{self.unit}"
        verdict = {True: "reached", False: "MISSED", None: f"not measured: {self.reason}"}[self.met]
        return bound, NOTHING if self.value is None else f"{plain(self.value)}{self.unit}", verdict


def targets(rows: Mapping[str, Row], kernels: Kernels) -> tuple[Target, ...]:
    """All targets, the missed ones too."""
    ours, docker, nbgrader, otter = rows[OURS], rows["docker"], rows["nbgrader"], rows["otter"]
    floor = rows["floor"].one
    few = f"it takes {MOST_OF} checks"
    private = ours.memory.private if ours.memory else None
    usual, lab = (median(seconds) if seconds else None for seconds in (kernels.plain, kernels.ours))
    return (
        Target("warm, process sandbox: median", ours.one, 0.20, " s", reason=ours.reason),
        Target("warm, process sandbox: 95th percentile", ours.most, 0.5, " s", reason=ours.reason or few),
        # 0.20 s and 0.35 s were set beside a floor of 18 ms.
        Target("warm, process sandbox: in floors", _ratio(ours.one, floor), 11, " x", reason=ours.reason),
        Target("warm, Docker sandbox: in floors", _ratio(docker.one, floor), 19, " x", reason=docker.reason),
        Target("faster than nbgrader", _ratio(nbgrader.one, ours.one), 30, " x", True, nbgrader.reason or ours.reason),
        Target("warm, Docker sandbox: median", docker.one, 0.35, " s", reason=docker.reason),
        Target("warm, Docker sandbox: 95th percentile", docker.most, 0.8, " s", reason=docker.reason or few),
        Target("ten submissions, each", ours.each, 0.2, " s", reason=ours.reason),
        Target("ten: throughput of nbgrader", _ratio(nbgrader.each, ours.each), 15, " x", True, nbgrader.reason),
        Target("ten: throughput of otter-grader", _ratio(otter.each, ours.each), 20, " x", True, otter.reason),
        Target("private memory of one check", private, 60, " MiB", reason=ours.reason),
        Target("kernel with torch ready", lab, 0.25, " s", reason=kernels.reason),
        Target("faster than a plain kernel", _ratio(usual, lab), 5, " x", True, kernels.reason),
    )


HEADINGS = ("", "one: s", "to ours", "CPU s", "peak MiB", "ten: s each", "to ours", "CPU s each")


def cells(row: Row, ours: Row) -> tuple[str, ...]:
    """One row of the table as text; ratios say how many times as long as ours it took."""
    if row.reason:
        # Why is said once, with the targets or the definitions: it may be long.
        return (row.title, "not measured", *[""] * (len(HEADINGS) - 2))
    peak = None if row.memory is None else row.memory.peak
    numbers = (row.one, _ratio(row.one, ours.one), row.one_cpu, peak)
    many = (row.each, _ratio(row.each, ours.each), row.each_cpu)
    return (row.title, *(plain(number) for number in numbers), *(plain(number) for number in many))


def table(rows: Sequence[Row]) -> Table:
    ours = next(row for row in rows if row.key == OURS)
    made = Table(title="A check of the four-exercise lab: wall-clock seconds, median")
    for heading in HEADINGS:
        made.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in rows:
        made.add_row(*cells(row, ours), style="bold" if row is ours else None)
    return made


def publish(found: Sequence[Target], console: Console, page: Path, text: Callable[[], str] | None) -> int:
    """Print the targets and write the page, unless there is no ``text`` for it; the exit status: 1 if one is missed."""
    console.print(targets_table(found))
    if text is None:
        console.print(f"So few repetitions tell little: docs/{page.name} is left as it is.")
    else:
        page.write_text(text(), encoding="utf-8")
        console.print(f"Written to docs/{page.name}.")
    missed = [target.name for target in found if target.met is False]
    if missed:
        console.print(f"Missed: {'; '.join(missed)}.")
    return 1 if missed else 0


def targets_table(found: Sequence[Target]) -> Table:
    made = Table("target", "bound", "measured", "", title="Targets")
    for target in found:
        colour = {True: "green", False: "red", None: "yellow"}[target.met]
        made.add_row(target.name, *target.words, style=colour)
    return made


def markdown(
    rows: Sequence[Row], kernels: Kernels, machine: Machine, breakdowns: Mapping[str, Sequence[tuple[str, str]]]
) -> str:
    """The page: the numbers, what they were measured on, and how each is defined.

    ``breakdowns`` has the lines of :func:`bench.breakdown.rows` by the row's key.
    """
    by_key = {row.key: row for row in rows}
    ours = by_key[OURS]
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    wall = [list(cells(row, ours)) for row in rows]
    spread = [_spread(row) for row in rows if row.key in (OURS, "docker") and row.ones]
    met = [(target.name, *target.words) for target in targets(by_key, kernels)]
    parts = [
        "# Benchmarks",
        f"Written by `{machine.command}` on {machine.date}; edits are lost. One run, all tools in turns, on "
        f"{machine.cores} cores ({machine.processor}), {machine.memory_gib:.0f} GiB of memory. {versions}.",
        "## The same lab in every tool",
        "Softmax from scratch, the output size of a convolution, one gradient step by hand, the parameters of an LSTM: "
        "four exercises with two tests each. `bench/labs` holds questions, answers and tests once; `bench/formats.py` "
        "puts them into the tools' own formats.",
        grid(HEADINGS, wall),
        "## Gradlab, warm, in detail",
        grid(("", "checks", "median s", "95th percentile s", "longest s", "private MiB"), spread),
        *_broken_down(rows, breakdowns),
        "## Kernel in the lab with torch ready",
        _kernels(kernels),
        "## Targets",
        grid(("", "bound", "measured", ""), met),
        "## What is measured",
        _definitions(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _broken_down(rows: Sequence[Row], breakdowns: Mapping[str, Sequence[tuple[str, str]]]) -> list[str]:
    """The stages of a check, side by side for each sandbox, above the floor."""
    if not breakdowns:
        return []
    floor = next(row for row in rows if row.key == "floor").one
    titles = [row.title for row in rows if row.key in breakdowns]
    columns = [breakdowns[row.key] for row in rows if row.key in breakdowns]
    lines = [(line[0][0], *(number for _, number in line)) for line in zip(*columns, strict=True)]
    return [
        "## Where the time of a warm check goes",
        "Milliseconds, medians; the stages follow one another. The floor, which runs the same answers and tests and "
        f"nothing else, takes {plain(floor and floor * 1000)} ms.",
        grid(("", *titles), lines),
    ]


def _spread(row: Row) -> tuple[str, ...]:
    longest = max(sample.wall for sample in row.ones)
    private = None if row.memory is None else row.memory.private
    return (row.title, str(len(row.ones)), *(plain(number) for number in (row.one, row.most, longest, private)))


def _kernels(kernels: Kernels) -> str:
    if not kernels.ours:
        return f"Not measured: {kernels.reason}."
    usual, ours = median(kernels.plain), median(kernels.ours)
    return grid(
        ("", "median s", "to ours"),
        [("plain ipykernel", plain(usual), plain(usual / ours)), ("the lab's kernel", plain(ours), plain(1.0))],
    )


def _definitions(rows: Sequence[Row]) -> str:
    first, most = min(len(row.ones) for row in rows if row.ones), max(len(row.ones) for row in rows if row.ones)
    many = min((len(row.manys) for row in rows if row.manys), default=0)
    lines = [
        f"- **Wall-clock seconds** are medians of {first} measurements ({most} for what is quick) and of {many} for "
        "ten submissions, after a warm-up that does not count. The tools take turns, round by round.",
        "- **To ours** is a row's seconds divided by those of Gradlab, warm, with the process sandbox.",
        "- **CPU seconds** are user and system time of all processes of the tool. For Gradlab, warm, the refilling of "
        "the pool after the check is in them; with Docker they are those of the whole machine, since containers belong "
        "to the Docker daemon.",
        "- **Peak memory** is the most PSS (shared pages divided by how many share them) at one time of all processes "
        "of the tool, for one submission, sampled in a run of its own. For Gradlab, warm, that is the server and its "
        "pool.",
        "- **Private memory** is what the processes of one check (kernel and sandbox) have for themselves, beside what "
        "they share with processes that stay: each process counts with the most USS it has had.",
        "- **In floors**: the median divided by that of the floor in the same run. It does not depend on how fast the "
        "machine is at that hour; seconds do.",
        "- **95th percentile**: the smallest time that 95 % of the checks do not exceed.",
        "- **Kernel with torch ready**: from the request to start a kernel to its answer to "
        "`import torch; torch.zeros(1)`.",
        "- Every measured verdict is looked at: full marks, or the run ends. A notebook with one wrong exercise is "
        "judged once by each tool and must get the marks of the other three.",
        "- nbgrader and otter-grader have environments of their own with pinned versions; all tools load the same "
        "torch.",
        *(f"- **{row.title}**: {row.definition}{_left_out(row)}." for row in rows),
    ]
    return "\n".join(lines)


def _left_out(row: Row) -> str:
    return f". Ten are not measured: {row.no_many}" if row.no_many else ""


def grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *rows))


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def plain(number: float | None) -> str:
    """Three digits that count, never an exponent; whole numbers from 100 on."""
    if number is None or math.isnan(number):
        return NOTHING
    if number >= 99.95:
        return f"{number:.0f}"
    digits = 1 if number >= 9.995 else 2 if number >= 0.9995 else 3
    return f"{number:.{digits}f}"
