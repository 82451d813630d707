"""GPUs are given out one holder a slot and first come, first served, whatever devices, labels and clocks do."""

from __future__ import annotations

import pytest

from gradlab.errors import GradlabError, PoolEmpty
from gradlab.hub.gpus import Pool, Slot, slots_of
from tests.gpus import EXCLUSIVE, GIB, MIG, gpu, held, line, pool_of, shared


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
    pool.request("eve", 1)
    pool.request("fay", 1)
    assert held(pool) == {"cyd": "GPU-a/2of2", "eve": "GPU-b/1of2", "fay": "GPU-a/1of2"}


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
    assert pool.release("ada", 10) == {"cyd": Slot("GPU-a", memory=140 * GIB)}
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
