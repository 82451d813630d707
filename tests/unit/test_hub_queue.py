"""The line for GPUs: everybody's turn comes, and whoever goes away at whatever moment leaves nothing taken."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any

import pytest

from gradlab.errors import PoolEmpty
from gradlab.hub.gpus import Pool, Slot
from gradlab.hub.queue import Queue, Waiting

MINUTE = 60.0
NEVER = 1e6  # seconds; nobody is to hear anything but changes


class Line:
    """A queue with a clock that stands still unless a test moves it."""

    def __init__(self, gpus: int = 1, *, lasted: tuple[float, ...] = (), every: float = NEVER) -> None:
        self.now = 0.0
        self.slots = tuple(Slot(f"GPU-{number}") for number in range(gpus))
        self.queue = Queue(Pool(self.slots, lasted=lasted), clock=lambda: self.now, every=every)

    @property
    def holders(self) -> list[str]:
        return [holder["holder"] for slot in self.queue.snapshot()["slots"] for holder in slot["holders"]]

    @property
    def waiters(self) -> list[str]:
        return [waiter["holder"] for waiter in self.queue.snapshot()["line"]]

    def assert_empty(self) -> None:
        found = self.queue.snapshot()
        assert (found["free"], found["line"], self.holders) == (len(self.slots), [], [])
        assert self.queue._asking == {}


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


async def turns(count: int = 10) -> None:
    """Let everything that can happen now happen."""
    for _ in range(count):
        await asyncio.sleep(0)


async def cancelled(task: asyncio.Task[Any]) -> bool:
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return task.cancelled()


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


# Going away


def test_cancelling_a_waiter_frees_the_place_at_once() -> None:
    async def scenario() -> None:
        line = Line()
        await line.queue.acquire("ada")
        ben, cyd = (asyncio.create_task(line.queue.acquire(name)) for name in ("ben", "cyd"))
        await turns()
        ben.cancel()
        assert await cancelled(ben)
        assert line.waiters == ["cyd"]
        line.queue.release("ada")
        assert await cyd == line.slots[0]

    run(scenario)


@pytest.mark.parametrize("between", range(6))
@pytest.mark.parametrize("first", ["release", "cancel"])
def test_being_granted_and_cancelled_in_one_turn_leaks_nothing(first: str, between: int) -> None:
    async def scenario() -> None:
        line = Line()
        await line.queue.acquire("ada")
        ben, cyd = (asyncio.create_task(line.queue.acquire(name)) for name in ("ben", "cyd"))
        await turns()
        if first == "release":
            line.queue.release("ada")
            await turns(between)
            ben.cancel()
        else:
            ben.cancel()
            await turns(between)
            line.queue.release("ada")
        if not await cancelled(ben):  # it had returned before
            assert ben.result() == line.slots[0]
            line.queue.release("ben")
        assert await cyd == line.slots[0]
        line.queue.release("cyd")
        line.assert_empty()

    run(scenario)


def test_the_one_turn_between_grant_and_wake_up_is_covered() -> None:
    """The test above would pass if a cancellation never met a granted slot; here it does."""

    async def scenario() -> None:
        line = Line()
        await line.queue.acquire("ada")
        ben = asyncio.create_task(line.queue.acquire("ben"))
        await turns()
        line.queue.release("ada")
        assert line.holders == ["ben"]
        ben.cancel()
        assert await cancelled(ben)
        line.assert_empty()

    run(scenario)


@pytest.mark.parametrize("wait", [asyncio.shield, lambda task: asyncio.wait_for(task, NEVER)])
def test_a_caller_may_wrap_the_wait_in_a_task(wait: Callable[[Any], Awaitable[Slot]]) -> None:
    """As JupyterHub does with hooks. What was acquired behind a cancelled caller's back is given back by release."""

    async def scenario() -> None:
        line = Line()
        await line.queue.acquire("ada")
        inner = asyncio.ensure_future(line.queue.acquire("ben"))
        outer = asyncio.ensure_future(wait(inner))
        await turns()
        line.queue.release("ada")
        await turns(1)
        outer.cancel()
        await asyncio.wait((inner, outer))
        line.queue.release("ben")
        line.assert_empty()

    run(scenario)


def test_a_listener_that_fails_costs_its_waiter_the_place_and_nobody_else() -> None:
    async def scenario() -> None:
        line = Line()
        await line.queue.acquire("ada")

        def fails(_: Waiting) -> None:
            raise RuntimeError("the page is gone")

        with pytest.raises(RuntimeError, match="the page is gone"):
            await line.queue.acquire("ben", told=fails)
        assert line.waiters == []
        line.queue.release("ada")
        line.assert_empty()

    run(scenario)


def test_a_wait_that_is_dropped_unfinished_frees_the_place() -> None:
    async def scenario() -> None:
        line = Line()
        await line.queue.acquire("ada")
        coroutine = line.queue.acquire("ben")
        coroutine.send(None)
        assert line.waiters == ["ben"]
        coroutine.close()
        assert line.waiters == []

    run(scenario)


