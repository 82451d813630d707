"""Speed as a multiple of a reference's, against a real sandbox."""

from __future__ import annotations

import threading

import pytest
import torch

from checker.answer import Failure, ProgramEnded
from checker.draw import Draw
from checker.timing import Busy, Pace, at_most
from tests.unit.remote.conftest import Load

SOURCE = """
def fast(x):
    return x @ x

def loops(x):
    return torch.stack([torch.stack([row @ column for column in x.mT]) for row in x])

cache = []
def cached(x):
    if not cache:
        cache.append(x @ x)
    return cache[0]

def deceived(x):
    import time
    time.perf_counter = time.monotonic = time.time = lambda: 0.0
    return loops(x)

def sleeps(x):
    import time
    time.sleep(5)
"""
# The reference should take longer than what the machine does beside it.
SIZE = 512


def reference(x: torch.Tensor) -> torch.Tensor:
    return x @ x


def measure(load: Load, draw: Draw, name: str, seconds: float = 60, **more: float) -> Pace:
    function = getattr(load(SOURCE, seconds=seconds), name)
    inputs = lambda: (draw.tensor(SIZE, SIZE),)  # noqa: E731
    return at_most(function, slower_than=reference, inputs=inputs, rtol=1e-3, atol=1e-3, **{"times": 5, **more})


def test_what_is_as_fast_passes(load: Load, draw: Draw) -> None:
    pace = measure(load, draw, "fast", times=20)
    assert 0 < pace.processor <= pace.reference * 1.1
    assert pace.mine > 0


@pytest.mark.parametrize("name", ["loops", "deceived"])
def test_what_is_too_slow_in_every_round_is_told_by_how_much(load: Load, draw: Draw, name: str) -> None:
    with pytest.raises(
        Failure, match=rf"^{name} takes [\d.]+ m?s where a plain solution takes [\d.]+ ms: [\de+]+ times"
    ):
        measure(load, draw, name, rounds=2)


def test_an_answer_from_before_is_wrong_in_the_next_run(load: Load, draw: Draw) -> None:
    with pytest.raises(Failure, match=r"^cached\(<tensor \(512, 512\) float32>\) returned a tensor that differs"):
        measure(load, draw, "cached")


def test_the_time_limit_holds_while_time_is_measured(load: Load, draw: Draw) -> None:
    with pytest.raises(ProgramEnded, match="did not finish within 1 s"):
        measure(load, draw, "sleeps", seconds=1)


def test_a_reference_kept_from_the_processor_decides_nothing(load: Load, draw: Draw) -> None:
    """Learner threads that slow the reference down gain no point: the check is repeated."""
    never = threading.Event()

    def kept_waiting(x: torch.Tensor) -> torch.Tensor:
        never.wait(0.3)  # time in which this thread does not get the processor
        return x + 1

    function = load("import time\ndef waits(x):\n    time.sleep(0.2)\n    return x + 1").waits
    with pytest.raises(Busy, match=r"^The machine was too busy to measure how fast the code is\.$"):
        at_most(function, times=2, slower_than=kept_waiting, inputs=lambda: (draw.tensor(8),), rounds=1)


def test_the_number_of_threads_is_what_it_was(load: Load, draw: Draw) -> None:
    before = torch.get_num_threads()
    measure(load, draw, "fast", times=20)
    assert torch.get_num_threads() == before
