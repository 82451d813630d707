"""What every screen shows: GPUs with their learners, who is idle, who waits, and nothing made up."""

from __future__ import annotations

import json
from typing import Any

from gradlab.gpu.account import Account
from gradlab.gpu.join import join
from gradlab.gpu.owners import Owner
from gradlab.gpu.view import IDLE_SECONDS, view_of
from gradlab.roster import Roster, Server, Waiter
from tests.gpuframes import GIB, device, frame, process, silent

ADA = Server("ada", lab="tensors", container="a" * 64, device="GPU-0", held_since=900.0)
BOB = Server("bob", name="second", container="b" * 64, device="GPU-1", share=2 * GIB, held_since=990.0)
OWNERS = {10: Owner("learner", ADA, ADA.container), 20: Owner("learner", BOB, BOB.container)}
LINE = (Waiter("eve", "", 950.0, 1, 120.0), Waiter("kim", "", 960.0, 2))
ROSTER = Roster((ADA, BOB), LINE, mode="exclusive", slots=2, free=0)


class Screen:
    """An account and a view after every frame; what is known is known since the first."""

    def __init__(self) -> None:
        self.account = Account()
        self.since: float | None = None

    def at(self, at: float, *devices: dict[str, Any], fails: bool = False, roster: Roster = ROSTER) -> dict[str, Any]:
        found = silent(at, *devices) if fails else frame(*devices, at=at)
        joined = join(found, {} if fails else OWNERS, roster)
        self.account.take(joined, at, sampled=not fails)
        self.since = at if self.since is None else self.since
        return view_of(found, joined, roster, self.account.standing, since=self.since)


def test_a_gpu_is_shown_with_its_learners_and_holders() -> None:
    view = Screen().at(1000.0, device("GPU-0", process(10, 3 * GIB, sm=30), memory_used=10 * GIB), device("GPU-1"))
    first, second = view["devices"]
    assert first["parts"] == [
        {
            "learner": "ada",
            "server": "",
            "lab": "tensors",
            "instance": None,
            "processes": 1,
            "memory": 3 * GIB,
            "utilisation": 30,
        }
    ]
    assert (first["machine"], first["unattributed"]) == ({"processes": 0, "memory": 0, "utilisation": 0}, 7 * GIB)
    assert second["holders"] == [{"learner": "bob", "server": "second", "lab": "", "since": 990.0}]
    assert (view["mode"], view["slots"], view["free"], view["problem"]) == ("exclusive", 2, 0, "")
    assert view["queue"] == [
        {"learner": "eve", "server": "", "since": 950.0, "position": 1, "estimate": 120.0},
        {"learner": "kim", "server": "", "since": 960.0, "position": 2, "estimate": None},
    ]


def test_it_is_json_and_has_no_process_numbers() -> None:
    text = json.dumps(Screen().at(1000.0, device("GPU-0", process(4711, sm=50))))
    assert "4711" not in text


def test_who_holds_a_gpu_without_using_it_is_idle_after_a_minute_the_longest_first() -> None:
    screen = Screen()
    screen.at(1000.0, device("GPU-0"), device("GPU-1", process(20, GIB)))
    screen.at(1030.0, device("GPU-0"), device("GPU-1", process(20, GIB, sm=80)))
    early = screen.at(1000.0 + IDLE_SECONDS - 1, device("GPU-0"), device("GPU-1", process(20, GIB)))
    assert early["idle"] == []
    view = screen.at(1100.0, device("GPU-0"), device("GPU-1", process(20, GIB)))
    assert view["idle"] == [
        {"learner": "ada", "server": "", "lab": "tensors", "device": "GPU-0", "seconds": 100.0},
        {"learner": "bob", "server": "second", "lab": "", "device": "GPU-1", "seconds": 70.0},
    ]
    ada, bob = view["servers"]
    assert (ada["held_since"], ada["busy_at"], ada["idle"], ada["memory"]) == (900.0, None, 100.0, 0)
    assert (bob["busy_at"], bob["idle"], bob["memory"], bob["peak"]) == (1030.0, 70.0, GIB, GIB)


def test_who_was_given_a_gpu_just_now_is_not_idle() -> None:
    screen = Screen()
    screen.at(1000.0, device("GPU-0"), roster=Roster())
    late = Roster((Server("ada", device="GPU-0", held_since=1090.0),))
    assert screen.at(1100.0, device("GPU-0"), roster=late)["servers"][0]["idle"] == 0.0  # known since then


def test_nobody_is_idle_where_nothing_is_measured_or_nothing_was_said() -> None:
    screen = Screen()
    unmeasured = device("GPU-0", process(10, GIB, sm=None), measured=False)
    screen.at(1000.0, unmeasured)
    assert screen.at(1200.0, unmeasured)["servers"][0]["idle"] is None
    failed = screen.at(1300.0, device("GPU-0"), fails=True)
    assert (failed["available"], failed["state"], failed["message"], failed["idle"]) == (
        False,
        "silent",
        "No driver.",
        [],
    )
    assert failed["servers"][0] | {"peak": 0} == {
        "learner": "ada",
        "server": "",
        "lab": "tensors",
        "device": "GPU-0",
        "held_since": 900.0,
        "busy_at": 1000.0,
        "idle": None,
        "processes": None,
        "memory": None,
        "peak": 0,
        "utilisation": None,
        "share": None,
        "over_share": False,
    }
    assert failed["devices"][0]["utilisation"] is None


def test_who_is_over_a_share_is_marked() -> None:
    view = Screen().at(1000.0, device("GPU-0"), device("GPU-1", process(20, 3 * GIB)))
    assert [(one["learner"], one["share"], one["over_share"]) for one in view["servers"]] == [
        ("ada", None, False),
        ("bob", 2 * GIB, True),
    ]
