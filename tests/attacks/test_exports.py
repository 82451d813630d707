"""Row 36: the portal exports no table that could carry a learner's formula into a spreadsheet."""

from __future__ import annotations

from pathlib import Path

from tests.courses import write_course
from tests.portals import running_portal


def test_no_route_of_the_portal_answers_with_a_table(tmp_path: Path) -> None:
    values = {"name": "mira", "slug": "tensors", "number": 1}
    kinds = set()
    with running_portal(tmp_path, write_course(tmp_path / "course").load()) as portal, portal.client("grace") as grace:
        for route in portal.app.routes:
            path = route.path.replace(":path", "").format_map(values)  # type: ignore[attr-defined]
            with grace.stream("GET", portal.url + path, headers={"Accept": "text/csv, */*"}) as answer:
                kinds.add(answer.headers.get("Content-Type", "").partition(";")[0])
    assert kinds == {"", "text/html", "application/json", "text/event-stream"}  # "": sent elsewhere
