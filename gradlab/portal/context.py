"""Everything a request handler needs, made once by ``create_app`` and handed on as one object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

from gradlab.course import Course
from gradlab.portal.gpus import GpuFeed, Source
from gradlab.portal.hubauth import HubClient, Visitor
from gradlab.portal.live import Checks, Live
from gradlab.portal.sessions import Sessions
from gradlab.settings import Settings
from gradlab.store import Store

__all__ = ["Portal", "Presence", "portal_of"]

_SEEN_EVERY = 15.0


class Presence:
    """Who was here, written to the store at most every 15 seconds a person: a write waits for the disk.

    Instructors are only remembered here, for as long as the portal runs: they are no rows of the class table, even when
    they try a lab themselves.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._written: dict[str, float] = {}
        self._instructors: frozenset[str] = frozenset()

    @property
    def instructors(self) -> frozenset[str]:
        return self._instructors

    def due(self, visitor: Visitor) -> bool:
        """Note the visitor's role, and say whether :meth:`write` has something to write. Called on the event loop."""
        if visitor.instructor != (visitor.name in self._instructors):
            self._instructors = self._instructors ^ {visitor.name}
        if visitor.instructor:
            return False
        return self._clock() - self._written.get(visitor.name, float("-inf")) >= _SEEN_EVERY

    def write(self, visitor: Visitor) -> None:
        now = self._clock()
        self._store.see(visitor.name, now=now)
        self._written[visitor.name] = now


@dataclass(frozen=True)
class Portal:
    """The parts of one portal."""

    settings: Settings
    course: Course
    store: Store
    checks: Checks
    hub: HubClient
    sessions: Sessions
    live: Live
    gpu: Source
    gpu_feed: GpuFeed
    presence: Presence
    clock: Callable[[], float]

    @property
    def prefix(self) -> str:
        """Where the portal lies, with a slash at the end."""
        return self.hub.prefix


def portal_of(request: Request) -> Portal:
    """The portal a request belongs to."""
    portal: Portal = request.app.state.portal
    return portal
