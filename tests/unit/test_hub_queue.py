"""The line for GPUs: everybody's turn comes, and everybody hears how it stands."""

from __future__ import annotations

import asyncio

import pytest

from gradlab.errors import PoolEmpty
from gradlab.hub.gpus import Slot
from gradlab.hub.queue import Waiting
from tests.gpus import MINUTE
from tests.lines import Line, cancelled, run, turns

# Sentences


@pytest.mark.parametrize(
    ("waiting", "sentence"),
    [
        (Waiting(0, 12 * MINUTE), "1 ahead of you: your GPU should be free in about 12 minutes."),
        (Waiting(0, 59.9), "1 ahead of you: your GPU should be free in less than a minute."),
        (Waiting(0, 0.0), "1 ahead of you: your GPU should be free in less than a minute."),
        (Waiting(0, None), "1 ahead of you: you get the next GPU that becomes free."),
        (Waiting(1, 60.0), "2 ahead of you: your GPU should be free in about 1 minute."),
        (Waiting(1, 89.0), "2 ahead of you: your GPU should be free in about 1 minute."),
        (Waiting(2, 90.0), "3 ahead of you: your GPU should be free in about 2 minutes."),
        (Waiting(2, 59.4 * MINUTE), "3 ahead of you: your GPU should be free in about 59 minutes."),
        (Waiting(2, 59.5 * MINUTE), "3 ahead of you: your GPU should be free in about 1 hour."),
        (Waiting(2, 80 * MINUTE), "3 ahead of you: your GPU should be free in about 1½ hours."),
        (Waiting(2, 110 * MINUTE), "3 ahead of you: your GPU should be free in about 2 hours."),
        (Waiting(30, 1000 * MINUTE), "31 ahead of you: your GPU should be free in about 16½ hours."),
        (Waiting(3, None), "4 ahead of you: how long that takes cannot be said yet."),
        (
            Waiting(0, None, "This server has no GPU."),
            "No GPU can be given out at the moment; you keep your place (1 ahead of you). This server has no GPU.",
        ),
        (
            Waiting(2, None, "This server has no GPU."),
            "No GPU can be given out at the moment; you keep your place (3 ahead of you). This server has no GPU.",
        ),
    ],
)
def test_a_learner_reads_one_sentence(waiting: Waiting, sentence: str) -> None:
    assert waiting.sentence == sentence


# Waiting for a slot


def test_slots_go_to_those_who_wait_in_their_order() -> None:
    async def scenario() -> None:
        line = Line()
        order: list[str] = []

        async def work(name: str) -> None:
            assert await line.queue.acquire(name) == line.slots[0]
            order.append(name)
            await turns()
            line.queue.release(name)

        names = [f"p{number}" for number in range(8)]
        await asyncio.gather(*map(work, names))
        assert order == names
        line.assert_empty()

    run(scenario)


def test_a_free_slot_is_had_without_waiting_and_kept_until_it_is_released() -> None:
    async def scenario() -> None:
        line = Line()
        told: list[Waiting] = []
        coroutine = line.queue.acquire("ada", told=told.append)
        with pytest.raises(StopIteration) as done:  # it ends without giving the loop a turn
            coroutine.send(None)
        assert done.value.value == line.slots[0] == await line.queue.acquire("ada")
        assert line.queue.slot_of("ada") == line.slots[0]
        assert (told, line.queue.waiting("ada"), line.queue.slot_of("ben")) == ([], None, None)
        line.queue.release("ada")
        line.queue.release("ada")
        line.assert_empty()

    run(scenario)


def test_where_there_is_no_gpu_nobody_waits() -> None:
    async def scenario() -> None:
        line = Line(gpus=0)
        line.queue.resize((), problem="This server has no GPU.")
        with pytest.raises(PoolEmpty, match=r"^This server has no GPU\.$"):
            await line.queue.acquire("ada")
        line.assert_empty()

    run(scenario)