@pytest.mark.parametrize("between", range(4))
@pytest.mark.parametrize("leaves", [0, 1])
def test_calls_for_one_holder_share_place_and_slot_until_the_last_has_gone(leaves: int, between: int) -> None:
    async def scenario() -> None:
        line = Line()
        await line.queue.acquire("ada")
        one, *others = (asyncio.create_task(line.queue.acquire("ben")) for _ in range(3))
        await turns()
        assert line.waiters == ["ben"]
        one.cancel()
        assert await cancelled(one)
        assert line.waiters == ["ben"]
        await turns()
        line.queue.release("ada")
        await turns(between)
        others[leaves].cancel()  # granted already, and the other still asks or has just returned
        await asyncio.wait(others)
        assert others[1 - leaves].result() == line.slots[0]
        assert line.holders == ["ben"]
        line.queue.release("ben")
        line.assert_empty()

    run(scenario)


def test_the_last_of_several_calls_to_go_gives_the_slot_back() -> None:
    async def scenario() -> None:
        line = Line()
        await line.queue.acquire("ada")
        calls = [asyncio.create_task(line.queue.acquire("ben")) for _ in range(3)]
        await turns()
        line.queue.release("ada")
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        line.assert_empty()

    run(scenario)


def test_a_slot_released_before_its_waiter_woke_up_is_waited_for_again() -> None:
    async def scenario() -> None:
        line = Line()
        await line.queue.acquire("ada")
        ben = asyncio.create_task(line.queue.acquire("ben"))
        await turns()
        line.queue.release("ada")
        line.queue.release("ben")  # a stop that comes at the wrong moment
        assert await ben == line.slots[0]
        assert line.holders == ["ben"]

    run(scenario)


def test_a_waiter_whose_container_turns_out_to_run_keeps_its_slot_even_if_cancelled() -> None:
    async def scenario() -> None:
        line = Line()
        await line.queue.acquire("ada")
        ben, cyd = (asyncio.create_task(line.queue.acquire(name)) for name in ("ben", "cyd"))
        await turns()
        line.queue.restore({"ben": "GPU-9/1of1", "cyd": "GPU-8/1of1"})
        ben.cancel()
        assert await cancelled(ben)
        assert await cyd == Slot("GPU-8")
        assert line.holders == ["ada", "ben", "cyd"]

    run(scenario)


# Watching


def test_a_watcher_hears_at_once_at_every_change_and_no_more_after_the_end() -> None:
    async def scenario() -> None:
        line = Line()
        await line.queue.acquire("ada")
        ben, cyd = (asyncio.create_task(line.queue.acquire(name)) for name in ("ben", "cyd"))
        await turns()
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
        await line.queue.acquire("ada")
        ben = asyncio.create_task(line.queue.acquire("ben"))
        await turns()
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


# Everything at once


class Crowd:
    """People who come, wait, work and are cancelled at moments that chance decides, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.line = Line(self.chance.randint(1, 4), lasted=(MINUTE,) * self.chance.randint(0, 1))
        self.using: dict[str, str] = {}  # slot id to holder
        self.served = 0

    async def come(self, name: str) -> None:
        await turns(self.chance.randint(0, 15))
        slot = await self.line.queue.acquire(name, told=self.hear)
        try:
            assert self.using.setdefault(slot.id, name) == name, f"{slot.id} is used by {self.using[slot.id]}"
            self.served += 1
            await turns(self.chance.randint(0, 8))
        finally:
            del self.using[slot.id]
            self.line.queue.release(name)

    def hear(self, _: Waiting) -> None:
        if self.chance.random() < 0.02:
            raise ConnectionError("the page is gone")

    async def look(self, name: str) -> None:
        async for waiting in self.line.queue.watch(name):
            assert waiting.ahead >= 0

    async def disturb(self, tasks: list[asyncio.Task[None]]) -> None:
        """Cancel at any moment, in bursts, and make GPUs come and go; in the end all are there."""
        for _ in range(25):
            await turns(self.chance.randint(0, 3))
            for task in self.chance.sample(tasks, self.chance.randint(0, 3)):
                task.cancel()
            if self.chance.random() < 0.3:
                self.line.queue.resize(
                    self.chance.sample(self.line.slots, self.chance.randint(0, len(self.line.slots)))
                )
            found = self.line.queue.snapshot()
            assert not (found["free"] and found["line"])
        self.line.queue.resize(self.line.slots)

    async def play(self) -> None:
        names = [f"p{number}" for number in range(self.chance.randint(2, 14))]
        tasks = [asyncio.create_task(self.come(name)) for name in names]
        tasks += [asyncio.create_task(self.look(name)) for name in names[:4]]
        await self.disturb(tasks)
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError | ConnectionError | PoolEmpty), result
        assert self.using == {}
        self.line.assert_empty()


def test_whatever_happens_in_the_end_all_slots_are_free_and_nobody_waits() -> None:
    served = 0
    for seed in range(250):
        crowd = Crowd(seed)
        run(crowd.play)
        served += crowd.served
    assert served > 500  # the crowds did work
