"""The last hour: a number a second, and a gap wherever there was no sample."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gradlab.gpu.history import SECONDS, History
from gradlab.gpu.join import join
from gradlab.gpu.owners import Owner
from gradlab.roster import Roster, Server
from tests.gpuframes import GIB, device, frame, process, silent

ADA, BOB = Server("ada", container="a" * 64), Server("bob", container="b" * 64)
OWNERS = {10: Owner("learner", ADA, ADA.container), 20: Owner("learner", BOB, BOB.container)}


def feed(history: History, at: float, *devices: dict[str, Any]) -> None:
    history.take(join(frame(*devices, at=at), OWNERS, Roster((ADA, BOB))), at, sampled=True)


def fail(history: History, at: float) -> None:
    history.take(join(silent(at, device("GPU-0")), {}, Roster()), at, sampled=False)


def test_there_is_a_number_for_every_second() -> None:
    history = History()
    for second, percent in enumerate((10, 20, 30)):
        feed(history, 1000.5 + second, device("GPU-0", process(10, sm=percent), utilisation=percent, memory_used=GIB))
    assert history.read() == {
        "from": 1000,
        "step": 1,
        "count": 3,
        "devices": {"GPU-0": {"utilisation": [10, 20, 30], "memory": [GIB] * 3, "parts": {"ada": [10, 20, 30]}}},
    }
    assert history.read(1001.9)["devices"]["GPU-0"]["utilisation"] == [20, 30]
    assert history.read(5000)["count"] == 0


def test_nothing_is_known_before_the_first_sample() -> None:
    assert History().read(7.5) == {"from": 7, "step": 1, "count": 0, "devices": {}}


def test_a_second_that_falls_between_two_samples_is_no_gap_but_a_pause_is() -> None:
    history = History()
    for at in (1000.9, 1002.0, 1005.0):
        feed(history, at, device("GPU-0", utilisation=int(at) - 1000))
    assert history.read()["devices"]["GPU-0"]["utilisation"] == [0, 2, 2, None, None, 5]


def test_a_failure_is_a_gap_and_never_idleness() -> None:
    history = History()
    feed(history, 1000, device("GPU-0", process(10, sm=90), utilisation=90))
    fail(history, 1001)
    feed(history, 1002, device("GPU-0", state="lost", error="It is lost.", utilisation=None, memory_used=None))
    feed(history, 1003, device("GPU-0", process(20, sm=0), utilisation=0))
    found = history.read()["devices"]["GPU-0"]
    assert found["utilisation"] == [90, None, None, 0]
    assert found["parts"] == {"ada": [90, None, None, None], "bob": [None, None, None, 0]}


def test_one_gpu_that_fails_is_a_gap_of_its_own() -> None:
    history = History()
    feed(history, 1000, device("GPU-0"), device("GPU-1"))
    feed(history, 1001, device("GPU-0"))
    found = history.read()["devices"]
    assert (found["GPU-0"]["utilisation"], found["GPU-1"]["utilisation"]) == ([42, 42], [42, None])


def test_a_learner_on_two_servers_is_one_part_and_an_unmeasured_one_has_no_number() -> None:
    second = Server("ada", "second", container="c" * 64)
    owners = OWNERS | {30: Owner("learner", second, second.container)}
    history = History()
    both = device("GPU-0", process(10, sm=60), process(30, sm=70), process(20, sm=None))
    history.take(join(frame(both), owners, Roster((ADA, BOB, second))), 1000.0, sampled=True)
    assert history.read()["devices"]["GPU-0"]["parts"] == {"ada": [100]}


def test_an_hour_is_kept_and_what_is_long_gone_is_forgotten() -> None:
    history = History()
    for at in range(0, SECONDS + 120):
        feed(history, at, device("GPU-0", *([process(10, sm=5)] if at < 60 else []), utilisation=at % 100))
    found = history.read()
    assert (found["from"], found["count"]) == (120, SECONDS)
    assert found["devices"]["GPU-0"]["utilisation"] == [at % 100 for at in range(120, SECONDS + 120)]
    assert found["devices"]["GPU-0"]["parts"] == {}


def test_a_clock_set_back_by_hours_begins_anew() -> None:
    history = History()
    feed(history, 50_000, device("GPU-0"))
    feed(history, 20_000, device("GPU-0", utilisation=7))
    assert history.read()["devices"]["GPU-0"]["utilisation"] == [7]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(0.4, 30.0), st.booleans()), min_size=1, max_size=60))
def test_a_number_stands_only_where_a_sample_is_near(steps: list[tuple[float, bool]]) -> None:
    """Whatever the pace: a second has a number only if a good sample was taken in it or right after it."""
    history, at, good = History(), 1000.0, []
    for step, well in steps:
        at += step
        if well:
            good.append(at)
            feed(history, at, device("GPU-0", utilisation=50))
        else:
            fail(history, at)
    found = history.read()
    for offset, value in enumerate(found["devices"].get("GPU-0", {"utilisation": []})["utilisation"]):
        second = found["from"] + offset
        assert value is None or any(second <= one < second + 3 for one in good)
