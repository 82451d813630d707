"""The line for GPUs on the hub's event loop: wait for a slot, watch the line, give a slot back.

All state is in one :class:`~gradlab.hub.gpus.Pool`, and every step on it is done between two awaits. Who waits is only
told that something changed and then looks for itself, so there is no message in flight that a cancellation could lose:
whether somebody has a place, a slot or nothing is what the pool says.

For one event loop; no method may be called from another thread.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gradlab.hub.gpus import Pool, Slot

__all__ = ["Queue", "Waiting"]


@dataclass(frozen=True)
class Waiting:
    """How it stands with one who waits, and how many wait before.

    ``problem`` says why no slot is left that could ever become free.
    """

    ahead: int
    seconds: float | None
    problem: str = ""

    @property
    def sentence(self) -> str:
        """One line for the learner's page while the server starts.

        It counts those who have to give a GPU back first: one for everybody who waits before, and one for this waiter.
        """
        place = f"{self.ahead + 1} ahead of you"
        if self.problem:
            return f"No GPU can be given out at the moment; you keep your place ({place}). {self.problem}"
        if self.seconds is not None:
            return f"{place}: your GPU should be free in {_about(self.seconds)}."
        if self.ahead == 0:
            return f"{place}: you get the next GPU that becomes free."
        return f"{place}: how long that takes cannot be said yet."


def _about(seconds: float) -> str:
    if seconds < 60:
        return "less than a minute"
    minutes = math.floor(seconds / 60 + 0.5)
    if minutes < 60:
        return f"about {_count(minutes, 'minute')}"
    halves = math.floor(seconds / 1800 + 0.5)
    if halves % 2 == 0:
        return f"about {_count(halves // 2, 'hour')}"
    return f"about {halves // 2}½ hours"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


class Queue:
    """Holders are texts that name one server of one learner. ``every`` is how often, in seconds, waiters hear at least.

    The clock is wall time, so that "since" means the same after a restart of the hub.
    """

    def __init__(self, pool: Pool, *, clock: Callable[[], float] = time.time, every: float = 10.0) -> None:
        self._pool = pool
        self._clock = clock
        self._every = every
        self._change: asyncio.Future[None] | None = None
        # By holder: calls of acquire that have not ended. Until one has returned the slot, the last gives it back.
        self._asking: dict[str, set[object]] = {}
        self._listeners: list[Callable[[], object]] = []

    async def acquire(
        self, holder: str, *, told: Callable[[Waiting], object] = lambda _: None, since: float | None = None
    ) -> Slot:
        """Wait for a slot and return it; PoolEmpty if there is none to wait for.

        ``told`` hears how it stands at once and then like a watcher. ``since`` is as for ``Pool.request``. However this
        ends without returning, the place or the slot is free again at once; once it has returned, the slot is the
        holder's until ``release``.
        """
        call, done = object(), False
        try:
            while (slot := self._request(holder, call, since)) is None:
                waiting = None
                while (waiting := await self._news(holder, waiting)) is not None:
                    told(waiting)
            done = True
            return slot
        finally:
            self._end(holder, call, done)

    def release(self, holder: str) -> None:
        """Give the holder's slot back, if there is one; harmless however often and for whomever it is called."""
        if self._pool.slot_of(holder) is not None:
            self._pool.release(holder, self._clock())
            self._tell()

    def resize(self, slots: Iterable[Slot], *, problem: str = "") -> None:
        """As ``Pool.resize``. Only for what a monitor said: one that does not answer is no news of any GPU."""
        self._pool.resize(slots, self._clock(), problem=problem)
        self._tell()

    def restore(self, held: Mapping[str, str], *, since: Mapping[str, float] | None = None) -> None:
        """As ``Pool.restore``."""
        self._pool.restore(held, self._clock(), since=since)
        for holder in held:  # the containers run, so no call of acquire may give these slots back any more
            self._asking.pop(holder, None)
        self._tell()

    def slot_of(self, holder: str) -> Slot | None:
        """The slot that this holder has."""
        return self._pool.slot_of(holder)

    def waiting(self, holder: str) -> Waiting | None:
        """How it stands with this waiter now; None for one who does not wait."""
        ahead = self._pool.place(holder)
        if ahead is None:
            return None
        return Waiting(ahead, self._pool.estimate(holder, self._clock()), self._pool.problem)

    async def watch(self, holder: str) -> AsyncIterator[Waiting]:
        """How it stands with this waiter: at once, whenever its sentence changes, and at least every so often.

        Ends when the holder waits no longer; for one who does not wait (yet) it ends at once.
        """
        waiting = None
        while (waiting := await self._news(holder, waiting)) is not None:
            yield waiting

    async def changed(self, seconds: float | None = None) -> bool:
        """Wait for the next change of slots, holders or line; False if ``seconds`` pass without one."""
        if self._change is None:
            self._change = asyncio.get_running_loop().create_future()
        change = self._change
        # Unlike `await change` and wait_for, this neither cancels what others wait for nor swallows a cancellation.
        await asyncio.wait((change,), timeout=seconds)
        return change.done()

    def listen(self, listener: Callable[[], object]) -> None:
        """Call this after every change of slots, holders or line, for as long as there is the queue."""
        self._listeners.append(listener)

    def snapshot(self) -> dict[str, Any]:
        """As ``Pool.snapshot``."""
        return self._pool.snapshot()

    def _request(self, holder: str, call: object, since: float | None) -> Slot | None:
        self._asking.setdefault(holder, set()).add(call)
        slot = self._pool.request(holder, self._clock(), since=since)
        self._tell()
        return slot

    def _end(self, holder: str, call: object, done: bool) -> None:
        """One call of acquire is over. If it was the last that asked, what the pool has for the holder is unwanted.

        That is a place, or a slot granted this very moment.
        """
        asking = self._asking.get(holder, set())
        if call not in asking:  # meanwhile the slot was handed over to another call, or to a container
            return
        asking.discard(call)
        if done or not asking:
            del self._asking[holder]
        if not done and not asking:
            self._pool.leave(holder)
            self._pool.release(holder, self._clock())
            self._tell()

    def _tell(self) -> None:
        change, self._change = self._change, None
        if change is not None:
            change.set_result(None)
        for listener in self._listeners:
            listener()

    async def _news(self, holder: str, last: Waiting | None) -> Waiting | None:
        """How it stands once that reads otherwise than ``last``, or time is up; None when the holder does not wait."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._every
        while (waiting := self.waiting(holder)) is not None:
            left = deadline - loop.time()
            if last is None or left <= 0 or waiting.sentence != last.sentence:
                return waiting
            await self.changed(left)
        return None
