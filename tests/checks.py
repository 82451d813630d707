"""What tests of checks ask the store about them."""

from __future__ import annotations

from collections.abc import Callable

from gradlab.checks import Checks
from gradlab.store import Store
from tests.waiting import until

__all__ = ["MIB", "Make", "causes", "ended", "outcomes", "state"]

MIB = 1 << 20
Make = Callable[..., Checks]


def outcomes(store: Store, submission: int) -> list[str]:
    found = store.submission(submission)
    assert found is not None
    assert found.verdict is not None
    return [result["outcome"] for result in found.verdict["results"]]


def state(store: Store, submission: int) -> str:
    found = store.submission(submission)
    assert found is not None
    return found.state


def causes(store: Store) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """What the instructor reads of our faults: learner, exercises and causes."""
    return [(fault.learner, fault.exercises, fault.causes) for fault in store.faults(since=0)]


def ended(checks: Checks, *numbers: int) -> None:
    """Wait until these are judged or superseded."""
    until(lambda: all(state(checks._store, number) != "accepted" for number in numbers))
