"""Ten minutes of a busy class at twenty times the speed: real sampler, real processes, and every number held against
the truth.

The sampler's child asks the simulated driver twenty times a second, and the monitor is given frames whose time runs
twenty times as fast. Between two frames the scenario changes (``tests/soak.py``): processes come and go, GPUs are lost
and found, servers start and stop. The child is killed, the driver fails as a whole, the monitor is started again, once
after it ended and once after it was cut off. A slow machine makes some of the time a gap, for which there is a rule,
too; nothing here depends on how fast it is.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from gradlab.gpu.monitor import Frame, Monitor
from gradlab.gpu.sampling import Sampling
from tests.monitors import Machine
from tests.simulated import Simulated, simulated
from tests.soak import GPUS, Expected, Ledger, World
from tests.waiting import ended, until

SEED, LEARNERS, STEPS, SPEED = 20261122, 14, 600, 20
# Five minutes before a new day begins.
START = datetime(2026, 11, 22, 23, 55, tzinfo=UTC).timestamp()
KILLED, OUTAGE, RESTARTED, CUT_OFF = (150, 480), range(220, 228), 300, 420
# The driver is asked for a lost GPU again every two seconds, which nothing here makes faster.
FOUND_SECONDS = 4.0
GROWTH = 4 << 20


class Clock:
    """The time of the server: it runs SPEED times as fast as that of this machine."""

    def __init__(self) -> None:
        self._began = time.time()

    def __call__(self) -> float:
        return self.of(time.time())

    def of(self, real: float) -> float:
        return START + SPEED * (real - self._began)


class Hurried:
    """The shipped sampling, in the time of the server's clock. ``between`` is called after each frame was heard."""

    def __init__(
        self, hear: Callable[[Frame], None], clock: Clock, env: dict[str, str], between: Callable[[Frame, float], None]
    ) -> None:
        self._hear, self._clock, self._between = hear, clock, between
        self._sampling = Sampling(every=1 / SPEED, env=env, on_frame=self._take)
        self.start, self.close, self.limit = self._sampling.start, self._sampling.close, self._sampling.limit

    def latest(self) -> Frame:
        frame = self._sampling.latest()
        return frame | {"at": self._clock.of(frame["at"])}

    def _take(self, frame: Frame) -> None:
        hurried = frame | {"at": self._clock.of(frame["at"])}
        self._hear(hurried)
        self._between(hurried, frame["at"])


@dataclass
class Size:
    """What a process has in use."""

    memory: int
    child: int
    descriptors: int
    threads: int


