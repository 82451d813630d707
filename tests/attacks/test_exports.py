"""Row 36: what the portal exports as a table carries no learner's formula into a spreadsheet."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.courses import write_course
from tests.portals import running_portal


def test_no_route_of_the_portal_answers_with_a_table_unless_one_is_asked_for(tmp_path: Path) -> None:
    values = {"name": "mira", "slug": "tensors", "number": 1}
    kinds = {}
    with running_portal(tmp_path, write_course(tmp_path / "course").load()) as portal, portal.client("grace") as grace:
        for route in portal.app.routes:
            path = route.path.replace(":path", "").format_map(values)  # type: ignore[attr-defined]
            with grace.stream("GET", portal.url + path, headers={"Accept": "text/csv, */*"}) as answer:
                kinds[path] = answer.headers.get("Content-Type", "").partition(";")[0]
    metrics = {path: kind for path, kind in kinds.items() if kind == "text/plain"}
    assert list(metrics) == ["/services/portal/metrics"]
    rest = {kind for path, kind in kinds.items() if path not in metrics}
    assert rest == {"", "text/html", "application/json", "text/event-stream"}  # "": sent elsewhere


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")'])
def test_the_table_of_gpu_use_has_no_formula_in_it(tmp_path: Path, name: str) -> None:
    """No login lets such a name in; the table does not rely on that."""
    with running_portal(tmp_path, write_course(tmp_path / "course").load()) as portal, portal.client("grace") as grace:
        row = {"learner": name, "lab": name, "day": "2026-11-22", "held": 1.0, "busy": 0.5, "peak": 7}
        portal.store.keep_gpu_usage("run", [row])
        text = grace.get("api/gpu/usage", params={"format": "csv"}).text
    (found,) = csv.DictReader(io.StringIO(text, newline=""))
    assert (found["learner"], found["lab"], found["held"]) == (f"'{name}", f"'{name}", "1.0")
