"""Single figures of a GPU or a MIG instance, as a frame has them; None where the hardware does not report them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pynvml

from gradlab.gpu.nvml.calls import Fields

__all__ = ["CLOCKS", "memory", "now", "rarely"]

_MEMORY_NOT_REPORTED = (1 << 64) - 1
_LINUX = "not applicable on Linux"

CLOCKS = {
    "graphics": pynvml.NVML_CLOCK_GRAPHICS,
    "sm": pynvml.NVML_CLOCK_SM,
    "memory": pynvml.NVML_CLOCK_MEM,
    "video": pynvml.NVML_CLOCK_VIDEO,
}
_COMPUTE_MODES = {
    pynvml.NVML_COMPUTEMODE_DEFAULT: "default",
    pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS: "exclusive process",
    pynvml.NVML_COMPUTEMODE_PROHIBITED: "prohibited",
}
_DRIVER_MODELS = {pynvml.NVML_DRIVER_WDDM: "WDDM", pynvml.NVML_DRIVER_WDM: "TCC", pynvml.NVML_DRIVER_MCDM: "MCDM"}
_THROTTLE_REASONS = {
    pynvml.nvmlClocksThrottleReasonGpuIdle: "idle",
    pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting: "clocks set by the operator",
    pynvml.nvmlClocksThrottleReasonSwPowerCap: "power limit",
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksThrottleReasonSyncBoost: "in step with other GPUs",
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown: "thermal (software)",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "thermal (hardware)",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "power brake",
    pynvml.nvmlClocksThrottleReasonDisplayClockSetting: "display clocks",
    pynvml.nvmlClocksThrottleReasonBoardLimit: "board limit",
    pynvml.nvmlClocksThrottleReasonReliability: "reliability",
}


def now(fields: Fields, handle: Any) -> dict[str, Any]:
    """The figures of a GPU that change all the time."""
    rates = fields("utilisation", pynvml.nvmlDeviceGetUtilizationRates, handle)
    state = fields("performance_state", pynvml.nvmlDeviceGetPerformanceState, handle)
    return memory(fields, handle) | {
        "utilisation": None if rates is None else int(rates.gpu),
        "memory_utilisation": None if rates is None else int(rates.memory),
        "encoder_utilisation": _first(fields("encoder_utilisation", pynvml.nvmlDeviceGetEncoderUtilization, handle)),
        "decoder_utilisation": _first(fields("decoder_utilisation", pynvml.nvmlDeviceGetDecoderUtilization, handle)),
        "temperature": _temperature(fields, handle),
        "fan": fields("fan", pynvml.nvmlDeviceGetFanSpeed, handle),
        "power": _thousandth(fields("power", pynvml.nvmlDeviceGetPowerUsage, handle)),
        "energy": _thousandth(fields("energy", pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)),
        "clocks": _clocks(fields, "clocks", pynvml.nvmlDeviceGetClockInfo, handle),
        "performance_state": None if state == pynvml.NVML_PSTATE_UNKNOWN else state,
        "throttle_reasons": _throttle_reasons(fields, handle),
    }


def rarely(fields: Fields, handle: Any) -> dict[str, Any]:
    """Those that change rarely, and what the GPU is."""
    mode = fields("compute_mode", pynvml.nvmlDeviceGetComputeMode, handle)
    return {
        "name": fields("name", pynvml.nvmlDeviceGetName, handle),
        "pci": _pci(fields("pci", pynvml.nvmlDeviceGetPciInfo, handle)),
        "driver_model": _driver_model(fields, handle),
        "power_limit": _thousandth(fields("power_limit", pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
        "max_clocks": _clocks(fields, "max_clocks", pynvml.nvmlDeviceGetMaxClockInfo, handle),
        "persistence": _enabled(fields("persistence", pynvml.nvmlDeviceGetPersistenceMode, handle)),
        "compute_mode": None if mode is None else _COMPUTE_MODES.get(mode),
        "ecc": _ecc(fields, handle),
    }


def memory(fields: Fields, handle: Any) -> dict[str, int | None]:
    """The second version leaves out what the driver keeps for itself, as ``nvidia-smi`` does."""
    memory = fields("memory_used", pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    reserved = None if memory is None else memory.reserved
    if memory is None:
        memory = fields("memory_used", pynvml.nvmlDeviceGetMemoryInfo, handle)
        if memory is None:
            return {"memory_used": None, "memory_total": None, "memory_reserved": None}
        fields.problems.pop("memory_used", None)  # the older call has answered
    figures = {"memory_used": memory.used, "memory_total": memory.total, "memory_reserved": reserved}
    return {name: None if value in (None, _MEMORY_NOT_REPORTED) else int(value) for name, value in figures.items()}


def _temperature(fields: Fields, handle: Any) -> int | None:
    value = fields("temperature", pynvml.nvmlDeviceGetTemperatureV, handle, pynvml.NVML_TEMPERATURE_GPU)
    if value is None:  # drivers before 565 have only the older call
        value = fields("temperature", pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
        if value is not None:
            fields.problems.pop("temperature", None)
    return None if value is None else int(value)


def _throttle_reasons(fields: Fields, handle: Any) -> list[str] | None:
    """Why the clocks are lower than they could be. Drivers before 535 have only the older call."""
    mask = fields("throttle_reasons", pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    if mask is None:
        mask = fields("throttle_reasons", pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        if mask is None:
            return None
        fields.problems.pop("throttle_reasons", None)
    known = [word for bit, word in _THROTTLE_REASONS.items() if mask & bit]
    unknown = mask & ~sum(_THROTTLE_REASONS)
    return [*known, f"reason {unknown:#x}"] if unknown else known


def _ecc(fields: Fields, handle: Any) -> dict[str, Any]:
    """Errors since the driver was loaded; counters of the card's whole life would blame today for what is long past."""
    mode = fields("ecc", pynvml.nvmlDeviceGetEccMode, handle)
    found: dict[str, Any] = {"enabled": None if mode is None else bool(mode[0]), "corrected": None, "uncorrected": None}
    if found["enabled"]:
        for name, kind in (
            ("corrected", pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            ("uncorrected", pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
        ):
            found[name] = fields("ecc", pynvml.nvmlDeviceGetTotalEccErrors, handle, kind, pynvml.NVML_VOLATILE_ECC)
    return found


def _clocks(fields: Fields, name: str, function: Callable[..., Any], handle: Any) -> dict[str, int | None]:
    return {word: fields(name, function, handle, clock) for word, clock in CLOCKS.items()}


def _driver_model(fields: Fields, handle: Any) -> str | None:
    """Only Windows has several."""
    if sys.platform != "win32":
        return _LINUX
    return _DRIVER_MODELS.get(fields("driver_model", pynvml.nvmlDeviceGetCurrentDriverModel, handle))


def _pci(found: Any) -> str | None:
    if found is None:
        return None
    return found.busId.decode() if isinstance(found.busId, bytes) else str(found.busId)


def _enabled(found: int | None) -> bool | None:
    return None if found is None else found == pynvml.NVML_FEATURE_ENABLED


def _thousandth(found: int | None) -> float | None:
    """NVML has milliwatts and millijoules."""
    return None if found is None else found / 1000


def _first(found: list[int] | None) -> int | None:
    return None if found is None else int(found[0])
