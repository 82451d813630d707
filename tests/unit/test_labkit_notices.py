"""A learner's server hands on what the portal has to tell, for as long as it holds, whatever the portal does."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from labkit.notices import Notices
from tests.fake_portal import TOKEN, FakePortal, fake_portal


class Clock:
    """Time that passes when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def portal() -> Iterator[FakePortal]:
    with fake_portal(notices=[notice("gpu", "Your GPU goes back.")]) as portal:
        yield portal


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def notices(portal: FakePortal, clock: Clock) -> Notices:
    return Notices(portal.url, TOKEN, clock=clock)


def notice(key: str, text: str, seconds: float = 60.0) -> dict[str, Any]:
    now = time.time()
    return {"key": key, "text": text, "at": now, "until": now + seconds}


def run(coroutine: Coroutine[Any, Any, list[dict[str, Any]]]) -> list[str]:
    return [found["text"] for found in asyncio.run(coroutine)]


def test_it_is_what_the_portal_says_and_nothing_it_adds(portal: FakePortal, notices: Notices) -> None:
    [told] = portal.notices
    portal.notices = [told | {"html": "<b>"}]
    assert asyncio.run(notices.current()) == [told]
    [asked] = portal.requests
    assert (asked.method, asked.path) == ("GET", "/services/portal/api/notices")


def test_windows_that_ask_at_once_cost_one_question(portal: FakePortal, notices: Notices, clock: Clock) -> None:
    async def windows() -> None:
        answers = await asyncio.gather(*(notices.current() for _ in range(8)))
        assert all(len(answer) == 1 for answer in answers)

    asyncio.run(windows())
    assert len(portal.requests) == 1
    clock.now += 9.9
    assert len(run(notices.current())) == len(portal.requests) == 1


def test_what_is_new_is_told_and_what_is_withdrawn_is_not(portal: FakePortal, notices: Notices, clock: Clock) -> None:
    assert run(notices.current()) == ["Your GPU goes back."]
    portal.notices = [notice("gpu", "It goes back now."), notice("exam", "Ten o'clock.")]
    clock.now += 10
    assert run(notices.current()) == ["It goes back now.", "Ten o'clock."]
    portal.notices = []
    clock.now += 10
    assert run(notices.current()) == []


@pytest.mark.parametrize("trouble", [(302, ""), (403, '{"detail": "no"}'), (200, "<html>"), (200, "[1]"), (200, "7")])
def test_without_a_usable_answer_the_last_one_holds(
    portal: FakePortal, notices: Notices, clock: Clock, trouble: tuple[int, str]
) -> None:
    assert run(notices.current()) == ["Your GPU goes back."]
    portal.refuse = trouble
    clock.now += 10
    assert run(notices.current()) == ["Your GPU goes back."]
    assert len(portal.requests) == 2


def test_what_was_told_ends_with_its_time_though_the_portal_is_away(clock: Clock) -> None:
    with fake_portal(notices=[notice("gpu", "Soon.", seconds=0.3), notice("exam", "Later.")]) as portal:
        notices = Notices(portal.url, TOKEN, clock=clock)
        assert run(notices.current()) == ["Soon.", "Later."]
    clock.now += 10
    time.sleep(0.3)
    assert run(notices.current()) == ["Later."]


def test_a_portal_that_is_away_is_asked_less_and_less_and_found_again(
    portal: FakePortal, notices: Notices, clock: Clock
) -> None:
    portal.refuse = (500, "")
    asked = []
    for _ in range(1500):
        run(notices.current())
        asked.append(len(portal.requests))
        clock.now += 1
    moments = [second for second in range(1500) if second == 0 or asked[second] > asked[second - 1]]
    assert moments == [0, 20, 60, 140, 300, 600, 900, 1200]
    portal.refuse = None
    clock.now = 1000.0 + 1500
    assert run(notices.current()) == ["Your GPU goes back."]
    clock.now += 10
    run(notices.current())
    assert len(portal.requests) == asked[-1] + 2


def test_nobody_listening_is_no_error_and_no_notice(clock: Clock) -> None:
    with fake_portal() as portal:
        pass
    assert run(Notices(portal.url, TOKEN, clock=clock).current()) == []


def test_a_silent_portal_keeps_the_server_neither_from_work_nor_from_ending(portal: FakePortal) -> None:
    portal.silent = threading.Event()
    script = f"""
import asyncio, time
from labkit.notices import Notices

async def serve():
    asking = asyncio.create_task(Notices({portal.url!r}, {TOKEN!r}).current())
    late, last = 0.0, time.monotonic()
    for _ in range(50):
        await asyncio.sleep(0.01)
        late, last = max(late, time.monotonic() - last), time.monotonic()
    assert not asking.done()
    print(late)

asyncio.run(serve())
print("ended")
"""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    portal.silent.set()
    late, ended = done.stdout.split()
    assert ended == "ended"
    assert float(late) < 3
    assert time.monotonic() - begun < 25


def test_outside_of_a_lab_server_there_is_nothing_to_offer() -> None:
    from labkit import serverextension

    serverextension._offer_notices(object(), {})
    serverextension._offer_notices(object(), {"GRADLAB_PORTAL_URL": "http://127.0.0.1:1"})
