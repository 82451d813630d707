"""One reading of every GPU.

A reading is plain JSON data::

    {"available": bool, "message": str, "driver_version": str | None, "devices": [
        {"index", "uuid", "name", "memory_used", "memory_total", "utilisation", "temperature", "power", "error"}]}

Memory is in bytes, utilisation in percent, temperature in degrees Celsius, power in watts. Any value may be None: the
hardware does not report it (a GPU in MIG mode reports no utilisation). ``error`` says what is wrong with one GPU; the
others are read all the same. ``message`` is a sentence with the remedy where ``available`` is False, else empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pynvml

from gradlab.gpu.nvml.calls import FAILURES, of_one, reported

__all__ = ["device", "in_mig_mode", "instances", "mig", "unavailable"]

_MEMORY_NOT_REPORTED = (1 << 64) - 1


def unavailable(message: str, driver_version: Any = None) -> dict[str, Any]:
    """The reading of a machine without a GPU that could be read."""
    return {"available": False, "message": message, "driver_version": driver_version, "devices": []}


def device(index: int) -> dict[str, Any]:
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
        found["uuid"] = reported(pynvml.nvmlDeviceGetUUID, handle)
        found["name"] = reported(pynvml.nvmlDeviceGetName, handle)
        found["memory_used"], found["memory_total"] = _memory(handle)
        utilisation = reported(pynvml.nvmlDeviceGetUtilizationRates, handle)
        found["utilisation"] = None if utilisation is None else int(utilisation.gpu)
        found["temperature"] = _temperature(handle)
        milliwatts = reported(pynvml.nvmlDeviceGetPowerUsage, handle)
        found["power"] = None if milliwatts is None else milliwatts / 1000
    except FAILURES as error:
        found["error"] = of_one(error)
    return found


def mig(handle: Any) -> list[dict[str, Any]] | None:
    """The MIG instances of a GPU, or None if it is in no such mode."""
    return [_instance(one) for one in instances(handle)] if in_mig_mode(handle) else None


def in_mig_mode(handle: Any) -> bool:
    """Whether the GPU is divided now, whatever it is to be after its next reset."""
    mode = reported(pynvml.nvmlDeviceGetMigMode, handle)
    return mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE


def instances(handle: Any) -> Iterator[Any]:
    """The handles of a GPU's MIG instances. They go stale when instances are made or removed."""
    for slot in range(reported(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        instance = reported(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, slot)  # an empty slot is "not found"
        if instance is not None:
            yield instance


def _instance(handle: Any) -> dict[str, Any]:
    used, total = _memory(handle)
    return {
        "uuid": reported(pynvml.nvmlDeviceGetUUID, handle),
        "name": reported(pynvml.nvmlDeviceGetName, handle),
        "memory_total": total,
        "memory_used": used,
    }


def _memory(handle: Any) -> tuple[int | None, int | None]:
    """Used and total bytes. The second version leaves out what the driver keeps for itself, as ``nvidia-smi`` does."""
    memory = reported(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    memory = memory or reported(pynvml.nvmlDeviceGetMemoryInfo, handle)
    if memory is None:
        return None, None
    used, total = (None if value == _MEMORY_NOT_REPORTED else int(value) for value in (memory.used, memory.total))
    return used, total


def _temperature(handle: Any) -> int | None:
    value = reported(pynvml.nvmlDeviceGetTemperatureV, handle, pynvml.NVML_TEMPERATURE_GPU)
    if value is None:  # drivers before 565 have only the older call
        value = reported(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    return None if value is None else int(value)
