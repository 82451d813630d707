"""What the machine's NVIDIA GPUs are doing now, read through NVML. The only module that imports ``pynvml``.

A reading is plain JSON data::

    {"available": bool, "message": str, "driver_version": str | None, "devices": [
        {"index", "uuid", "name", "memory_used", "memory_total", "utilisation", "temperature", "power", "error"}]}

Memory is in bytes, utilisation in percent, temperature in degrees Celsius, power in watts. Any value may be None: the
hardware does not report it (a GPU in MIG mode reports no utilisation). ``error`` says what is wrong with one GPU; the
others are read all the same. ``message`` is a sentence with the remedy where ``available`` is False, else empty.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pynvml

__all__ = ["Nvml", "read"]

# NVMLLibraryMismatchError is not an NVMLError; and NVML's errors cannot be hashed or compared, only caught by class.
_FAILURES = (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError)

# Answers that mean "this hardware or driver does not report that", which is nobody's fault.
_NOT_REPORTED = frozenset(
    (
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_DATA,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_DEPRECATED,
    )
)
_MEMORY_NOT_REPORTED = (1 << 64) - 1

_WHOLE = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "No NVIDIA driver is installed here: libnvidia-ml.so.1 was not found. Everything runs on the CPU. "
        "To use a GPU, install NVIDIA's driver; inside a container, start it with the NVIDIA container toolkit."
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "The NVIDIA driver is installed but not loaded, so no GPU can be read. "
        "Run `modprobe nvidia` as root (or restart the machine), then `nvidia-smi`."
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "The NVIDIA driver was updated while the old one is still loaded, so no GPU can be read. Restart the machine."
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        "This user may not talk to the NVIDIA driver. Give it read and write access to /dev/nvidiactl and /dev/nvidia*."
    ),
}
_ONE = {
    pynvml.NVML_ERROR_GPU_IS_LOST: (
        "This GPU has fallen off the bus. Restart the machine; if it happens again, have the card checked."
    ),
    pynvml.NVML_ERROR_RESET_REQUIRED: "This GPU needs a reset: end its processes and run `nvidia-smi --gpu-reset`.",
    pynvml.NVML_ERROR_NO_PERMISSION: "This user may not read this GPU. Give it access to the GPU's /dev/nvidia* file.",
}


def read() -> dict[str, Any]:
    """One reading, with the library started and ended around it. To read again and again, keep an :class:`Nvml`."""
    nvml = Nvml()
    try:
        return nvml.read()
    finally:
        nvml.close()


class Nvml:
    """Reads again and again. The library is started once (that is the slow part) and again after a failure."""

    def __init__(self) -> None:
        self._started = False
        self._lock = threading.Lock()

    def read(self) -> dict[str, Any]:
        """The state of all GPUs; never raises for anything that the driver or its absence does."""
        with self._lock:
            try:
                if not self._started:
                    pynvml.nvmlInit()
                    self._started = True
                count = pynvml.nvmlDeviceGetCount()
            except _FAILURES as error:
                self._end()
                return _unavailable(_sentence(error, _WHOLE))
            version = _optional(pynvml.nvmlSystemGetDriverVersion)
            if count == 0:
                # A card added later, or a driver loaded again, shows only to a library started anew.
                self._end()
                return _unavailable(
                    "The NVIDIA driver is loaded but shows no GPU. Check `nvidia-smi -L`; inside a container, "
                    "give it a GPU.",
                    version,
                )
            devices = [_device(index) for index in range(count)]
            return {"available": True, "message": "", "driver_version": version, "devices": devices}

    def close(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._started:
            self._started = False
            _optional(pynvml.nvmlShutdown)


def _unavailable(message: str, driver_version: Any = None) -> dict[str, Any]:
    return {"available": False, "message": message, "driver_version": driver_version, "devices": []}


def _device(index: int) -> dict[str, Any]:
    """One GPU. The first failure that is more than "not reported" ends the reading of this GPU and is its ``error``."""
    found: dict[str, Any] = {
        "index": index,
        "uuid": None,
        "name": None,
        "memory_used": None,
        "memory_total": None,
        "utilisation": None,
        "temperature": None,
        "power": None,
        "error": None,
    }
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        found["uuid"] = _reported(pynvml.nvmlDeviceGetUUID, handle)
        found["name"] = _reported(pynvml.nvmlDeviceGetName, handle)
        found["memory_used"], found["memory_total"] = _memory(handle)
        utilisation = _reported(pynvml.nvmlDeviceGetUtilizationRates, handle)
        found["utilisation"] = None if utilisation is None else int(utilisation.gpu)
        found["temperature"] = _temperature(handle)
        milliwatts = _reported(pynvml.nvmlDeviceGetPowerUsage, handle)
        found["power"] = None if milliwatts is None else milliwatts / 1000
    except _FAILURES as error:
        found["error"] = _sentence(error, _ONE)
    return found


def _memory(handle: Any) -> tuple[int | None, int | None]:
    """Used and total bytes. The second version leaves out what the driver keeps for itself, as ``nvidia-smi`` does."""
    memory = _reported(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    memory = memory or _reported(pynvml.nvmlDeviceGetMemoryInfo, handle)
    if memory is None:
        return None, None
    used, total = (None if value == _MEMORY_NOT_REPORTED else int(value) for value in (memory.used, memory.total))
    return used, total


def _temperature(handle: Any) -> int | None:
    value = _reported(pynvml.nvmlDeviceGetTemperatureV, handle, pynvml.NVML_TEMPERATURE_GPU)
    if value is None:  # drivers before 565 have only the older call
        value = _reported(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    return None if value is None else int(value)


def _reported(function: Callable[..., Any], *arguments: Any) -> Any:
    """The call's value, or None where this hardware or driver does not report it. Other failures are raised."""
    try:
        return function(*arguments)
    except pynvml.NVMLLibraryMismatchError:
        return None
    except pynvml.NVMLError as error:
        if error.value in _NOT_REPORTED:
            return None
        raise


def _optional(function: Callable[..., Any]) -> Any:
    try:
        return function()
    except _FAILURES:
        return None


def _sentence(error: Exception, known: dict[int, str]) -> str:
    if isinstance(error, pynvml.NVMLLibraryMismatchError):
        return f"The NVIDIA driver is too old for this server's NVML binding: {error}. Update the driver."
    code = getattr(error, "value", None)
    if code in known:
        return known[code]
    answer = f"NVIDIA's driver answered {str(error)!r} (NVML error {code})."
    return f"{answer} Run `nvidia-smi`, and look for lines with NVRM in `dmesg`."
