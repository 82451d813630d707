"""The portal's GPU side: a feed that asks once for all who watch, and of a view the part that is a learner's own."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlab.portal import api
from gradlab.portal.gpus import GpuFeed, own_part
from gradlab.roster import Roster, Server, Waiter
from tests.courses import write_course
from tests.gpuframes import GIB, device, frame, gpu_view, process, silent
from tests.portals import Running, running_portal
from tests.waiting import until

ADA = Server("ada", lab="tensors", container="a" * 64, device="GPU-0", held_since=900.0, share=4 * GIB)
BOB = Server("bob", container="b" * 64)
ROSTER = Roster((ADA, BOB), (Waiter("eve", "", 940.0, 1, 60.0),), mode="shared:2", slots=2, free=1)


def shown(**more: Any) -> dict[str, Any]:
    first = device(
        "GPU-0", process(10, 3 * GIB, sm=30), process(20, 2 * GIB, sm=20), process(99, GIB), memory_used=7 * GIB
    )
    return gpu_view(frame(first, device("GPU-1", process(20, GIB), index=1)), ROSTER, **more)


# -- what is one's own ---------------------------------------------------------------------------------------------


def test_a_learner_sees_the_gpus_of_their_own_and_everybody_else_as_one() -> None:
    found = own_part(shown(), "ada")
    (own,) = found["devices"]
    assert (own["index"], own["name"], own["share"], own["memory_used"]) == (0, "NVIDIA H200", 4 * GIB, 7 * GIB)
    assert own["mine"] == {"memory": 3 * GIB, "utilisation": 30, "processes": 1}
    assert own["others"] == {"memory": 4 * GIB, "utilisation": 20}  # with what nobody accounts for
    assert (found["waiting"], found["available"], found["state"]) == (None, True, "ok")


def test_who_is_on_two_gpus_sees_both_and_who_is_on_none_sees_none() -> None:
    assert [one["index"] for one in own_part(shown(), "bob")["devices"]] == [0, 1]
    assert own_part(shown(), "kim")["devices"] == []


def test_where_gpus_are_given_to_nobody_everybody_sees_all_of_them(tmp_path: Path) -> None:
    found = own_part(shown(), "kim", free_for_all=True)["devices"]
    assert [(one["index"], one["mine"]["memory"]) for one in found] == [(0, 0), (1, 0)]
    for spawner, sees in (("process", 1), ("docker", 0)):  # a trial's learners can use what the machine has
        folder = tmp_path / spawner
        folder.mkdir()
        with running_portal(folder, write_course(folder / "course").load(), spawner=spawner) as portal:
            portal.gpu.shown = gpu_view(frame(device("GPU-0")), Roster())
            with portal.client("kim") as kim:
                assert len(kim.get("api/gpu/mine").json()["devices"]) == sees


def test_who_waits_sees_the_place_in_line_and_nobody_elses() -> None:
    assert own_part(shown(), "eve")["waiting"] == {"position": 1, "estimate": 60.0}
    assert own_part(shown(), "ada")["waiting"] is None


def test_a_share_is_of_the_gpu_that_was_given_and_of_no_other() -> None:
    on = device("GPU-0", process(10, GIB)), device("GPU-1", process(10, GIB), index=1)
    found = own_part(gpu_view(frame(*on), ROSTER), "ada")
    assert [(one["uuid"], one["share"]) for one in found["devices"]] == [("GPU-0", 4 * GIB), ("GPU-1", None)]


def test_a_slice_is_told_by_the_gpu_that_it_is_of() -> None:
    slices = [
        {"uuid": "MIG-1", "name": "1g", "memory_used": GIB, "memory_total": 16 * GIB, "utilisation": 5, "error": None}
    ]
    holder = Server("ada", container="a" * 64, device="MIG-1")
    view = gpu_view(frame(device("GPU-0", mig=slices, measured=False)), Roster((holder,)))
    assert [one["uuid"] for one in own_part(view, "ada")["devices"]] == ["GPU-0"]


def test_what_is_not_known_of_one_process_is_not_known_of_anybodys_part() -> None:
    view = gpu_view(frame(device("GPU-0", process(10, None, sm=None), process(20, GIB))), ROSTER)
    (own,) = own_part(view, "ada")["devices"]
    assert (own["mine"]["memory"], own["mine"]["utilisation"], own["others"]["memory"]) == (None, None, None)


def test_a_driver_that_is_silent_says_so_and_no_figure() -> None:
    found = own_part(gpu_view(silent(1000.0, device("GPU-0", process(10))), ROSTER), "ada")
    assert (found["available"], found["state"], found["message"], found["idle"]) == (
        False,
        "silent",
        "No driver.",
        None,
    )
    assert found["devices"][0]["memory_used"] is None


NAMES = st.text("abcdefgh", min_size=6, max_size=8)


@given(st.lists(NAMES, min_size=2, max_size=6, unique=True), st.data())
def test_no_other_learner_can_be_told_from_it(names: list[str], data: st.DataObject) -> None:
    """Neither by name nor by number: what somebody sees is the same whoever the others are."""
    servers = tuple(Server(name, container=str(n) * 64, device="GPU-0") for n, name in enumerate(names))
    waiting = tuple(Waiter(f"w{name}", "", 1.0, n + 1) for n, name in enumerate(names))
    on = [process(10 * (n + 1), data.draw(st.integers(0, 9)) * GIB) for n, _ in enumerate(names)]
    view = gpu_view(frame(device("GPU-0", *on)), Roster(servers, waiting))
    text = json.dumps(own_part(view, names[0]))
    assert not [name for name in names[1:] if name in text]


# -- the feed ------------------------------------------------------------------------------------------------------


def asking(views: Callable[[], dict[str, Any]], steps: Callable[[GpuFeed], Any]) -> Any:
    async def scenario() -> Any:
        return await asyncio.wait_for(steps(GpuFeed(views, every=0.01)), 20)

    return asyncio.run(scenario())


def test_nobody_is_asked_while_nobody_watches() -> None:
    looks: list[int] = []

    def view() -> dict[str, Any]:
        looks.append(len(looks))
        return {"n": len(looks)}

    async def steps(feed: GpuFeed) -> None:
        await asyncio.sleep(0.05)
        assert looks == []
        with feed.watch() as one, feed.watch() as two:
            assert feed.watchers == 2
            first, second = await one.next(10), await two.next(10)
            assert first == second  # one question for both
        await asyncio.sleep(0.02)
        asked = len(looks)
        await asyncio.sleep(0.05)
        assert len(looks) == asked
        with feed.watch() as again:
            assert (await again.next(10) or {})["n"] > asked

    asking(view, steps)


def test_who_is_slow_gets_the_newest_and_misses_the_rest() -> None:
    count = iter(range(10_000))

    async def steps(feed: GpuFeed) -> None:
        with feed.watch() as quick, feed.watch() as slow:
            newest = {}
            for _ in range(5):
                newest = await quick.next(10) or {}
            seen = await slow.next(10) or {}
            assert seen["n"] >= newest["n"]
            assert await slow.next(10) != seen

    asking(lambda: {"n": next(count)}, steps)


def test_a_fault_is_logged_once_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    answers: Iterator[Any] = iter([RuntimeError("a bug of ours"), RuntimeError("a bug of ours"), {"n": 1}])

    def view() -> dict[str, Any]:
        found = next(answers, {"n": 2})
        if isinstance(found, Exception):
            raise found
        return dict(found)

    async def steps(feed: GpuFeed) -> None:
        with feed.watch() as watcher:
            assert await watcher.next(10) == {"n": 1}

    asking(view, steps)
    assert [record.getMessage() for record in caplog.records] == [
        "The GPU monitor could not be asked; it is asked again."
    ]
    assert "a bug of ours" in caplog.text


def test_without_a_view_a_watcher_waits_no_longer_than_it_wants_to() -> None:
    async def steps(feed: GpuFeed) -> None:
        feed._view = lambda: asyncio.run(asyncio.sleep(0.2)) or {}  # in a thread, and slow
        with feed.watch() as watcher:
            assert await watcher.next(0.01) is None

    asking(dict, steps)


# -- over HTTP -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("portal")
    with running_portal(folder, write_course(folder / "course").load(), gpus="shared:2") as running:
        running.gpu.shown = shown(simulated=True)
        running.gpu.past = {
            "from": 1000,
            "step": 1,
            "count": 3,
            "devices": {"GPU-0": {"utilisation": [1, None, 3], "memory": [1, None, 3], "parts": {"ada": [0, None, 2]}}},
        }
        rows = [{"learner": "noor", "lab": "tensors", "held": 60.0, "busy": 30.0, "peak": 2 * GIB}]
        today = [one | {"day": _today(running)} for one in rows]
        running.store.keep_gpu_usage("run", [rows[0] | {"day": "2020-01-01"}, *today])
        yield running


def _today(portal: Running) -> str:
    from gradlab.portal.api import _day

    return _day(portal.clock())


@pytest.fixture
def grace(portal: Running) -> Iterator[httpx.Client]:
    with portal.client("grace") as client:
        yield client


def test_instructors_get_the_view(grace: httpx.Client) -> None:
    found = grace.get("api/gpu/view").json()
    assert (found["simulated"], found["mode"], found["slots"], found["free"]) == (True, "shared:2", 2, 1)
    assert [part["learner"] for part in found["devices"][0]["parts"]] == ["ada", "bob"]
    assert found["devices"][0]["parts"][0]["memory"] == 3 * GIB
    assert [one["learner"] for one in found["queue"]] == ["eve"]


def test_the_view_of_the_api_leaves_out_nothing_that_the_stream_has(
    portal: Running, grace: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = [
        {"uuid": "MIG-1", "name": "1g", "gpu_instance": 7, "compute_instance": 0, "memory_used": GIB, "error": None}
        | {"memory_total": 16 * GIB, "utilisation": 5, "utilisation_by": "gpm"}
    ]
    event = {"at": 900.0, "xid": 79, "meaning": "the GPU has fallen off the bus", "application": False}
    sliced = device("GPU-1", index=1, mig=slices, measured=False, events=[event], problems={"fan": "Not read."})
    mute = device("GPU-2", index=2, ecc=None, clocks=None, max_clocks=None, events=None, memory_limits=None)
    view = gpu_view(frame(device("GPU-0", process(10), process(99)), sliced, mute), ROSTER, since=940.0)
    monkeypatch.setattr(portal.gpu, "shown", view)
    assert grace.get("api/gpu/view").json() == json.loads(json.dumps(view))


@pytest.mark.parametrize("since", ["nan", "inf", "-1", "1e300"])
def test_a_time_that_is_none_is_refused(grace: httpx.Client, since: str) -> None:
    answer = grace.get("api/gpu/history", params={"since": since})
    assert (answer.status_code, f"since='{since}' is not usable" in answer.json()["detail"]) == (422, True)


def test_the_history_has_gaps_where_there_was_no_sample(grace: httpx.Client) -> None:
    found = grace.get("api/gpu/history", params={"since": 1000}).json()
    assert (found["from"], found["count"]) == (1000, 3)
    assert found["devices"]["GPU-0"]["parts"]["ada"] == [0, None, 2]


def test_usage_is_json_or_a_table_for_a_spreadsheet(grace: httpx.Client, portal: Running) -> None:
    rows = grace.get("api/gpu/usage").json()["rows"]
    assert [(row["learner"], row["day"]) for row in rows] == [("noor", "2020-01-01"), ("noor", _today(portal))]
    assert len(grace.get("api/gpu/usage", params={"since": "2020-01-02"}).json()["rows"]) == 1
    table = grace.get("api/gpu/usage", params={"format": "csv", "since": "2020-01-02"})
    assert table.headers["Content-Type"].startswith("text/csv")
    assert table.text.splitlines() == [
        "learner,lab,day,held,busy,peak",
        f"noor,tensors,{_today(portal)},60.0,30.0,{2 * GIB}",
    ]
    wrong = grace.get("api/gpu/usage", params={"since": "yesterday"})
    assert (wrong.status_code, "since='yesterday' is not usable" in wrong.text) == (422, True)


def test_anybody_gets_their_own_part_and_what_they_used_today(portal: Running) -> None:
    with portal.client("noor") as noor:
        found = noor.get("api/gpu/mine").json()
    assert (found["devices"], found["simulated"]) == ([], True)
    assert found["usage"] == {"held": 60.0, "busy": 30.0, "peak": 2 * GIB}


def test_a_notebook_that_asks_is_no_sign_of_life(portal: Running) -> None:
    with portal.client("olga") as olga:
        assert olga.get("api/gpu/mine").status_code == 200
    assert "olga" not in {learner.name for learner in portal.store.learners()}


def test_the_stream_has_a_view_a_second(portal: Running, grace: httpx.Client) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    with grace.stream("GET", "events/gpu") as stream:
        name = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            if line.startswith("data: "):
                events.append((name, json.loads(line.removeprefix("data: "))))
            if len(events) == 3:
                break
    assert [name for name, _ in events] == ["hello", "gpu", "gpu"]
    assert events[1][1]["devices"][0]["parts"][0]["learner"] == "ada"


def test_the_stream_ends_when_its_reader_is_no_instructor_any_more(
    portal: Running, grace: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "RECHECK_SECONDS", 0.1)
    token = grace.headers["Authorization"].removeprefix("token ")
    with grace.stream("GET", "events/gpu") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: hello"
        portal.hub.tokens[token]["groups"] = []
        assert len(list(lines)) < 1000  # it has an end
    until(lambda: portal.app.state.portal.gpu_feed.watchers == 0)
