"""The GPU monitor as the portal sees it: a feed for those who watch, and of it all the part that is a learner's own.

What is in a view, ``gradlab.gpu.view`` says; here it is plain data.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool

__all__ = ["GpuFeed", "Source", "Watcher", "own_part"]

log = logging.getLogger(__name__)

_EVERY_SECONDS = 1.0

View = dict[str, Any]


class Source(Protocol):
    """The GPU monitor, in this process or behind a socket. It answers within seconds, whatever a driver does."""

    def reading(self) -> dict[str, Any]: ...
    def view(self) -> View: ...
    def history(self, since: float = 0.0) -> dict[str, Any]: ...
    def usage(self) -> dict[str, Any]: ...


class Watcher:
    """One who watches. Who is too slow for every view gets the newest."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._view: View | None = None

    def put(self, view: View) -> None:
        self._view = view
        self._news.set()

    async def next(self, timeout: float) -> View | None:
        """The newest view that was not seen yet; None after ``timeout`` seconds without one."""
        try:
            await asyncio.wait_for(self._news.wait(), timeout)
        except TimeoutError:
            return None
        self._news.clear()
        return self._view


class GpuFeed:
    """Asks once a second for everybody who watches, and not at all while nobody does. For one event loop."""

    def __init__(self, view: Callable[[], View], *, every: float = _EVERY_SECONDS) -> None:
        self._view = view
        self._every = every
        self._watchers: set[Watcher] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    @contextlib.contextmanager
    def watch(self) -> Iterator[Watcher]:
        """Hear every view from now on."""
        watcher = Watcher()
        self._watchers.add(watcher)
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            if not self._watchers and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        failing = False
        while True:
            began = loop.time()
            try:
                view = await run_in_threadpool(self._view)
            except Exception:
                if not failing:  # else the log would have nothing but this, once a second
                    log.exception("The GPU monitor could not be asked; it is asked again.")
                failing = True
            else:
                failing = False
                for watcher in self._watchers:
                    watcher.put(view)
            await asyncio.sleep(max(0.0, began + self._every - loop.time()))


def own_part(view: View, learner: str, *, free_for_all: bool = False) -> dict[str, Any]:
    """What a learner may see of a view: the GPUs that are given to them or that they are on.

    ``free_for_all`` is where none is given to anybody and everybody can use each. Everybody else on those is one
    anonymous block: not who they are, and not how many.
    """
    servers = [one for one in view["servers"] if one["learner"] == learner]
    places = {one["device"] for one in servers if one["device"]}
    devices = [one for one in view["devices"] if free_for_all or places & _places(one) or _mine(one, learner)]
    waiting = next((one for one in view["queue"] if one["learner"] == learner), None)
    known = ("at", "state", "available", "message", "simulated", "driver_version")
    return {name: view[name] for name in known} | {
        "devices": [_own_device(one, learner, _share(servers, one)) for one in devices],
        "waiting": waiting and {name: waiting[name] for name in ("position", "estimate")},
        "idle": min((one["idle"] for one in servers if one["idle"] is not None), default=None),
    }


def _places(device: Mapping[str, Any]) -> set[str]:
    return {device["uuid"], *(one["uuid"] for one in device["mig"] or ())}


def _share(servers: Iterable[Mapping[str, Any]], device: Mapping[str, Any]) -> int | None:
    """Of this GPU: who is on another one besides has no share of that."""
    places = _places(device)
    return next((one["share"] for one in servers if one["device"] in places and one["share"] is not None), None)


def _mine(device: Mapping[str, Any], learner: str) -> list[Mapping[str, Any]]:
    return [part for part in device["parts"] if part["learner"] == learner]


def _own_device(device: Mapping[str, Any], learner: str, share: int | None) -> dict[str, Any]:
    mine = _mine(device, learner)
    memory, utilisation = (_sum(part[name] for part in mine) for name in ("memory", "utilisation"))
    rest = [part for part in device["parts"] if part["learner"] != learner] + [device["machine"]]
    known = ("index", "name", "uuid", "driver_model", "utilisation", "memory_used", "memory_total")
    return {name: device[name] for name in (*known, "temperature", "power", "error")} | {
        "mine": {
            "memory": memory,
            "utilisation": None if utilisation is None else min(100, utilisation),
            "processes": sum(part["processes"] for part in mine),
        },
        "others": {
            # Also what nobody accounts for: it is not the learner's.
            "memory": _rest(device["memory_used"], memory),
            "utilisation": _capped(_sum(part["utilisation"] for part in rest)),
        },
        "share": share,
    }


def _rest(used: int | None, mine: int | None) -> int | None:
    return None if used is None or mine is None else max(0, used - mine)


def _capped(percent: int | None) -> int | None:
    return None if percent is None else min(100, percent)


def _sum(values: Iterable[int | None]) -> int | None:
    """None if one of them is not known."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
