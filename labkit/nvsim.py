"""A simulated NVIDIA driver below the real binding: every line of ``pynvml`` runs as it does with a GPU.

:func:`install` puts an object where ``pynvml`` keeps its handle of ``libnvidia-ml.so.1``. Its functions have the names
and signatures of the C library and fill the structures passed by reference. A function it does not know is not found,
as with an older driver. What it answers is plain data::

    {"driver_version": "615.71.09", "nvml_version": "13.615.71.09", "cuda_version": 13040,
     "missing": ["nvmlDeviceGetTemperatureV"],          # C functions that this driver is too old for
     "devices": [{
         "name": "NVIDIA L40S", "uuid": "GPU-…", "pci_bus_id": "00000000:01:00.0",
         "memory": {"total": 48305799168, "reserved": 638582784, "used": 1294991360},  # used: without reserved
         "utilisation": {"gpu": 9, "memory": 2}, "temperature": 54, "power": 110120, "power_limit": 350000,
         "clocks": {"graphics": 2520, "sm": 2520, "memory": 9001, "video": 1965}, "max_clocks": {…},
         "performance_state": 0, "persistence_mode": 1, "compute_mode": 0,
         "mig_mode": [0, 0], "driver_model": None,      # each: now, after the next restart
         "processes": [{"pid": 20037, "memory": 564133888, "type": "C"}],      # C, G, C+G, M+C as nvidia-smi has them
         "process_samples": [{"pid": 20037, "time": 1786000000000000, "sm": 7, "memory": 1}],
         "moments": [{"utilisation": {"gpu": 100, "memory": 0}}, {}, {"error": "lost"}]}]}

Memory is in bytes, power in milliwatts, clocks in MHz, time in microseconds. A field that is None or left out is not
supported; a process's memory that is None is not available. A word of :data:`ERRORS` in place of a value is that error;
as a device's ``error`` it is the answer to everything asked of that device, and as the driver's to ``nvmlInit``. Time
passes with readings of a device's utilisation: the first is taken in the first of its ``moments``, the next in the
next, and the last one stays.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Mapping
from typing import Any

from labkit.nvstates import random_state

__all__ = ["ERRORS", "install", "installed", "random_state", "uninstall"]

State = dict[str, Any]

ERRORS = {
    "not supported": 3,
    "no permission": 4,
    "driver not loaded": 9,
    "library not found": 12,
    "lost": 15,
    "reset required": 16,
    "version mismatch": 18,
    "unknown": 999,
}
_UNINITIALIZED, _INVALID_ARGUMENT, _NOT_SUPPORTED, _NOT_FOUND, _INSUFFICIENT_SIZE = 1, 2, 3, 6, 7
_VERSION_MISMATCH = 25

_NOT_AVAILABLE = (1 << 64) - 1
_NO_INSTANCE = (1 << 32) - 1
_MEMORY_V2 = 0x02000028
# The driver always offers room for as many samples as its buffer holds.
_SAMPLE_BUFFER = 100
_CLOCKS = ("graphics", "sm", "memory", "video")

# C functions with one number as their answer, and the field it is in.
_NUMBERS = {
    "nvmlDeviceGetPowerUsage": "power",
    "nvmlDeviceGetEnforcedPowerLimit": "power_limit",
    "nvmlDeviceGetPowerManagementLimit": "power_limit",
    "nvmlDeviceGetPerformanceState": "performance_state",
    "nvmlDeviceGetPersistenceMode": "persistence_mode",
    "nvmlDeviceGetComputeMode": "compute_mode",
}
_PAIRS = {"nvmlDeviceGetMigMode": "mig_mode", "nvmlDeviceGetDriverModel_v2": "driver_model"}
_TEXTS = {"nvmlDeviceGetName": "name", "nvmlDeviceGetUUID": "uuid"}
_VERSIONS = {"nvmlSystemGetDriverVersion": "driver_version", "nvmlSystemGetNVMLVersion": "nvml_version"}
_PROCESSES = {
    "nvmlDeviceGetComputeRunningProcesses_v3": "C",
    "nvmlDeviceGetGraphicsRunningProcesses_v3": "G",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": "M",
}

_DRIVER_KEYS = frozenset(("driver_version", "nvml_version", "cuda_version", "missing", "error", "devices"))
_DEVICE_KEYS = frozenset(_NUMBERS.values()) | frozenset(_PAIRS.values()) | frozenset(_TEXTS.values())
_DEVICE_KEYS |= {"pci_bus_id", "memory", "utilisation", "temperature", "clocks", "max_clocks"}
_DEVICE_KEYS |= {"processes", "process_samples", "error", "moments"}


def install(state: Mapping[str, Any]) -> None:
    """From now on ``pynvml`` in this process talks to a driver in this state. ValueError names an unknown key."""
    import pynvml

    _check(state)
    uninstall()
    pynvml.nvmlLib = _Driver(state, (pynvml.nvmlLib, dict(pynvml._nvmlGetFunctionPointer_cache)))
    pynvml._nvmlGetFunctionPointer_cache.clear()


def uninstall() -> None:
    """Give ``pynvml`` back what it had before; does nothing if no simulation is installed."""
    import pynvml

    if installed():
        pynvml.nvmlLib, cache = pynvml.nvmlLib.replaced
        pynvml._nvmlGetFunctionPointer_cache.clear()
        pynvml._nvmlGetFunctionPointer_cache.update(cache)


def installed() -> bool:
    """Whether ``pynvml`` talks to a simulation now."""
    import pynvml

    return isinstance(pynvml.nvmlLib, _Driver)


def _check(state: Mapping[str, Any]) -> None:
    _check_keys("the driver", state, _DRIVER_KEYS)
    for index, device in enumerate(state["devices"]):
        _check_keys(f"device {index}", device, _DEVICE_KEYS)
        for moment in device.get("moments") or ():
            _check_keys(f"a moment of device {index}", moment, _DEVICE_KEYS - {"moments"})


def _check_keys(what: str, found: Mapping[str, Any], known: frozenset[str]) -> None:
    # A misspelt field would silently be "not supported".
    for key in found:
        if key not in known:
            raise ValueError(f"The simulated state of {what} has an unknown key {key!r}. Known: {sorted(known)}.")
    if (error := found.get("error")) is not None and error not in ERRORS:
        raise ValueError(f"The simulated error {error!r} of {what} is unknown. Known: {sorted(ERRORS)}.")


class _Answered(Exception):
    """What a C function returns when that is not success."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Driver:
    """What ``CDLL("libnvidia-ml.so.1")`` is otherwise: an attribute for each function that the driver exports."""

    def __init__(self, state: Mapping[str, Any], replaced: tuple[Any, dict[str, Any]]) -> None:
        self.replaced = replaced
        self._state = copy.deepcopy(dict(state))
        self._readings = [0] * len(state["devices"])
        self._users = 0

    def __getattr__(self, symbol: str) -> Callable[..., Any]:
        work = self._work(symbol)
        if work is None or symbol in self._state.get("missing", ()):
            raise AttributeError(symbol)

        def function(*arguments: Any) -> int:
            try:
                if self._users == 0 and symbol != "nvmlInitWithFlags":
                    return _UNINITIALIZED
                work(*arguments)
            except _Answered as answered:
                return answered.code
            return 0

        return _error_string if symbol == "nvmlErrorString" else function

    def _work(self, symbol: str) -> Callable[..., None] | None:
        """What a C function does; None if it is not simulated."""
        if symbol in _VERSIONS:
            return lambda text, size: _put_text(self._state.get(_VERSIONS[symbol]), text, size)
        if symbol in _TEXTS:
            return lambda handle, text, size: _put_text(self._at(handle).get(_TEXTS[symbol]), text, size)
        if symbol in _NUMBERS:
            return lambda handle, out: _put(out, _reported(self._at(handle), _NUMBERS[symbol]))
        if symbol in _PAIRS:
            return lambda handle, *outs: _put_all(outs, _reported(self._at(handle), _PAIRS[symbol]))
        if symbol in _PROCESSES:
            return lambda handle, count, out: _processes(self._at(handle), _PROCESSES[symbol], count._obj, out)
        return getattr(self, f"_{symbol}", None) if symbol.startswith("nvml") else None

    # -- devices -----------------------------------------------------------------------------------------------------

    def _at(self, handle: Any) -> State:
        """The state, at this moment, of the device behind a handle."""
        return self._moment(self._index(handle))

    def _index(self, handle: Any) -> int:
        number = ctypes.cast(handle, ctypes.c_void_p).value or 0
        index, rest = divmod(number - 0x1000, 8)
        if rest or not 0 <= index < len(self._readings):
            raise _Answered(_INVALID_ARGUMENT)
        return index

    def _moment(self, index: int) -> State:
        device: State = self._state["devices"][index]
        if moments := device.get("moments"):
            device = device | moments[min(max(self._readings[index], 1), len(moments)) - 1]
        if (error := device.get("error")) is not None:
            raise _Answered(ERRORS[error])
        return device

    def _give_handle(self, field: str, wanted: Any, out: Any) -> None:
        text = (wanted.value or b"").decode().lower()
        for index, device in enumerate(self._state["devices"]):
            if str(device.get(field)).lower() == text:
                return self._nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), out)
        raise _Answered(_NOT_FOUND)

    # -- the library's functions, under their C names ----------------------------------------------------------------

    def _nvmlInitWithFlags(self, _flags: Any) -> None:
        if (error := self._state.get("error")) is not None:
            raise _Answered(ERRORS[error])
        self._users += 1

    def _nvmlShutdown(self) -> None:
        self._users -= 1

    def _nvmlErrorString(self) -> None:
        """Only says that there is one; it returns text, not a code."""

    def _nvmlSystemGetCudaDriverVersion_v2(self, out: Any) -> None:
        _put(out, _reported(self._state, "cuda_version"))

    _nvmlSystemGetCudaDriverVersion = _nvmlSystemGetCudaDriverVersion_v2

    def _nvmlDeviceGetCount_v2(self, out: Any) -> None:
        _put(out, len(self._readings))

    def _nvmlDeviceGetHandleByIndex_v2(self, index: Any, out: Any) -> None:
        if index.value >= len(self._readings):
            raise _Answered(_INVALID_ARGUMENT)
        self._moment(index.value)
        ctypes.cast(out, ctypes.POINTER(ctypes.c_void_p))[0] = 0x1000 + 8 * index.value

    def _nvmlDeviceGetHandleByUUID(self, uuid: Any, out: Any) -> None:
        self._give_handle("uuid", uuid, out)

    def _nvmlDeviceGetHandleByPciBusId_v2(self, bus: Any, out: Any) -> None:
        self._give_handle("pci_bus_id", bus, out)

    def _nvmlDeviceGetIndex(self, handle: Any, out: Any) -> None:
        self._at(handle)
        _put(out, self._index(handle))

    _nvmlDeviceGetMinorNumber = _nvmlDeviceGetIndex

    def _nvmlDeviceGetPciInfo_v3(self, handle: Any, out: Any) -> None:
        bus_id = _reported(self._at(handle), "pci_bus_id")
        domain, bus, device = bus_id.split(":")
        info = out._obj
        info.busId, info.busIdLegacy = bus_id.encode(), bus_id[4:].encode()
        info.domain, info.bus, info.device = int(domain, 16), int(bus, 16), int(device.split(".")[0], 16)

    def _nvmlDeviceGetMemoryInfo(self, handle: Any, out: Any) -> None:
        memory = _reported(self._at(handle), "memory")
        used = memory["used"] + memory["reserved"]
        out._obj.total, out._obj.used, out._obj.free = memory["total"], used, memory["total"] - used

    def _nvmlDeviceGetMemoryInfo_v2(self, handle: Any, out: Any) -> None:
        if out._obj.version != _MEMORY_V2:
            raise _Answered(_VERSION_MISMATCH)
        self._nvmlDeviceGetMemoryInfo(handle, out)
        out._obj.reserved = _reported(self._at(handle), "memory")["reserved"]
        out._obj.used -= out._obj.reserved

    def _nvmlDeviceGetUtilizationRates(self, handle: Any, out: Any) -> None:
        self._readings[self._index(handle)] += 1
        rates = _reported(self._at(handle), "utilisation")
        out._obj.gpu, out._obj.memory = rates["gpu"], rates["memory"]

    def _nvmlDeviceGetTemperatureV(self, handle: Any, out: Any) -> None:
        out._obj.temperature = _reported(self._at(handle), "temperature")

    def _nvmlDeviceGetTemperature(self, handle: Any, _sensor: Any, out: Any) -> None:
        _put(out, _reported(self._at(handle), "temperature"))

    def _nvmlDeviceGetClockInfo(self, handle: Any, kind: Any, out: Any) -> None:
        _put(out, _clock(_reported(self._at(handle), "clocks"), kind.value))

    def _nvmlDeviceGetMaxClockInfo(self, handle: Any, kind: Any, out: Any) -> None:
        _put(out, _clock(_reported(self._at(handle), "max_clocks"), kind.value))

    def _nvmlDeviceGetProcessUtilization(self, handle: Any, out: Any, count: Any, since: Any) -> None:
        samples = _reported(self._at(handle), "process_samples")
        if out is None:
            count._obj.value = _SAMPLE_BUFFER
            raise _Answered(_INSUFFICIENT_SIZE)
        newest = {s["pid"]: s for s in sorted(samples, key=lambda s: int(s["time"])) if s["time"] > since.value}
        if not newest:
            raise _Answered(_NOT_FOUND)
        for slot, sample in zip(out, newest.values(), strict=False):
            slot.pid, slot.timeStamp, slot.smUtil = sample["pid"], sample["time"], sample["sm"]
            slot.memUtil = sample.get("memory", 0)
            slot.encUtil, slot.decUtil = sample.get("encoder", 0), sample.get("decoder", 0)
        count._obj.value = len(newest)


