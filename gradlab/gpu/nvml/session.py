"""NVML, started once and asked again and again."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pynvml

from gradlab.errors import LimitRefused
from gradlab.gpu.frames import unavailable
from gradlab.gpu.nvml.calls import FAILURES, of_all, of_one, optional, state_of_all, state_of_one
from gradlab.gpu.nvml.devices import Gpu
from gradlab.gpu.nvml.events import Events
from gradlab.gpu.nvml.limits import capability, set_limit
from gradlab.gpu.nvml.processes import Lists

__all__ = ["Nvml", "read"]

# A GPU that cannot be read is looked up again by itself; in the end the whole library is started anew, which is slow.
_ANEW_SECONDS = 120.0
_CLOSE_SECONDS = 1.0
_CGROUPS = Path("/sys/fs/cgroup")
_NO_GPU = "The NVIDIA driver is loaded but shows no GPU. Check `nvidia-smi -L`; inside a container, give it a GPU."


def read() -> dict[str, Any]:
    """One frame, with the library started and ended around it. To look again and again, keep an :class:`Nvml`.

    Utilisation of processes is known from the second look on; here it is that of the last second.
    """
    nvml = Nvml()
    try:
        return nvml.frame()
    finally:
        nvml.close()


class Nvml:
    """Looks again and again. The library is started once (that is the slow part) and again after a failure.

    Everything is done under one lock: a driver that hangs for one question hangs for all.
    """

    def __init__(self, *, cgroups: Path = _CGROUPS) -> None:
        self._cgroups = cgroups
        self._lock = threading.Lock()
        self._started = False
        self._gpus: list[Gpu] = []
        self._events = Events()
        self._versions: dict[str, Any] = {}
        self._well_at = 0.0
        self._looked_at = 0

    def frame(self) -> dict[str, Any]:
        """All GPUs now (``gradlab.gpu.nvml``); never raises for anything that the driver or its absence does."""
        with self._lock:
            at, began = time.time(), time.monotonic()
            try:
                found = self._frame(at)
            except FAILURES as error:
                found = unavailable(state_of_all(error), of_all(error), **self._about())
                self._end()
            return found | {"at": at, "took": time.monotonic() - began}

    def limit(self, gpu: str, group: Path, size: int | None) -> None:
        """Limit the memory that this cgroup may have of this GPU, in bytes, or lift the limit; LimitRefused if not."""
        with self._lock:
            try:
                if not self._gpus:
                    self._frame(time.time())
            except FAILURES as error:
                self._end()
                raise LimitRefused(of_all(error)) from None
            found = next((one for one in self._gpus if one.uuid == gpu), None)
            if found is None:
                raise LimitRefused(f"This machine has no GPU {gpu}. `nvidia-smi -L` lists those it has.")
            if found.failure is not None:
                raise LimitRefused(of_one(found.failure))
            possible = capability(found.target, self._cgroups)
            if not possible["hard"]:
                raise LimitRefused(possible["why"])
            set_limit(found.target, group, size)

    def close(self) -> None:
        """End the library, unless the driver hangs: nobody waits for that."""
        if self._lock.acquire(timeout=_CLOSE_SECONDS):
            self._end()
            self._lock.release()

    def _frame(self, at: float) -> dict[str, Any]:
        count = self._start()
        if count == 0:
            about = self._about()
            # A card added later, or a driver loaded again, shows only to a library started anew.
            self._end()
            return unavailable("no gpu", _NO_GPU, **about)
        now = int(at * 1e6)
        since, self._looked_at = min(self._looked_at or now, now) - 1_000_000, now
        devices = [gpu.read(since=since, now=now) for gpu in self._gpus]
        self._events.poll(at)
        for device in devices:
            device["events"] = self._events.of(device["uuid"])
        about, failure = self._about(), self._failure()
        if failure is not None:  # all together: this is no GPU's fault
            state, message = state_of_one(failure), of_one(failure)
            found = unavailable(state, message, devices=devices, **about)
        else:
            found = unavailable("ok", "", available=True, devices=devices, **about)
        self._see_to(count)
        return found

    def _start(self) -> int:
        """Start the library where it is not; how many GPUs there are."""
        if not self._started:
            pynvml.nvmlInit()
            self._started, self._well_at = True, time.monotonic()
            self._versions = {
                "driver_version": optional(pynvml.nvmlSystemGetDriverVersion),
                "nvml_version": optional(pynvml.nvmlSystemGetNVMLVersion),
                "cuda_version": _cuda(optional(pynvml.nvmlSystemGetCudaDriverVersion_v2)),
            }
        count = int(pynvml.nvmlDeviceGetCount())
        if count != len(self._gpus):
            for gpu in self._gpus:
                gpu.end()
            lists = Lists()
            self._gpus = [Gpu(index, lists, self._events, self._cgroups) for index in range(count)]
        return count

    def _about(self) -> dict[str, Any]:
        """What a frame says of the driver."""
        return {"simulated": hasattr(pynvml.nvmlLib, "gradlabSimulated")} | self._versions

    def _failure(self) -> Exception | None:
        """Why no GPU at all can be read, if it is the same for all and not the fault of a card."""
        failures = [gpu.failure for gpu in self._gpus]
        states = {failure and state_of_one(failure) for failure in failures}
        return failures[0] if states in ({"failed"}, {"no permission"}) else None

    def _see_to(self, count: int) -> None:
        """Start anew in the end, if GPUs cannot be read: a card that was repaired may show only then."""
        bad = sum(gpu.failure is not None for gpu in self._gpus)
        now = time.monotonic()
        if bad == 0:
            self._well_at = now
        elif now - self._well_at >= _ANEW_SECONDS:
            self._end()

    def _end(self) -> None:
        for gpu in self._gpus:
            gpu.end()
        self._events.end()
        self._gpus, self._versions = [], {}
        if self._started:
            self._started = False
            optional(pynvml.nvmlShutdown)


def _cuda(version: int | None) -> str | None:
    """13040 is 13.4."""
    return None if version is None else f"{version // 1000}.{version % 1000 // 10}"
