"""A machine with eight GPUs and a class at work on them, simulated: data in, data out.

Seven GPUs are given out whole, the eighth is in MIG mode and gives out its instances. A learner waits for one in the
line, loads data, trains, thinks, debugs, forgets it for minutes, and gives it back. Now and then a program of theirs
crashes, a GPU gets too hot, or one is lost for half a minute.

Nothing is started or written here. The same seed and the same times make the same machine.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradlab.roster import Roster, Server, Waiter

__all__ = ["Machine", "Place", "Program", "Session"]

_MIB = 1 << 20
_GPUS = 8
_TOTAL, _RESERVED = 143771 * _MIB, 614 * _MIB
# What contexts take that the driver says no process has: once for a GPU on which there is a program.
_CONTEXTS = 312 * _MIB
# Of what a place has, the most that its programs take together.
_MOST_OF_PLACE = 0.92
_WATTS, _IDLE_WATTS = 700.0, 76.0
_CLOCKS = {"graphics": 1980, "sm": 1980, "memory": 3201, "video": 1545}
_RESTING_CLOCKS = {"graphics": 345, "sm": 345, "memory": 3201, "video": 345}
_HOT_CLOCKS = {"graphics": 1095, "sm": 1095, "memory": 3201, "video": 900}
# NVML's bits of why clocks are lower than they could be.
_THROTTLED_IDLE, _THROTTLED_POWER, _THROTTLED_HOT = 0x1, 0x4, 0x40
# Of the last GPU: name, GPU instance, multiprocessors, slices, MiB.
_INSTANCES = (
    ("NVIDIA H200 MIG 3g.71gb", 2, 60, 3, 71168),
    ("NVIDIA H200 MIG 2g.35gb", 3, 32, 2, 33280),
    ("NVIDIA H200 MIG 2g.35gb", 5, 32, 2, 33280),
)

# How long somebody keeps a GPU, and how long the line is meant to be when the class is in full swing.
_SESSION_SECONDS = (120.0, 480.0)
_MEAN_SESSION = sum(_SESSION_SECONDS) / 2
_WAIT_SECONDS = 120.0
_LEAST_AWAY_SECONDS = 20.0
# At the beginning those come who are to be there at once.
_ARRIVAL_SECONDS = 10.0
_FIRST_IN_LINE = 3

_CRASHES = (13, 31, 43)
_OFF_THE_BUS = 79
# Of the whole machine, the seconds between two of them on the average.
_BETWEEN_CRASHES, _BETWEEN_LOSSES, _BETWEEN_HEATS = 120.0, 300.0, 180.0
_LOST_SECONDS, _HOT_SECONDS = 30.0, 40.0
_EVENTS_KEPT = 20
# Of time that went by between two steps, this much counts; the machine was asleep for the rest.
_LONGEST_STEP = 5.0


@dataclass(frozen=True)
class _Phase:
    """``seconds`` and ``busy`` (percent) are from, to; ``then`` has the weights of what may follow."""

    seconds: tuple[float, float]
    busy: tuple[int, int]
    then: Mapping[str, int]
    programs: bool = True


_PHASES = {
    "opening": _Phase((2, 8), (0, 0), {"loading": 1}, programs=False),
    "loading": _Phase((4, 15), (2, 18), {"training": 1}),
    "training": _Phase((20, 120), (60, 98), {"thinking": 4, "debugging": 3, "forgotten": 1}),
    "debugging": _Phase((10, 40), (0, 35), {"training": 3, "thinking": 2}),
    "thinking": _Phase((10, 50), (0, 0), {"training": 3, "debugging": 2, "loading": 1}),
    "forgotten": _Phase((120, 300), (0, 0), {"training": 1}),
    "broken": _Phase((10, 30), (0, 0), {"loading": 1}, programs=False),
}


@dataclass(frozen=True)
class Place:
    """What one learner at a time can hold: a GPU, or the MIG instance at a place of the last one. Memory in bytes."""

    gpu: int
    uuid: str
    memory: int
    instance: int | None = None


@dataclass
class Program:
    """A process on a GPU, by a ``number`` that no other one gets; ``memory`` (bytes) grows up to ``need``."""

    number: int
    need: int
    memory: int = 0
    busy: int = 0


@dataclass
class Session:
    """A learner with a GPU, from ``since`` to ``until`` (seconds since the epoch)."""

    learner: str
    lab: str
    place: Place
    since: float
    until: float
    phase: str = "opening"
    phase_until: float = 0.0
    level: float = 0.0
    programs: list[Program] = field(default_factory=list)

    @property
    def busy(self) -> int:
        """Percent."""
        return min(100, sum(program.busy for program in self.programs))


@dataclass
class _Gpu:
    index: int
    uuid: str
    pci: str
    serial: str
    temperature: float = 31.0
    power: float = _IDLE_WATTS
    energy: float = 0.0
    busy: int = 0
    lost_until: float = 0.0
    hot_until: float = 0.0
    events: list[dict[str, Any]] = field(default_factory=list)

    def note(self, xid: int, now: float) -> None:
        self.events = [*self.events, {"xid": xid, "time": now}][-_EVENTS_KEPT:]


class Machine:
    """Begins with the first :meth:`step`. ``lab_of`` says which lab a learner is at."""

    def __init__(self, learners: Sequence[str], *, seed: int, lab_of: Callable[[str], str]) -> None:
        hardware = random.Random(f"hardware {seed}")
        self._random = random.Random(f"class {seed}")
        self._lab_of = lab_of
        self._gpus = [_gpu(hardware, index) for index in range(_GPUS)]
        self._instances = [_uuid(hardware, "MIG") for _ in _INSTANCES]
        self.places = (
            *(Place(gpu.index, gpu.uuid, _TOTAL - _RESERVED) for gpu in self._gpus[:-1]),
            *(
                Place(_GPUS - 1, uuid, mib * _MIB, instance)
                for uuid, (_, instance, _, _, mib) in zip(self._instances, _INSTANCES, strict=True)
            ),
        )
        self._learners = list(learners)
        self._comes: dict[str, float] = {}
        self._line: list[tuple[str, float]] = []
        self._sessions: list[Session] = []
        self._programs = 0
        self._now = 0.0

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Who has a GPU now."""
        return tuple(self._sessions)

    @property
    def line(self) -> tuple[str, ...]:
        """Who waits for one, the first first."""
        return tuple(learner for learner, _ in self._line)

    @property
    def lost(self) -> tuple[int, ...]:
        """The numbers of GPUs that are lost now."""
        return tuple(gpu.index for gpu in self._gpus if gpu.lost_until > self._now)

    def step(self, now: float) -> None:
        """Go on to ``now``, in seconds since the epoch."""
        first = not self._comes
        passed = 0.0 if first else min(max(0.0, now - self._now), _LONGEST_STEP)
        self._now = now
        if first:
            self._arrange_arrivals()
        self._trouble(passed)
        self._come_and_go()
        for session in self._sessions:
            self._work(session, passed)
        for gpu in self._gpus:
            self._run(gpu, passed)

    # -- who has a GPU -----------------------------------------------------------------------------------------------

    def _arrange_arrivals(self) -> None:
        """All places are taken within seconds, and a few wait."""
        people = self._random.sample(self._learners, len(self._learners))
        at_once = len(self.places) + _FIRST_IN_LINE
        for learner in people[:at_once]:
            self._comes[learner] = self._now + self._random.uniform(0, _ARRIVAL_SECONDS)
        for learner in people[at_once:]:
            self._comes[learner] = self._now + _ARRIVAL_SECONDS + self._random.expovariate(1 / self._away())

    def _away(self) -> float:
        """How long a learner goes without a GPU on the average, for the line to be as long as it should."""
        round_trip = len(self._learners) * _MEAN_SESSION / len(self.places)
        return max(_LEAST_AWAY_SECONDS, round_trip - _MEAN_SESSION - _WAIT_SECONDS)

    def _come_and_go(self) -> None:
        for session in [one for one in self._sessions if one.until <= self._now]:
            self._sessions.remove(session)
            self._comes[session.learner] = self._now + self._random.expovariate(1 / self._away())
        waiting, holding = set(self.line), {session.learner for session in self._sessions}
        due = [one for one, at in self._comes.items() if at <= self._now and one not in waiting | holding]
        self._line += [(learner, self._now) for learner in sorted(due, key=lambda one: self._comes[one])]
        free = self._free()
        self._random.shuffle(free)
        while free and self._line:
            self._sessions.append(self._session(self._line.pop(0)[0], free.pop()))

    def _free(self) -> list[Place]:
        taken = {session.place for session in self._sessions}
        return [place for place in self.places if place not in taken and place.gpu not in self.lost]

    def _session(self, learner: str, place: Place) -> Session:
        until = self._now + self._random.uniform(*_SESSION_SECONDS)
        session = Session(learner, self._lab_of(learner), place, self._now, until)
        self._enter(session, "opening")
        return session

    # -- what they do with it ----------------------------------------------------------------------------------------

    def _enter(self, session: Session, phase: str) -> None:
        session.phase = phase
        found = _PHASES[phase]
        session.phase_until = self._now + self._random.uniform(*found.seconds)
        session.level = self._random.uniform(*found.busy)
        if not found.programs:
            session.programs = []
        elif not session.programs:
            session.programs = self._new_programs(session.place)

    def _new_programs(self, place: Place) -> list[Program]:
        """One, or two: a second notebook looks at what the first one makes."""
        most = int(place.memory * _MOST_OF_PLACE)
        needs = [int(most * self._random.uniform(0.08, 0.85))]
        if self._random.random() < 0.35:
            needs.append(int(most * self._random.uniform(0.01, 0.1)))
        self._programs += len(needs)
        return [Program(self._programs - place_of, need) for place_of, need in enumerate(needs)]

    def _work(self, session: Session, passed: float) -> None:
        if session.place.gpu in self.lost:
            return
        if session.phase_until <= self._now:
            then = _PHASES[session.phase].then
            [phase] = self._random.choices(list(then), weights=list(then.values()))
            self._enter(session, phase)
        for program in session.programs:
            # A context first, then some gigabytes a second.
            least = min(program.need, 480 * _MIB)
            grown = program.memory + int(passed * program.need * self._random.uniform(0.1, 0.3))
            program.memory = min(program.need, max(least, grown))
            program.busy = 0
        if session.programs:
            self._be_busy(session)

    def _be_busy(self, session: Session) -> None:
        least, most = _PHASES[session.phase].busy
        wanted = round(min(most, max(least, self._random.gauss(session.level, 4)))) if most else 0
        if session.phase == "debugging" and self._random.random() < 0.5:  # between two runs
            wanted = 0
        first, *others = session.programs
        for other in others:
            other.busy = wanted // 10
        first.busy = wanted - sum(other.busy for other in others)

    # -- what goes wrong ---------------------------------------------------------------------------------------------

    def _trouble(self, passed: float) -> None:
        if self._happens(passed, _BETWEEN_CRASHES) and (busy := [one for one in self._sessions if one.busy]):
            session = self._random.choice(busy)
            self._gpus[session.place.gpu].note(self._random.choice(_CRASHES), self._now)
            self._enter(session, "broken")
        whole = self._gpus[:-1]
        if self._happens(passed, _BETWEEN_LOSSES) and not self.lost:
            gpu = self._random.choice(whole)
            gpu.lost_until = self._now + _LOST_SECONDS
            gpu.note(_OFF_THE_BUS, self._now)
            for session in [one for one in self._sessions if one.place.gpu == gpu.index]:
                self._enter(session, "broken")
        if self._happens(passed, _BETWEEN_HEATS):
            self._random.choice(whole).hot_until = self._now + _HOT_SECONDS

    def _happens(self, passed: float, between: float) -> bool:
        return self._random.random() < 1 - math.exp(-passed / between)

    # -- what the hardware does --------------------------------------------------------------------------------------

    def _run(self, gpu: _Gpu, passed: float) -> None:
        on = [session for session in self._sessions if session.place.gpu == gpu.index]
        parts = [session.busy * self._share(session.place) for session in on]
        gpu.busy = 0 if gpu.lost_until > self._now else min(100, round(sum(parts)))
        hot = gpu.hot_until > self._now
        warmth = 91.0 if hot else 31 + 0.42 * gpu.busy
        gpu.temperature += (warmth - gpu.temperature) * (1 - math.exp(-passed / 25))
        wanted = _IDLE_WATTS + 6.1 * gpu.busy * (0.55 if hot else 1) + self._random.gauss(0, 4)
        gpu.power = min(_WATTS, max(_IDLE_WATTS - 8, wanted))
        gpu.energy += gpu.power * passed

    def _share(self, place: Place) -> float:
        """What of the GPU's multiprocessors a place has."""
        return next((slices / 7 for _, number, _, slices, _ in _INSTANCES if number == place.instance), 1.0)

    # -- as the driver and the hub tell it ---------------------------------------------------------------------------

    def scenario(self, pids: Mapping[int, int]) -> dict[str, Any]:
        """For ``gradlab.gpu.simulator``. ``pids`` are programs' processes by number; others are not there yet."""
        return {
            "driver_version": "615.71.09",
            "nvml_version": "13.615.71.09",
            "cuda_version": 13040,
            "devices": [self._device(gpu, pids) for gpu in self._gpus],
        }

    def roster(self, servers: Mapping[str, int]) -> Roster:
        """Who has which GPU and who waits, as the hub would write it. ``servers`` are first processes by learner."""
        lost = self.lost
        share = _MEAN_SESSION / len(self.places)
        return Roster(
            servers=tuple(
                Server(
                    learner=one.learner,
                    lab=one.lab,
                    pid=servers.get(one.learner, 0),
                    device=one.place.uuid,
                    since=one.since,
                    held_since=one.since,
                )
                for one in self._sessions
            ),
            line=tuple(
                Waiter(learner, "", since, position, position * share)
                for position, (learner, since) in enumerate(self._line, start=1)
            ),
            mode="exclusive",
            slots=sum(place.gpu not in lost for place in self.places),
            free=len(self._free()),
        )

    def _device(self, gpu: _Gpu, pids: Mapping[int, int]) -> dict[str, Any]:
        mig = gpu.index == _GPUS - 1
        sessions = [session for session in self._sessions if session.place.gpu == gpu.index]
        hot = gpu.hot_until > self._now
        clocks = _HOT_CLOCKS if hot else _CLOCKS if any(one.programs for one in sessions) else _RESTING_CLOCKS
        reasons = _THROTTLED_HOT * hot | _THROTTLED_POWER * (gpu.power >= _WATTS) | _THROTTLED_IDLE * (gpu.busy == 0)
        found = {
            "name": "NVIDIA H200",
            "uuid": gpu.uuid,
            "pci_bus_id": gpu.pci,
            "serial": gpu.serial,
            "memory": {"total": _TOTAL, "reserved": _RESERVED, "used": _used(sessions)},
            "temperature": round(gpu.temperature),
            "memory_temperature": round(gpu.temperature) + 6,
            "power": round(gpu.power * 1000),
            "power_limit": round(_WATTS * 1000),
            "energy": round(gpu.energy * 1000),
            "clocks": clocks,
            "max_clocks": _CLOCKS,
            "performance_state": 0,
            "persistence_mode": 1,
            "compute_mode": 0,
            "throttle_reasons": reasons,
            "ecc": {"mode": [1, 1], "corrected": 0, "uncorrected": 0},
            "compute_capability": [9, 0],
            "recovery_action": 0,
            "events": gpu.events,
            "mig_mode": [1, 1] if mig else [0, 0],
        }
        if gpu.lost_until > self._now:
            found["error"] = "lost"
        if mig:
            return found | {"instances": self._instances_now(sessions, pids)}
        return found | {
            "utilisation": {"gpu": gpu.busy, "memory": gpu.busy * 2 // 5},
            "encoder": 0,
            "decoder": 0,
            "processes": _processes(sessions, pids),
            "process_samples": self._samples(sessions, pids),
        }

    def _instances_now(self, sessions: Sequence[Session], pids: Mapping[int, int]) -> list[dict[str, Any]]:
        found = []
        for uuid, (name, number, multiprocessors, slices, mib) in zip(self._instances, _INSTANCES, strict=True):
            on = [session for session in sessions if session.place.instance == number]
            busy = float(sum(session.busy for session in on))
            attributes = {"memory": mib, "gpu_slices": slices, "compute_slices": slices}
            found.append(
                {
                    "uuid": uuid,
                    "name": name,
                    "gpu_instance": number,
                    "compute_instance": 0,
                    "memory": {"total": mib * _MIB, "reserved": 0, "used": _used(on)},
                    "attributes": attributes | {"multiprocessors": multiprocessors},
                    "gpm": {"graphics": busy, "sm": busy * 0.8},
                    "processes": _processes(on, pids),
                }
            )
        return found

    def _samples(self, sessions: Sequence[Session], pids: Mapping[int, int]) -> list[dict[str, int]]:
        """As the driver does it, only of those that were busy."""
        at = int(self._now * 1_000_000)
        return [
            {"pid": pids[program.number], "time": at, "sm": program.busy, "memory": program.busy * 2 // 5}
            for session in sessions
            for program in session.programs
            if program.busy and program.number in pids
        ]


def _used(sessions: Sequence[Session]) -> int:
    taken = sum(program.memory for session in sessions for program in session.programs)
    return taken + _CONTEXTS if taken else 4 * _MIB


def _processes(sessions: Sequence[Session], pids: Mapping[int, int]) -> list[dict[str, Any]]:
    return [
        {
            "pid": pids[program.number],
            "memory": program.memory,
            "type": "C",
            "instance": None if session.place.instance is None else [session.place.instance, 0],
        }
        for session in sessions
        for program in session.programs
        if program.number in pids
    ]


def _gpu(hardware: random.Random, index: int) -> _Gpu:
    return _Gpu(
        index,
        _uuid(hardware, "GPU"),
        f"00000000:{0x17 + 0x11 * index:02X}:00.0",
        str(hardware.randint(1_650_000_000_000, 1_659_999_999_999)),
        energy=hardware.uniform(1e7, 9e7),
    )


def _uuid(hardware: random.Random, kind: str) -> str:
    number = f"{hardware.getrandbits(128):032x}"
    return f"{kind}-{number[:8]}-{number[8:12]}-{number[12:16]}-{number[16:20]}-{number[20:]}"
