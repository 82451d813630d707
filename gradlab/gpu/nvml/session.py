"""NVML, started once and asked again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml

from gradlab.errors import LimitRefused
from gradlab.gpu.nvml.calls import FAILURES, of_all, of_one, optional, reported
from gradlab.gpu.nvml.devices import device, in_mig_mode, instances, mig, unavailable
from gradlab.gpu.nvml.limits import capability, set_limit
from gradlab.gpu.nvml.processes import Sample, Target, Use, use

__all__ = ["Nvml", "read"]

# MIG instances come and go; looking handles up is slow.
_TARGETS_SECONDS = 30.0
_AGAIN_SECONDS = 5.0
_CLOSE_SECONDS = 1.0
_CGROUPS = Path("/sys/fs/cgroup")
_NO_GPU = "The NVIDIA driver is loaded but shows no GPU. Check `nvidia-smi -L`; inside a container, give it a GPU."


def read() -> dict[str, Any]:
    """One reading, with the library started and ended around it. To read again and again, keep an :class:`Nvml`."""
    nvml = Nvml()
    try:
        return nvml.read()
    finally:
        nvml.close()


class Nvml:
    """Asks again and again. The library is started once (that is the slow part) and again after a failure.

    Everything is done under one lock: a driver that hangs for one question hangs for all.
    """

    def __init__(self, *, cgroups: Path = _CGROUPS) -> None:
        self._cgroups = cgroups
        self._started = False
        self._lock = threading.Lock()
        self._targets: list[Target] = []
        self._look_up_at = 0.0
        self._latest: dict[str, int] = {}
        self._sampled_at = 0

    def read(self) -> dict[str, Any]:
        """The state of all GPUs; never raises for anything that the driver or its absence does."""
        with self._lock:
            return self._read()

    def read_all(self) -> dict[str, Any]:
        """As ``read``, and each device has ``mig``, its instances or None, and ``memory_limits``."""
        with self._lock:
            reading = self._read()
            for found in reading["devices"]:
                found |= self._more(found["index"])
            return reading

    def sample(self) -> Sample:
        """Who uses the GPUs now; never raises for anything that the driver or its absence does."""
        with self._lock:
            try:
                count = self._look_up()
            except FAILURES as error:
                self._end()
                return Sample(message=of_all(error))
            if count == 0:
                self._end()
                return Sample(message=_NO_GPU)
            now = time.time_ns() // 1000
            before, self._sampled_at = min(self._sampled_at or now, now), now
            uses = tuple(self._use(target, before - 1_000_000, now) for target in self._targets)
            if any(found.error for found in uses):  # the handle of an instance that is no more fails for ever
                self._look_up_at = min(self._look_up_at, time.monotonic() + _AGAIN_SECONDS)
            return Sample(uses)

    def limit(self, gpu: str, group: Path, size: int | None) -> None:
        """Limit the memory that this cgroup may have of this GPU, in bytes, or lift the limit; LimitRefused if not."""
        with self._lock:
            try:
                self._look_up()
            except FAILURES as error:
                self._end()
                raise LimitRefused(of_all(error)) from None
            target = next((target for target in self._targets if target.uuid == gpu), None)
            if target is None:
                raise LimitRefused(f"This machine has no GPU {gpu}. `nvidia-smi -L` lists those it has.")
            found = capability(target, self._cgroups)
            if not found["hard"]:
                raise LimitRefused(found["why"])
            set_limit(target, group, size)

    def close(self) -> None:
        """End the library, unless the driver hangs: nobody waits for that."""
        if self._lock.acquire(timeout=_CLOSE_SECONDS):
            self._end()
            self._lock.release()

    def _start(self) -> int:
        """Start the library where it is not; how many GPUs there are."""
        if not self._started:
            pynvml.nvmlInit()
            self._started = True
        return int(pynvml.nvmlDeviceGetCount())

    def _end(self) -> None:
        self._targets, self._look_up_at = [], 0.0
        if self._started:
            self._started = False
            optional(pynvml.nvmlShutdown)

    def _read(self) -> dict[str, Any]:
        try:
            count = self._start()
        except FAILURES as error:
            self._end()
            return unavailable(of_all(error))
        version = optional(pynvml.nvmlSystemGetDriverVersion)
        if count == 0:
            # A card added later, or a driver loaded again, shows only to a library started anew.
            self._end()
            return unavailable(_NO_GPU, version)
        devices = [device(index) for index in range(count)]
        return {"available": True, "message": "", "driver_version": version, "devices": devices}

    def _more(self, index: int) -> dict[str, Any]:
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            found = mig(handle)
            target = Target("", handle, instance=found is not None, pci=_pci(handle))
            return {"mig": found, "memory_limits": capability(target, self._cgroups)}
        except FAILURES as error:
            return {"mig": None, "memory_limits": {"hard": False, "why": of_one(error)}}

    def _look_up(self) -> int:
        """See to handles of everything that processes run on; how many GPUs there are."""
        count = self._start()
        if time.monotonic() >= self._look_up_at:
            self._targets = [target for index in range(count) for target in _targets(index)]
            self._look_up_at = time.monotonic() + _TARGETS_SECONDS
        return count

    def _use(self, target: Target, since: int, now: int) -> Use:
        latest = self._latest.get(target.uuid, 0)
        found = use(target, since=since, latest=latest)
        # A time stamp of the future would hide all that comes until then.
        self._latest[target.uuid] = min(max(found.latest, latest), now)
        return found


def _targets(index: int) -> Iterator[Target]:
    """The GPU, or its instances if it is in MIG mode. One that cannot be asked is there with its error."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        inside = instances(handle) if in_mig_mode(handle) else None
        if inside is None:
            yield Target(pynvml.nvmlDeviceGetUUID(handle), handle, pci=_pci(handle))
            return
        yield from [Target(pynvml.nvmlDeviceGetUUID(one), one, instance=True) for one in inside]
    except FAILURES as error:
        yield Target(f"GPU at index {index}", None, error=of_one(error))


def _pci(handle: Any) -> str:
    found = reported(pynvml.nvmlDeviceGetPciInfo, handle)
    return "" if found is None else _text(found.busId)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
