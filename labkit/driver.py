"""The GPUs as NVML shows them to this kernel, for where the portal does not know.

Nothing here touches CUDA: looking takes no GPU memory. NVML is asked in a thread of its own, because a question to a
driver that hangs never returns, and nothing can end it. In a container the driver hides others' processes; what is used
and is not ours is theirs all the same.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from labkit.ownership import own_processes
from labkit.readings import ON_THE_CPU, Device, Reading, blank, number

__all__ = ["Driver", "simulated_here"]

# A process's utilisation is what the driver sampled in the last second.
_SAMPLE_SECONDS = 1.0
_NOT_REPORTED_MEMORY = (1 << 64) - 1
_NOT_YOURS = "This server may not read this GPU, so it is not yours to use."


class Driver:
    """NVML, started with the first reading and given back by :meth:`close`; both as a context manager, too."""

    # A driver that did not answer in time. While it is asked, nobody else asks: every question would be stuck as well.
    _silent: Driver | None = None

    def __init__(self) -> None:
        self._questions: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Reading] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._asked_at: float | None = None

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, seconds: float = 3.0) -> Reading:
        """One reading, which takes no longer than ``seconds``: from then on the driver counts as silent."""
        silent = Driver._silent
        if silent is not None and silent is not self and silent._hangs():
            return silent._silence()
        deadline = time.monotonic() + seconds
        if self._asked_at is not None and self._answered(deadline) is None:  # the last question, which was too late
            return self._silence()
        self._ask()
        if (found := self._answered(deadline)) is None:
            Driver._silent = self
            return self._silence()
        return found

    def close(self) -> None:
        """Give NVML back, as soon as it answers; does not wait for that."""
        if self._thread is not None:
            self._questions.put(False)
            self._thread = None

    def _ask(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="labkit-nvml", daemon=True)
            self._thread.start()
        self._asked_at = time.monotonic()
        self._questions.put(True)

    def _answered(self, deadline: float) -> Reading | None:
        try:
            found = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None
        self._asked_at = None
        if Driver._silent is self:
            Driver._silent = None
        return found

    def _hangs(self) -> bool:
        return self._asked_at is not None and self._answers.empty()

    def _silence(self) -> Reading:
        since = time.monotonic() - (self._asked_at or time.monotonic())
        return Reading(
            message=f"The GPU driver has not answered for {since:.0f} s, so nothing is known of the GPUs now. "
            "Run this cell again in a minute; if it stays so, tell your instructor.",
            failed=True,
        )

    def _work(self) -> None:
        nvml = _Nvml()
        while self._questions.get():
            try:
                found = nvml.read()
            except Exception as error:  # else whoever asks would take the driver for a silent one
                why = f"{type(error).__name__}: {error}"
                found = Reading(message=f"Reading the GPUs failed ({why}). Tell your instructor.", failed=True)
            self._answers.put(found)
        nvml.end()


def simulated_here() -> bool:
    """Whether NVML shows made-up GPUs in this kernel (:func:`labkit.simulate_gpu`)."""
    nvsim, binding = sys.modules.get("labkit.nvsim"), sys.modules.get("pynvml")
    return nvsim is not None and binding is not None and bool(nvsim.installed())


class _Nvml:
    """The questions themselves, all from one thread. The notebook's own code may use the same binding meanwhile."""

    def __init__(self) -> None:
        # The library that was started; the notebook may put a simulated one in its place.
        self._library: Any = None

    def read(self) -> Reading:
        """Never raises for anything that the driver or its absence does."""
        try:
            import pynvml
        except ImportError:
            said = "NVML cannot be asked: the package nvidia-ml-py is not installed."
            return Reading(message=f"{said} {ON_THE_CPU}", lasting=True)
        self._pynvml = pynvml
        # NVMLLibraryMismatchError is not an NVMLError.
        self._failures = (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError)
        try:
            return self._read()
        except self._failures as error:
            self.end()
            return self._failure(error)

    def end(self) -> None:
        """Give NVML back."""
        library, self._library = self._library, None
        if library is not None and library is self._pynvml.nvmlLib:
            self._optional(self._pynvml.nvmlShutdown)

    def _read(self) -> Reading:
        self._start()
        try:
            count = self._pynvml.nvmlDeviceGetCount()
        except self._pynvml.NVMLError as error:
            if error.value != self._pynvml.NVML_ERROR_UNINITIALIZED:
                raise
            self._library = None  # the notebook's code has ended NVML once too often
            self._start()
            count = self._pynvml.nvmlDeviceGetCount()
        version = self._optional(self._pynvml.nvmlSystemGetDriverVersion)
        simulated = simulated_here() or hasattr(self._pynvml.nvmlLib, "gradlabSimulated")
        common = {"driver_version": version, "simulated": simulated}
        if count == 0:
            driver = "The GPU driver" if version is None else f"The GPU driver {version}"
            said = f"{driver} is there, but this server was given no GPU."
            return Reading(message=f"{said} {ON_THE_CPU}", lasting=True, **common)
        devices = [device for index in range(count) for device in self._devices(index)]
        # In a container the driver counts the machine's GPUs, also those that are not this container's.
        return Reading([one for one in devices if one["error"] != _NOT_YOURS] or devices, **common)

    def _start(self) -> None:
        if self._library is None or self._library is not self._pynvml.nvmlLib:
            self._library = None
            self._pynvml.nvmlInit()
            self._library = self._pynvml.nvmlLib

    # -- one device --------------------------------------------------------------------------------------------------

    def _devices(self, index: int) -> list[Device]:
        """A GPU; one that is divided (MIG) as those of its instances that can be seen from here."""
        try:
            handle = self._pynvml.nvmlDeviceGetHandleByIndex(index)
            handles = self._instances(handle) or [handle]
        except self._failures as error:
            return [blank(index, error=self._of_one(error))]
        return [self._device(index, one) for one in handles]

    def _instances(self, handle: Any) -> list[Any]:
        nvml = self._pynvml
        mode = self._reported(nvml.nvmlDeviceGetMigMode, handle)
        if mode is None or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return []
        slots = self._reported(nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0
        found = (self._reported(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, slot) for slot in range(slots))
        return [one for one in found if one is not None]

    def _device(self, index: int, handle: Any) -> Device:
        device = blank(index)
        questions: dict[str, Callable[[Any], Any]] = {
            "name": lambda one: self._reported(self._pynvml.nvmlDeviceGetName, one),
            "uuid": lambda one: self._reported(self._pynvml.nvmlDeviceGetUUID, one),
            "driver_model": self._driver_model,
            "memory": self._memory,
            "utilisation": self._utilisation,
            "temperature": self._temperature,
            "power": self._power,
            "mine": self._mine,
        }
        for name, question in questions.items():
            try:
                found = question(handle)
            except self._failures as error:
                if self._is_gone(error):
                    return device | {"error": self._of_one(error)}
                device["problems"][name] = _words(error)
                continue
            device |= found if name == "memory" else {name: found}
        used, mine = device["memory_used"], device["mine"]["memory"]
        if used is not None and mine is not None:
            device["others"]["memory"] = max(0.0, used - mine)
        return device

    def _driver_model(self, handle: Any) -> str | None:
        model = self._reported(self._pynvml.nvmlDeviceGetCurrentDriverModel, handle)
        if model is None:
            return "not applicable on Linux" if sys.platform == "linux" else None
        nvml = self._pynvml
        # WDM is the old name of TCC.
        names = {nvml.NVML_DRIVER_WDDM: "WDDM", nvml.NVML_DRIVER_WDM: "TCC", nvml.NVML_DRIVER_MCDM: "MCDM"}
        return names.get(model)

    def _memory(self, handle: Any) -> dict[str, float | None]:
        """Version 2 has apart what the driver keeps for itself; older drivers have only version 1."""
        nvml = self._pynvml
        memory = self._reported(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
        memory = memory or self._reported(nvml.nvmlDeviceGetMemoryInfo, handle)
        return {
            f"memory_{part}": None if value == _NOT_REPORTED_MEMORY else number(value)
            for part in ("used", "total", "reserved")
            for value in (getattr(memory, part, None),)
        }

    def _utilisation(self, handle: Any) -> float | None:
        rates = self._reported(self._pynvml.nvmlDeviceGetUtilizationRates, handle)
        return None if rates is None else number(rates.gpu)

    def _temperature(self, handle: Any) -> float | None:
        nvml = self._pynvml
        value = self._reported(nvml.nvmlDeviceGetTemperatureV, handle, nvml.NVML_TEMPERATURE_GPU)
        if value is None:  # older drivers have only the older call
            value = self._reported(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        return number(value)

    def _power(self, handle: Any) -> float | None:
        milliwatts = self._reported(self._pynvml.nvmlDeviceGetPowerUsage, handle)
        return None if milliwatts is None else number(milliwatts / 1000)

    # -- our part ----------------------------------------------------------------------------------------------------

    def _mine(self, handle: Any) -> dict[str, float | None]:
        unknown: dict[str, float | None] = {"memory": None, "utilisation": None, "processes": None}
        listed = self._processes(handle)
        ours = None if listed is None else own_processes(listed)
        if listed is None or ours is None or (os.getpid() not in ours and _cuda_in_use()):
            return unknown
        sizes = [listed[pid] for pid in ours]
        memory = None if None in sizes else float(sum(size for size in sizes if size is not None))
        return {"memory": memory, "utilisation": self._busy(handle, ours), "processes": float(len(ours))}

    def _processes(self, handle: Any) -> dict[int, int | None] | None:
        """Memory by PID; a process that computes and draws is in two lists. None if the driver does not list them."""
        nvml = self._pynvml
        found: dict[int, int | None] = {}
        for function in (
            nvml.nvmlDeviceGetComputeRunningProcesses,
            nvml.nvmlDeviceGetGraphicsRunningProcesses,
            nvml.nvmlDeviceGetMPSComputeRunningProcesses,
        ):
            processes = self._reported(self._twice, function, handle)
            if processes is None and function is nvml.nvmlDeviceGetComputeRunningProcesses:
                return None
            for one in processes or ():
                sizes = [size for size in (one.usedGpuMemory, found.get(one.pid)) if size is not None]
                found[int(one.pid)] = max(sizes, default=None)
        return found

    def _busy(self, handle: Any, pids: set[int]) -> float | None:
        """The utilisation by these processes; one without a sample was not busy."""
        nvml, since = self._pynvml, int((time.time() - _SAMPLE_SECONDS) * 1e6)
        try:
            samples = self._twice(nvml.nvmlDeviceGetProcessUtilization, handle, since)
        except nvml.NVMLError as error:
            # "Not found" is nobody's sample; a driver without any at all answers success, which the binding raises.
            if error.value not in (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_SUCCESS):
                return None
            samples = []
        except nvml.NVMLLibraryMismatchError:
            return None
        busy: dict[int, int] = {}
        for sample in samples:
            if sample.pid in pids and sample.timeStamp > since and 0 < sample.smUtil <= 100:
                busy[sample.pid] = max(sample.smUtil, busy.get(sample.pid, 0))
        return float(min(100, sum(busy.values())))

    # -- answers -----------------------------------------------------------------------------------------------------

    def _reported(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The call's value, or None where this hardware or driver does not report it. Other failures are raised."""
        nvml = self._pynvml
        try:
            return function(*arguments)
        except nvml.NVMLLibraryMismatchError:
            return None
        except nvml.NVMLError as error:
            if error.value in (
                nvml.NVML_ERROR_NOT_SUPPORTED,
                nvml.NVML_ERROR_NO_PERMISSION,
                nvml.NVML_ERROR_NOT_FOUND,
                nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
                nvml.NVML_ERROR_NO_DATA,
                nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
                nvml.NVML_ERROR_DEPRECATED,
            ):
                return None
            raise

    def _twice(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The binding asks for the size first; what has grown since then does not fit."""
        try:
            return function(*arguments)
        except self._pynvml.NVMLError as error:
            if error.value != self._pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
                raise
            return function(*arguments)

    def _optional(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except self._failures:
            return None

    def _is_gone(self, error: Exception) -> bool:
        """Whether this failure is the whole device's, whatever was asked."""
        nvml = self._pynvml
        gone = (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED, nvml.NVML_ERROR_UNINITIALIZED)
        return getattr(error, "value", None) in gone

    def _failure(self, error: Exception) -> Reading:
        """A sentence on a failure that concerns the whole driver; no driver at all is none."""
        nvml, code = self._pynvml, getattr(error, "value", None)
        if code == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            said = f"This server has no NVIDIA GPU that NVML can see ({_words(error)})."
            return Reading(message=f"{said} {ON_THE_CPU}", lasting=True)
        if isinstance(error, nvml.NVMLLibraryMismatchError):
            said = "The NVIDIA driver is too old for this server, so no GPU can be read."
        else:
            said = {
                nvml.NVML_ERROR_DRIVER_NOT_LOADED: "The NVIDIA driver is installed here but not loaded, so no GPU can "
                "be read.",
                nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "The NVIDIA driver was updated while the old one is still "
                "loaded: no GPU can be read until the machine has been restarted.",
                nvml.NVML_ERROR_NO_PERMISSION: "This server may not talk to the NVIDIA driver, so no GPU can be read.",
            }.get(code, f"The GPU driver is there, but it answered “{_words(error)}”, so no GPU can be read.")
        if code == nvml.NVML_ERROR_UNKNOWN and not simulated_here():  # a container that has lost its devices
            said += " If this server had a GPU before, stop the server and open the lab again."
        return Reading(message=f"{said} Tell your instructor.", failed=True, simulated=simulated_here())

    def _of_one(self, error: Exception) -> str:
        """A sentence on a failure that concerns one GPU."""
        nvml = self._pynvml
        known = {
            nvml.NVML_ERROR_GPU_IS_LOST: "This GPU has fallen off the bus: nothing can run on it until the machine has "
            "been restarted. Tell your instructor.",
            nvml.NVML_ERROR_RESET_REQUIRED: "This GPU has to be reset before anything can run on it. Tell your "
            "instructor.",
            nvml.NVML_ERROR_NO_PERMISSION: _NOT_YOURS,
        }
        return known.get(
            getattr(error, "value", None),
            f"This GPU could not be read: the driver answered “{_words(error)}”. Tell your instructor.",
        )


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _cuda_in_use() -> bool:
    """Whether this kernel itself is on a GPU. One that the driver does not list then hides its processes."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda is not None and not simulated_here() and bool(getattr(cuda, "is_initialized", bool)())
