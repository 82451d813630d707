"""The simulated machine of a demonstration: what can never be, what does happen, and that the driver takes it all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlab.demo.machine import Machine
from gradlab.gpu.simulator import write

BEGIN = 1_800_000_000.0
MIB = 1 << 20

machines = st.builds(
    lambda seed, count: Machine([f"learner{i}" for i in range(count)], seed=seed, lab_of=lambda name: f"lab of {name}"),
    st.integers(0, 1 << 32),
    st.integers(1, 60),
)
# Seconds between two steps; a machine that slept for an hour is one of them.
pauses = st.lists(st.sampled_from([0.0, 0.2, 1.0, 1.0, 1.0, 5.0, 60.0, 3600.0]), min_size=1, max_size=60)


def steps(machine: Machine, seconds: int) -> Iterator[float]:
    """Once a second; yields the time after each step."""
    for second in range(seconds):
        machine.step(BEGIN + second)
        yield BEGIN + second


def pids_of(machine: Machine) -> dict[int, int]:
    return {program.number: 1000 + program.number for session in machine.sessions for program in session.programs}


def scenario_of(machine: Machine) -> dict[str, Any]:
    return machine.scenario(pids_of(machine))


@given(machines, pauses)
@settings(max_examples=60)
def test_what_never_is(machine: Machine, pauses: list[float]) -> None:
    now = BEGIN
    for pause in pauses:
        now += pause
        line = machine.line
        held = {session.learner for session in machine.sessions}
        machine.step(now)
        one_holder_a_place(machine)
        first_come_first_served(machine, line, held)
        the_roster_says_the_same(machine)
        memory_fits(scenario_of(machine))
        utilisation_fits(scenario_of(machine), now)


def one_holder_a_place(machine: Machine) -> None:
    places = [session.place for session in machine.sessions]
    learners = [session.learner for session in machine.sessions]
    assert len(set(places)) == len(places)
    assert len(set(learners)) == len(learners)
    assert not set(learners) & set(machine.line)
    assert len(set(machine.line)) == len(machine.line)


def first_come_first_served(machine: Machine, line: tuple[str, ...], held: set[str]) -> None:
    """Whoever has left the line stood before all who are still in it, and has a GPU."""
    holding = {session.learner for session in machine.sessions}
    called = sum(learner in holding for learner in line)
    assert machine.line[: len(line) - called] == line[called:]
    assert set(line[:called]) <= holding
    if called < len(line):  # nobody who has just come goes past them
        assert holding - held <= set(line)


def the_roster_says_the_same(machine: Machine) -> None:
    roster = machine.roster({session.learner: 77 for session in machine.sessions})
    assert [server.device for server in roster.servers] == [session.place.uuid for session in machine.sessions]
    assert all(server.pid == 77 and server.lab == f"lab of {server.learner}" for server in roster.servers)
    assert [waiter.learner for waiter in roster.line] == list(machine.line)
    assert [waiter.position for waiter in roster.line] == list(range(1, len(machine.line) + 1))
    assert roster.slots == sum(place.gpu not in machine.lost for place in machine.places)
    on_lost = sum(session.place.gpu in machine.lost for session in machine.sessions)
    assert roster.free == roster.slots - (len(roster.servers) - on_lost)
    assert not (roster.free and roster.line)


def memory_fits(scenario: dict[str, Any]) -> None:
    for device in scenario["devices"]:
        memory = device["memory"]
        assert memory["used"] + memory["reserved"] <= memory["total"]
        for place in device.get("instances", [device]):
            assert sum(process["memory"] for process in place["processes"]) <= place["memory"]["used"]
            assert place["memory"]["used"] <= place["memory"]["total"]


def utilisation_fits(scenario: dict[str, Any], now: float) -> None:
    for device in scenario["devices"][:-1]:
        listed = {process["pid"] for process in device["processes"]}
        samples = device["process_samples"]
        assert {sample["pid"] for sample in samples} <= listed
        assert all(0 < sample["sm"] <= 100 and sample["time"] == int(now * 1_000_000) for sample in samples)
        assert device.get("error") == "lost" or device["utilisation"]["gpu"] == sum(one["sm"] for one in samples)
        assert 20 <= device["temperature"] <= 95
        assert 0 < device["power"] <= device["power_limit"]
    mig = scenario["devices"][-1]
    assert "utilisation" not in mig  # as with the hardware
    assert all(0 <= instance["gpm"]["graphics"] <= 100 for instance in mig["instances"])


@given(st.integers(0, 1 << 32))
@settings(max_examples=10)
def test_a_seed_makes_a_machine(seed: int) -> None:
    one, same = (Machine(list("abcdefghijklmnop"), seed=seed, lab_of=str.upper) for _ in range(2))
    other = Machine(list("abcdefghijklmnop"), seed=seed + 1, lab_of=str.upper)
    for _ in zip(steps(one, 200), steps(same, 200), steps(other, 200), strict=True):
        assert scenario_of(one) == scenario_of(same)
        assert one.roster({}) == same.roster({})
        assert scenario_of(one) != scenario_of(other)


def test_a_class_is_at_work_within_seconds_and_some_wait() -> None:
    machine = Machine([f"learner{i}" for i in range(40)], seed=8, lab_of=str)
    list(steps(machine, 60))
    assert len(machine.sessions) == len(machine.places) == 10
    assert machine.line
    assert sum(bool(session.busy) for session in machine.sessions) >= 3


def test_learners_who_are_few_need_not_wait() -> None:
    machine = Machine(["ada", "grace"], seed=8, lab_of=str)
    list(steps(machine, 15))
    assert {session.learner for session in machine.sessions} == {"ada", "grace"}
    assert machine.roster({}).free == 8


def test_in_an_hour_everything_happens_that_an_instructor_should_see() -> None:
    machine = Machine([f"learner{i}" for i in range(40)], seed=8, lab_of=str)
    seen = set()
    idle: dict[tuple[str, float], int] = {}
    for _ in steps(machine, 3600):
        for session in machine.sessions:
            stay = (session.learner, session.since)
            idle[stay] = 0 if session.busy or not session.programs else idle.get(stay, 0) + 1
            seen |= {session.phase, f"{len(session.programs)} programs"}
        for device in scenario_of(machine)["devices"]:
            seen |= {f"xid {event['xid']}" for event in device["events"]}
            seen |= {f"throttled {device['throttle_reasons']:#x}"}
    assert {"loading", "training", "thinking", "debugging", "forgotten", "broken", "1 programs", "2 programs"} <= seen
    assert {"xid 13", "xid 31", "xid 43", "xid 79", "throttled 0x40", "throttled 0x1"} <= seen
    assert max(idle.values()) > 100


def test_a_lost_gpu_comes_back_after_half_a_minute_and_is_given_to_nobody_meanwhile() -> None:
    machine = Machine([f"learner{i}" for i in range(40)], seed=8, lab_of=str)
    begun: dict[int, float] = {}
    lasted = []
    for now in steps(machine, 3600):
        for gpu in set(machine.lost) - begun.keys():
            begun[gpu] = now
        for gpu in begun.keys() - set(machine.lost):
            lasted.append(now - begun.pop(gpu))
        assert not any(one.place.gpu in machine.lost and one.since == now for one in machine.sessions)
        for gpu, device in enumerate(scenario_of(machine)["devices"]):
            assert (device.get("error") == "lost") == (gpu in machine.lost)
    assert len(lasted) > 3
    assert set(lasted) == {30.0}


def test_who_works_on_a_gpu_that_is_lost_keeps_it_and_begins_anew() -> None:
    machine = Machine([f"learner{i}" for i in range(40)], seed=8, lab_of=str)
    time = steps(machine, 7200)
    hit = next(one for _ in time for one in machine.sessions if one.place.gpu in machine.lost)
    hit.until += 600
    while hit.place.gpu in machine.lost:
        assert hit.programs == []
        next(time)
    assert any(hit.programs for _ in time if hit in machine.sessions)


def test_the_simulated_driver_takes_it(tmp_path: Path) -> None:
    machine = Machine([f"learner{i}" for i in range(40)], seed=8, lab_of=str)
    for now in steps(machine, 600):
        if now % 10 == 0 or machine.lost:
            write(tmp_path / "scenario", scenario_of(machine))
    text = (tmp_path / "scenario").read_text()
    assert text.count("\ndevice\n") == 8
    assert text.count("\ninstance\n") == 3


@pytest.mark.parametrize("count", [1, 4, 13, 40, 200])
def test_the_line_is_some_learners_long_and_no_more(count: int) -> None:
    machine = Machine([f"learner{i}" for i in range(count)], seed=3, lab_of=str)
    lengths = [len(machine.line) for _ in steps(machine, 5400)]
    mean = sum(lengths[600:]) / len(lengths[600:])
    assert mean == 0 if count <= 10 else mean < 0.3 * count
