"""The stages of a check follow one another, and together they are the check."""

from __future__ import annotations

import pytest

from bench.breakdown import STAGES, Dissection, rows, stages
from checker.sandbox.confinement import detect

MARKS = {
    "accept": 10.0, "judge": 10.5, "papermill": 11.5, "papermill done": 20.0, "judge done": 20.25, "stored": 21.0
}  # fmt: skip


def test_every_moment_belongs_to_one_stage() -> None:
    cells = [(12.0, 14.0), (15.0, 19.0)]
    found = dict(zip(STAGES, stages(MARKS, cells, waited=1.75), strict=True))
    assert found == {
        "handed in: stored, and taken up by a thread": 0.5,
        "the exercises' programs extracted, a judge taken": 1.0,
        "papermill, before the first cell": 0.5,
        "messages between papermill and the kernel": 1.0,
        "the judge's own work in its cells": 4.25,
        "the learner's programs: sent, run, asked, ended": 1.75,
        "papermill, after the last cell": 1.0,
        "results and report read": 0.25,
        "verdict stored": 0.75,
    }
    assert sum(found.values()) == MARKS["stored"] - MARKS["accept"]


def test_a_real_check_is_taken_apart() -> None:
    with Dissection(detect()) as dissection:
        dissection.check(1)
        dissection.check(1)
    found = dissection.breakdown
    assert all(seconds > 0 for seconds in found.stages)
    assert found.whole == pytest.approx(sum(found.stages))
    assert found.refill > 0
    # A cell for each exercise and the job's parameters; each program is started, and asked at least once a test.
    assert found.cells == 5
    assert found.requests > 4 + 8
    text = dict(rows(found))
    assert text["the whole check"] == f"{found.whole * 1000:.1f}"
    assert "messages between papermill and the kernel (5 cells)" in text
