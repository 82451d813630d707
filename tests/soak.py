"""A busy class on eight simulated GPUs, made up step by step from a seed, and the truth about it.

:class:`World` is what there is: real processes that come and go, GPUs that are lost and found, servers that start and
stop. :class:`Ledger` adds up by itself what :class:`World` made, by the rules that ``gradlab.gpu.account`` gives in
words, so a test can hold what the GPU monitor says against it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from gradlab.gpu.account import GAP_SECONDS
from gradlab.roster import Roster, Server
from tests.households import Household
from tests.simulated import GIB, MIB, device, driver, instance

__all__ = ["GPUS", "Expected", "Ledger", "Process", "Use", "World"]

GPUS = 8
# The last one is in MIG mode.
_DIVIDED = GPUS - 1
_INSTANCES = 3
_LABS = ("01_tensors", "05_attention", "09_profiling")
_FEWEST, _MOST = 60, 190
_BURST_EVERY, _BURST = 60, 45
# Of a file that is written every five seconds, the latest is among so many frames.
_KNOWN = 20
_ERRORS = ("lost", "reset required", "unknown", "absent")

Row = tuple[str, str, str]  # learner, lab, day
Place = tuple[int, int | None]  # GPU, and the instance of it in MIG mode


@dataclass(frozen=True)
class Process:
    """A process on one GPU, for as long as the driver lists it there; ``alive`` is False once it has ended."""

    pid: int
    learner: str | None
    place: Place
    memory: int
    sm: int
    alive: bool = True


@dataclass(frozen=True)
class Use:
    """What one server, or the machine itself, has of the GPUs that can be read."""

    processes: int = 0
    memory: int = 0
    # By GPU and instance, in percent; None in MIG mode, where it is not reported.
    parts: Mapping[Place, int | None] = field(default_factory=dict)

    @property
    def busy(self) -> float:
        return sum(percent or 0 for percent in self.parts.values()) / 100

    @property
    def on(self) -> int:
        return len({gpu for gpu, _ in self.parts})


@dataclass(frozen=True)
class Expected:
    """The truth about one frame in which these GPUs were readable."""

    roster: Roster
    readable: frozenset[int]
    processes: tuple[Process, ...]
    utilisation: Mapping[int, int | None]
    unattributed: Mapping[int, int]

    def use(self, learner: str | None) -> Use:
        """Of a learner; None stands for the machine's own processes."""
        own = [one for one in self.processes if one.learner == learner and one.alive and one.place[0] in self.readable]
        parts = {place: _percent(own, place) for place in dict.fromkeys(one.place for one in own)}
        return Use(len(own), sum(one.memory for one in own), parts)

    def by_learner(self, gpu: int) -> dict[str, int | None]:
        """Percent of this GPU, of everyone who is on it."""
        found: dict[str, int | None] = {}
        for server in self.roster.servers:
            shares = [percent for (on, _), percent in self.use(server.learner).parts.items() if on == gpu]
            if shares:
                found[server.learner] = None if None in shares else min(100, sum(filter(None, shares)))
        return found


