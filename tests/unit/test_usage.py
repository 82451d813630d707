"""GPU usage in the store: nothing lost and nothing counted twice, whatever is started again."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradlab.store import GpuUsage, Store
from gradlab.usage import Collector
from tests.waiting import until

DATABASES = ("sqlite", "postgresql")


def row(learner: str = "ada", lab: str = "tensors", day: str = "2026-11-22", **more: Any) -> dict[str, Any]:
    return {"learner": learner, "lab": lab, "day": day, "held": 10.0, "busy": 4.0, "peak": 1 << 34} | more


def test_usage_is_kept_by_learner_lab_and_day(store: Store) -> None:
    store.keep_gpu_usage("run", [row(day="2026-11-23"), row(), row("bob", lab=""), row(lab="attention")])
    assert store.gpu_usage() == [
        GpuUsage("ada", "attention", "2026-11-22", 10.0, 4.0, 1 << 34),
        GpuUsage("ada", "tensors", "2026-11-22", 10.0, 4.0, 1 << 34),
        GpuUsage("ada", "tensors", "2026-11-23", 10.0, 4.0, 1 << 34),
        GpuUsage("bob", "", "2026-11-22", 10.0, 4.0, 1 << 34),
    ]
    assert [(one.learner, one.lab) for one in store.gpu_usage(since="2026-11-23")] == [("ada", "tensors")]
    assert [one.lab for one in store.gpu_usage(learner="bob")] == [""]
    assert store.gpu_usage(learner="eve") == []
    assert store.gpu_usage(by_day=False) == [
        GpuUsage("ada", "attention", "", 10.0, 4.0, 1 << 34),
        GpuUsage("ada", "tensors", "", 20.0, 8.0, 1 << 34),
        GpuUsage("bob", "", "", 10.0, 4.0, 1 << 34),
    ]


def test_the_same_again_and_less_change_nothing_and_more_does(store: Store) -> None:
    store.keep_gpu_usage("run", [row(held=10.0, busy=4.0, peak=7)])
    store.keep_gpu_usage("run", [row(held=10.0, busy=4.0, peak=7)])
    store.keep_gpu_usage("run", [row(held=9.0, busy=5.0, peak=6)])
    store.keep_gpu_usage("run", [])
    assert store.gpu_usage() == [GpuUsage("ada", "tensors", "2026-11-22", 10.0, 5.0, 7)]


def test_runs_add_up_and_the_highest_peak_counts(store: Store) -> None:
    store.keep_gpu_usage("one", [row(held=10.0, busy=4.0, peak=7)])
    store.keep_gpu_usage("two", [row(held=5.0, busy=1.0, peak=9)])
    assert store.gpu_usage() == [GpuUsage("ada", "tensors", "2026-11-22", 15.0, 5.0, 9)]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["seconds pass", "collect", "monitor restarts", "account is lost"]), max_size=12))
def test_whatever_is_started_again_the_sum_is_right(store: Store, steps: list[str]) -> None:
    """Each example has a learner of its own; what was collected of a lost account is kept."""
    learner, source = f"learner {id(steps)} {len(store.gpu_usage())}", Account()
    source.learner = learner
    collector, truth = Collector(source, store), 0.0
    for step in steps:
        if step == "seconds pass":
            source.held += 1.0
        elif step == "monitor restarts":
            collector = Collector(source, store)
        elif step == "account is lost":
            collector.collect()
            truth += source.held
            source.run, source.held = f"{source.run}+", 0.0
        else:
            collector.collect()
    collector.collect()
    assert sum(one.held for one in store.gpu_usage(learner=learner)) == truth + source.held


class Account:
    """A monitor's account with one row; a ``fault`` is raised instead."""

    def __init__(self) -> None:
        self.run, self.learner, self.held = "run", "ada", 0.0
        self.fault: Exception | None = None

    def usage(self) -> dict[str, Any]:
        if self.fault is not None:
            raise self.fault
        return {"run": self.run, "rows": [row(self.learner, held=self.held)]}


def test_it_is_carried_over_by_itself_and_once_more_at_the_end(store: Store) -> None:
    source = Account()
    with closing(Collector(source, store, every=0.01)) as collector:
        collector.start()
        source.held = 3.0
        until(lambda: [one.held for one in store.gpu_usage()] == [3.0], what="the usage in the store")
        slow = Collector(source, store, every=3600.0)
        slow.start()
        source.held = 8.0
        slow.close()
        assert [one.held for one in store.gpu_usage()] == [8.0]


def test_a_failure_is_said_once_and_what_was_missed_comes_later(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = Account()
    collector = Collector(source, store)
    source.fault = ConnectionError("The GPU monitor does not answer.")
    for _ in range(3):
        collector.collect()
    assert caplog.text.count("GPU usage could not be stored: ConnectionError: The GPU monitor does not answer.") == 1
    source.fault, source.held = None, 6.0
    collector.collect()
    assert "GPU usage is stored again." in caplog.text
    assert [one.held for one in store.gpu_usage()] == [6.0]


def test_one_that_was_never_started_closes_at_once(store: Store) -> None:
    Collector(Account(), store).close()
    assert store.gpu_usage() == []
