"""How long a waiter for a GPU is told the wait is."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from gradlab.hub.gpus import slots_of
from tests.gpus import EXCLUSIVE, MINUTE, check_estimates, gpu, pool_of


def test_without_a_finished_holding_nothing_is_known() -> None:
    pool = pool_of("a")
    pool.request("ada", 0)
    pool.request("ben", 0)
    assert pool.estimate("ben", 1000) is None
    assert pool.estimate("ada", 1000) is None  # does not wait
    assert pool.place("ada") is None


def test_an_estimate_is_what_is_usually_left_of_the_oldest_holding() -> None:
    pool = pool_of("a", "b", lasted=[10 * MINUTE, 20 * MINUTE, 60 * MINUTE])
    pool.request("ada", 0)
    pool.request("ben", 5 * MINUTE)
    for name in ("cyd", "dee", "eve"):
        pool.request(name, 8 * MINUTE)
    now = 8 * MINUTE
    # ada has 8 minutes, ben 3; both shorter than all former ones, whose median is 20.
    assert pool.estimate("cyd", now) == 12 * MINUTE
    assert pool.estimate("dee", now) == 17 * MINUTE
    assert pool.estimate("eve", now) == (12 + 20) * MINUTE
    assert pool.estimate("ada", now) is pool.estimate("nobody", now) is None  # they do not wait
    # Past 20 minutes only the former holding of 60 tells anything about ada's.
    assert pool.estimate("cyd", 25 * MINUTE) == 35 * MINUTE
    # ada has outlasted all of them: ben's slot is the one to hope for. Later nobody can tell.
    assert pool.estimate("cyd", 61 * MINUTE) == 4 * MINUTE
    assert pool.estimate("dee", 61 * MINUTE) == 24 * MINUTE
    assert pool.estimate("cyd", 70 * MINUTE) is None


def test_a_slot_with_two_holders_is_free_when_the_later_one_ends() -> None:
    pool = pool_of("a", lasted=[20 * MINUTE])
    pool.restore({"ada": "GPU-a/1of1", "ben": "GPU-a/1of1"}, 0, since={"ada": -10 * MINUTE})
    pool.request("cyd", 0)
    assert pool.estimate("cyd", 0) == 20 * MINUTE


def test_a_gpu_divided_anew_is_free_when_the_last_of_its_holders_ends() -> None:
    pool = pool_of("a", shares=2, lasted=[20 * MINUTE])
    pool.restore({"ada": "GPU-a/1of1", "ben": "GPU-a/1of2"}, 0, since={"ada": -10 * MINUTE})
    pool.request("cyd", 0)
    pool.request("dee", 0)
    assert [pool.estimate(name, 0) for name in ("cyd", "dee")] == [10 * MINUTE, 20 * MINUTE]


def test_lost_slots_give_no_hope() -> None:
    pool = pool_of("a", "b", lasted=[20 * MINUTE])
    pool.request("ada", 0)
    pool.request("ben", 5 * MINUTE)
    pool.request("cyd", 5 * MINUTE)
    pool.resize(slots_of(EXCLUSIVE, [gpu("b")]), 5 * MINUTE)
    assert pool.estimate("cyd", 5 * MINUTE) == 20 * MINUTE


def test_starts_that_failed_at_once_are_not_remembered_and_only_the_last_fifty_are() -> None:
    pool = pool_of("a", lasted=[*(float(100 + n) for n in range(60)), math.nan, math.inf, -5.0, 0.0, 59.0])
    assert pool.lasted == tuple(float(100 + n) for n in range(10, 60))
    pool.request("ada", 0)
    pool.release("ada", 30)
    pool.request("ada", 40)
    pool.release("ada", 140)
    assert pool.lasted[-2:] == (159.0, 100.0)
    assert len(pool.lasted) == 50


@settings(derandomize=True, database=None)
@given(
    lasted=st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=60),
    starts=st.lists(st.floats(-1e7, 1e7), min_size=1, max_size=6),
    now=st.floats(-1e7, 1e7),
    waiters=st.integers(1, 12),
)
def test_estimates_are_never_negative_nor_nan_and_grow_with_the_place(
    lasted: list[float], starts: list[float], now: float, waiters: int
) -> None:
    names = [chr(ord("a") + number) for number in range(len(starts))]
    pool = pool_of(*names, lasted=lasted)
    for name, start in zip(names, starts, strict=True):
        pool.request(f"holder {name}", start)
    for number in range(waiters):
        pool.request(f"waiter {number}", now)
    check_estimates(pool, [f"waiter {number}" for number in range(waiters)], now)