class World:
    """What there is at this step; :meth:`step` goes on to the next. ``now`` is the time that the server has."""

    def __init__(self, seed: int, learners: int, now: float) -> None:
        self._random = random.Random(seed)
        self._households = {None: Household()} | {f"learner-{number:02}": Household() for number in range(learners)}
        self._servers: dict[str, Server] = {}
        self._processes: list[Process] = []
        self._leaving: dict[tuple[int, Place], int] = {}
        self._ended: list[int] = []
        self._extra = dict.fromkeys(range(GPUS), GIB)
        self._broken: dict[int, tuple[str, int]] = {}
        self._steps = 0
        self.outage = False
        # By GPU, when it was found again; what was never lost is not in it.
        self.found_at: dict[int, float] = {}
        self.counts = {"born": 0, "ended": 0, "reused numbers": 0, "lost": 0, "found": 0, "servers": 0}
        for learner in self._learners():
            self._start(learner, now)
        self._roster = Roster(tuple(self._servers.values()), mode="shared:4", slots=4 * GPUS)

    def close(self) -> None:
        for household in self._households.values():
            household.close()

    @property
    def roster(self) -> Roster:
        return self._roster

    @property
    def broken(self) -> frozenset[int]:
        """GPUs that cannot be read at this step."""
        return frozenset(self._broken)

    @property
    def alive(self) -> set[int]:
        return {one.pid for one in self._processes if one.alive}

    def expected(self, readable: frozenset[int]) -> Expected:
        return Expected(
            self._roster, readable, tuple(self._processes), {gpu: self._busy(gpu) for gpu in range(GPUS)}, self._extra
        )

    def step(self, now: float, real: float) -> None:
        """``real`` is the time that ``found_at`` is in."""
        self._steps += 1
        self._come_and_go(now)
        self._lose_and_find(real)
        self._servers_change(now)
        self._processes = [self._work(one) for one in self._processes]
        self._extra = {gpu: self._random.randrange(64, 4096) * MIB for gpu in range(GPUS)}

    def scenario(self) -> dict[str, Any]:
        """As the simulated driver is told it."""
        fields: dict[str, Any] = {"fails": {"*": "unknown"}} if self.outage else {}
        present = [gpu for gpu in range(GPUS) if self._broken.get(gpu, ("", 0))[0] != "absent"]
        return driver(*(self._device(gpu) for gpu in present), **fields)

    # -- processes -------------------------------------------------------------------------------------------------

    def _come_and_go(self, now: float) -> None:
        draw = self._random
        for key, until in list(self._leaving.items()):
            if self._steps >= until:
                self._unlist(key)
        burst = _BURST if self._steps % _BURST_EVERY == 0 else 0
        for _ in range(min(draw.randrange(4) + burst, max(0, _MOST - len(self._processes)))):
            self._arrive()
        alive = [one for one in self._processes if one.alive]
        leaving = draw.randrange(4) + (_BURST if self._steps % _BURST_EVERY == _BURST_EVERY // 2 else 0)
        for one in draw.sample(alive, min(leaving, max(0, len(alive) - _FEWEST))):
            self._leave(one.pid)

    def _arrive(self) -> None:
        draw = self._random
        learner = draw.choice([None, *self._servers])
        household = self._households[learner]
        pid = self._reused(household) or household.bear()
        self.counts["born"] += 1
        places: list[Place] = [(gpu, None) for gpu in range(_DIVIDED)] + [(_DIVIDED, n) for n in range(_INSTANCES)]
        for place in draw.sample(places, 2 if draw.random() < 0.1 else 1):
            self._processes.append(Process(pid, learner, place, draw.randrange(1, 4 * 1024) * MIB, 0))

    def _reused(self, household: Household) -> int:
        """Now and then a process gets the number of one that has ended, often another learner's."""
        if not self._ended or self._random.random() > 0.2:
            return 0
        number = self._ended.pop(self._random.randrange(len(self._ended)))
        pid = household.bear(number)
        if pid:
            self.counts["reused numbers"] += 1
            self._processes = [one for one in self._processes if one.pid != pid]
            self._leaving = {key: until for key, until in self._leaving.items() if key[0] != pid}
        return pid

    def _leave(self, pid: int) -> None:
        """End a process; some stay in the driver's list for a while, with what they had."""
        if pid not in self.alive:
            return
        learner = next(one.learner for one in self._processes if one.pid == pid)
        self._households[learner].end(pid)
        self._ended.append(pid)
        self.counts["ended"] += 1
        lingers = self._random.random() < 0.3
        for one in [one for one in self._processes if one.pid == pid]:
            self._processes.remove(one)
            if lingers:
                self._processes.append(replace(one, alive=False))
                self._leaving[one.pid, one.place] = self._steps + self._random.randrange(1, 4)

    def _unlist(self, key: tuple[int, Place]) -> None:
        del self._leaving[key]
        self._processes = [one for one in self._processes if (one.pid, one.place) != key]

    def _work(self, process: Process) -> Process:
        draw = self._random
        memory = process.memory if draw.random() < 0.7 else draw.randrange(1, 4 * 1024) * MIB
        return replace(process, memory=memory, sm=0 if draw.random() < 0.5 else draw.randrange(1, 101))

    # -- GPUs ------------------------------------------------------------------------------------------------------

    def _lose_and_find(self, real: float) -> None:
        draw = self._random
        for gpu, (_, until) in list(self._broken.items()):
            if self._steps >= until:
                del self._broken[gpu]
                self.found_at[gpu] = real
                self.counts["found"] += 1
        if len(self._broken) < 3 and draw.random() < 0.06:
            gpu = draw.choice([gpu for gpu in range(GPUS) if gpu not in self._broken])
            self._broken[gpu] = draw.choice(_ERRORS), self._steps + draw.randrange(5, 40)
            self.counts["lost"] += 1

    def _device(self, gpu: int) -> dict[str, Any]:
        processes = [one for one in self._processes if one.place[0] == gpu]
        used = sum(one.memory for one in processes if one.alive) + self._extra[gpu]
        memory = {"total": 4096 * GIB, "reserved": GIB, "used": used}
        error, _ = self._broken.get(gpu, (None, 0))
        about: dict[str, Any] = {"memory": memory, "error": error}
        if error is not None and error != "absent":
            about["events"] = [{"xid": 79}]
        if gpu == _DIVIDED:
            places = [
                instance(n, processes=[_listed(one) for one in processes if one.place[1] == n])
                for n in range(_INSTANCES)
            ]
            return device(gpu, utilisation=None, mig_mode=[1, 1], instances=[*places, None], **about)
        busy = self._busy(gpu)
        samples = list(_samples(processes))
        return device(
            gpu,
            utilisation={"gpu": busy, "memory": 0},
            processes=[_listed(one) for one in processes],
            process_samples=samples,
            **about,
        )

    def _busy(self, gpu: int) -> int | None:
        return None if gpu == _DIVIDED else min(100, sum(one.sm for one in self._processes if one.place[0] == gpu))

    # -- servers ---------------------------------------------------------------------------------------------------

    def _servers_change(self, now: float) -> None:
        draw = self._random
        before = dict(self._servers)
        if draw.random() < 0.08 and len(self._servers) > 2:
            self._stop(draw.choice(sorted(self._servers)))
        idle = sorted(set(self._learners()) - set(self._servers))
        if idle and draw.random() < 0.08:
            self._start(draw.choice(idle), now)
        if self._servers != before:  # the hub writes a new one at a change only
            self._roster = Roster(tuple(self._servers.values()), mode="shared:4", slots=4 * GPUS)

    def _start(self, learner: str, now: float) -> None:
        draw = self._random
        devices = ["", "", *(f"GPU-{gpu}" for gpu in range(_DIVIDED)), *(f"MIG-{n}" for n in range(_INSTANCES))]
        given = draw.choice(devices)
        self._servers[learner] = Server(
            learner,
            lab=draw.choice(_LABS),
            pid=self._households[learner].pid,
            device=given,
            since=now,
            held_since=now if given else None,
        )
        self.counts["servers"] += 1

    def _stop(self, learner: str) -> None:
        for pid in dict.fromkeys(one.pid for one in self._processes if one.learner == learner and one.alive):
            self._leave(pid)
        del self._servers[learner]

    def _learners(self) -> list[str]:
        return [learner for learner in self._households if learner is not None]


@dataclass
class _Sums:
    held: float = 0.0
    busy: float = 0.0
    peak: int = 0


class Ledger:
    """GPU-seconds by learner, lab and day, from what is expected of each frame and the time that stands in it."""

    def __init__(self) -> None:
        self.at: float | None = None
        self._sums: dict[Row, _Sums] = {}
        self._known: dict[float, dict[Row, _Sums]] = {}

    def take(self, expected: Expected, at: float, *, sampled: bool) -> None:
        """One frame; not ``sampled`` where the driver was not heard."""
        before, self.at = self.at, at
        if before is not None:
            whole = sampled and at - before <= GAP_SECONDS
            for server in expected.roster.servers:
                use = expected.use(server.learner) if whole else Use()
                start = before if whole else max(before, server.held_since or before)
                self._add(server, use, start, at)
        self._known[at] = deepcopy(self._sums)
        while len(self._known) > _KNOWN:
            del self._known[min(self._known)]

    def back_to(self, at: float) -> None:
        """What a file that was written at this frame knows."""
        self.at, self._sums = at, deepcopy(self._known[at])

    def rows(self) -> dict[Row, tuple[float, float, int]]:
        return {row: (one.held, one.busy, one.peak) for row, one in self._sums.items() if one.held or one.busy}

    def _add(self, server: Server, use: Use, start: float, end: float) -> None:
        for day, seconds in _days(start, end):
            sums = self._sums.setdefault((server.learner, server.lab, day), _Sums())
            sums.held += seconds * max(use.on, 1 if server.device else 0)
            sums.busy += seconds * use.busy
            sums.peak = max(sums.peak, use.memory)


def _days(start: float, end: float) -> Iterator[tuple[str, float]]:
    day = datetime.fromtimestamp(start, UTC).date()
    while start < end:
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
        upto = min(end, midnight.timestamp())
        yield day.isoformat(), upto - start
        start, day = upto, day + timedelta(days=1)


def _percent(processes: list[Process], place: Place) -> int | None:
    return None if place[1] is not None else min(100, sum(one.sm for one in processes if one.place == place))


def _listed(process: Process) -> dict[str, Any]:
    # Nobody of these lives in another PID namespace, so nothing is to be looked up.
    return {"pid": process.pid, "memory": process.memory, "type": "C", "namespace": {}}


def _samples(processes: list[Process]) -> Iterator[dict[str, Any]]:
    """The busy ones; and what drivers give besides: a percentage that is none, and the number of no process."""
    blank = {"time": "now", "memory": 0, "encoder": 0, "decoder": 0, "namespace": {}}
    for one in processes:
        if one.sm:
            yield blank | {"pid": one.pid, "sm": one.sm}
        elif one.memory % 7 == 0:
            yield blank | {"pid": one.pid, "sm": 250}
    yield blank | {"pid": 1 << 30, "sm": 40}
