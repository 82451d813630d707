"""Which container uses which GPU, and when it did so last: an account that is fed with samples, without a clock.

    {"ok": bool, "message": str, "since": float | None, "processors": bool,
     "containers": {"<64hex>": {"processes", "memory", "busy_at", "held_at", "computing_at", "measured",
                                "devices": {"<uuid>": {"processes", "memory"}}}},
     "devices": {"<uuid>": {"busy_at", "measured", "error"}}}

Times are seconds since the epoch or None, memory is in bytes or None. ``busy_at`` is when the container's processes
last computed on a GPU, or took or gave back memory of it; ``held_at`` when they last held any; ``computing_at`` when
the container was last busy on processors, which is known where ``processors`` is true. ``measured`` is False where the
hardware reports no utilisation, as in MIG mode: who holds memory there may be busy, and nobody can say.

A use before ``since`` is not known. It begins anew after every gap, and when a device is known that was not before.
What is not ``ok`` says nothing about anybody: ``message`` is the reason.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gradlab.gpu.account import GAP_SECONDS

__all__ = ["Activity"]

# A compositor or a display keeps a GPU at a percent or so.
_BUSY_ABOVE = 1
# Of a core. JupyterLab in an open tab, in which nobody does anything, stayed below 0.03 when it was measured.
_COMPUTING_ABOVE = 0.1
_FORGET_SECONDS = 2 * 86400.0


@dataclass
class _Container:
    processes: int = 0
    memory: int | None = 0
    busy_at: float | None = None
    held_at: float | None = None
    computing_at: float | None = None
    measured: bool = True
    devices: dict[str, dict[str, int | None]] = field(default_factory=dict)

    def hold(self, device: str, memory: int | None, measured: bool) -> None:
        """One more process that is on this GPU or MIG instance."""
        found = self.devices.setdefault(device, {"processes": 0, "memory": 0})
        found["processes"] = (found["processes"] or 0) + 1
        found["memory"] = _sum(found["memory"], memory)
        self.measured = measured and (self.measured or not self.processes)
        self.processes += 1
        self.memory = _sum(self.memory, memory)

    def forgotten(self, now: float) -> bool:
        """Whether it is over long since."""
        last = max(self.busy_at or 0.0, self.held_at or 0.0, self.computing_at or 0.0)
        return not self.processes and now - last > _FORGET_SECONDS


@dataclass
class _Device:
    busy_at: float | None = None
    measured: bool = True
    error: str = ""


@dataclass(frozen=True)
class _Place:
    """A GPU or a MIG instance as a frame has it; ``busy`` are the processes that computed since the last frame."""

    name: str
    processes: Sequence[Mapping[str, Any]]
    busy: frozenset[int]
    measured: bool
    error: str


class Activity:
    """Not for several threads at once."""

    def __init__(self) -> None:
        self._containers: defaultdict[str, _Container] = defaultdict(_Container)
        self._devices: defaultdict[str, _Device] = defaultdict(_Device)
        self._known: set[str] = set()
        self._owners: dict[int, str] = {}
        self._sizes: dict[tuple[str, int], int | None] = {}
        self._seconds: dict[str, tuple[float, float]] = {}
        self._since: float | None = None
        self._at: float | None = None
        self._message = ""

    def take(
        self,
        frame: Mapping[str, Any],
        containers: Mapping[int, str],
        processor_seconds: Mapping[str, float],
        now: float,
    ) -> None:
        """One more frame. ``containers`` tells each process's, ``processor_seconds`` what each has used so far."""
        self._message = "" if frame["available"] else frame["message"]
        self._compute(processor_seconds, now)
        if self._message:
            return
        places = [place for device in frame["devices"] for place in _places(device)]
        known = {place.name for place in places if not place.error}
        if self._at is None or not 0 <= now - self._at <= GAP_SECONDS or known - self._known:
            self._since = now
        self._at, self._known = now, known
        for container in self._containers.values():
            container.processes, container.memory, container.devices = 0, 0, {}
        before, self._owners = self._owners, dict(containers)
        sizes, self._sizes = self._sizes, {}
        for place in places:
            self._use(place, before | self._owners, sizes, now)
        self._forget(places, now)

    def report(self, now: float) -> dict[str, Any]:
        """What is known, as plain data."""
        message = self._message or self._stale(now)
        return {
            "ok": not message,
            "message": message,
            "since": self._since,
            "processors": bool(self._seconds),
            "containers": {name: asdict(container) for name, container in self._containers.items()},
            "devices": {name: asdict(device) for name, device in self._devices.items()},
        }

    def _use(
        self, place: _Place, owners: Mapping[int, str], sizes: Mapping[tuple[str, int], int | None], now: float
    ) -> None:
        device = self._devices[place.name]
        device.error, device.measured = place.error, place.measured
        if place.busy:
            device.busy_at = now
        for process in place.processes:
            pid, memory = process["pid"], process["memory"]
            self._sizes[place.name, pid] = memory
            if pid not in owners:
                continue
            container = self._containers[owners[pid]]
            container.hold(place.name, memory, place.measured)
            if memory != 0:  # None may be anything
                container.held_at = now
            if sizes.get((place.name, pid), 0) != memory:
                container.busy_at = now
        # A process may have been busy and have ended since the last frame.
        for pid in place.busy & owners.keys():
            self._containers[owners[pid]].busy_at = now

    def _compute(self, processor_seconds: Mapping[str, float], now: float) -> None:
        before, self._seconds = self._seconds, {name: (spent, now) for name, spent in processor_seconds.items()}
        for name, spent in processor_seconds.items():
            container = self._containers[name]
            last, at = before.get(name, (spent, now))
            if now > at and (spent - last) / (now - at) > _COMPUTING_ABOVE:
                container.computing_at = now

    def _forget(self, places: Sequence[_Place], now: float) -> None:
        for name in [name for name, container in self._containers.items() if container.forgotten(now)]:
            if name not in self._seconds:
                del self._containers[name]
        for name in self._devices.keys() - {place.name for place in places}:
            del self._devices[name]

    def _stale(self, now: float) -> str:
        remedy = "If it stays so, run `nvidia-smi`: when that hangs too, only a restart of the machine helps."
        if self._at is None:
            return f"Nothing has been heard of the NVIDIA driver yet. {remedy}"
        if not 0 <= now - self._at <= GAP_SECONDS:
            when = time.strftime("%H:%M:%S", time.localtime(self._at))
            return f"The NVIDIA driver does not answer; what is known is from {when}. {remedy}"
        return ""


