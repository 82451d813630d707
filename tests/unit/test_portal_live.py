"""Live updates: every verdict reaches every watcher, and whoever goes away leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
import pytest

from gradlab.checks import Event
from gradlab.portal import api
from gradlab.portal.live import Live, Overrun
from tests.courses import write_course
from tests.portals import Gpus, Running, running_portal
from tests.waiting import until


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("portal")
    with running_portal(folder, write_course(folder / "course").load()) as running:
        yield running


class Subscription:
    """The subscribing half of the checks, to be told things by a test."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[Any], None]] = []

    def subscribe(self, listener: Callable[[Any], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def accept(self, learner: str, lab: str, notebook: bytes, *, only: str | None = None) -> int:
        raise NotImplementedError

    def tell(self, number: int) -> None:
        for listener in self.listeners:
            listener(Event("judged", number, "noor", "tensors"))


def read_events(lines: Iterator[str], count: int) -> list[tuple[str, Any]]:
    """The next events of a stream, as their name and data."""
    events: list[tuple[str, Any]] = []
    name = ""
    while len(events) < count:
        line = next(lines)
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            events.append((name, json.loads(line.removeprefix("data: "))))
    return events


def check(client: httpx.Client, portal: Running) -> int:
    return int(client.post("api/labs/tensors/checks", content=portal.notebook()).json()["id"])


def test_a_watcher_is_greeted_and_then_hears_of_every_check(portal: Running) -> None:
    with portal.client("grace") as grace, portal.client("noor") as noor, grace.stream("GET", "events") as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert stream.headers["X-Accel-Buffering"] == "no"
        lines = stream.iter_lines()
        assert read_events(lines, 1) == [("hello", {})]
        number = check(noor, portal)
        told = read_events(lines, 2)
    common = {"learner": "noor", "lab": "tensors", "submission": number}
    assert told == [("class", {"kind": "accepted"} | common), ("class", {"kind": "judged"} | common)]


def test_when_a_watcher_hears_of_a_verdict_the_class_table_has_it(portal: Running) -> None:
    with portal.client("grace") as grace, portal.client("olu") as olu, grace.stream("GET", "events") as stream:
        lines = stream.iter_lines()
        read_events(lines, 1)
        check(olu, portal)
        read_events(lines, 2)
        with portal.client("grace") as reader:
            [row] = reader.get("api/class", params={"learner": "olu"}).json()["learners"]
    assert row["labs"]["tensors"]["points"] == 5


def test_watchers_that_leave_are_forgotten(portal: Running) -> None:
    live: Live = portal.app.state.portal.live
    with ExitStack() as stack:
        streams = []  # a stream nobody holds is closed
        for _ in range(30):
            client = stack.enter_context(portal.client("grace"))
            streams.append(stack.enter_context(client.stream("GET", "events")).iter_lines())
            read_events(streams[-1], 1)
        assert live.listeners == 30
    until(lambda: live.listeners == 0)
    assert len(portal.checks._listeners) == 1


def test_a_stream_ends_when_its_reader_is_no_instructor_any_more(
    portal: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "RECHECK_SECONDS", 0.1)
    with portal.client("grace") as grace:
        token = grace.headers["Authorization"].removeprefix("token ")
        with grace.stream("GET", "events") as stream:
            lines = stream.iter_lines()
            read_events(lines, 1)
            portal.hub.tokens[token]["groups"] = []
            with pytest.raises(StopIteration):
                read_events(lines, 1000)


def test_a_stream_outlives_a_hub_that_restarts(portal: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "RECHECK_SECONDS", 0.1)
    with portal.client("grace") as grace, portal.client("priya") as priya, grace.stream("GET", "events") as stream:
        lines = stream.iter_lines()
        read_events(lines, 1)
        portal.hub.failures = 0
        portal.hub.answers_500 = True
        try:
            until(lambda: portal.hub.failures >= 2)  # after the five seconds for which an answer is kept
        finally:
            portal.hub.answers_500 = False
        check(priya, portal)
        assert read_events(lines, 2)[1][1]["kind"] == "judged"


def test_a_watcher_that_does_not_read_is_told_to_start_over_and_takes_no_memory() -> None:
    async def scenario() -> None:
        checks = Subscription()
        live = Live(checks)
        live.start()
        with live.listen() as slow, live.listen() as quick:
            for number in range(2000):
                checks.tell(number)
                if number % 100 == 99:
                    await asyncio.sleep(0)
                    for _ in range(100):
                        assert await quick.next(5) is not None
            with pytest.raises(Overrun):
                await slow.next(1)
            checks.tell(2000)
            heard = await quick.next(5)
            assert heard is not None
            assert heard.submission == 2000
            assert await quick.next(0.01) is None
        live.stop()
        assert live.listeners == 0
        assert checks.listeners == []

    asyncio.run(scenario())


def test_verdicts_from_many_threads_all_arrive() -> None:
    async def scenario() -> None:
        checks = Subscription()
        live = Live(checks)
        live.start()
        with live.listen() as listener, live.watch(399) as done:
            threads = [
                threading.Thread(target=lambda n=n: [checks.tell(n * 100 + k) for k in range(100)]) for n in range(4)
            ]
            for thread in threads:
                thread.start()
            heard = set()
            while len(heard) < 400:
                event = await listener.next(10)
                assert event is not None
                heard.add(event.submission)
            assert done.is_set()
            for thread in threads:
                thread.join()
        assert heard == set(range(400))

    asyncio.run(scenario())


def test_events_after_the_loop_has_closed_are_dropped_quietly() -> None:
    checks = Subscription()

    async def scenario() -> None:
        Live(checks).start()

    asyncio.run(scenario())
    checks.tell(1)


def test_a_hanging_gpu_driver_delays_no_other_page(portal: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    release, asked = threading.Event(), threading.Event()

    class Hanging(Gpus):
        def reading(self) -> dict[str, Any]:
            asked.set()
            release.wait(30)
            return {"available": True, "message": "", "driver_version": "1", "simulated": False, "devices": []}

    parts = replace(portal.app.state.portal, gpu=Hanging())
    monkeypatch.setattr(portal.app.state, "portal", parts)
    with portal.client("grace") as grace, portal.client("noor") as noor, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(grace.get, path) for path in ("class", "api/gpu")]
        try:
            assert asked.wait(20)
            for path in ("", "attempts", "api/labs"):
                assert noor.get(path).status_code == 200
            assert not any(page.done() for page in waiting)
        finally:
            release.set()
        assert [page.result().status_code for page in waiting] == [200, 200]
