"""What the hub tells the GPU monitor: which servers there are, which GPU each holds, and who waits for one.

It is told in the file of gradlab.roster, which is written anew soon after every change: a few times a second at most,
for a class may start all its servers at once. While somebody waits it is also written every few seconds, because
estimates grow old by themselves.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from gradlab.roster import Roster, Server, write
from gradlab.settings import Settings

__all__ = ["Registry"]

log = logging.getLogger(__name__)

_EVERY_SECONDS = 0.25
_AGAIN_SECONDS = 10.0

# Where a server runs: its container's id, or the number of its first process.
Place = str | int


def _without_gpus(servers: Iterable[Server]) -> Roster:
    return Roster(tuple(servers))


class Registry:
    """The servers that run now. For one event loop; no method may be called from another thread.

    ``compose`` makes the roster of these servers. Nothing is written before :meth:`recover`: until then the file has
    the last word of the hub that was here before. What cannot be written is logged, and tried again.
    """

    def __init__(
        self,
        path: Path,
        compose: Callable[[Iterable[Server]], Roster] = _without_gpus,
        *,
        every: float = _EVERY_SECONDS,
        again: float = _AGAIN_SECONDS,
    ) -> None:
        self._path = path
        self._compose = compose
        self._every = every
        self._again = again
        self._servers: dict[Place, Server] = {}
        self._recovered = False
        self._written: Roster | None = None
        self._written_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False

    @classmethod
    @functools.cache
    def of_trial(cls, settings: Settings) -> Registry:
        """The one of this process, in a trial. No server of an earlier hub is left there."""
        found = cls(settings.roster_file)
        found.recover(())
        return found

    @property
    def places(self) -> frozenset[Place]:
        return frozenset(self._servers)

    def recover(self, servers: Iterable[Server]) -> None:
        """These run, and no others."""
        self._servers = {_place(server): server for server in servers}
        self._recovered = True
        self.changed()

    def started(self, server: Server) -> None:
        """One more; the same learner's former server of this name is over."""
        self._servers = {place: one for place, one in self._servers.items() if one.key != server.key}
        self._servers[_place(server)] = server
        self.changed()

    def ended(self, *places: Place) -> None:
        """What ran there runs no longer; harmless where nothing did."""
        if self._servers.keys() & set(places):
            self._servers = {place: one for place, one in self._servers.items() if place not in places}
            self.changed()

    def changed(self) -> None:
        """Write soon: servers have changed, or what ``compose`` knows of them."""
        if self._recovered:
            self._write_at(self._written_at + self._every)

    def _write_at(self, when: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._write)

    def _write(self) -> None:
        self._timer = None
        self._written_at = asyncio.get_running_loop().time()
        roster = self._compose(self._servers.values())
        try:
            if roster != self._written:
                write(self._path, roster)
        except OSError as error:
            if not self._failing:
                log.error(
                    "The list of servers cannot be written, so the GPU monitor does not know whose processes it sees: "
                    "%s. It is tried again.",
                    error,
                )
            self._failing = True
        else:
            if self._failing:
                log.info("The list of servers is written again.")
            self._written, self._failing = roster, False
        if roster.line or self._failing:
            self._write_at(self._written_at + self._again)


def _place(server: Server) -> Place:
    return server.container or server.pid
