"""What a store keeps and what its queries mean."""

from __future__ import annotations

import pytest

from gradlab.store import Cell, Fault, Store
from tests.stores import judged, verdict

DATABASES = ("sqlite", "postgresql")

# -- submissions ---------------------------------------------------------------------------------------------------


def test_accept_names_the_learners_own_waiting_ones(store: Store) -> None:
    first, none = store.accept("ada", "tensors", b"1", seed=1, now=1.0)
    store.accept("bob", "tensors", b"x", seed=1, now=1.0)
    second, one = store.accept("ada", "cuda", b"2", seed=1, now=2.0)
    judged_id, two = store.accept("ada", "tensors", b"3", seed=1, now=3.0)
    assert (none, one, two) == ([], [first], [first, second])
    store.record(judged_id, verdict(), now=4.0)
    assert store.accept("ada", "tensors", b"4", seed=1, now=5.0)[1] == [first, second]


def test_a_verdict_is_recorded_once_and_whole(store: Store) -> None:
    number, _ = store.accept("ada", "tensors", b"{}", only="rank_of", seed=1, now=1.0)
    assert store.record(number, verdict(("rank_of", "passed", 2)), report='{"cells": []}', now=3.0)
    assert not store.record(number, verdict(("rank_of", "failed", 0)), now=4.0)
    found = store.submission(number)
    assert found is not None
    assert (found.state, found.only, found.accepted_at, found.judged_at) == ("judged", "rank_of", 1.0, 3.0)
    assert found.verdict == verdict(("rank_of", "passed", 2))
    assert found.report == '{"cells": []}'
    assert store.unjudged() == []
    (cell,) = store.cells()
    assert cell.passed


def test_what_is_judged_is_never_superseded_and_the_other_way_round(store: Store) -> None:
    done = judged(store, "ada", ("rank_of", "passed", 2))
    waiting, _ = store.accept("ada", "tensors", b"{}", seed=1, now=5.0)
    assert store.supersede([done, waiting]) == [(waiting, "ada", "tensors")]
    states = {number: found.state for number in (done, waiting) if (found := store.submission(number))}
    assert states == {done: "judged", waiting: "superseded"}
    assert not store.record(waiting, verdict(("rank_of", "failed", 0)), now=6.0)
    assert store.unjudged() == []


def test_tries_are_counted_on_disk(store: Store, store_url: str) -> None:
    number, _ = store.accept("ada", "tensors", b"{}", seed=1, now=1.0)
    assert [store.count_try(number) for _ in range(3)] == [1, 2, 3]
    again = Store.open(store_url)
    assert again.count_try(number) == 4
    again.close()


def test_attempts_come_newest_first_and_without_notebooks(store: Store) -> None:
    numbers = [judged(store, "ada", ("rank_of", "passed", 2), now=float(turn)) for turn in range(3)]
    other = judged(store, "ada", ("x", "failed", 0), lab="cuda", now=9.0)
    judged(store, "bob", ("rank_of", "passed", 2))
    assert [attempt.id for attempt in store.attempts("ada")] == [other, *reversed(numbers)]
    assert [attempt.id for attempt in store.attempts("ada", "tensors", limit=2)] == [numbers[2], numbers[1]]
    assert store.attempts("ada", "cuda")[0].verdict == verdict(("x", "failed", 0))


def test_an_unknown_submission_is_none(store: Store) -> None:
    assert store.submission(99) is None


# -- standing ------------------------------------------------------------------------------------------------------


def test_a_cell_keeps_the_best_points_and_the_latest_outcome(store: Store) -> None:
    judged(store, "ada", ("rank_of", "passed", 2), now=1.0)
    judged(store, "ada", ("rank_of", "failed", 0), ("double", "timed out", 0), now=5.0)
    assert store.cells(learner="ada", lab="tensors") == [
        Cell("ada", "tensors", "double", 0, False, 1, "timed out", 6.0),
        Cell("ada", "tensors", "rank_of", 2, True, 2, "failed", 6.0),
    ]


def test_what_was_not_tried_is_no_attempt_and_hides_no_outcome(store: Store) -> None:
    judged(store, "ada", ("rank_of", "failed", 0), now=1.0)
    judged(store, "ada", ("rank_of", "not attempted", 0), ("double", "skipped", 0), now=5.0)
    judged(store, "ada", ("rank_of", "our fault", 0), ("double", "our fault", 0), now=6.0)
    (cell,) = store.cells()
    assert (cell.exercise, cell.attempts, cell.last_outcome, cell.last_at) == ("rank_of", 1, "failed", 2.0)