def _places(device: Mapping[str, Any]) -> Iterator[_Place]:
    """What processes run on: a GPU, or the instances of one in MIG mode."""
    processes = device["processes"] or ()
    if device["mig"] is None or _error(device):
        busy = frozenset(int(pid) for pid, percent in device["busy"].items() if percent > _BUSY_ABOVE)
        name = str(device["uuid"] or f"GPU at index {device['index']}")
        yield _Place(name, processes, busy, device["measured"], _error(device))
        return
    for instance in device["mig"]:
        on = [process for process in processes if process["instance"] == instance["uuid"]]
        # Only of the instance is it known, where it is: whoever is on it counts as busy when it is.
        busy = frozenset(process["pid"] for process in on if (instance["utilisation"] or 0) > _BUSY_ABOVE)
        measured = instance["utilisation"] is not None
        yield _Place(str(instance["uuid"]), on, busy, measured, instance["error"] or "")


def _error(device: Mapping[str, Any]) -> str:
    """Why nothing is known of a device's use; empty if it is."""
    if device["error"]:
        return str(device["error"])
    if device["processes"] is None:
        return (
            "The driver does not say which processes use this GPU, so whether it is idle is not known. Give the GPU "
            "monitor more rights: docs/operators.md, “Idle servers and idle GPUs”, has them."
        )
    return ""


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other
