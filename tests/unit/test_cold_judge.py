"""A judge that has nothing to be forked from starts cold: later, and with the same verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from checker.engine import Assignment, Judge, JudgeConfig
from checker.sandbox.config import SandboxConfig
from checker.sandbox.confinement import detect
from gradlab.judging import assignment
from tests.courses import write_course

pytestmark = pytest.mark.xdist_group("cold judge")  # both judges are started once

RANK = "def rank_of(x):\n    {}"
RIGHT = RANK.format("print(x.dim()); return x.dim()")
DOUBLE = "def double(x):\n    return 2 * x"

# Each notebook's answers, and what becomes of its two exercises, of which the second builds on the first.
NOTEBOOKS = {
    "right": (RIGHT, DOUBLE, ["passed", "passed"]),
    "wrong": (RIGHT, "def double(x):\n    return x * x", ["passed", "failed"]),
    "raises": (RANK.format("return x.rank()"), DOUBLE, ["error in your code", "skipped"]),
    "times out": (RANK.format("while True: pass"), DOUBLE, ["timed out", "skipped"]),
    "exits": (RIGHT, "import os\ndef double(x):\n    os._exit(7)", ["passed", "killed"]),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Assignment:
    whole = assignment(write_course(tmp_path_factory.mktemp("course")).load().labs[0])
    return replace(whole, tasks=tuple(replace(task, seconds=5.0) for task in whole.tasks))


def answered(lab: Assignment, **answers: str) -> bytes:
    notebook = json.loads(lab.template)
    for cell in notebook["cells"]:
        name = cell["metadata"].get("exercise")
        cell["source"] = answers.get(name, cell["source"])
    return json.dumps(notebook).encode()


@pytest.fixture(scope="module")
def warm() -> Iterator[Judge]:
    with closing(Judge(JudgeConfig(SandboxConfig(method=detect()), pool=1))) as judge:
        judge.warm()
        yield judge
        assert judge._kernels._nursery.judges


@pytest.fixture(scope="module")
def cold() -> Iterator[Judge]:
    def none() -> None:
        raise OSError("nothing to be forked from in this test")

    with closing(Judge(JudgeConfig(SandboxConfig(method=detect()), pool=1))) as judge:
        judge._kernels._nursery._start = none  # type: ignore[method-assign]
        judge.warm()
        yield judge
        assert judge._kernels._nursery.judges == ""


def verdict(judge: Judge, lab: Assignment, notebook: bytes) -> dict[str, Any]:
    """All that the learner gets but the times."""
    data = judge.check(lab, notebook, seed=3).to_dict()
    return data | {"seconds": 0, "results": [result | {"seconds": 0} for result in data["results"]]}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_cold_start_gives_the_same_verdict(name: str, lab: Assignment, warm: Judge, cold: Judge) -> None:
    rank_of, double, outcomes = NOTEBOOKS[name]
    notebook = answered(lab, rank_of=rank_of, double=double)
    found = verdict(warm, lab, notebook)
    assert [result["outcome"] for result in found["results"]] == outcomes
    assert verdict(cold, lab, notebook) == found