def test_cells_are_of_one_learner_or_lab_when_asked(store: Store) -> None:
    judged(store, "ada", ("rank_of", "passed", 2))
    judged(store, "bob", ("rank_of", "passed", 2))
    judged(store, "bob", ("x", "passed", 2), lab="cuda")
    assert {(cell.learner, cell.lab) for cell in store.cells()} == {
        ("ada", "tensors"),
        ("bob", "tensors"),
        ("bob", "cuda"),
    }
    assert {(cell.learner, cell.lab) for cell in store.cells(learner="bob")} == {("bob", "tensors"), ("bob", "cuda")}
    assert {(cell.learner, cell.lab) for cell in store.cells(lab="cuda")} == {("bob", "cuda")}


# -- faults of ours ------------------------------------------------------------------------------------------------


def faulty(store: Store, learner: str, causes: dict[str, str], *, lab: str = "tensors", now: float = 10.0) -> int:
    number, _ = store.accept(learner, lab, b"{}", seed=1, now=now)
    found = verdict(*((name, "our fault", 0) for name in causes))
    assert store.record(number, found, causes=causes, now=now + 1)
    return number


def test_a_fault_of_ours_is_listed_with_its_causes_newest_first(store: Store) -> None:
    judged(store, "ada", ("rank_of", "passed", 2))
    first = faulty(store, "ada", {"rank_of": "no kernel", "double": "no kernel"})
    second = faulty(store, "bob", {"y": "one", "z": "two"}, lab="cuda", now=20.0)
    assert store.faults(since=0) == [
        Fault(second, "bob", "cuda", ("y", "z"), ("one", "two"), 21.0),
        Fault(first, "ada", "tensors", ("double", "rank_of"), ("no kernel",), 11.0),
    ]
    assert [fault.submission for fault in store.faults(since=21.0)] == [second]
    assert store.faults(since=21.5) == []


@pytest.mark.parametrize("outcome", ["passed", "failed", "not attempted", "skipped"])
def test_a_fault_ends_with_the_next_verdict_on_the_same_exercise_of_the_same_learner(
    store: Store, outcome: str
) -> None:
    number = faulty(store, "ada", {"rank_of": "broken", "double": "broken"})
    judged(store, "bob", ("rank_of", outcome, 0), ("double", outcome, 0))
    judged(store, "ada", ("rank_of", outcome, 0), ("double", outcome, 0), lab="cuda")
    assert [fault.exercises for fault in store.faults(since=0)] == [("double", "rank_of")]
    judged(store, "ada", ("rank_of", outcome, 0))
    assert store.faults(since=0) == [Fault(number, "ada", "tensors", ("double",), ("broken",), 11.0)]
    judged(store, "ada", ("double", outcome, 0))
    assert store.faults(since=0) == []


def test_of_a_fault_that_happens_again_the_latest_is_listed(store: Store) -> None:
    faulty(store, "ada", {"rank_of": "first"})
    second = faulty(store, "ada", {"rank_of": "second"})
    assert [(fault.submission, fault.causes) for fault in store.faults(since=0)] == [(second, ("second",))]


def test_the_cause_is_in_nothing_that_a_learner_may_ask_for(store: Store) -> None:
    number = faulty(store, "ada", {"rank_of": "the hidden check"})
    found = (store.submission(number), store.attempts("ada"), store.cells())
    assert "the hidden check" not in repr(found)


# -- people, hints, deliveries -------------------------------------------------------------------------------------


def test_last_seen_never_goes_back(store: Store) -> None:
    store.see("ada", now=5.0)
    store.see("ada", now=9.0)
    store.see("ada", now=7.0)
    (learner,) = store.learners()
    assert (learner.name, learner.first_seen, learner.last_seen) == ("ada", 5.0, 9.0)


def test_hints_open_one_by_one_up_to_what_there_is(store: Store) -> None:
    assert [store.open_hint("ada", "tensors", "rank_of", available=2, now=1.0) for _ in range(3)] == [1, 2, 2]
    assert store.open_hint("ada", "tensors", "double", available=0, now=1.0) == 0
    assert store.hints("ada", "tensors") == {"rank_of": 2, "double": 0}
    assert store.hints("bob", "tensors") == {}


def test_deliveries_are_listed_oldest_first_and_told_twice_only_once(store: Store) -> None:
    store.deliver("ada", "tensors", "v2", "04_tensors-v2.ipynb", now=5.0)
    store.deliver("ada", "tensors", "v1", "04_tensors.ipynb", now=1.0)
    store.deliver("ada", "tensors", "v1", "04_tensors.ipynb", now=1.0)
    assert store.deliveries("ada") == {"tensors": [("v1", "04_tensors.ipynb"), ("v2", "04_tensors-v2.ipynb")]}
    assert store.deliveries("bob") == {}