def _error_string(code: int) -> bytes:
    return f"Unknown Error {code}".encode()


def _reported(state: Mapping[str, Any], field: str) -> Any:
    """A field's value; what the C function returns instead if it is not supported or an error."""
    value = state.get(field)
    if value is None:
        raise _Answered(_NOT_SUPPORTED)
    if isinstance(value, str) and value in ERRORS:
        raise _Answered(ERRORS[value])
    return value


def _put(out: Any, value: int) -> None:
    out._obj.value = value


def _put_all(outs: tuple[Any, ...], values: list[int]) -> None:
    for out, value in zip(outs, values, strict=True):
        _put(out, value)


def _put_text(text: str | None, out: Any, size: Any) -> None:
    data = _reported({"text": text}, "text").encode()
    if len(data) >= size.value:
        raise _Answered(_INSUFFICIENT_SIZE)
    out.value = data


def _clock(clocks: Mapping[str, int], kind: int) -> int:
    if kind >= len(_CLOCKS):
        raise _Answered(_INVALID_ARGUMENT)
    return int(_reported(clocks, _CLOCKS[kind]))


def _processes(device: State, kind: str, count: Any, out: Any) -> None:
    """Both calls of a process list: for the size with no buffer, then with one."""
    found = [p for p in _reported(device, "processes") if kind in p.get("type", "C").split("+")]
    room = 0 if out is None else count.value
    count.value = len(found)
    if room < len(found):
        raise _Answered(_INSUFFICIENT_SIZE)
    for slot, process in zip(out or (), found, strict=False):
        slot.pid = process["pid"]
        slot.usedGpuMemory = _NOT_AVAILABLE if process["memory"] is None else process["memory"]
        slot.gpuInstanceId, slot.computeInstanceId = process.get("instance", (_NO_INSTANCE, _NO_INSTANCE))