@dataclass
class Soak:
    """Drives it all. What it keeps does not grow, for its memory is measured with the monitor's."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    ledger: Ledger = field(default_factory=Ledger)
    steps: int = 0
    sampled: int = 0
    sizes: dict[int, Size] = field(default_factory=dict)
    failure: BaseException | None = None
    # The second of the frame before, if the monitor of now has heard one.
    second: int | None = None

    def __post_init__(self) -> None:
        self.world = World(SEED, LEARNERS, self.clock())
        self.sim: Simulated = simulated(self.folder, self.world.scenario())
        self.account = self.folder / "account.json"
        self.disturbed = True
        self.halted = threading.Event()

    def start(self) -> None:
        """A monitor, as it is started with the machine."""
        self.second, self.disturbed = None, True
        self.monitor = Monitor(
            lambda hear: Hurried(hear, self.clock, self.sim.env, self.between),
            host=Machine(self.folder / f"machine-{self.steps}").host,
            roster=lambda: self.world.roster,
            account=self.account,
            clock=self.clock,
        )
        self.monitor.start()

    def stop(self) -> None:
        self.monitor.close()
        self.settle()

    def cut_off(self) -> None:
        """Its end without a word: it knows again what it has written."""
        self.monitor._sampler.close()
        self.settle()
        self.ledger.back_to(Monitor(lambda _: Silent(), account=self.account)._account._at or 0.0)

    def settle(self) -> None:
        """On a busy machine the sampler's thread is still on its way when the monitor goes on without it."""
        until(lambda: all(one.name != "gpu-sampling" for one in threading.enumerate()), what="the thread's end")

    def wait_for(self, step: int) -> None:
        until(lambda: self.steps >= step or self.halted.is_set(), 150, what=f"step {step}")
        if self.failure is not None:
            raise self.failure

    def child(self) -> psutil.Process | None:
        found = psutil.Process().children()
        return next((one for one in found if "gradlab.gpu.sampler" in one.cmdline()), None)

    # -- between two frames ----------------------------------------------------------------------------------------

    def between(self, frame: Frame, real: float) -> None:
        if self.halted.is_set():
            return
        try:
            self.look(frame, real)
            self.steps += 1
            if self.steps in self.measured_at:
                self.sizes[self.steps] = self.size()
            self.disturb()
            self.world.step(self.clock(), time.time())
            self.sim.change(self.world.scenario())
            if self.steps >= STEPS:
                self.halted.set()
        except BaseException as error:
            self.failure = error
            self.halted.set()

    measured_at = (100, RESTARTED + 60, STEPS)

    def disturb(self) -> None:
        self.world.outage = self.steps in OUTAGE
        self.disturbed |= self.world.outage
        if self.steps in KILLED and (child := self.child()):
            child.kill()
            until(lambda: ended([child]), what="its end")
            self.disturbed = True

    def look(self, frame: Frame, real: float) -> None:
        """Hold what the monitor shows of this frame against the truth, and add it up."""
        view, sampled = self.monitor.view(), frame["available"]
        readable = frozenset(int(one["uuid"].removeprefix("GPU-")) for one in frame["devices"] if one["state"] == "ok")
        expected = self.world.expected(readable if sampled else frozenset())
        self.ledger.take(expected, frame["at"], sampled=sampled)
        self.hold_history(int(frame["at"]), expected if sampled else None)
        if sampled:
            self.sampled += 1
            assert not self.world.outage
            self.disturbed = False
            self.hold_gpus(readable, real)
            self.hold_view(view, expected)
        else:
            assert self.disturbed, f"step {self.steps}: {frame['message']}"
            assert view["message"]
            assert view["idle"] == []
            assert {one["utilisation"] for one in view["servers"]} <= {None}

    def hold_gpus(self, readable: frozenset[int], real: float) -> None:
        """A GPU that is lost is never readable, and one that was found is soon."""
        assert not readable & self.world.broken
        missing = set(range(GPUS)) - readable - self.world.broken
        late = {gpu for gpu in missing if real - self.world.found_at.get(gpu, 0.0) > FOUND_SECONDS}
        assert not late, f"step {self.steps}"

    def hold_view(self, view: dict[str, Any], expected: Expected) -> None:
        assert view["state"] == "ok"
        assert view["message"] == ""
        assert view["simulated"]
        shown = {one["learner"]: (one["processes"], one["memory"]) for one in view["servers"]}
        uses = {server.learner: expected.use(server.learner) for server in expected.roster.servers}
        assert shown == {
            server.learner: (use.processes, use.memory)
            for server in expected.roster.servers
            if (use := uses[server.learner]).processes or server.device
        }, f"step {self.steps}"
        for device in view["devices"]:
            if device["state"] != "ok":
                assert (device["utilisation"], device["memory_used"], device["parts"]) == (None, None, [])
                assert device["error"]
                continue
            gpu = int(device["uuid"].removeprefix("GPU-"))
            assert device["utilisation"] == expected.utilisation[gpu]
            assert device["unattributed"] == expected.unattributed[gpu], f"step {self.steps}: {device['uuid']}"
            parts: dict[str, list[int | None]] = {}
            for part in device["parts"]:
                parts.setdefault(part["learner"], []).append(part["utilisation"])
            assert {name: None if None in one else sum(one) for name, one in parts.items()} == expected.by_learner(gpu)
        machine = expected.use(None)
        assert sum(device["machine"]["processes"] or 0 for device in view["devices"]) == machine.processes

    def hold_history(self, second: int, expected: Expected | None) -> None:
        """Since the last frame: what was seen, and None where nothing was.

        Two samples next to each other have no gap between them, so a second that they leave out has the later's.
        """
        before, self.second = self.second, second
        first = second if before is None else min(second, before + 1)
        history = self.monitor.history(first)
        assert (history["from"], history["count"]) == (first, second - first + 1)
        close = before is not None and second - before <= 2
        for gpu in range(GPUS):
            here = expected if expected is not None and gpu in expected.readable else None
            found = history["devices"].get(f"GPU-{gpu}")
            assert found or not here
            for place in range(history["count"] if found else 0):
                told = here if close or place == history["count"] - 1 else None
                shares = told.by_learner(gpu) if told else {}
                assert found["utilisation"][place] == (told.utilisation[gpu] if told else None), self.steps
                assert (found["memory"][place] is None) == (told is None), self.steps
                shown = {name: values[place] for name, values in found["parts"].items()}
                assert without_none(shown) == without_none(shares), self.steps

    # -- what it takes ---------------------------------------------------------------------------------------------

    def size(self) -> Size:
        gc.collect()
        own, child = psutil.Process(), self.child()
        assert child is not None
        # Each process on a GPU is kept by a descriptor of its own.
        held = sum(1 for name in os.listdir("/proc/self/fd") if "pidfd" in _target(name))
        return Size(own.memory_info().rss, child.memory_info().rss, own.num_fds() - held, own.num_threads())


