"""The benchmark's table, targets and page."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bench.measure import Memory, Sample
from bench.report import Kernels, Machine, Row, Target, cells, markdown, publish, table, targets, targets_table

MACHINE = Machine("2026-01-31", 2, "Some Processor", 23.4, {"Python": "3.11.7", "nbgrader": "0.9.5"}, "make bench")


def row(key: str, one: float, many: float, *, checks: int = 5, private: float = 40.0) -> Row:
    """A tool with the same time in all checks; two tens."""
    made = Row(key, f"tool {key}", f"how {key} is run", 10, memory=Memory(200.0, private))
    made.ones = [Sample(one, one / 2)] * checks
    made.manys = [Sample(many, many / 4)] * 2
    return made


def measured() -> dict[str, Row]:
    rows = [
        row("nbgrader", 6.0, 30.0),
        row("otter", 5.0, 40.0),
        row("papermill", 4.0, 30.0),
        row("process", 0.15, 1.5, checks=20),
        Row("docker", "tool docker", "how", 10, reason="there is no Docker here"),
        row("floor", 0.0185, 1.0),
    ]
    return {row.key: row for row in rows}


KERNELS = Kernels([1.5, 1.4, 1.6], [0.2, 0.1, 0.3])


def by_name(rows: dict[str, Row], kernels: Kernels = KERNELS) -> dict[str, bool | None]:
    return {target.name: target.met for target in targets(rows, kernels)}


def test_medians_and_what_ten_cost_each() -> None:
    found = row("x", 2.0, 30.0)
    found.ones = [Sample(wall, 1.0) for wall in (9.0, 1.0, 2.0)]
    assert (found.one, found.each, found.one_cpu, found.each_cpu) == (2.0, 3.0, 1.0, 0.75)
    empty = Row("x", "x", "x", 10)
    assert (empty.one, empty.each, empty.one_cpu, empty.each_cpu, empty.most) == (None,) * 5


def test_a_percentile_takes_twenty_checks() -> None:
    found = row("x", 1.0, 1.0, checks=19)
    assert found.most is None
    found.ones.append(Sample(5.0, 1.0))
    assert found.most == 1.0
    found.ones.append(Sample(5.0, 1.0))
    assert found.most == 5.0


def test_a_row_has_ratios_to_ours() -> None:
    rows = measured()
    assert cells(rows["nbgrader"], rows["process"]) == (
        "tool nbgrader", "6.00", "40.0", "3.00", "200", "3.00", "20.0", "0.750",
    )  # fmt: skip
    assert cells(rows["process"], rows["process"])[2] == "1.00"
    assert cells(rows["docker"], rows["process"])[:2] == ("tool docker", "not measured")


def test_all_targets_are_reached_or_say_why_not() -> None:
    met = by_name(measured())
    assert [name for name, reached in met.items() if reached is None] == [
        "warm, Docker sandbox: in floors",
        "warm, Docker sandbox: median",
        "warm, Docker sandbox: 95th percentile",
    ]
    assert all(reached is not False for reached in met.values())


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("warm, process sandbox: median", {"process": row("process", 0.21, 1.5, checks=20)}),
        ("warm, process sandbox: in floors", {"floor": row("floor", 0.013, 1.0)}),
        ("faster than nbgrader", {"nbgrader": row("nbgrader", 4.4, 40.0)}),
        ("warm, Docker sandbox: median", {"docker": row("docker", 0.36, 3.0)}),
        ("warm, Docker sandbox: 95th percentile", {"docker": row("docker", 0.81, 3.0, checks=20)}),
        ("ten submissions, each", {"process": row("process", 0.15, 2.1, checks=20)}),
        ("ten: throughput of nbgrader", {"nbgrader": row("nbgrader", 6.0, 22.0)}),
        ("ten: throughput of otter-grader", {"otter": row("otter", 6.0, 29.0)}),
        ("private memory of one check", {"process": row("process", 0.15, 1.5, private=61.0)}),
    ],
)
def test_a_missed_target_is_named(name: str, changed: dict[str, Row]) -> None:
    assert by_name(measured())[name] is not False
    assert by_name(measured() | changed)[name] is False


def test_a_slow_tail_is_missed_though_the_median_is_not() -> None:
    rows = measured()
    rows["process"].ones[:2] = [Sample(0.6, 0.1)] * 2
    met = by_name(rows)
    assert met["warm, process sandbox: median"]
    assert met["warm, process sandbox: 95th percentile"] is False


def test_kernels_have_targets_too() -> None:
    slow = by_name(measured(), Kernels([1.5], [0.4]))
    assert (slow["kernel with torch ready"], slow["faster than a plain kernel"]) == (False, False)
    none = targets(measured(), Kernels(reason="there is no kernel spec"))
    assert [target.words[2] for target in none if "kernel" in target.name] == [
        "not measured: there is no kernel spec"
    ] * 2


def test_what_is_printed_names_the_miss() -> None:
    rows = measured() | {"nbgrader": row("nbgrader", 3.0, 30.0)}
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table(list(rows.values())))
    console.print(targets_table(targets(rows, KERNELS)))
    text = console.export_text()
    missed = next(line for line in text.splitlines() if "faster than nbgrader" in line)
    assert "≥ 30.0 x" in missed
    assert "20.0 x" in missed
    assert "MISSED" in missed
    assert "not measured: there is no Docker here" in text


def test_the_page_says_what_was_measured_on_what_and_how() -> None:
    rows = list(measured().values())
    rows[2] = replace(rows[2], manys=[], no_many="nobody wants to")
    page = markdown(rows, KERNELS, MACHINE, {})
    assert "Written by `make bench` on 2026-01-31" in page
    assert "2 cores (Some Processor), 23 GiB of memory. Python 3.11.7, nbgrader 0.9.5." in page
    assert "| tool nbgrader | 6.00 | 40.0 | 3.00 | 200 | 3.00 | 20.0 | 0.750 |" in page
    assert "| tool process | 20 | 0.150 | 0.150 | 0.150 | 40.0 |" in page
    assert "| plain ipykernel | 1.50 | 7.50 |" in page
    assert "| private memory of one check | ≤ 60.0 MiB | 40.0 MiB | reached |" in page
    assert "- **tool papermill**: how papermill is run. Ten are not measured: nobody wants to." in page
    widths = {line.count("|") for line in page.splitlines() if line.startswith("| tool")}
    assert widths == {9, 7}


def test_a_page_without_kernels_says_why() -> None:
    assert "Not measured: there is no kernel spec." in markdown(
        list(measured().values()), Kernels(reason="there is no kernel spec"), MACHINE, {}
    )


def test_the_page_takes_our_checks_apart_above_the_floor() -> None:
    rows = list(measured().values())
    page = markdown(rows, KERNELS, MACHINE, {"process": [("first", "1.5"), ("second", "2.5")]})
    assert "takes 18.5 ms" in page
    assert "|  | tool process |" in page
    assert "| second | 2.5 |" in page


def test_a_page_is_written_unless_the_run_was_quick_and_what_is_missed_is_named(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    met, missed = Target("as fast", 1.0, 1.0, "s"), Target("half the memory", 2.0, 1.0, "MiB")
    said = io.StringIO()
    console = Console(file=said, width=140)
    assert publish([met, missed], console, page, None) == 1
    assert not page.exists()
    assert "docs/benchmarks.md is left as it is." in said.getvalue()
    assert said.getvalue().splitlines()[-1] == "Missed: half the memory."
    assert publish([met], console, page, lambda: "the page") == 0
    assert page.read_text() == "the page"
    assert said.getvalue().splitlines()[-1] == "Written to docs/benchmarks.md."
