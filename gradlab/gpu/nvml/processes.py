"""Which processes use a GPU or a MIG instance, and how busy they keep it.

What the driver's answers are like (read in its documentation and in the source of other monitors):

* A list of processes is complete only for a caller in the host's PID namespace; others get an empty one and no error.
* Utilisation comes as samples, one a process that was busy since a time stamp; "not found" means that none was, and so
  does a success without any, which the binding raises as error 0. Given an old time stamp, the driver averages over its
  whole buffer, in which a short use disappears.
* Samples may have time stamps of the past, percentages above 100 and numbers of processes that are gone.
* In MIG mode there is no utilisation, of no kind.
* The first drivers of the series 535 have a longer entry in the third version of the list than the binding reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pynvml

from gradlab.gpu.nvml.calls import FAILURES, Fields

__all__ = ["HIDDEN", "Listed", "Lists", "Placed", "Utilisation", "on_gpu"]

HIDDEN = (
    "The driver does not say which processes use this GPU, so whether it is idle is not known. Give "
    "the GPU monitor more rights: docs/operators.md, “Idle servers and idle GPUs”, has them."
)

_NONE_BUSY = (pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_SUCCESS)
_KINDS = (("C", "Compute"), ("G", "Graphics"), ("M", "MPSCompute"))
# Linux: PID_MAX_LIMIT.
_HIGHEST_PID = 1 << 22

# By process and place, memory in bytes (None: not reported) and which of the driver's lists it is in. The driver says
# places by the numbers of a GPU instance and of a compute instance, a frame by the UUID of a MIG instance or None.
Listed = dict[tuple[int, tuple[int, int]], tuple[int | None, str]]
Placed = dict[tuple[int, str | None], tuple[int | None, str]]


class Lists:
    """The driver's lists of processes, in the version that it has and the binding reads rightly."""

    def __init__(self) -> None:
        library = pynvml.nvmlLib
        longer = hasattr(library, "nvmlDeviceGetConfComputeMemSizeInfo") and not hasattr(
            library, "nvmlDeviceGetRunningProcessDetailList"
        )
        self._versions = ["_v2"] if longer else ["_v3", "_v2"]

    def of(self, handle: Any, fields: Fields, name: str = "processes") -> Listed | None:
        """Each process once, though one that computes and draws is in two lists; None if they are not listed."""
        found: Listed = {}
        for kind, word in _KINDS:
            entries = fields(name, self._list, word, handle)
            if entries is None and kind == "C":
                return None
            for one in entries or ():
                key = one.pid, (one.gpuInstanceId, one.computeInstanceId)
                memory, kinds = found.get(key, (None, ""))
                if one.usedGpuMemory is not None:
                    memory = max(int(one.usedGpuMemory), memory or 0)
                found[key] = memory, f"{kinds}+{kind}" if kinds else kind
        return found

    def _list(self, word: str, handle: Any) -> Any:
        """Versions that the driver does not have are not asked for again."""
        while True:
            function = getattr(pynvml, f"nvmlDeviceGet{word}RunningProcesses{self._versions[0]}")
            try:
                return _twice(function, handle)
            except pynvml.NVMLError as error:
                if error.value != pynvml.NVML_ERROR_FUNCTION_NOT_FOUND or len(self._versions) == 1 or word != "Compute":
                    raise
                del self._versions[0]


def on_gpu(listed: Listed | None) -> Placed | None:
    """The processes of a GPU that is not divided."""
    return None if listed is None else {(pid, None): seen for (pid, _), seen in listed.items()}


class Utilisation:
    """How busy the processes of one GPU keep it. Time stamps are in microseconds."""

    def __init__(self) -> None:
        self._latest = 0
        self._listed: set[int] = set()
        self._seen: dict[int, int] = {}

    def new(
        self, handle: Any, pids: Iterable[int] | None, fields: Fields, *, since: int, now: int
    ) -> dict[int, int] | None:
        """By process the highest percentage since the last call, without those that were idle; None if not measured.

        A process may have been busy and have ended since, so those listed the last time count too. Where the driver
        lists none (``pids`` is None) any number that a process can have does.
        """
        listed = None if pids is None else set(pids)
        known, self._listed = None if listed is None else listed | self._listed, listed or set()
        samples = fields("busy", self._samples, handle, max(since, self._latest))
        if samples is None:
            return None
        busy: dict[int, int] = {}
        latest, seen = self._latest, self._seen
        self._seen = {}
        for sample in samples:
            pid, percent, time = sample.pid, sample.smUtil, sample.timeStamp
            if time <= self._latest or not 0 < percent <= 100 or not 0 < pid <= _HIGHEST_PID:
                continue
            latest, self._seen[pid] = max(latest, time), time
            if time == seen.get(pid):
                continue
            if known is None or pid in known:
                busy[pid] = max(percent, busy.get(pid, 0))
        # A time stamp of the future would hide all that comes until then; it is told from a new one by its process.
        self._latest = min(latest, now)
        return busy

    @staticmethod
    def _samples(handle: Any, since: int) -> list[Any]:
        try:
            return list(_twice(pynvml.nvmlDeviceGetProcessUtilization, handle, since))
        except pynvml.NVMLError as error:
            if error.value in _NONE_BUSY:
                return []
            raise


def _twice(function: Callable[..., Any], *arguments: Any) -> Any:
    """The binding asks for the size first; what has grown since then does not fit."""
    try:
        return function(*arguments)
    except FAILURES as error:
        if getattr(error, "value", None) != pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
            raise
        return function(*arguments)