class Silent:
    """A sampler for a monitor that only reads its account."""

    def start(self) -> None: ...
    def close(self) -> None: ...
    def latest(self) -> Frame:
        raise AssertionError

    def limit(self, gpu: str, group: Path, size: int | None) -> None: ...


def without_none(values: dict[str, int | None]) -> dict[str, int | None]:
    return {name: value for name, value in values.items() if value is not None}


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


@pytest.fixture
def soak(tmp_path: Path) -> Iterator[Soak]:
    made = Soak(tmp_path)
    try:
        yield made
    finally:
        made.halted.set()
        made.stop()
        made.world.close()


def rows(usage: dict[str, Any]) -> dict[tuple[str, str, str], tuple[float, float, int]]:
    return {
        (one["learner"], one["lab"], one["day"]): (one["held"], one["busy"], one["peak"])
        for one in usage["rows"]
        if one["held"] or one["busy"]
    }


def hold_account(soak: Soak) -> None:
    found, expected = rows(soak.monitor.usage()), soak.ledger.rows()
    assert found.keys() == expected.keys()
    for row, (held, busy, peak) in expected.items():
        assert found[row] == (pytest.approx(held, abs=1e-6), pytest.approx(busy, abs=1e-6), peak), row


@pytest.mark.timeout(300)
def test_ten_minutes_of_a_busy_class_leave_no_trace_and_an_exact_account(soak: Soak) -> None:
    soak.start()
    soak.wait_for(RESTARTED)
    soak.stop()
    hold_account(soak)
    run = soak.monitor.usage()["run"]
    soak.start()
    soak.wait_for(CUT_OFF)
    soak.cut_off()
    soak.start()
    soak.wait_for(STEPS)
    soak.stop()
    hold_account(soak)
    assert soak.monitor.usage()["run"] == run

    assert soak.sampled > STEPS - 100
    assert soak.world.counts["ended"] > 500
    assert soak.world.counts["found"] > 10
    assert {day for _, _, day in soak.ledger.rows()} == {"2026-11-22", "2026-11-23"}
    for before, after in pairwise(soak.sizes[step] for step in soak.measured_at):
        assert after.memory - before.memory < GROWTH, soak.sizes
        assert after.child - before.child < GROWTH, soak.sizes
        # The sampler's child was started a dozen times in between, and the monitor once.
        assert abs(after.descriptors - before.descriptors) <= 4
        assert after.threads == before.threads
