"""What the simulated NVIDIA driver shows, as plain data, and the file in which its library reads it.

:func:`write` takes the data, says what is wrong with it, and replaces the file; programs that have the library loaded
see the change with their next call. The file's own format, lines of words for a C program, is described at the top of
``nvml.c``. The data has the vocabulary of :mod:`labkit.nvsim` and more; everything may be left out::

    {"driver_version": "615.71.09", "nvml_version": "13.615.71.09", "cuda_version": 13040,
     "error": "version mismatch",               # nvmlInit's answer
     "missing": ["nvmlDeviceGetTemperatureV"],  # answer "function not found"; library.build(without=…) has none at all
     "fails": {"nvmlDeviceGetPowerUsage": "lost", "*": 999},  # these functions, or all, answer with an error
     "latency": 0.2,                            # seconds a call takes; or {function or "*": seconds}
     "hangs": ["nvmlDeviceGetName"],            # do not return until the scenario changes; True: none does
     "visibility": "namespace",                 # or "host": below
     "devices": [{
         "name": "NVIDIA H200", "uuid": "GPU-…", "pci_bus_id": "00000000:17:00.0", "serial": "165…",
         "memory": {"total": 150754820096, "reserved": 643825664, "used": 1294991360},  # used: without reserved
         "bar1": {"total": 274877906944, "used": 1048576},
         "utilisation": {"gpu": 9, "memory": 2}, "encoder": 0, "decoder": 0,
         "temperature": 54, "memory_temperature": 60, "fan": 30,
         "power": 110120, "power_limit": 700000, "energy": 5000000,
         "clocks": {"graphics": 1980, "sm": 1980, "memory": 3201, "video": 1545}, "max_clocks": {…},
         "performance_state": 0, "persistence_mode": 1, "compute_mode": 0, "throttle_reasons": 0x4,
         "display_active": 0, "display_mode": 0,
         "ecc": {"mode": [1, 1], "corrected": 0, "uncorrected": 0}, "pcie": {"sent": 100, "received": 200},
         "mig_mode": [0, 0], "driver_model": None,  # each: now, after the next restart
         "compute_capability": [9, 0], "recovery_action": 0,
         "processes": [{"pid": 20037, "memory": 564133888, "type": "C", "instance": [1, 0]}],  # C, G, C+G, M+C
         "process_samples": [{"pid": 20037, "time": 1786000000000000, "sm": 7, "memory": 1, "encoder": 0,
                              "decoder": 0, "jpeg": 0, "optical_flow": 0}],  # "time": "now" is when it is asked
         "events": [{"xid": 79, "time": 1786000000.0}, {"type": 4, "data": 0}],
         "gpm": {"graphics": 87.5, "sm": 60.0, "tensor": 12.0},
         "accounting": {"mode": 1, "buffer": 4000, "processes": [{"pid": 20037, "gpu": 50, "memory": 10,
                        "max_memory": 564133888, "time": 60000, "start": 1786000000000000, "running": True}]},
         "memory_limits": {"dmem": True, "used": {"/sys/fs/cgroup/…": 1048576}},
         "instances": [{"uuid": "MIG-…", "name": "NVIDIA H200 MIG 1g.18gb", "gpu_instance": 7, "compute_instance": 0,
                        "memory": {…}, "attributes": {"memory": 16384, "gpu_slices": 1, …}, "gpm": {…},
                        "processes": […]}, None],   # None: an empty place
         "error": "lost", "fails": {…}, "latency": …, "hangs": …,   # as above, for this GPU (or instance)
         "moments": [{"utilisation": {"gpu": 100, "memory": 0}}, {}, {"error": "lost"}]}]}

Memory is in bytes (an instance's ``attributes`` in MiB), power in milliwatts, energy in millijoules, clocks in MHz,
sample times in microseconds, accounted times in milliseconds (``start`` in microseconds), PCIe traffic in KB/s. A field
that is None or left out is not supported; a process's memory that is None is not available, and so is a number of
``memory`` that is None. A word of :data:`ERRORS` in place of a value is that error; as a device's ``error`` it is the
answer to everything asked of that device. An event is delivered once to each set of events, from its time on (at once
if it has none), with or without a device that still answers. Time passes with readings of a device's utilisation: the
first is taken in the first of its ``moments``, the next in the next, and the last one stays. A file that was replaced
begins again.

**Which processes a caller sees.** From 535.113.01 on the driver lists only the processes of the caller's PID namespace
and of those in it, by the numbers they have there; whoever else is on the GPU is not seen, without an error. Samples of
utilisation keep the number of the host there; accounting leaves the dead out. This is ``"visibility": "namespace"``
(the default). With ``"host"``, as older drivers have it, everybody gets the host's numbers. The host is the namespace
of whoever writes the scenario. For a process that lives in another one, its numbers there are looked up in /proc when
the scenario is written; ``"namespace": {inode: pid}`` says it instead.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlab.gpu.simulator.library import functions

__all__ = ["ERRORS", "Limit", "limits", "write"]

ERRORS = {
    "uninitialised": 1,
    "invalid argument": 2,
    "not supported": 3,
    "no permission": 4,
    "not found": 6,
    "insufficient size": 7,
    "driver not loaded": 9,
    "timeout": 10,
    "library not found": 12,
    "function not found": 13,
    "lost": 15,
    "reset required": 16,
    "operating system": 17,
    "version mismatch": 18,
    "in use": 19,
    "insufficient memory": 20,
    "no data": 21,
    "insufficient resources": 23,
    "argument version mismatch": 25,
    "deprecated": 26,
    "not ready": 27,
    "unknown": 999,
}
_GREATEST_CODE = 999
_NOT_AVAILABLE = (1 << 64) - 1
_XID = 8
_INITS = ("nvmlInit", "nvmlInit_v2", "nvmlInitWithFlags")
_DAY = 86400.0

_TEXTS = ("name", "uuid", "serial", "pci_bus_id")
_NUMBERS = (
    "encoder",
    "decoder",
    "temperature",
    "memory_temperature",
    "fan",
    "power",
    "power_limit",
    "energy",
    "performance_state",
    "persistence_mode",
    "compute_mode",
    "display_active",
    "display_mode",
    "throttle_reasons",
    "recovery_action",
    "gpu_instance",
    "compute_instance",
)
_CLOCKS = ("graphics", "sm", "memory", "video")
_GROUPS = {
    "memory": ("total", "reserved", "used"),
    "bar1": ("total", "used"),
    "utilisation": ("gpu", "memory"),
    "clocks": _CLOCKS,
    "max_clocks": _CLOCKS,
    "pcie": ("sent", "received"),
    "attributes": (
        "multiprocessors",
        "copy_engines",
        "decoders",
        "encoders",
        "jpegs",
        "optical_flows",
        "gpu_slices",
        "compute_slices",
        "memory",
    ),
}
# The numbers of a group without which the library does not answer, and what is there instead of one.
_DEFAULTS = {"memory": _NOT_AVAILABLE, "utilisation": 0}
_PAIRS = {
    "mig_mode": ("now", "next"),
    "driver_model": ("now", "next"),
    "compute_capability": ("major", "minor"),
}
_METRICS = {
    "graphics": 1,
    "sm": 2,
    "occupancy": 3,
    "integer": 4,
    "tensor": 5,
    "dfma": 6,
    "hmma": 7,
    "dmma": 8,
    "imma": 9,
    "dram": 10,
    "fp64": 11,
    "fp32": 12,
    "fp16": 13,
    "pcie_sent": 20,
    "pcie_received": 21,
}
_VISIBILITIES = ("host", "namespace")

_FAULT_KEYS = frozenset(("error", "fails", "latency", "hangs"))
_DRIVER_KEYS = _FAULT_KEYS | {
    "driver_version",
    "nvml_version",
    "cuda_version",
    "missing",
    "visibility",
    "devices",
}
_INSTANCE_KEYS = _FAULT_KEYS | {
    "name",
    "uuid",
    "gpu_instance",
    "compute_instance",
    "memory",
    "attributes",
    "gpm",
    "processes",
}
_DEVICE_KEYS = (
    _FAULT_KEYS
    | frozenset(_TEXTS)
    | frozenset(_NUMBERS)
    | frozenset(_GROUPS)
    | frozenset(_PAIRS)
    | {"ecc", "processes", "process_samples", "events", "gpm", "accounting", "memory_limits", "instances", "moments"}
) - {"gpu_instance", "compute_instance", "attributes"}


@dataclass(frozen=True)
class Limit:
    """Limits that a program set on the GPU memory of a cgroup, in bytes; 2**64 - 1 is none."""

    uuid: str
    group: str
    hard: int
    soft: int


def write(path: Path, scenario: Mapping[str, Any]) -> None:
    """Replace the file, whole and atomically. ValueError names what is not known, and what is."""
    text = "".join(f"{line}\n" for line in _lines(scenario))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        draft = Path(folder) / path.name
        draft.write_text(text)
        draft.chmod(0o644)  # programs of other users read it, too
        # The time that the system gives is coarser than two changes may follow each other.
        os.utime(draft, ns=(time.time_ns(),) * 2)
        draft.replace(path)


def limits(path: Path) -> list[Limit]:
    """The limits that programs have set under the scenario at ``path``, in the order they were set."""
    found = []
    with suppress(FileNotFoundError):
        for line in path.with_name(f"{path.name}.limits").read_text().splitlines():
            uuid, group, hard, soft = line.split("\t")
            found.append(Limit(uuid, group, int(hard), int(soft)))
    return found


# -- the driver --------------------------------------------------------------------------------------------------------


def _lines(scenario: Mapping[str, Any]) -> Iterator[str]:
    what = "the driver"
    _check_keys(what, scenario, _DRIVER_KEYS)
    names = _Names()
    yield "gradlab-nvml-scenario 1"
    yield f"namespace {names.own}"
    visibility = scenario.get("visibility", "namespace")
    if visibility not in _VISIBILITIES:
        raise ValueError(f"The simulated visibility {visibility!r} is unknown. Known: {list(_VISIBILITIES)}.")
    yield f"visibility {visibility}"
    for field in ("driver_version", "nvml_version"):
        yield from _text(what, field, scenario.get(field))
    yield from _number(what, "cuda_version", scenario.get("cuda_version"))
    if (error := scenario.get("error")) is not None:
        code = _code(f"the error of {what}", error)
        yield from (f"fails {function} {code}" for function in _INITS)
    for function in _sequence(f"the missing functions of {what}", scenario.get("missing") or ()):
        yield f"missing {_function('missing', function)}"
    yield from _faults(what, scenario)
    for index, device in enumerate(_sequence("the devices", scenario.get("devices") or ())):
        yield from _device(f"device {index}", device, names)
    yield "end"


def _device(what: str, device: Mapping[str, Any], names: _Names) -> Iterator[str]:
    _check_keys(what, device, _DEVICE_KEYS)
    moments = _sequence(f"the moments of {what}", device.get("moments") or ({},))
    for place, moment in enumerate(moments):
        _check_keys(f"a moment of {what}", moment, _DEVICE_KEYS - {"moments"})
        yield "moment" if place else "device"
        yield from _state(what, {**device, **moment}, names)


def _state(what: str, device: Mapping[str, Any], names: _Names) -> Iterator[str]:
    """A device as it is at one moment."""
    instances = device.get("instances")
    if instances is not None and not _is_error(instances):
        # A GPU with instances is in MIG mode, and lists what they list.
        device = {"mig_mode": [1, 1], "processes": [], **device}
    if device.get("error") is not None:
        yield f"fails * {_code(f'the error of {what}', device['error'])}"
    yield from _faults(what, device)
    yield from _values(what, device)
    yield from _ecc(what, device.get("ecc"))
    yield from _processes(what, device.get("processes"), names)
    yield from _samples(what, device.get("process_samples"), names)
    yield from _events(what, device.get("events", ()))
    yield from _gpm(what, device.get("gpm"))
    yield from _accounting(what, device.get("accounting"), names)
    yield from _memory_limits(what, device.get("memory_limits"))
    if not (yield from _list(what, "instances", instances)):
        return
    for place, instance in enumerate(_sequence(f"the instances of {what}", instances)):
        if instance is None:
            yield "empty"
        else:
            yield "instance"
            yield from _instance(f"instance {place} of {what}", instance, names)


def _instance(what: str, instance: Mapping[str, Any], names: _Names) -> Iterator[str]:
    _check_keys(what, instance, _INSTANCE_KEYS)
    if instance.get("error") is not None:
        yield f"fails * {_code(f'the error of {what}', instance['error'])}"
    yield from _faults(what, instance)
    yield from _values(what, instance)
    yield from _processes(what, instance.get("processes", ()), names)
    yield from _gpm(what, instance.get("gpm"))


def _faults(what: str, found: Mapping[str, Any]) -> Iterator[str]:
    for function, error in _mapping(f"what fails of {what}", found.get("fails") or {}).items():
        yield f"fails {_function('fails', function, all_too=True)} {_code(f'{function} of {what}', error)}"
    latency = found.get("latency")
    if latency is not None:
        for function, seconds in (latency if isinstance(latency, Mapping) else {"*": latency}).items():
            if not _is_number(seconds) or not 0 <= seconds <= _DAY:
                raise ValueError(f"The simulated latency {seconds!r} of {what} is not a number of seconds up to a day.")
            yield f"latency {_function('latency', function, all_too=True)} {round(seconds * 1_000_000)}"
    hangs = found.get("hangs") or ()
    for function in ("*",) if hangs is True else _sequence(f"what hangs of {what}", hangs):
        yield f"hangs {_function('hangs', function, all_too=True)}"


# -- values ------------------------------------------------------------------------------------------------------------


def _values(what: str, found: Mapping[str, Any]) -> Iterator[str]:
    for field in _TEXTS:
        yield from _text(what, field, found.get(field))
    for field in _NUMBERS:
        yield from _number(what, field, found.get(field))
    for field, parts in _GROUPS.items():
        yield from _group(what, field, parts, found.get(field))
    for field, parts in _PAIRS.items():
        yield from _pair(what, field, parts, found.get(field))


def _text(what: str, field: str, value: Any) -> Iterator[str]:
    if value is None:
        return
    if _is_error(value):
        yield f"error {field} {_code(field, value)}"
    elif not isinstance(value, str) or re.search(r"[\x00-\x1f\x7f]", value):
        raise ValueError(f"The simulated {field} {value!r} of {what} is not one line of text.")
    else:
        yield f"text {field} {value}"


def _number(what: str, field: str, value: Any) -> Iterator[str]:
    if value is None:
        return
    if _is_error(value):
        yield f"error {field} {_code(field, value)}"
    else:
        yield f"number {field} {_whole(what, field, value)}"


def _group(what: str, field: str, parts: Iterable[str], value: Any) -> Iterator[str]:
    if value is None:
        return
    names = tuple(parts)
    if _is_error(value):
        yield from (f"error {field}.{part} {_code(field, value)}" for part in names)
        return
    _check_keys(f"the {field} of {what}", value, frozenset(names))
    for part in names:
        one = value.get(part)
        if one is None and part != "reserved":
            one = _DEFAULTS.get(field)
        yield from _number(what, f"{field}.{part}", one)


def _pair(what: str, field: str, parts: Iterable[str], value: Any) -> Iterator[str]:
    if value is None:
        return
    if _is_error(value):
        yield from (f"error {field}.{part} {_code(field, value)}" for part in parts)
        return
    if not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"The simulated {field} {value!r} of {what} is not a pair of numbers.")
    for part, one in zip(parts, value, strict=True):
        yield from _number(what, f"{field}.{part}", one)


def _ecc(what: str, value: Any) -> Iterator[str]:
    fields = ("ecc.mode.now", "ecc.mode.next", "ecc.corrected", "ecc.uncorrected")
    if value is None:
        return
    if _is_error(value):
        yield from (f"error {field} {_code('ecc', value)}" for field in fields)
        return
    _check_keys(f"the ecc of {what}", value, frozenset(("mode", "corrected", "uncorrected")))
    mode = value.get("mode")
    yield from _pair(what, "ecc.mode", ("now", "next"), [mode, mode] if isinstance(mode, int) else mode)
    for part in ("corrected", "uncorrected"):
        yield from _number(what, f"ecc.{part}", value.get(part))


# -- lists -------------------------------------------------------------------------------------------------------------


def _list(what: str, field: str, value: Any) -> Generator[str, None, bool]:
    """Says that there is such a list, or what is answered instead; returns whether its lines are to follow."""
    if value is None:
        return False
    if _is_error(value):
        yield f"error {field} {_code(field, value)}"
        return False
    yield f"list {field}"
    return True


def _processes(what: str, value: Any, names: _Names) -> Iterator[str]:
    if not (yield from _list(what, "processes", value)):
        return
    known = frozenset(("pid", "memory", "type", "instance", "namespace"))
    for process in _sequence(f"the processes of {what}", value):
        _check_keys(f"a process of {what}", process, known)
        kinds = str(process.get("type", "C")).split("+")
        if not set(kinds) <= set("CGM"):
            raise ValueError(
                f"The simulated type {process['type']!r} of a process is unknown. Known: C, G, M, C+G, M+C."
            )
        memory = process.get("memory")
        size = "-" if memory is None else _whole(what, "memory", memory)
        yield (
            f"process {_pid(process)} {size} {''.join(kinds)} "
            f"{_place(what, process.get('instance'))}{names.of(process)}"
        )


def _samples(what: str, value: Any, names: _Names) -> Iterator[str]:
    if not (yield from _list(what, "process_samples", value)):
        return
    fields = ("sm", "memory", "encoder", "decoder", "jpeg", "optical_flow")
    for sample in _sequence(f"the process_samples of {what}", value):
        _check_keys(f"a sample of {what}", sample, frozenset(("pid", "time", "namespace", *fields)))
        at = sample.get("time", "now")
        at = at if at == "now" else _whole(what, "time", at)
        figures = " ".join(_whole(what, field, sample.get(field, 0)) for field in fields)
        yield f"sample {_pid(sample)} {at} {figures}{names.of(sample)}"


def _events(what: str, value: Any) -> Iterator[str]:
    if not (yield from _list(what, "events", value)):
        return
    for event in _sequence(f"the events of {what}", value):
        _check_keys(f"an event of {what}", event, frozenset(("xid", "type", "data", "time", "instance")))
        if ("xid" in event) == ("type" in event):
            raise ValueError(f"A simulated event of {what} is {dict(event)!r}; it needs an xid, or a type and data.")
        kind, data = (_XID, event["xid"]) if "xid" in event else (event["type"], event.get("data", 0))
        at = event.get("time") or 0
        if not _is_number(at) or at < 0:
            raise ValueError(f"The simulated time {at!r} of an event of {what} is not in seconds since the epoch.")
        yield (
            f"event {_whole(what, 'type', kind)} {_whole(what, 'xid', data)} {int(at * 1_000_000)} "
            f"{_place(what, event.get('instance'))}"
        )


def _gpm(what: str, value: Any) -> Iterator[str]:
    if not (yield from _list(what, "gpm", value)):
        return
    for name, figure in _mapping(f"the gpm of {what}", value).items():
        number = name if isinstance(name, int) else _METRICS.get(name)
        if number is None:
            raise ValueError(f"The simulated metric {name!r} of {what} is unknown. Known: {sorted(_METRICS)}.")
        if not _is_number(figure):
            raise ValueError(f"The simulated metric {name!r} of {what} is {figure!r}, which is no number.")
        yield f"metric {number} {float(figure)!r}"


def _accounting(what: str, value: Any, names: _Names) -> Iterator[str]:
    if value is None:
        return
    if _is_error(value):
        code = _code("accounting", value)
        yield from (f"error {field} {code}" for field in ("accounting", "accounting.mode", "accounting.buffer"))
        return
    _check_keys(f"the accounting of {what}", value, frozenset(("mode", "buffer", "processes")))
    yield from _number(what, "accounting.mode", value.get("mode", 1))
    yield from _number(what, "accounting.buffer", value.get("buffer", 4000))
    yield "list accounting"
    known = frozenset(("pid", "gpu", "memory", "max_memory", "time", "start", "running", "namespace"))
    for one in _sequence(f"the accounting of {what}", value.get("processes", ())):
        _check_keys(f"an accounted process of {what}", one, known)
        figures = " ".join(_whole(what, field, one.get(field, 0)) for field in ("gpu", "memory"))
        most = one.get("max_memory", 0)
        yield (
            f"accounted {_pid(one)} {figures} {'-' if most is None else _whole(what, 'max_memory', most)} "
            f"{_whole(what, 'time', one.get('time', 0))} {_whole(what, 'start', one.get('start', 0))} "
            f"{int(bool(one.get('running', True)))}{names.of(one)}"
        )


def _memory_limits(what: str, value: Any) -> Iterator[str]:
    if value is not None and not _is_error(value):
        _check_keys(f"the memory_limits of {what}", value, frozenset(("dmem", "used")))
        value = value if value.get("dmem", True) else None
    if not (yield from _list(what, "memory_limits", value)):
        return
    for group, size in _mapping(f"the used memory_limits of {what}", value.get("used") or {}).items():
        if not str(group).startswith("/") or re.search(r"[\x00-\x1f\x7f]", str(group)):
            raise ValueError(f"The simulated cgroup {group!r} of {what} is not a path like /sys/fs/cgroup/….")
        yield f"limit_used {_whole(what, 'used', size)} {group}"


# -- what may be in a value --------------------------------------------------------------------------------------------


def _check_keys(what: str, found: Any, known: frozenset[str]) -> None:
    # A misspelt field would silently be "not supported".
    for key in _mapping(what, found):
        if key not in known:
            raise ValueError(f"The simulated state of {what} has an unknown key {key!r}. Known: {sorted(known)}.")


def _mapping(what: str, found: Any) -> Mapping[Any, Any]:
    if not isinstance(found, Mapping):
        raise ValueError(f"The simulated state of {what} is {found!r}, which is not a mapping.")
    return found


def _sequence(what: str, found: Any) -> Sequence[Any]:
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise ValueError(f"{what[0].upper()}{what[1:]} are {found!r}, which is not a list.")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_error(value: Any) -> bool:
    return isinstance(value, str) and value in ERRORS


def _whole(what: str, field: str, value: Any) -> str:
    if not isinstance(value, int) or not -(1 << 31) <= value <= _NOT_AVAILABLE:
        raise ValueError(
            f"The simulated {field} of {what} is {value!r}, which is neither a whole number nor an error. "
            f"Known errors: {sorted(ERRORS)}."
        )
    return str(int(value))


def _code(what: str, error: Any) -> int:
    if _is_error(error):
        return ERRORS[error]
    if isinstance(error, int) and 0 < error <= _GREATEST_CODE:
        return int(error)
    raise ValueError(f"The simulated error {error!r} of {what} is unknown. Known: {sorted(ERRORS)}, and NVML's codes.")


def _function(key: str, name: Any, *, all_too: bool = False) -> str:
    if (all_too and name == "*") or name in functions():
        return str(name)
    raise ValueError(f"The simulated {key!r} names an unknown function {name!r}. Known: {sorted(functions())}.")


def _pid(found: Mapping[str, Any]) -> int:
    pid = found.get("pid")
    if not isinstance(pid, int) or not 0 <= pid < 1 << 32:
        raise ValueError(f"The simulated process {dict(found)!r} has no number (pid).")
    return pid


def _place(what: str, instance: Any) -> str:
    """The numbers of a GPU instance and of a compute instance in it."""
    if instance is None:
        return "- -"
    if not isinstance(instance, Sequence) or len(instance) != 2:
        raise ValueError(f"The simulated instance {instance!r} of {what} is not a pair of numbers.")
    return " ".join("-" if one is None else _whole(what, "instance", one) for one in instance)


# -- processes in other PID namespaces ---------------------------------------------------------------------------------


class _Names:
    """By which numbers processes are known in the PID namespaces below this process's own."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._found: dict[int, dict[int, int]] = {}
        self.own = _inode(proc / "self" / "ns" / "pid")

    def of(self, process: Mapping[str, Any]) -> str:
        """The end of a process's line."""
        if (told := process.get("namespace")) is None:
            pid = _pid(process)
            if pid not in self._found:
                self._found[pid] = self._look(pid)
            told = self._found[pid]
        for inode, pid in _mapping("the namespace of a process", told).items():
            if not str(inode).isdigit() or not isinstance(pid, int) or not 0 <= pid < 1 << 32:
                raise ValueError(f"The simulated namespace {told!r} of a process is not {{inode: pid}}.")
        return "".join(f" {inode}:{pid}" for inode, pid in told.items())

    def _look(self, pid: int) -> dict[int, int]:
        try:
            status = (self._proc / str(pid) / "status").read_text()
            spaces = list(_ancestry(self._proc / str(pid) / "ns" / "pid", self.own))
        except OSError:
            return {}  # there is no such process, or it is another user's: nobody else has a name for it
        line = re.search(r"^NSpid:\s*(.*)$", status, re.MULTILINE)
        numbers = [int(number) for number in line[1].split()] if line else []
        # The innermost is last in the line and first in the ancestry; what is left is this process's own and above.
        return dict(zip(spaces, reversed(numbers), strict=False))


_NS_GET_PARENT = 0xB702


def _ancestry(path: Path, until: int) -> Iterator[int]:
    """The inodes of a PID namespace and of those around it, as far as the namespace ``until``, which is left out."""
    current = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while (inode := os.fstat(current).st_ino) != until:
            yield inode
            try:
                above = fcntl.ioctl(current, _NS_GET_PARENT)
            except OSError:
                return  # the next one is out of this process's sight
            os.close(current)
            current = above
    finally:
        os.close(current)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
