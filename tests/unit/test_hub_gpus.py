"""GPUs are given out one holder a slot and first come, first served, whatever devices, labels and clocks do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import docker.types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gradlab.errors import GradlabError, PoolEmpty
from gradlab.gpu_mode import Mode, parse_mode
from gradlab.hub.gpus import LABEL, Pool, Slot, access, share_statement, slots_of, why_empty

GIB = 2**30
EXCLUSIVE, MIG, NONE = Mode("exclusive"), Mode("mig"), Mode("none")
MINUTE = 60.0


def gpu(name: str, *, error: str | None = None, mig: Sequence[str] | None = None) -> dict[str, Any]:
    """A device as the GPU monitor describes it."""
    instances = [{"uuid": f"MIG-{one}", "name": "1g.10gb", "memory_total": 10 * GIB} for one in mig or ()]
    return {
        "uuid": f"GPU-{name}",
        "name": "NVIDIA H200",
        "memory_total": 140 * GIB,
        "error": error,
        "mig": None if mig is None else instances,
    }


def shared(shares: int) -> Mode:
    return Mode("shared", shares)


def ids(slots: Sequence[Slot]) -> list[str]:
    return [slot.id for slot in slots]


def pool_of(*names: str, shares: int = 1, lasted: Sequence[float] = ()) -> Pool:
    return Pool(slots_of(Mode("shared", shares), [gpu(name) for name in names]), lasted=lasted)


def line(pool: Pool) -> list[str]:
    return [waiter["holder"] for waiter in pool.snapshot()["line"]]


def held(pool: Pool) -> dict[str, str]:
    """Holder to slot id."""
    return {holder["holder"]: slot["id"] for slot in pool.snapshot()["slots"] for holder in slot["holders"]}


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("none", NONE),
        ("exclusive", EXCLUSIVE),
        ("mig", MIG),
        ("shared:2", shared(2)),
        ("shared:32", shared(32)),
        (" Shared:04 ", shared(4)),
    ],
)
def test_a_mode_is_read_from_a_settings_text(text: str, mode: Mode) -> None:
    assert parse_mode(text) == mode
    assert parse_mode(str(mode)) == mode


@pytest.mark.parametrize(
    "text", ["", "all", "shared", "shared:", "shared:1", "shared:33", "shared:-2", "shared:٤", "4"]
)
def test_any_other_text_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        parse_mode(text)
    assert str(caught.value) == (
        "it must be none, exclusive (a GPU for each learner), shared:N (N learners on each GPU, from 2 to 32) or mig "
        "(a MIG instance for each learner)"
    )


def test_exclusive_slots_are_the_healthy_whole_gpus() -> None:
    devices = [gpu("a"), gpu("b", error="It is lost."), gpu("c", mig=["x"]), gpu("d"), gpu("e") | {"uuid": None}]
    assert slots_of(EXCLUSIVE, devices) == (Slot("GPU-a", memory=140 * GIB), Slot("GPU-d", memory=140 * GIB))


def test_shares_of_different_gpus_alternate_and_divide_the_memory() -> None:
    devices = [gpu("a"), gpu("b") | {"memory_total": None}, gpu("c", mig=[])]
    slots = slots_of(shared(3), devices)
    assert ids(slots) == [f"GPU-{name}/{share}of3" for share in (1, 2, 3) for name in "ab"]
    assert {slot.memory for slot in slots if slot.device == "GPU-a"} == {140 * GIB // 3}
    assert [slot.limited for slot in slots[:2]] == [True, False]  # of b nobody knows the memory


def test_mig_slots_are_the_instances_of_healthy_gpus() -> None:
    devices = [gpu("a", mig=["x", "y"]), gpu("b", error="It is lost.", mig=["z"]), gpu("c")]
    slots = slots_of(MIG, devices)
    assert slots == (Slot("MIG-x", memory=10 * GIB), Slot("MIG-y", memory=10 * GIB))
    assert not any(slot.limited for slot in slots)


def test_a_monitor_that_knows_nothing_of_mig_reports_whole_gpus() -> None:
    device = gpu("a")
    del device["mig"]
    assert ids(slots_of(EXCLUSIVE, [device])) == ["GPU-a/1of1"]
    assert slots_of(MIG, [device]) == ()


@pytest.mark.parametrize("slot", [Slot("GPU-1a2b"), Slot("GPU-1a2b", 3, 4), Slot("MIG-GPU-1a2b/1/0"), Slot("MIG-x")])
def test_a_slots_id_can_be_read_back(slot: Slot) -> None:
    assert Slot.parse(slot.id) == slot


@pytest.mark.parametrize("text", ["", "GPU-1a2b", "GPU-1a2b/0", "GPU-1a2b/0of4", "GPU-1a2b/5of4", "/1of1"])
def test_what_is_no_slots_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no id") as caught:
        Slot.parse(text)
    assert str(caught.value) == f"{text!r} is no id of a GPU slot, which is UUID/SHAREofSHARES such as GPU-1a2b/1of4"


WITHOUT = "You can work without a GPU; exercises that need one are skipped."


@pytest.mark.parametrize(
    ("mode", "devices", "message", "why"),
    [
        (
            NONE,
            [gpu("a")],
            "",
            f"This server gives out no GPUs (GRADLAB_GPUS=none). {WITHOUT} "
            "To change that, the operator sets GRADLAB_GPUS to exclusive, shared:N or mig.",
        ),
        (
            EXCLUSIVE,
            [],
            "The NVIDIA driver is loaded but shows no GPU. Check `nvidia-smi -L`.",
            "This server has no GPU. Its GPU monitor says: The NVIDIA driver is loaded but shows no GPU. "
            f"Check `nvidia-smi -L`. {WITHOUT}",
        ),
        (
            EXCLUSIVE,
            [],
            "",
            f"This server has no GPU: its GPU monitor lists none and gives no reason. {WITHOUT} "
            "The operator finds out more with `gradlab gpu`.",
        ),
        (
            shared(4),
            [gpu("a", error="This GPU has fallen off the bus. Restart the machine.")],
            "",
            "This server's GPU cannot be given out with GRADLAB_GPUS=shared:4. NVIDIA H200 (GPU-a): This GPU has "
            f"fallen off the bus. Restart the machine. {WITHOUT}",
        ),
        (
            EXCLUSIVE,
            [gpu("a", mig=["x"]), gpu("b", error="It needs a reset.") | {"name": None}],
            "",
            "None of this server's 2 GPUs can be given out with GRADLAB_GPUS=exclusive. NVIDIA H200 (GPU-a): It is in "
            "MIG mode. Set GRADLAB_GPUS=mig, or turn MIG mode off (`nvidia-smi -i GPU-a -mig 0`). GPU (GPU-b): It "
            f"needs a reset. {WITHOUT}",
        ),
        (
            MIG,
            [gpu("a"), gpu("b", mig=[])],
            "",
            "None of this server's 2 GPUs can be given out with GRADLAB_GPUS=mig. NVIDIA H200 (GPU-a): It is not in "
            "MIG mode. Turn MIG mode on (`nvidia-smi -i GPU-a -mig 1`) and make instances, or set "
            "GRADLAB_GPUS=exclusive. NVIDIA H200 (GPU-b): It is in MIG mode and has no instances. `nvidia-smi mig "
            f"-lgip` lists the sizes, `-cgi SIZE -C` makes one. {WITHOUT}",
        ),
        (
            EXCLUSIVE,
            [gpu("a") | {"uuid": None}],
            "",
            "This server's GPU cannot be given out with GRADLAB_GPUS=exclusive. NVIDIA H200 (no UUID): It reports no "
            f"UUID, and a container is given a GPU by its UUID. Run `nvidia-smi -L`. {WITHOUT}",
        ),
        (EXCLUSIVE, [gpu("a"), gpu("b", error="It is lost.")], "", ""),
    ],
)
def test_a_server_without_slots_says_why(mode: Mode, devices: list[dict[str, Any]], message: str, why: str) -> None:
    assert why_empty(mode, devices, message) == why


def test_a_request_where_there_is_nothing_to_wait_for_is_refused_with_the_reason() -> None:
    pool = Pool()
    with pytest.raises(PoolEmpty) as caught:
        pool.request("ada", 0)
    assert str(caught.value) == pool.problem
    assert pool.problem == (
        "The GPUs of this server are not known yet. Try again in a minute; if it stays so, the operator has to look "
        "after the GPU monitor."
    )
    pool.resize((), 1, problem="No GPU, and this is why.")
    with pytest.raises(PoolEmpty, match=r"^No GPU, and this is why\.$"):
        pool.request("ada", 1)
    pool.resize((), 2)
    with pytest.raises(PoolEmpty, match=r"^This server has no GPU to give out\.$"):
        pool.request("ada", 2)
    assert issubclass(PoolEmpty, GradlabError)
    assert line(pool) == []


def test_busy_slots_are_waited_for_and_that_is_no_error() -> None:
    pool = pool_of("a")
    pool.request("ada", 0)
    assert pool.request("ben", 1) is None
    assert pool.problem == ""


def test_learners_are_spread_over_the_gpus_least_loaded_first() -> None:
    pool = pool_of("a", "b", shares=2)
    given = [pool.request(name, 0) for name in ("ada", "ben", "cyd", "dee")]
    assert [slot and slot.device for slot in given] == ["GPU-a", "GPU-b", "GPU-a", "GPU-b"]
    for name in ("ada", "ben", "dee"):
        pool.release(name, 1)
    assert ids([slot for name in ("eve", "fay") if (slot := pool.request(name, 1))]) == ["GPU-b/1of2", "GPU-a/1of2"]


def test_a_new_gpu_is_used_before_a_loaded_one() -> None:
    pool = pool_of("a", shares=3)
    pool.request("ada", 0)
    pool.resize(slots_of(shared(3), [gpu("a"), gpu("b")]), 1)
    given = [pool.request(name, 1) for name in ("ben", "cyd", "dee")]
    assert [slot and slot.device for slot in given] == ["GPU-b", "GPU-a", "GPU-b"]


def test_who_asks_again_keeps_slot_and_place() -> None:
    pool = pool_of("a")
    slot = pool.request("ada", 0)
    assert pool.request("ben", 1) is None
    assert pool.request("cyd", 2) is None
    assert pool.request("ada", 3) == slot
    assert pool.request("ben", 4) is None
    assert line(pool) == ["ben", "cyd"]


def test_first_come_first_served_and_a_waiter_that_leaves_frees_the_place() -> None:
    pool = pool_of("a")
    for now, name in enumerate(("ada", "ben", "cyd", "dee")):
        pool.request(name, now)
    assert [pool.place(name) for name in ("ada", "ben", "cyd", "dee")] == [None, 0, 1, 2]
    pool.leave("ben")
    assert pool.place("dee") == 1
    granted = pool.release("ada", 10)
    assert ids(list(granted.values())) == ["GPU-a/1of1"]
    assert list(granted) == ["cyd"]
    assert line(pool) == ["dee"]


def test_releasing_or_leaving_for_nobody_changes_nothing() -> None:
    pool = pool_of("a")
    pool.request("ada", 0)
    pool.request("ben", 0)
    before = pool.snapshot()
    assert pool.release("ben", 1) == {}  # waits, and holds nothing
    assert pool.release("nobody", 1) == {}
    pool.leave("ada")  # holds, and does not wait
    pool.leave("nobody")
    assert pool.snapshot() == before


def test_a_place_is_kept_over_a_restart_of_the_hub() -> None:
    pool = pool_of("a")
    pool.request("ada", 100)
    pool.request("new", 101)
    pool.request("ben", 102, since=50)
    pool.request("cyd", 103, since=40)
    pool.request("liar", 104, since=1e12)
    pool.request("dee", 105, since=50)
    assert line(pool) == ["cyd", "ben", "dee", "new", "liar"]
    assert pool.snapshot()["line"][-1] == {"holder": "liar", "since": 104}


def test_a_clock_that_is_set_back_lets_nobody_jump_the_line() -> None:
    pool = pool_of("a", lasted=[600.0])
    for now, name in ((1000, "ada"), (1001, "ben"), (10, "cyd")):
        pool.request(name, now)
    assert line(pool) == ["ben", "cyd"]
    assert pool.estimate("ben", 10) == 600
    assert pool.release("ada", 10).keys() == {"ben"}
    assert pool.lasted == (600.0,)


def test_the_holder_of_a_lost_gpu_stays_its_holder_until_it_comes_back() -> None:
    pool = pool_of("a", "b")
    pool.request("ada", 0)
    pool.request("ben", 0)
    pool.request("cyd", 0)
    assert pool.resize(slots_of(EXCLUSIVE, [gpu("a", error="It is lost."), gpu("b")]), 1) == {}
    lost = next(slot for slot in pool.snapshot()["slots"] if slot["id"] == "GPU-a/1of1")
    assert lost["lost"] is True
    assert lost["holders"] == [{"holder": "ada", "since": 0}]
    assert pool.request("ada", 2) == Slot("GPU-a", memory=140 * GIB)
    assert pool.resize(slots_of(EXCLUSIVE, [gpu("a"), gpu("b")]), 3) == {}
    assert held(pool) == {"ada": "GPU-a/1of1", "ben": "GPU-b/1of1"}
    assert pool.release("ada", 4).keys() == {"cyd"}


def test_a_lost_slot_that_is_given_back_goes_to_nobody() -> None:
    pool = pool_of("a", "b")
    for name in ("ada", "ben", "cyd"):
        pool.request(name, 0)
    pool.resize(slots_of(EXCLUSIVE, [gpu("b")]), 1)
    assert pool.release("ada", 2) == {}
    assert line(pool) == ["cyd"]


def test_a_found_gpu_goes_to_the_first_in_the_line() -> None:
    pool = pool_of("a")
    for name in ("ada", "ben", "cyd"):
        pool.request(name, 0)
    assert pool.resize(slots_of(EXCLUSIVE, [gpu("a"), gpu("b")]), 1).keys() == {"ben"}


def test_waiters_keep_their_places_while_the_monitor_sees_no_gpu() -> None:
    pool = pool_of("a", lasted=[600.0])
    pool.request("ada", 0)
    pool.request("ben", 1)
    pool.resize((), 2, problem="All is lost.")
    assert (pool.place("ben"), pool.estimate("ben", 2), pool.problem) == (0, None, "All is lost.")
    with pytest.raises(PoolEmpty, match="All is lost"):
        pool.request("cyd", 2)
    pool.resize(slots_of(EXCLUSIVE, [gpu("a")]), 3)
    assert pool.release("ada", 4).keys() == {"ben"}


def test_a_gpu_divided_anew_is_given_out_once_its_former_holders_are_gone() -> None:
    """Else somebody who was promised a whole GPU would get a neighbour."""
    pool = pool_of("a", "b", shares=2)
    for name in ("ada", "ben", "cyd", "dee"):
        pool.request(name, 0)
    pool.release("dee", 1)
    pool.resize(slots_of(EXCLUSIVE, [gpu("a"), gpu("b")]), 2)
    assert held(pool) == {"ada": "GPU-a/1of2", "ben": "GPU-b/1of2", "cyd": "GPU-a/2of2"}
    assert pool.request("eve", 3) is None
    assert pool.release("ada", 4) == {}
    assert pool.release("ben", 5) == {"eve": Slot("GPU-b", memory=140 * GIB)}
    assert pool.request("fay", 6) is None
    assert pool.release("cyd", 7) == {"fay": Slot("GPU-a", memory=140 * GIB)}


def test_mig_instances_made_anew_are_slots_of_their_own() -> None:
    pool = Pool(slots_of(MIG, [gpu("a", mig=["x", "y"])]))
    pool.request("ada", 0)
    pool.request("ben", 0)
    assert pool.request("cyd", 0) is None
    assert pool.resize(slots_of(MIG, [gpu("a", mig=["y", "z"])]), 1) == {"cyd": Slot("MIG-z", memory=10 * GIB)}
    assert held(pool) == {"ada": "MIG-x/1of1", "ben": "MIG-y/1of1", "cyd": "MIG-z/1of1"}


def test_the_labels_of_running_containers_are_believed() -> None:
    pool = pool_of("a", "b")
    assert pool.restore({"ada": "GPU-b/1of1"}, 100, since={"ada": 40}) == {}
    assert pool.slot_of("ada") == Slot("GPU-b", memory=140 * GIB)
    assert pool.request("ben", 101) == Slot("GPU-a", memory=140 * GIB)
    assert pool.request("cyd", 102) is None
    assert pool.release("ada", 140).keys() == {"cyd"}
    assert pool.lasted == (100.0,)


def test_two_containers_that_claim_one_slot_keep_it_until_both_are_gone() -> None:
    pool = pool_of("a")
    pool.restore({"ada": "GPU-a/1of1", "ben": "GPU-a/1of1"}, 0)
    assert held(pool).keys() == {"ada", "ben"}
    assert pool.request("cyd", 1) is None
    assert pool.release("ada", 2) == {}
    assert pool.request("ada", 3) is None
    assert pool.release("ben", 4).keys() == {"cyd"}
    assert line(pool) == ["ada"]


def test_a_label_of_no_device_has_a_holder_and_takes_nothing_from_others() -> None:
    pool = pool_of("a")
    pool.restore({"ada": "GPU-gone/2of4"}, 0)
    assert held(pool) == {"ada": "GPU-gone/2of4"}
    assert [slot["lost"] for slot in pool.snapshot()["slots"]] == [False, True]
    assert pool.snapshot()["free"] == 1
    assert pool.request("ben", 1) is not None


@pytest.mark.parametrize("label", ["GPU-a/whatever", "GPU-a"])
def test_a_label_that_cannot_be_read_blocks_its_whole_device(label: str) -> None:
    pool = pool_of("a", shares=2)
    pool.restore({"ada": label}, 0)
    assert pool.request("ben", 1) is None
    assert pool.snapshot()["free"] == 0
    assert pool.release("ada", 2).keys() == {"ben"}


def test_restoring_again_changes_nothing_and_leaves_other_holders_alone() -> None:
    pool = pool_of("a", "b")
    pool.request("ada", 5)  # its container does not run yet
    pool.restore({"ben": "GPU-b/1of1"}, 10)
    before = pool.snapshot()
    pool.restore({"ben": "GPU-b/1of1"}, 20, since={"ben": 3})
    assert pool.snapshot() == before


def test_a_label_overrules_what_the_pool_thought() -> None:
    pool = pool_of("a", "b")
    for name in ("ada", "ben", "cyd", "dee"):
        pool.request(name, 0)
    assert held(pool) == {"ada": "GPU-a/1of1", "ben": "GPU-b/1of1"}
    granted = pool.restore({"ada": "GPU-b/1of1", "cyd": "GPU-gone/1of1"}, 1)
    assert granted == {"dee": Slot("GPU-a", memory=140 * GIB)}
    assert held(pool) == {"ada": "GPU-b/1of1", "ben": "GPU-b/1of1", "cyd": "GPU-gone/1of1", "dee": "GPU-a/1of1"}


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


def check_estimates(pool: Pool, waiters: Sequence[str], now: float) -> None:
    estimates = [pool.estimate(waiter, now) for waiter in waiters]
    numbers = [estimate for estimate in estimates if estimate is not None]
    assert len(numbers) in (0, len(estimates))
    assert all(number >= 0 for number in numbers)  # NaN is not
    assert numbers == sorted(numbers)


def test_a_snapshot_is_plain_data() -> None:
    pool = pool_of("a", shares=2)
    pool.request("ada", 1)
    assert pool.snapshot() == {
        "slots": [
            {
                "id": f"GPU-a/{share}of2",
                "device": "GPU-a",
                "share": share,
                "shares": 2,
                "memory": 70 * GIB,
                "lost": False,
                "holders": [{"holder": "ada", "since": 1}] if share == 1 else [],
            }
            for share in (1, 2)
        ],
        "line": [],
        "free": 1,
        "problem": "",
    }
    pool.request("ben", 2)
    pool.request("cyd", 3)
    assert pool.snapshot()["line"] == [{"holder": "cyd", "since": 3}]
    assert Pool(problem="Why.").snapshot() == {"slots": [], "line": [], "free": 0, "problem": "Why."}


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
        self.slots = slots_of(Mode("shared", shares), [gpu(name) for name in names])
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


def test_docker_is_asked_for_the_slots_uuid() -> None:
    slot = Slot("GPU-a", memory=140 * GIB)
    by_runtime = access(slot, cdi=False)
    assert by_runtime.device_requests == [
        {"Driver": "nvidia", "DeviceIDs": ["GPU-a"], "Capabilities": [["gpu", "utility", "compute"]]}
    ]
    assert by_runtime.labels == {LABEL: "GPU-a/1of1"} == {"gradlab.gpu": "GPU-a/1of1"}
    assert by_runtime.environment == {"NVIDIA_VISIBLE_DEVICES": "GPU-a"}
    by_cdi = access(slot, cdi=True)
    assert by_cdi.device_requests == [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-a"]}]
    assert (by_cdi.environment, by_cdi.labels) == ({"NVIDIA_VISIBLE_DEVICES": "void"}, by_runtime.labels)


@pytest.mark.parametrize("cdi", [False, True])
def test_dockers_own_library_takes_the_request_and_counts_nothing(cdi: bool) -> None:
    [request] = access(Slot("MIG-x"), cdi=cdi).device_requests
    assert docker.types.DeviceRequest(**request)["Count"] == 0


@pytest.mark.parametrize("cdi", [False, True])
def test_without_a_slot_every_gpu_is_kept_away(cdi: bool) -> None:
    nothing = access(None, cdi=cdi)
    assert (nothing.device_requests, nothing.labels) == ([], {})
    assert nothing.environment == {"NVIDIA_VISIBLE_DEVICES": "void"}


def test_neighbours_on_a_gpu_get_defaults_that_let_each_other_live() -> None:
    slot = Slot("GPU-a", 1, 7, 20 * GIB)
    polite = {
        "NVIDIA_VISIBLE_DEVICES": "void",  # with CDI
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    assert access(slot, cdi=True).environment == polite | {"PYTORCH_ALLOC_CONF": "per_process_memory_fraction:0.1428"}
    # The container takes an enforced limit for the whole GPU: a fraction of that would count twice.
    assert access(slot, cdi=True, enforced=True).environment == polite


@pytest.mark.parametrize("shares", range(2, 33))
def test_the_fractions_of_all_neighbours_fit_on_the_gpu(shares: int) -> None:
    settings = access(Slot("GPU-a", 1, shares), cdi=True).environment["PYTORCH_ALLOC_CONF"]
    assert 0.99 < float(settings.rpartition(":")[2]) * shares <= 1


def test_it_is_said_plainly_that_a_share_of_memory_is_not_enforced() -> None:
    assert share_statement(Slot("GPU-a", 1, 4, 35 * GIB)) == (
        "Up to 4 learners share this GPU. Your share of its memory is 35.0 GiB, but the hardware does not enforce it: "
        "whoever asks first gets the memory, and the others' programs then fail for want of it. PyTorch keeps each of "
        "your processes to the share as long as you leave its defaults; other programs need not, and several processes "
        "together can exceed it."
    )
    assert "Your share of its memory is 1/4, but" in share_statement(Slot("GPU-a", 1, 4))
    assert share_statement(Slot("GPU-a", memory=140 * GIB)) == share_statement(Slot("MIG-x")) == ""
