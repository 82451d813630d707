"""Frames joined with owners and servers: whose memory, whose utilisation, and what belongs to nobody."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gradlab.gpu.join import Joined, Machine, join
from gradlab.gpu.owners import Owner
from gradlab.roster import Roster, Server
from tests.gpuframes import GIB, device, frame, process

ADA = Server("ada", lab="tensors", container="a" * 64, device="GPU-0", held_since=900.0)
BOB = Server("bob", container="b" * 64)
ROSTER = Roster((ADA, BOB))
OWNERS = {
    10: Owner("learner", ADA, ADA.container),
    11: Owner("learner", ADA, ADA.container),
    20: Owner("learner", BOB, BOB.container),
    30: Owner("container", None, "c" * 64),
    40: Owner("machine", None, ""),
}


def joined(*devices: dict[str, Any], roster: Roster = ROSTER) -> Joined:
    return join(frame(*devices), OWNERS, roster)


def test_each_learner_has_a_part_and_the_rest_is_the_machines_or_nobodys() -> None:
    shared = device(
        "GPU-0",
        process(10, 3 * GIB, sm=30),
        process(11, GIB, sm=20),
        process(20, 8 * GIB, sm=40),
        process(30, GIB, sm=5),
        process(40, GIB),
        process(99, 2 * GIB),  # it has ended, and nobody can say whose it was
        memory_used=20 * GIB,
    )
    found = joined(shared).devices[0]
    parts = [(part.server.learner, part.processes, part.memory, part.utilisation) for part in found.parts]
    assert parts == [("bob", 1, 8 * GIB, 40), ("ada", 2, 4 * GIB, 50)]  # the largest first
    assert found.machine == Machine(2, 2 * GIB, 5)
    assert found.unattributed == 6 * GIB
    assert [server.learner for server in found.holders] == ["ada"]


def test_who_holds_a_gpu_or_is_on_one_is_a_server_in_use() -> None:
    found = joined(device("GPU-0"), device("GPU-1", process(20, GIB, sm=60)), device("GPU-2", process(20, GIB, sm=20)))
    ada, bob = found.servers
    assert (ada.server, ada.processes, ada.memory, ada.utilisation) == (ADA, 0, 0, 0)
    assert (bob.server, bob.processes, bob.memory, bob.utilisation) == (BOB, 2, 2 * GIB, 40)  # the mean of two GPUs


def test_what_is_not_reported_of_one_process_is_not_known_of_the_sum() -> None:
    found = joined(device("GPU-0", process(10, None, sm=None), process(11, GIB), process(20, GIB))).devices[0]
    by_name = {part.server.learner: part for part in found.parts}
    assert (by_name["ada"].memory, by_name["ada"].utilisation) == (None, None)
    assert (by_name["bob"].memory, by_name["bob"].utilisation) == (GIB, 0)
    assert found.unattributed is None


def test_processes_that_are_not_listed_leave_everything_unknown() -> None:
    found = joined(device("GPU-0", processes=None)).devices[0]
    assert (found.parts, found.machine, found.unattributed) == ((), Machine(0, None, None), None)
    assert [server.learner for server in found.holders] == ["ada"]


def test_memory_that_is_counted_twice_leaves_nothing_unattributed_rather_than_less() -> None:
    assert joined(device("GPU-0", process(10, 3 * GIB), memory_used=2 * GIB)).devices[0].unattributed == 0


def test_a_mig_instance_has_the_utilisation_of_whoever_is_alone_on_it() -> None:
    def instance(name: str, percent: int | None) -> dict[str, Any]:
        return {"uuid": name, "name": "1g.18gb", "memory_used": GIB, "memory_total": 16 * GIB, "utilisation": percent}

    divided = device(
        "GPU-0",
        process(10, GIB, sm=None, instance="MIG-1"),
        process(20, GIB, sm=None, instance="MIG-2"),
        process(11, GIB, sm=None, instance="MIG-2"),
        mig=[instance("MIG-1", 70), instance("MIG-2", 50)],
        measured=False,
        utilisation=None,
    )
    holder = Server("ada", container="a" * 64, device="MIG-1")
    found = joined(divided, roster=Roster((holder, BOB))).devices[0]
    parts = {(part.server.learner, part.instance): part.utilisation for part in found.parts}
    assert parts == {("ada", "MIG-1"): 70, ("bob", "MIG-2"): None, ("ada", "MIG-2"): None}
    assert found.holders == (holder,)
    assert found.machine.utilisation is None


def test_over_a_share_is_who_has_more_on_the_gpu_it_is_a_share_of() -> None:
    def over(memory: int | None, **more: Any) -> bool:
        server = Server("ada", container="a" * 64, device="GPU-0", **({"share": 2 * GIB} | more))
        owners = {10: Owner("learner", server, server.container)}
        devices = device("GPU-0", process(10, memory)), device("GPU-1", process(10, 9 * GIB))
        return join(frame(*devices), owners, Roster((server,))).servers[0].over_share

    assert over(2 * GIB + 1)
    assert not over(2 * GIB)
    assert not over(9 * GIB, hard=True)  # the driver sees to it
    assert not over(9 * GIB, share=None)
    assert not over(None)  # nobody can say


@given(
    st.lists(st.tuples(st.sampled_from([10, 11, 20, 30, 40, 99]), st.integers(0, 1 << 38), st.integers(0, 100))),
    st.integers(0, 1 << 40),
)
def test_memory_is_neither_lost_nor_made(processes: list[tuple[int, int, int]], more: int) -> None:
    """Parts, the machine's and what is unattributed add up to what is used."""
    used = sum(memory for _, memory, _ in processes) + more
    found = joined(device("GPU-0", *(process(pid, size, sm=sm) for pid, size, sm in processes), memory_used=used))
    one = found.devices[0]
    known = sum(part.memory or 0 for part in one.parts) + (one.machine.memory or 0)
    assert known + (one.unattributed or 0) == used
    assert all(0 <= (part.utilisation or 0) <= 100 for part in one.parts)
