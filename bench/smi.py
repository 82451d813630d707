"""What ``nvidia-smi`` says, and how the figures of a frame (``gradlab.gpu.nvml``) compare with it.

The two look at different moments, so ``nvidia-smi`` is asked before and after: a figure agrees if it lies between both,
give or take what the figure may move in a moment (``slack``) or what was rounded away.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FIGURES", "Compared", "Figure", "Smi", "Told", "compare", "compare_processes"]

Value = str | int | float | bool | None
# By UUID of a GPU, then by the name of a query's field.
Told = Mapping[str, Mapping[str, str]]
# By UUID and process, MiB.
Apps = Mapping[tuple[str, int], float | None]

_SECONDS = 30
_MIB = 1 << 20
_WORDS = {"Default": "default", "Exclusive_Process": "exclusive process", "Prohibited": "prohibited"}
# nvidia-smi's words for the bits, in its own documentation; a frame has words for them, too.
_REASONS = (
    "idle",
    "clocks set by the operator",
    "power limit",
    "hardware slowdown",
    "in step with other GPUs",
    "thermal (software)",
    "thermal (hardware)",
    "power brake",
    "display clocks",
)


@dataclass(frozen=True)
class Figure:
    """One figure: where it is in a device of a frame, and what ``nvidia-smi`` calls it, newest name first.

    ``read`` makes of its words what a frame has. ``slack`` and ``share`` (of the value) are how far the two may be
    apart: readings that change all the time have some.
    """

    name: str
    fields: tuple[str, ...]
    ours: Callable[[Mapping[str, Any]], Value]
    read: Callable[[str], Value]
    slack: float = 0.0
    share: float = 0.0


@dataclass
class Compared:
    """One figure, over all GPUs and rounds: ``asked`` is nvidia-smi's name of it, ``differences`` has sentences."""

    name: str
    asked: str
    agreed: int = 0
    looks: int = 0
    unreported: int = 0
    example: str = ""
    differences: list[str] = field(default_factory=list)


def _number(text: str) -> float:
    return float(text)


def _enabled(text: str) -> bool:
    return text == "Enabled"


def _reasons(text: str) -> str:
    mask = int(text, 16)
    return ", ".join(word for bit, word in enumerate(_REASONS) if mask >> bit & 1) or "none"


def _our_reasons(device: Mapping[str, Any]) -> Value:
    found = device["throttle_reasons"]
    return None if found is None else ", ".join(one for one in found if one in _REASONS) or "none"


def _plain(name: str, *fields: str, slack: float = 0.0, share: float = 0.0) -> Figure:
    return Figure(name, fields, lambda device: device[name], _number, slack, share)


def _text(name: str, field: str) -> Figure:
    return Figure(name, (field,), lambda device: device[name], str)


def _mebibytes(name: str, field: str, slack: float) -> Figure:
    def ours(device: Mapping[str, Any]) -> Value:
        return None if device[name] is None else device[name] / _MIB

    return Figure(f"{name} (MiB)", (field,), ours, _number, slack)


def _within(group: str, name: str, *fields: str, read: Callable[[str], Value] = _number, share: float = 0.0) -> Figure:
    return Figure(f"{group}: {name}", fields, lambda device: device[group][name], read, share=share)


# What moves from moment to moment may do so between the two looks of nvidia-smi, too, up and down again.
FIGURES = (
    _text("uuid", "uuid"),
    _text("name", "name"),
    _text("pci", "pci.bus_id"),
    _plain("index", "index"),
    _plain("utilisation", "utilization.gpu", slack=15),
    _plain("memory_utilisation", "utilization.memory", slack=15),
    _plain("encoder_utilisation", "utilization.encoder", slack=5),
    _plain("decoder_utilisation", "utilization.decoder", slack=5),
    _mebibytes("memory_used", "memory.used", 1),
    _mebibytes("memory_total", "memory.total", 1),
    _mebibytes("memory_reserved", "memory.reserved", 1),
    _plain("temperature", "temperature.gpu", slack=2),
    _plain("fan", "fan.speed", slack=2),
    _plain("power", "power.draw", slack=2, share=0.1),
    _plain("power_limit", "enforced.power.limit", slack=0.01),
    _within("clocks", "graphics", "clocks.current.graphics", share=0.05),
    _within("clocks", "sm", "clocks.current.sm", share=0.05),
    _within("clocks", "memory", "clocks.current.memory", share=0.05),
    _within("clocks", "video", "clocks.current.video", share=0.05),
    _within("max_clocks", "graphics", "clocks.max.graphics"),
    _within("max_clocks", "sm", "clocks.max.sm"),
    _within("max_clocks", "memory", "clocks.max.memory"),
    Figure("performance_state", ("pstate",), lambda device: device["performance_state"], lambda text: int(text[1:])),
    Figure("persistence", ("persistence_mode",), lambda device: device["persistence"], _enabled),
    Figure("compute_mode", ("compute_mode",), lambda device: device["compute_mode"], lambda text: _WORDS[text]),
    Figure(
        "throttle_reasons", ("clocks_event_reasons.active", "clocks_throttle_reasons.active"), _our_reasons, _reasons
    ),
    _within("ecc", "enabled", "ecc.mode.current", read=_enabled),
    _within("ecc", "corrected", "ecc.errors.corrected.volatile.total"),
    _within("ecc", "uncorrected", "ecc.errors.uncorrected.volatile.total"),
    Figure("mig", ("mig.mode.current",), lambda device: device["mig"] is not None, _enabled),
)
# A mode that a GPU does not have is one that it is not in.
_ABSENT: Mapping[str, Value] = {"mig": False}


