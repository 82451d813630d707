"""Who has more of a shared GPU than their share: told, then stopped, and nobody else's process touched."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from gradlab.hub.shares import Shares, largest
from gradlab.settings import Settings
from gradlab.store import Store
from tests.gpuframes import GIB
from tests.monitors import serving

TOLD = (
    "Your programs have 30.0 GiB of GPU memory where your share is 20.0 GiB; the rest of this GPU is for others. "
    "Delete tensors that you do not need and call torch.cuda.empty_cache(), or restart the kernel."
)
WARNED = f"{TOLD} If they still have it in 30 seconds, the largest of them is stopped."
STOPPED = (
    "A program of yours (process 40) was stopped: your programs had 30.0 GiB of GPU memory where your share is 20.0 "
    "GiB. If it was a notebook's kernel, restart it; your files are as you left them."
)


def over(*processes: tuple[int, int], learner: str = "ada", server: str = "") -> dict[str, Any]:
    """A server over a share of 20 GiB, with processes of so many GiB."""
    return {
        "learner": learner,
        "server": server,
        "container": "a" * 64,
        "device": "GPU-0",
        "share": 20 * GIB,
        "memory": sum(size for _, size in processes) * GIB,
        "processes": [{"pid": pid, "memory": size * GIB} for pid, size in processes],
    }


def test_the_fewest_and_largest_programs_are_chosen_and_never_the_first_process() -> None:
    assert largest(over((40, 18), (41, 7), (42, 5))) == [40]
    assert largest(over((40, 12), (41, 11), (42, 10))) == [40, 41]
    assert largest(over((1, 30))) == []
    assert largest(over((40, 19))) == []


@dataclass
class Class:
    """The hub's side at work, a monitor that says what the test says, and time."""

    store: Store
    answer: list[dict[str, Any]] = field(default_factory=list)
    sent: list[tuple[str, int, str]] = field(default_factory=list)
    now: float = 1000.0
    shares: Shares = field(init=False)

    async def send(self, container: str, pid: int, signal: str) -> None:
        self.sent.append((container, pid, signal))

    def look(self, seconds: float = 5.0, times: int = 1) -> None:
        for _ in range(times):
            self.now += seconds
            asyncio.run(self.shares.look())

    @property
    def told(self) -> list[str]:
        return [notice.text for notice in self.store.notices("ada", self.now)]


@pytest.fixture
def classroom(tmp_path: Path, store: Store, request: pytest.FixtureRequest) -> Iterator[Class]:
    policy = getattr(request, "param", "tell")
    settings = Settings(spawner="docker", run_dir=tmp_path, gpus="shared:4", gpu_over_share=policy)
    found = Class(store)
    found.shares = Shares(settings, lambda: store, found.send, clock=lambda: found.now)
    app = FastAPI()
    app.get("/over")(lambda: found.answer)
    with serving(app, settings.gpu_socket):
        yield found


def test_who_is_over_is_told_until_it_is_over(classroom: Class) -> None:
    classroom.answer = [over((40, 20), (41, 10))]
    classroom.look()
    assert classroom.told == []  # a peak
    classroom.look()
    assert classroom.told == [TOLD]
    classroom.look(60, times=10)
    assert (classroom.told, classroom.sent) == ([TOLD], [])
    classroom.answer = []
    classroom.look()
    assert classroom.told == []


def test_a_monitor_that_does_not_answer_accuses_and_acquits_nobody(classroom: Class, tmp_path: Path) -> None:
    classroom.answer = [over((40, 30))]
    classroom.look(times=2)
    (tmp_path / "gpus.sock").rename(tmp_path / "away.sock")
    classroom.look()
    assert classroom.told == [TOLD]
    (tmp_path / "away.sock").rename(tmp_path / "gpus.sock")
    classroom.answer = []
    classroom.look()
    assert classroom.told == []


@pytest.mark.parametrize("classroom", ["stop"], indirect=True)
def test_the_largest_program_is_stopped_after_a_warning_and_named(classroom: Class) -> None:
    classroom.answer = [over((41, 10), (40, 20))]
    classroom.look(times=2)
    assert (classroom.told, classroom.sent) == ([WARNED], [])
    classroom.look(29)
    assert classroom.sent == []
    classroom.look(1)
    assert classroom.sent == [("a" * 64, 40, "TERM")]
    assert classroom.told == [WARNED, STOPPED]
    classroom.look(5)
    assert len(classroom.sent) == 1
    classroom.look(5)
    assert classroom.sent[1:] == [("a" * 64, 40, "KILL")]
    classroom.answer = []
    classroom.look(5)
    assert classroom.told == [STOPPED]


@pytest.mark.parametrize("classroom", ["stop"], indirect=True)
def test_who_frees_memory_in_time_keeps_every_program(classroom: Class) -> None:
    classroom.answer = [over((40, 30))]
    classroom.look(times=2)
    classroom.answer = []
    classroom.look(29)
    classroom.answer = [over((40, 30))]
    classroom.look(5, times=2)
    classroom.look(20)
    assert classroom.sent == []  # the time counts anew


@pytest.mark.parametrize(("gpus", "policy"), [("exclusive", "stop"), ("shared:2", "ignore"), ("none", "tell")])
def test_nothing_is_asked_where_there_is_nothing_to_do(tmp_path: Path, store: Store, gpus: str, policy: str) -> None:
    settings = Settings(spawner="docker", run_dir=tmp_path, gpus=gpus, gpu_over_share=policy)  # type: ignore[arg-type]

    async def send(*_: object) -> None: ...

    asyncio.run(asyncio.wait_for(Shares(settings, lambda: store, send).keep(), 5))


def test_a_look_that_fails_is_said_and_the_next_one_comes(
    classroom: Class, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    looks = []

    async def look() -> None:
        looks.append(len(looks))
        if len(looks) == 1:
            raise OSError("the database is locked")
        raise asyncio.CancelledError

    monkeypatch.setattr("gradlab.hub.shares._EVERY_SECONDS", 0.0)
    monkeypatch.setattr(classroom.shares, "look", look)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(classroom.shares.keep())
    assert "Shares of GPU memory could not be looked after: OSError: the database is locked" in caplog.text
