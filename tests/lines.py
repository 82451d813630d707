"""The line for GPUs in tests: a clock that stands still, and an event loop that is given its turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from gradlab.hub.gpus import Pool, Slot
from gradlab.hub.queue import Queue

__all__ = ["NEVER", "Line", "cancelled", "run", "turns"]

NEVER = 1e6  # seconds; nobody is to hear anything but changes


class Line:
    """A queue with a clock that stands still unless a test moves it."""

    def __init__(self, gpus: int = 1, *, lasted: tuple[float, ...] = (), every: float = NEVER) -> None:
        self.now = 0.0
        self.slots = tuple(Slot(f"GPU-{number}") for number in range(gpus))
        self.queue = Queue(Pool(self.slots, lasted=lasted), clock=lambda: self.now, every=every)

    async def behind(self, holder: str, *waiters: str) -> list[asyncio.Task[Slot]]:
        """One who holds a slot, and others who have asked after that."""
        await self.queue.acquire(holder)
        tasks = [asyncio.create_task(self.queue.acquire(name)) for name in waiters]
        await turns()
        return tasks

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