class Smi:
    """``nvidia-smi``, asked for many fields at once. Those that its version does not know are left out."""

    def __init__(self, command: Sequence[str] = ("nvidia-smi",)) -> None:
        self._command = list(command)
        self._unknown: set[str] = set()

    def gpus(self, figures: Iterable[Figure] = FIGURES) -> Told:
        """RuntimeError if it cannot be asked."""
        fields = dict.fromkeys(["uuid", *(field for figure in figures for field in figure.fields)])
        while True:
            asked = [field for field in fields if field not in self._unknown]
            text, failed = self._ask("--query-gpu=" + ",".join(asked))
            unknown = re.search(r'Field "([^"]+)" is not a valid field to query', text)
            if unknown and unknown[1] in asked:
                self._unknown.add(unknown[1])
            elif failed:
                raise RuntimeError(f"nvidia-smi answers {text.strip()[-500:]!r}.")
            else:
                rows = [dict(zip(asked, _cells(line), strict=True)) for line in text.splitlines() if line.strip()]
                return {row["uuid"]: row for row in rows}

    def apps(self) -> Apps:
        """Who computes: MiB by GPU and process, None where that is not known."""
        text, failed = self._ask("--query-compute-apps=gpu_uuid,pid,used_gpu_memory")
        if failed:
            raise RuntimeError(f"nvidia-smi answers {text.strip()[-500:]!r}.")
        rows = [_cells(line) for line in text.splitlines() if line.count(",") == 2]
        return {(uuid, int(pid)): None if _absent(memory) else float(memory) for uuid, pid, memory in rows}

    def _ask(self, query: str) -> tuple[str, bool]:
        command = [*self._command, query, "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(f"{self._command[0]} cannot be asked: {error}.") from None
        return done.stdout + done.stderr if done.returncode else done.stdout, done.returncode != 0


def compare(found: dict[str, Compared], devices: Iterable[Mapping[str, Any]], before: Told, after: Told) -> None:
    """Add one look at all GPUs to what was ``found`` by figure."""
    for device in devices:
        uuid = device["uuid"]
        for figure in FIGURES:
            name = next((one for one in figure.fields if one in before.get(uuid, {})), None)
            if name is None:
                continue
            told = [_said(figure, looks[uuid][name]) for looks in (before, after) if uuid in looks]
            row = found.setdefault(figure.name, Compared(figure.name, name))
            _judge(row, figure, told, figure.ours(device), f"GPU {device['index']}")


def compare_processes(
    found: dict[str, Compared], devices: Iterable[Mapping[str, Any]], before: Apps, after: Apps
) -> None:
    """Add one look at who computes. Who comes or goes just then says nothing."""
    row = found.setdefault("processes", Compared("processes", "compute-apps: pid, used_gpu_memory (MiB)"))
    ours = {
        (device["uuid"], process["pid"]): None if process["memory"] is None else process["memory"] / _MIB
        for device in devices
        for process in device["processes"] or ()
        if "C" in process["kinds"] or "M" in process["kinds"]
    }
    for key in sorted(before.keys() & after.keys() | (ours.keys() - before.keys() - after.keys())):
        told = [looks[key] for looks in (before, after) if key in looks]
        where = f"process {key[1]}"
        if key not in ours or not told:
            row.looks += 1
            row.differences.append(f"{where}: only {'nvidia-smi' if told else 'the frame'} lists it on {key[0]}.")
        else:
            _judge(row, Figure("memory", (), lambda _device: None, _number, slack=1.0), told, ours[key], where)


def _judge(row: Compared, figure: Figure, told: Sequence[Value], ours: Value, where: str) -> None:
    row.looks += 1
    agrees = _agrees(figure, told, ours)
    row.agreed += agrees
    row.unreported += agrees and ours is None
    if not row.example or (agrees and ours is not None):
        row.example = _shown(ours)
    if not agrees:
        row.differences.append(f"{where}: nvidia-smi {' and '.join(map(_shown, told))}, the frame {_shown(ours)}.")


def _agrees(figure: Figure, told: Sequence[Value], ours: Value) -> bool:
    if ours is None or isinstance(ours, str | bool):
        return ours in told
    known = [one for one in told if isinstance(one, int | float)]
    if not known:
        return False
    slack = figure.slack + figure.share * max(abs(one) for one in known)
    return min(known) - slack <= ours <= max(known) + slack


def _said(figure: Figure, text: str) -> Value:
    if _absent(text):
        return _ABSENT.get(figure.name)
    try:
        return figure.read(text)
    except (ValueError, KeyError):  # a word that is not known here is shown as a difference
        return text


def _absent(text: str) -> bool:
    """Brackets say why there is no value: [N/A], [Not Supported], [Insufficient Permissions]."""
    return text in ("", "N/A") or text.startswith("[")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split(", ")]


def _shown(value: Value) -> str:
    if value is None:
        return "not reported"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
