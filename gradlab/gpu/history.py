"""An hour of GPU use at one sample a second, in memory: what the grid of the last hour is drawn from.

A second without a sample is None, whatever was before and after it: a failure is never drawn as idleness. Samples are
taken about once a second, so now and then a second falls between two of them; that one has the later sample's figures.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from gradlab.gpu.join import DeviceUse, Joined

__all__ = ["SECONDS", "History"]

SECONDS = 3600
# Two samples that are this many seconds apart have no gap between them.
_NEXT = 2
_NONE = -1


class _Track:
    """One number a second, ``SECONDS`` of them in a ring."""

    def __init__(self, kind: str) -> None:
        self._ring = array(kind, [_NONE]) * SECONDS

    def put(self, second: int, value: int | None) -> None:
        self._ring[second % SECONDS] = _NONE if value is None else value

    def read(self, first: int, count: int) -> list[int | None]:
        values = (self._ring[second % SECONDS] for second in range(first, first + count))
        return [None if value == _NONE else value for value in values]

    @property
    def empty(self) -> bool:
        return self._ring.count(_NONE) == SECONDS


class _Tracks:
    def __init__(self) -> None:
        self.utilisation = _Track("b")
        self.memory = _Track("q")
        self.parts: dict[str, _Track] = {}

    def put(self, second: int, use: DeviceUse | None) -> None:
        """Without a use there is no sample."""
        self.utilisation.put(second, None if use is None else use.device["utilisation"])
        self.memory.put(second, None if use is None else use.device["memory_used"])
        shares = {} if use is None else _by_learner(use)
        for learner in shares.keys() - self.parts.keys():
            self.parts[learner] = _Track("b")
        for learner, track in self.parts.items():
            track.put(second, shares.get(learner))

    def forget(self) -> None:
        for learner in [learner for learner, track in self.parts.items() if track.empty]:
            del self.parts[learner]


class History:
    """Not for several threads at once."""

    def __init__(self) -> None:
        self._devices: dict[str, _Tracks] = {}
        self._last: int | None = None
        self._first = 0

    def take(self, joined: Joined, now: float, *, sampled: bool) -> None:
        """What was seen at ``now``; not ``sampled`` where the driver said nothing."""
        second = int(now)
        if self._last is not None and second <= self._last - SECONDS:
            self._devices, self._last = {}, None  # the clock was set back by more than is kept
        if self._last is None:
            self._first = second
        skipped = [] if self._last is None else range(max(self._last + 1, second - SECONDS + 1), second)
        uses = {use.uuid: use for use in joined.devices if sampled and use.device["state"] == "ok"}
        close = self._last is not None and second - self._last <= _NEXT
        for uuid in uses.keys() - self._devices.keys():
            self._devices[uuid] = _Tracks()
        for uuid, tracks in self._devices.items():
            for missed in skipped:
                tracks.put(missed, uses.get(uuid) if close else None)
            tracks.put(second, uses.get(uuid))
        self._last = max(second, self._last or second)
        if second % 60 == 0:
            self._forget()

    def read(self, since: float = 0.0) -> dict[str, Any]:
        """From ``since`` on, but an hour at most: lists with one number a second, None where there is none."""
        if self._last is None:
            return {"from": int(since), "step": 1, "count": 0, "devices": {}}
        first = max(int(since), self._last - SECONDS + 1, self._first)
        count = max(0, self._last - first + 1)
        devices = {
            uuid: {
                "utilisation": tracks.utilisation.read(first, count),
                "memory": tracks.memory.read(first, count),
                "parts": _used({learner: track.read(first, count) for learner, track in tracks.parts.items()}),
            }
            for uuid, tracks in self._devices.items()
        }
        return {"from": first, "step": 1, "count": count, "devices": devices}

    def _forget(self) -> None:
        for uuid in list(self._devices):
            tracks = self._devices[uuid]
            tracks.forget()
            if tracks.memory.empty and tracks.utilisation.empty and not tracks.parts:
                del self._devices[uuid]


def _by_learner(use: DeviceUse) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for part in use.parts:
        before = found.get(part.server.learner, 0)
        known = None if before is None or part.utilisation is None else min(100, before + part.utilisation)
        found[part.server.learner] = known
    return found


def _used(parts: dict[str, Sequence[int | None]]) -> dict[str, Sequence[int | None]]:
    return {learner: values for learner, values in parts.items() if any(value is not None for value in values)}
