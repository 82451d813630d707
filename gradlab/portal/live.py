"""Verdicts as they happen: from the judge's threads to everyone who waits or watches.

One subscription to the checks serves all listeners. Events cross from judge threads into the event loop once, there
they go to the queues of open event streams and wake requests that wait for one submission. Nothing is replayed: whoever
listens reads the whole state after it began to listen, so an event that nobody heard is never missed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

__all__ = ["Checks", "Event", "Listener", "Live", "Overrun"]

_BACKLOG = 512  # events a listener may be behind before it is told to start over


class Event(Protocol):
    """What happened to a submission; ``gradlab.checks`` makes these."""

    @property
    def kind(self) -> Literal["accepted", "judged", "superseded"]: ...
    @property
    def submission(self) -> int: ...
    @property
    def learner(self) -> str: ...
    @property
    def lab(self) -> str: ...


class Checks(Protocol):
    """The part of ``gradlab.checks.Checks`` that the portal uses."""

    def accept(self, learner: str, lab: str, notebook: bytes, *, only: str | None = None) -> int: ...
    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]: ...


class Overrun(Exception):
    """A listener fell too far behind; it has to start over."""


class Listener:
    """One open event stream's queue. A reader that is too slow loses the queue, not the server its memory."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event] = asyncio.Queue(_BACKLOG)
        self._overrun = False

    def put(self, event: Event) -> None:
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self._overrun = True

    async def next(self, timeout: float) -> Event | None:
        """The next event, or None after ``timeout`` seconds without one; Overrun once events were lost."""
        if self._overrun:
            raise Overrun
        try:
            return await asyncio.wait_for(self._queue.get(), timeout)
        except TimeoutError:
            return None


class Live:
    """Fans events out on one event loop; ``start`` and ``stop`` are called on that loop."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._listeners: set[Listener] = set()
        self._waiting: defaultdict[int, set[asyncio.Event]] = defaultdict(set)

    @property
    def listeners(self) -> int:
        """Open event streams and waiting requests."""
        return len(self._listeners) + sum(len(events) for events in self._waiting.values())

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._unsubscribe = self._checks.subscribe(self._hear)

    def stop(self) -> None:
        self._unsubscribe()

    @contextlib.contextmanager
    def listen(self) -> Iterator[Listener]:
        """Hear every event from now on."""
        listener = Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    @contextlib.contextmanager
    def watch(self, submission: int) -> Iterator[asyncio.Event]:
        """An event that is set when this submission is judged or superseded from now on."""
        done = asyncio.Event()
        self._waiting[submission].add(done)
        try:
            yield done
        finally:
            waiting = self._waiting[submission]
            waiting.discard(done)
            if not waiting:
                del self._waiting[submission]

    def _hear(self, event: Event) -> None:
        """Called in a judge's thread; after the loop has closed there is nobody left to tell."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._tell, event)

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener.put(event)
        if event.kind != "accepted":
            for done in self._waiting.get(event.submission, ()):
                done.set()
