"""Which processes use a GPU or a MIG instance, and how busy they keep it.

What the driver's answers are like (read in its documentation and in the source of other monitors):

* A list of processes is complete only for a caller in the host's PID namespace; others get an empty one and no error.
* Utilisation comes as samples, one a process that was busy since a time stamp; "not found" means that none was, and so
  does a success without any, which the binding raises as error 0. Given an old time stamp, the driver averages over its
  whole buffer, in which a short use disappears.
* Samples may have time stamps of the past, percentages above 100 and numbers of processes that are gone.
* In MIG mode there is no utilisation, of no kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pynvml

from gradlab.gpu.nvml.calls import FAILURES, of_one, reported

__all__ = ["Process", "Sample", "Target", "Use", "use"]

_NONE_BUSY = (pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_SUCCESS)


@dataclass(frozen=True)
class Process:
    """One process on a GPU, by the number it has in our PID namespace; ``memory`` in bytes, None if not reported."""

    pid: int
    memory: int | None


@dataclass(frozen=True)
class Use:
    """What a GPU or a MIG instance is used for now.

    ``busy`` has by process the highest percentage of time since the last sample in which the GPU computed for it. It
    says nothing where the hardware does not report that, which is when ``measured`` is False. With an ``error`` nothing
    is known.
    """

    uuid: str
    processes: tuple[Process, ...] = ()
    busy: Mapping[int, int] = field(default_factory=dict)
    measured: bool = True
    error: str = ""
    latest: int = 0


@dataclass(frozen=True)
class Sample:
    """All GPUs at one moment; with a ``message``, why nothing is known of any."""

    uses: tuple[Use, ...] = ()
    message: str = ""


@dataclass(frozen=True)
class Target:
    """What processes run on: a GPU, or an instance of one in MIG mode; with an ``error``, one that cannot be asked.

    ``pci`` is the GPU's address, as NVML has it.
    """

    uuid: str
    handle: Any
    instance: bool = False
    pci: str = ""
    error: str = ""


def use(target: Target, *, since: int, latest: int) -> Use:
    """The present use. ``latest`` is the newest time stamp that the device gave so far; both in microseconds."""
    if target.error:
        return Use(target.uuid, error=target.error)
    try:
        processes = _processes(target.handle)
        if processes is None:
            return Use(
                target.uuid,
                error="The driver does not say which processes use this GPU, so whether it is idle is not known. Give "
                "the GPU monitor more rights: docs/operators.md, “Idle servers and idle GPUs”, has them.",
            )
        if target.instance:
            return Use(target.uuid, processes, measured=False)
        samples = _samples(target.handle, max(since, latest))
        if samples is None:
            return _by_device(target, processes)
    except FAILURES as error:
        return Use(target.uuid, error=of_one(error))
    new = [sample for sample in samples if sample.timeStamp > latest and 0 < sample.smUtil <= 100]
    busy: dict[int, int] = {}
    for sample in new:
        busy[sample.pid] = max(sample.smUtil, busy.get(sample.pid, 0))
    return Use(target.uuid, processes, busy, latest=max([latest, *(sample.timeStamp for sample in new)]))


def _processes(handle: Any) -> tuple[Process, ...] | None:
    """Each process once, though one that computes and draws is in two lists; None if the driver does not list them."""
    if (computing := reported(_twice, pynvml.nvmlDeviceGetComputeRunningProcesses, handle)) is None:
        return None
    found: dict[int, Process] = {}
    drawing = reported(_twice, pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle) or []
    shared = reported(_twice, pynvml.nvmlDeviceGetMPSComputeRunningProcesses, handle) or []
    for one in (*computing, *drawing, *shared):
        before = found[one.pid].memory if one.pid in found else None
        memory = before if one.usedGpuMemory is None else max(int(one.usedGpuMemory), before or 0)
        found[one.pid] = Process(one.pid, memory)
    return tuple(found.values())


def _samples(handle: Any, since: int) -> list[Any] | None:
    """New samples, or None where there never are any."""
    try:
        return list(_twice(pynvml.nvmlDeviceGetProcessUtilization, handle, since))
    except pynvml.NVMLError as error:
        if error.value in _NONE_BUSY:
            return []
        return reported(_raise, error)  # type: ignore[no-any-return]


def _by_device(target: Target, processes: tuple[Process, ...]) -> Use:
    """Where only the whole GPU's utilisation is known, whoever is on it counts as busy when it is."""
    rates = reported(pynvml.nvmlDeviceGetUtilizationRates, target.handle)
    if rates is None:
        return Use(target.uuid, processes, measured=False)
    return Use(target.uuid, processes, {process.pid: int(rates.gpu) for process in processes})


def _twice(function: Callable[..., Any], *arguments: Any) -> Any:
    """The binding asks for the size first; what has grown since then does not fit."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
            raise
        return function(*arguments)


def _raise(error: Exception) -> None:
    raise error
