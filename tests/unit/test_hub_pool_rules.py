"""The pool of GPUs against a model of it, through whatever may happen in any order."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gradlab.errors import PoolEmpty
from gradlab.hub.gpus import Pool, Slot, slots_of
from tests.gpus import check_estimates, gpu, held, shared

PEOPLE = st.sampled_from([f"p{number}" for number in range(9)])
DEVICES = st.lists(st.sampled_from("abc"), unique=True)
LABELS = st.one_of(
    st.builds(lambda name, share: Slot(f"GPU-{name}", share, 2).id, st.sampled_from("abz"), st.integers(1, 2)),
    st.sampled_from(["GPU-a/1of1", "GPU-b/1of1", "GPU-z/1of1", "GPU-a/junk"]),
)


class PoolMachine(RuleBasedStateMachine):
    """The pool against a model of who holds what and who waits in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.slots: tuple[Slot, ...] = ()
        self.pool = Pool()
        self.held: dict[str, str] = {}  # holder to slot id
        self.line: list[tuple[float, str]] = []

    @initialize(names=DEVICES, shares=st.integers(1, 3))
    def begins(self, names: list[str], shares: int) -> None:
        self.resizes(names, shares)

    @rule(holder=PEOPLE, ago=st.none() | st.floats(-50, 500))
    def asks(self, holder: str, ago: float | None) -> None:
        before = dict(self.held)
        since = None if ago is None else self.now - ago
        if not self.slots and holder not in self.held and holder not in self.waiting():
            with pytest.raises(PoolEmpty):
                self.pool.request(holder, self.now, since=since)
            return
        slot = self.pool.request(holder, self.now, since=since)
        if holder in before:
            assert slot is not None
            assert slot.id == before[holder]
        elif holder not in self.waiting():
            began = max([self.now, *(when for when, _ in self.line)]) if since is None else min(since, self.now)
            behind = sum(when <= began for when, _ in self.line)
            self.line.insert(behind, (began, holder))
        self.follow({} if slot is None or holder in before else {holder: slot})

    @rule(holder=PEOPLE)
    def gives_back(self, holder: str) -> None:
        granted = self.pool.release(holder, self.now)
        self.held.pop(holder, None)
        self.follow(granted)

    @rule(holder=PEOPLE)
    def leaves(self, holder: str) -> None:
        self.pool.leave(holder)
        self.line = [entry for entry in self.line if entry[1] != holder]

    @rule(names=DEVICES, shares=st.integers(1, 3))
    def resizes(self, names: list[str], shares: int) -> None:
        self.slots = slots_of(shared(shares), [gpu(name) for name in names])
        self.follow(self.pool.resize(self.slots, self.now, problem="why"))

    @rule(labels=st.dictionaries(PEOPLE, LABELS, max_size=3))
    def restores(self, labels: dict[str, str]) -> None:
        granted = self.pool.restore(labels, self.now)
        for holder, label in labels.items():
            self.held[holder] = "GPU-a/0of0" if label == "GPU-a/junk" else label
        self.line = [entry for entry in self.line if entry[1] not in labels]
        self.follow(granted)

    @rule(seconds=st.floats(-20, 4000))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    def waiting(self) -> list[str]:
        return [holder for _, holder in self.line]

    def follow(self, granted: Mapping[str, Slot]) -> None:
        """Strictly from the line's front; each slot only if nobody has it and nobody divides its GPU otherwise."""
        assert list(granted) == self.waiting()[: len(granted)]
        for holder, slot in granted.items():
            assert slot in self.slots
            assert self.is_free(slot)
            self.held[holder] = slot.id
        self.line = self.line[len(granted) :]

    def is_free(self, slot: Slot) -> bool:
        device, _, part = slot.id.rpartition("/")
        others = [taken.rpartition("/") for taken in self.held.values()]
        return all(
            theirs != device or (their_part != part and their_part.split("of")[1] == part.split("of")[1])
            for theirs, _, their_part in others
        )

    @invariant()
    def the_pool_is_as_the_model(self) -> None:
        assert held(self.pool) == self.held
        assert [(waiter["since"], waiter["holder"]) for waiter in self.pool.snapshot()["line"]] == self.line
        assert [self.pool.place(holder) for holder in self.waiting()] == list(range(len(self.line)))

    @invariant()
    def nobody_waits_while_a_slot_is_free(self) -> None:
        free = sum(self.is_free(slot) for slot in self.slots)
        assert self.pool.snapshot()["free"] == free
        assert not (free and self.line)

    @invariant()
    def estimates_make_sense(self) -> None:
        check_estimates(self.pool, self.waiting(), self.now)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=120, stateful_step_count=40, derandomize=True, database=None)
