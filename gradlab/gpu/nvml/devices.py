"""One GPU: its identity, its figures and the processes on it, as plain data.

A device of a frame is::

    {"index", "uuid", "name", "pci": "00000000:17:00.0",
     "state", "error": None or a sentence, "problems": {figure: sentence},
     "driver_model": "WDDM" | "TCC" | "MCDM" | "not applicable on Linux",
     "utilisation", "memory_utilisation", "encoder_utilisation", "decoder_utilisation": percent,
     "memory_used", "memory_total", "memory_reserved": bytes,
     "temperature": degrees Celsius, "fan": percent, "power", "power_limit": watts, "energy": joules,
     "clocks", "max_clocks": {"graphics", "sm", "memory", "video"} in MHz,
     "performance_state": 0 to 15, "persistence": bool, "compute_mode": "default" | "exclusive process" | "prohibited",
     "throttle_reasons": [words],
     "ecc": {"enabled": bool, "corrected", "uncorrected": errors since the driver was loaded (the volatile counters)},
     "events": [{"at", "xid", "meaning", "application"}],
     "mig": None or [{"uuid", "name", "gpu_instance", "compute_instance", "memory_used", "memory_total", "utilisation",
                      "utilisation_by": "gpm" | None, "error"}],
     "memory_limits": {"hard": bool, "why": sentence},
     "processes": None or [{"pid", "memory", "kinds", "sm", "instance"}], "busy": {pid: percent}, "measured": bool}

``memory_used`` leaves out what the driver keeps for itself, as ``nvidia-smi`` does; drivers before 510 count it in, and
``memory_reserved`` is None then. ``energy`` is since the driver was loaded.

``kinds`` says what a process does: C computes, G draws, M computes through MPS, joined by "+". ``sm`` is its share of
the time since the last frame, 0 for one that was idle. ``busy`` has the same by process, also of those that have ended
since, without the idle. Where only the whole GPU's utilisation is known, whoever is on it counts as busy with it, and
``sm`` is None. ``measured`` is False where nothing is known of that: in MIG mode, or when it could not be read.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pynvml

from gradlab.gpu.nvml import figures, mig
from gradlab.gpu.nvml.calls import FAILURES, NO_RIGHTS, Fields, concerns_all, of_one, state_of_one
from gradlab.gpu.nvml.events import Events
from gradlab.gpu.nvml.gpm import Gpm
from gradlab.gpu.nvml.limits import Target, capability
from gradlab.gpu.nvml.processes import HIDDEN, Lists, Placed, Utilisation, on_gpu

__all__ = ["Gpu"]

# Looking handles up is slow, and they go stale: MIG instances come and go, a lost GPU is repaired.
_LOOK_UP_SECONDS = 30.0
_AGAIN_SECONDS = 2.0
_FIRST_FIGURE = (
    "The first figure after the driver has started a GPU that nobody uses is too high, and is left out. "
    "`nvidia-smi -pm 1` as root keeps the GPU started (persistence mode)."
)


class Gpu:
    """One GPU of a started library, by index. It keeps its handle and what changes rarely."""

    def __init__(self, index: int, lists: Lists, events: Events, cgroups: Path) -> None:
        self._lists = lists
        self._events = events
        self._cgroups = cgroups
        self._utilisation = Utilisation()
        self._gpm: Gpm | None = None
        self._settled = False
        self._handle: Any = None
        self._failure: Exception | None = None
        self._instances: list[mig.Instance] | None = None
        self._kept = _blank(index)
        self._problems: dict[str, str] = {}
        self._look_up_at = 0.0

    @property
    def uuid(self) -> str | None:
        return self._kept["uuid"]  # type: ignore[no-any-return]

    @property
    def failure(self) -> Exception | None:
        """Why it could not be read the last time."""
        return self._failure

    @property
    def target(self) -> Target:
        """What memory limits are set on."""
        return Target(self._handle, self._instances is not None, self._kept["pci"] or "")

    def read(self, *, since: int, now: int) -> dict[str, Any]:
        """The GPU as a frame has it, without its events; samples of processes from ``since`` on, both in microseconds.

        A failure is raised only if it means that no GPU can be read.
        """
        try:
            if time.monotonic() >= self._look_up_at:
                self._look_up()
            if self._failure is None:
                return self._measure(since, now)
        except FAILURES as error:
            if concerns_all(error):
                raise
            self._fail(error)
        assert self._failure is not None
        said = of_one(self._failure)
        bad = {"state": state_of_one(self._failure), "error": said, "memory_limits": {"hard": False, "why": said}}
        return self._kept | bad

    def end(self) -> None:
        """Give back what the library has lent."""
        if self._gpm is not None:
            self._gpm.end()
        self._gpm = None

    def _fail(self, error: Exception) -> None:
        """Of what it was only the identity stays true; it is asked again in a while."""
        identity = ("index", "uuid", "name", "pci", "driver_model", "memory_total")
        self._kept = _blank(self._kept["index"]) | {name: self._kept[name] for name in identity}
        self._failure = error
        self._instances = None
        self.end()
        self._look_up_at = time.monotonic() + _AGAIN_SECONDS
        if self.uuid:
            self._events.anew(self.uuid)

    # -- what changes rarely ---------------------------------------------------------------------------------------

    def _look_up(self) -> None:
        fields = Fields()
        handle = pynvml.nvmlDeviceGetHandleByIndex(self._kept["index"])
        uuid = fields("uuid", pynvml.nvmlDeviceGetUUID, handle)
        if uuid != self.uuid:
            self._utilisation = Utilisation()
        kept = _blank(self._kept["index"]) | figures.rarely(fields, handle) | {"uuid": uuid}
        inside = mig.instances(fields, handle)
        kept["memory_limits"] = capability(Target(handle, inside is not None, kept["pci"] or ""), self._cgroups)
        self._handle, self._kept, self._instances = handle, kept, inside
        self._problems, self._failure = fields.problems, None
        self._gpm = self._counters(handle, inside)
        self._look_up_at = time.monotonic() + (_LOOK_UP_SECONDS if fields.failure is None else _AGAIN_SECONDS)
        if uuid:
            self._events.register(handle, uuid)

    def _counters(self, handle: Any, inside: list[mig.Instance] | None) -> Gpm | None:
        """GPM where there is something to count, with what it had."""
        if not inside or not Gpm.supported(handle):
            self.end()
            return None
        gpm = self._gpm or Gpm()
        gpm.keep({one.gpu_instance for one in inside if one.gpu_instance is not None})
        return gpm

    # -- what changes all the time ---------------------------------------------------------------------------------

    def _measure(self, since: int, now: int) -> dict[str, Any]:
        handle, fields = self._handle, Fields()
        found = self._kept | figures.now(fields, handle)
        if self._instances is None:
            listed = on_gpu(self._lists.of(handle, fields))
            pids = None if listed is None else {pid for pid, _ in listed}
            busy = self._utilisation.new(handle, pids, fields, since=since, now=now)
        else:
            found["mig"], listed = mig.read(handle, self._instances, self._lists, self._gpm, fields)
            pids = busy = None
        if fields.failure is not None and not fields.answers:
            raise fields.failure
        found |= self._processes(listed, fields, busy)
        if busy is None and pids is not None and "busy" not in fields.problems:
            busy = _by_device(pids, found["utilisation"])
        found["busy"] = {str(pid): percent for pid, percent in (busy or {}).items()}
        found["measured"] = busy is not None
        self._settle(found, fields)
        found["problems"] = self._problems | fields.problems
        self._kept["memory_total"] = found["memory_total"]
        if fields.stale:
            self._look_up_at = min(self._look_up_at, time.monotonic() + _AGAIN_SECONDS)
        return found

    def _settle(self, found: dict[str, Any], fields: Fields) -> None:
        """Without persistence the driver starts the GPU for us, and is busy itself while it looks over the memory."""
        if not self._settled and found["persistence"] is False and not found["processes"] and found["utilisation"]:
            found["utilisation"] = found["memory_utilisation"] = None
            fields.problems["utilisation"] = _FIRST_FIGURE
        self._settled = True

    def _processes(self, listed: Placed | None, fields: Fields, busy: dict[int, int] | None) -> dict[str, Any]:
        """``busy`` is None where that is not known of each process."""
        if listed is None and fields.problems.get("processes", NO_RIGHTS) == NO_RIGHTS:
            fields.problems["processes"] = HIDDEN
        found = [
            {
                "pid": pid,
                "memory": memory,
                "kinds": kinds,
                "sm": None if busy is None else busy.get(pid, 0),
                "instance": instance,
            }
            for (pid, instance), (memory, kinds) in (listed or {}).items()
        ]
        return {"processes": None if listed is None else found}


def _by_device(pids: Collection[int], utilisation: int | None) -> dict[int, int] | None:
    """Where only the whole GPU's utilisation is known, whoever is on it counts as busy when it is."""
    if utilisation is None:
        return None
    return dict.fromkeys(pids, utilisation) if utilisation else {}


def _blank(index: int) -> dict[str, Any]:
    """A device of which nothing is known."""
    clocks = dict.fromkeys(figures.CLOCKS)
    return {
        "index": index,
        "uuid": None,
        "name": None,
        "pci": None,
        "state": "ok",
        "error": None,
        "problems": {},
        "driver_model": None,
        "utilisation": None,
        "memory_utilisation": None,
        "encoder_utilisation": None,
        "decoder_utilisation": None,
        "memory_used": None,
        "memory_total": None,
        "memory_reserved": None,
        "temperature": None,
        "fan": None,
        "power": None,
        "power_limit": None,
        "energy": None,
        "clocks": clocks,
        "max_clocks": dict(clocks),
        "performance_state": None,
        "persistence": None,
        "compute_mode": None,
        "throttle_reasons": None,
        "ecc": {"enabled": None, "corrected": None, "uncorrected": None},
        "events": [],
        "mig": None,
        "memory_limits": {"hard": False, "why": ""},
        "processes": None,
        "busy": {},
        "measured": False,
    }
