"""The line for GPUs: whoever goes away at whatever moment leaves nothing taken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from gradlab.errors import PoolEmpty
from gradlab.hub.gpus import Slot
from gradlab.hub.queue import Waiting
from tests.gpus import MINUTE
from tests.lines import NEVER, Line, cancelled, run, turns

# Going away


def test_cancelling_a_waiter_frees_the_place_at_once() -> None:
    async def scenario() -> None:
        line = Line()
        ben, cyd = await line.behind("ada", "ben", "cyd")
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
        ben, cyd = await line.behind("ada", "ben", "cyd")
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
        (ben,) = await line.behind("ada", "ben")
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
        one, *others = await line.behind("ada", "ben", "ben", "ben")
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
        calls = await line.behind("ada", "ben", "ben", "ben")
        line.queue.release("ada")
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        line.assert_empty()

    run(scenario)


def test_a_slot_released_before_its_waiter_woke_up_is_waited_for_again() -> None:
    async def scenario() -> None:
        line = Line()
        (ben,) = await line.behind("ada", "ben")
        line.queue.release("ada")
        line.queue.release("ben")  # a stop that comes at the wrong moment
        assert await ben == line.slots[0]
        assert line.holders == ["ben"]

    run(scenario)


def test_a_waiter_whose_container_turns_out_to_run_keeps_its_slot_even_if_cancelled() -> None:
    async def scenario() -> None:
        line = Line()
        ben, cyd = await line.behind("ada", "ben", "cyd")
        line.queue.restore({"ben": "GPU-9/1of1", "cyd": "GPU-8/1of1"})
        ben.cancel()
        assert await cancelled(ben)
        assert await cyd == Slot("GPU-8")
        assert line.holders == ["ada", "ben", "cyd"]

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
        sentence = ""
        async for waiting in self.line.queue.watch(name):
            assert waiting.sentence != sentence  # nobody is told what they know
            sentence = waiting.sentence

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
