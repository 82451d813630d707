"""The benchmark measures no failure: marks are looked at, and what is missing is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.environments import BenchError, _uv
from bench.formats import exercises
from bench.kernels import LAB_KERNELS, no_kernel
from bench.measure import Failed, Memory, Sample
from bench.tools import Floor, Tool, Warm
from bench.tools.ours import _verdict_marks
from bench.tools.peers import AT_ONCE, _each


class Marking(Tool):
    """A tool that gives the marks it is told to give."""

    key, title, definition = "marking", "a tool", "how"

    def __init__(self, marks: dict[str, float]) -> None:
        self.marks = marks

    def _judge(self, names: list[str], *, memory: bool = False) -> tuple[Sample, Memory | None]:
        self._expect(self.marks, names)
        return Sample(1.0, 1.0), None


def test_full_marks_are_a_measurement_and_anything_else_is_not() -> None:
    assert Marking({"right": 4.0}).one() == Sample(1.0, 1.0)
    assert Marking({f"right-{number}": 4.0 for number in range(10)}).many() == Sample(1.0, 1.0)
    Marking({"wrong": 3.0}).wrong()
    for marks in ({"right": 3.0}, {"right": 0.0}, {}):
        with pytest.raises(
            Failed, match=r"a tool gave .*, not \{'right': 4.0\}: its times would be those of a failure"
        ):
            Marking(marks).one()
    with pytest.raises(Failed, match=r"not \{'right-0': 4.0"):
        Marking({f"right-{number}": 4.0 for number in range(9)}).many()


@pytest.mark.parametrize("marks", [4.0, 0.0])
def test_a_wrong_notebook_with_full_marks_or_none_is_found(marks: float) -> None:
    with pytest.raises(Failed, match=r"not \{'wrong': 3.0\}"):
        Marking({"wrong": marks}).wrong()


def verdict(*outcomes: str) -> dict[str, Any]:
    results = [{"exercise": "softmax", "outcome": outcome, "message": "no sandbox"} for outcome in outcomes]
    return {"results": results, "points": outcomes.count("passed")}


def test_our_own_fault_is_no_verdict() -> None:
    assert _verdict_marks(verdict("passed", "failed", "passed"), "it") == 2.0
    with pytest.raises(Failed, match="it could not judge softmax: no sandbox"):
        _verdict_marks(verdict("passed", "our fault"), "it")
    with pytest.raises(Failed, match="it stored no verdict"):
        _verdict_marks(None, "it")


def test_a_command_for_one_and_for_several() -> None:
    assert _each(["right"], "judge {}.ipynb -o {}") == "judge right.ipynb -o right"
    assert _each(["a", "b"], "judge {}.ipynb") == f"printf '%s\\n' a b | xargs -P {AT_ONCE} -I{{}} judge {{}}.ipynb"


def test_the_floor_runs_the_tests(tmp_path: Path) -> None:
    floor = Floor(tmp_path / "floor")
    try:
        sample = floor.one()
        assert 0 < sample.cpu < 5
        assert 0 < sample.wall < 5
        assert floor.memory().private > 1
        floor.wrong()
    finally:
        floor.close()


def test_a_sandbox_that_the_server_does_not_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="the server has no setting GRADLAB_CHECK_SANDBOX=chroot"):
        Warm(tmp_path / "warm", exercises(), "chroot")


def test_a_kernel_that_is_not_there_is_named() -> None:
    assert no_kernel("python3", LAB_KERNELS) == ""
    assert no_kernel("no-such-kernel", LAB_KERNELS) == "there is no kernel spec 'no-such-kernel' in kernels"
    assert no_kernel("no-such-kernel", None) == "there is no kernel spec 'no-such-kernel' in the Jupyter folders"


def test_an_installation_that_fails_says_the_remedy(tmp_path: Path) -> None:
    missing = str(tmp_path / "requirements.txt")
    with pytest.raises(
        BenchError, match=r"uv pip install failed:\n(.|\n)*requirements.txt(.|\n)*set PIP_INDEX_URL to one"
    ):
        _uv("pip", "install", "--offline", "--requirement", missing)