def test_a_waiter_is_told_at_once_and_whenever_the_sentence_changes() -> None:
    async def scenario() -> None:
        line = Line(lasted=(20 * MINUTE,))
        await line.queue.acquire("ada")
        told: list[str] = []
        ben = asyncio.create_task(line.queue.acquire("ben"))
        cyd = asyncio.create_task(line.queue.acquire("cyd", told=lambda waiting: told.append(waiting.sentence)))
        await turns()
        assert told == ["2 ahead of you: your GPU should be free in about 40 minutes."]
        dee = asyncio.create_task(line.queue.acquire("dee"))  # behind her: nothing changes
        await turns()
        ben.cancel()
        await turns()
        line.now += 5 * MINUTE
        line.queue.resize([*line.slots, Slot("GPU-new")])
        assert await cyd == Slot("GPU-new")
        line.queue.release("ada")
        assert await dee == line.slots[0]
        assert told[1:] == ["1 ahead of you: your GPU should be free in about 20 minutes."]

    run(scenario)


def test_a_place_of_before_a_restart_is_taken_again() -> None:
    async def scenario() -> None:
        line = Line()
        line.now = 1000.0
        line.queue.restore({"ada": "GPU-0/1of1"}, since={"ada": 500.0})
        tasks = [
            asyncio.create_task(line.queue.acquire("ben")),
            asyncio.create_task(line.queue.acquire("cyd", since=900.0)),
        ]
        await turns()
        assert line.waiters == ["cyd", "ben"]
        assert line.queue.snapshot()["slots"][0]["holders"] == [{"holder": "ada", "since": 500.0}]
        line.queue.release("ada")
        await tasks[1]
        line.queue.release("cyd")
        await tasks[0]

    run(scenario)


def test_a_line_goes_on_when_gpus_come_back() -> None:
    async def scenario() -> None:
        line = Line()
        told: list[str] = []
        await line.queue.acquire("ada")
        ben = asyncio.create_task(line.queue.acquire("ben", told=lambda waiting: told.append(waiting.sentence)))
        await turns()
        line.queue.resize((), problem="It is lost.")
        line.queue.release("ada")
        await turns()
        assert told == [
            "1 ahead of you: you get the next GPU that becomes free.",
            "No GPU can be given out at the moment; you keep your place (1 ahead of you). It is lost.",
        ]
        line.queue.resize(line.slots)
        assert await ben == line.slots[0]

    run(scenario)


# Watching


def test_a_watcher_hears_at_once_at_every_change_and_no_more_after_the_end() -> None:
    async def scenario() -> None:
        line = Line()
        ben, cyd = await line.behind("ada", "ben", "cyd")
        heard: list[list[int]] = [[], [], []]

        async def listen(into: list[int]) -> None:
            async for waiting in line.queue.watch("cyd"):
                into.append(waiting.ahead)

        watchers = [asyncio.create_task(listen(into)) for into in heard]
        await turns()
        watchers[1].cancel()  # a page that is closed disturbs no other
        await turns()
        line.queue.release("ada")
        await ben
        await turns()
        line.queue.release("ben")
        await cyd
        await asyncio.wait(watchers)
        assert heard == [[1, 0], [1], [1, 0]]

    run(scenario)


def test_a_watcher_of_somebody_who_does_not_wait_hears_nothing() -> None:
    async def scenario() -> None:
        line = Line()
        await line.queue.acquire("ada")
        assert [waiting async for waiting in line.queue.watch("ada")] == []
        assert [waiting async for waiting in line.queue.watch("nobody")] == []

    run(scenario)


def test_a_watcher_hears_every_so_often_even_if_nothing_happens() -> None:
    async def scenario() -> None:
        line = Line(every=0.01)
        (ben,) = await line.behind("ada", "ben")
        heard = []
        async for waiting in line.queue.watch("ben"):
            heard.append(waiting)
            if len(heard) == 4:
                break
        assert heard == [Waiting(0, None)] * 4
        ben.cancel()
        assert await cancelled(ben)

    run(scenario)


def test_any_change_can_be_waited_for() -> None:
    async def scenario() -> None:
        line = Line()
        assert not await line.queue.changed(0.001)
        changes = [asyncio.create_task(line.queue.changed()) for _ in range(2)]
        await turns()
        changes[0].cancel()
        await line.queue.acquire("ada")
        assert await changes[1] is True
        assert await cancelled(changes[0])

    run(scenario)
