"""How long the learner's code takes, as a multiple of what a reference takes at the same time on the same machine.

The clock is here. A run lasts from the first byte of inputs that nobody has seen before to the last byte of the output,
which is compared with the reference's every time. So nothing is gained by caching, by patching clocks, by working in a
thread or in a lazy object, or by doing something else once it is timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from checker.answer import Failure
from checker.remote import Remote
from checker.sandbox.pool import SandboxUnavailable
from labkit.wire import PREFIX, pack, prefix_lengths, unpack

__all__ = ["Busy", "Pace", "at_most"]

_WARM_UP = 1
# What a request costs beyond packing and unpacking: two processes that wait for each other. A generous round number.
_ROUND_TRIP_SECONDS = 1e-3
# Packing and unpacking happen on both sides; pipes and copies cost about as much again.
_WIRE = 4
_BUSY = 1.5


class Busy(SandboxUnavailable):
    """Too much else ran on the machine to tell slow code from a slow machine: our fault, so the check is repeated."""


@dataclass(frozen=True)
class Pace:
    """Seconds of one run, or of several: the learner's (the fastest run), the reference's (the median), the processor
    time that the reference used, and what the wire may have cost.
    """

    mine: float
    reference: float
    processor: float
    wire: float

    @property
    def ratio(self) -> float:
        """The learner's time, without what the wire may have cost, as a multiple of the reference's."""
        return max(0.0, self.mine - self.wire) / self.reference


def at_most(
    function: Remote,
    *,
    times: float,
    slower_than: Callable[..., Any],
    inputs: Callable[[], Sequence[Any]],
    rounds: int = 5,
    rtol: float | None = None,
    atol: float | None = None,
) -> Pace:
    """The learner's function takes at most ``times`` as long as the reference, and gives the same.

    ``inputs()`` draws new arguments for every run. Reference and learner take turns, each with one thread. It fails
    only if the learner is too slow in every round, so choose a good margin: ``times=3`` against code that needs 30. The
    wire's cost is the learner's to spare, so draw inputs on which the reference takes a few milliseconds. Raises
    :class:`Busy` where the reference itself was kept from the processor for so long that no verdict is fair.
    """
    runs: list[Pace] = []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in range(_WARM_UP + rounds):
            run = _timed(function, slower_than, inputs(), rtol, atol)
            if number >= _WARM_UP:
                runs.append(run)
            if len(runs) >= 3 and _is_fast(_pace(runs), times):
                break
    finally:
        if before != 1:
            torch.set_num_threads(before)
    pace = _pace(runs)
    if _is_fast(pace, times):
        return pace
    if pace.mine <= times * pace.reference + pace.wire:
        raise Busy("The machine was too busy to measure how fast the code is.")
    raise Failure(
        f"{function._label} takes {_in_words(pace.mine)} where a plain solution takes {_in_words(pace.reference)}: "
        f"{_number(pace.ratio)} times as long, and at most {times:g} times is asked for. Where does it run through "
        "elements in Python, or compute the same again?"
    )


def _is_fast(pace: Pace, times: float) -> bool:
    """Fast enough even if learner code had slowed the reference down with threads of its own.

    The reference's processor time would show that.
    """
    return pace.mine <= times * min(pace.reference, _BUSY * pace.processor) + pace.wire


def _pace(runs: Sequence[Pace]) -> Pace:
    return Pace(
        mine=min(run.mine for run in runs),
        reference=statistics.median(run.reference for run in runs),
        processor=statistics.median(run.processor for run in runs),
        wire=statistics.median(run.wire for run in runs),
    )


def _timed(
    function: Remote, reference: Callable[..., Any], args: Sequence[Any], rtol: float | None, atol: float | None
) -> Pace:
    """One run of both on the same inputs; Failure if the learner's output is wrong."""
    copies, there = _carried(list(args))
    started, worked = time.perf_counter(), time.thread_time()
    want = reference(*copies)
    took, cost = time.perf_counter() - started, time.thread_time() - worked
    _, back = _carried(want)
    started = time.perf_counter()
    answer = function._called(tuple(args), {}, keep=False, after=False)
    mine = time.perf_counter() - started
    answer.is_close(want, rtol=rtol, atol=atol)
    return Pace(mine, took, cost, _ROUND_TRIP_SECONDS + _WIRE * (there + back))


def _carried(value: Any) -> tuple[Any, float]:
    """The value after a way over the wire that ends where it began, and how long that took."""
    started = time.perf_counter()
    frame = pack(value)
    header, _ = prefix_lengths(frame[: PREFIX.size])
    body = memoryview(frame)[PREFIX.size :]
    return unpack(body[:header], body[header:]), time.perf_counter() - started


def _in_words(seconds: float) -> str:
    return f"{_number(seconds * 1e3)} ms" if seconds < 1 else f"{_number(seconds)} s"


def _number(value: float) -> str:
    """Two significant digits: the rest is noise."""
    return f"{float(f'{value:.2g}'):g}"
