"""What the page "GPUs" shows, prepared from the monitor's view so that its template decides nothing.

What is in a view, a history and the rows of use, ``gradlab.gpu`` says; here it is plain data. ``static/gpus.js`` goes
on from this page with every further view, by the same rules; a browser test compares what the two of them show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gradlab.store import GpuUsage

__all__ = [
    "BLANK",
    "COLOURS",
    "FACTS",
    "HOUR",
    "Card",
    "GpuPage",
    "Idle",
    "Note",
    "Row",
    "Segment",
    "Slice",
    "Strip",
    "UsageRow",
    "Waiter",
    "colour",
    "gpu_page",
    "span",
]

Plain = Mapping[str, Any]

# As many as portal.css has (who-0 …). Two learners may share one; their names are always written beside it.
COLOURS = 24
HOUR = 3600
# The strip of a page without a script: 120 columns of 30 s. The script draws finer ones.
STRIP_COLUMNS = 120
_EVENTS = 3
_EVENT_SECONDS = 86400.0
_UNREPORTED = "not reported"
_NONE = "—"

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True)
class Segment:
    """A part of a bar, in percent of its length; ``who`` is its colour's class."""

    who: str
    x: float
    width: float


@dataclass(frozen=True)
class Row:
    """One who is on a GPU or holds it; ``learner`` is empty for the machine's own part and for nobody's."""

    key: str
    who: str
    learner: str
    name: str
    about: str
    held: str
    utilisation: str
    memory: str
    over: bool = False


@dataclass(frozen=True)
class Slice:
    """One MIG instance."""

    key: str
    name: str
    users: str
    utilisation: str
    memory: str
    error: str = ""


@dataclass(frozen=True)
class Note:
    """Something about a GPU that somebody should know; ``tone`` as in portal.css."""

    key: str
    tone: str
    text: str


@dataclass(frozen=True)
class Strip:
    """The last hour as SVG paths on ``columns`` times 100; what is not ``known`` stays hatched."""

    columns: int = STRIP_COLUMNS
    known: str = ""
    used: str = ""
    memory: str = ""
    words: str = ""


@dataclass(frozen=True)
class Card:
    """One GPU. Without figures (``known`` is False) it says only what it is and what is wrong."""

    key: str = ""
    index: str = ""
    name: str = ""
    known: bool = False
    state: str = ""
    error: str = ""
    utilisation: str = ""
    memory: str = ""
    utilisation_bar: Sequence[Segment] = ()
    memory_bar: Sequence[Segment] = ()
    temperature: str = ""
    power: str = ""
    clocks: str = ""
    notes: Sequence[Note] = ()
    rows: Sequence[Row] = ()
    slices: Sequence[Slice] = ()
    strip: Strip = field(default_factory=Strip)
    facts: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(FACTS, ""))


@dataclass(frozen=True)
class Idle:
    """One who holds a GPU and does not use it."""

    key: str
    learner: str
    lab: str
    what: str
    seconds: str


@dataclass(frozen=True)
class Waiter:
    """One in the line for GPUs."""

    key: str
    position: str
    learner: str
    waits: str
    estimate: str


@dataclass(frozen=True)
class UsageRow:
    """What a learner had of GPUs today in one lab."""

    key: str
    learner: str
    lab: str
    held: str
    busy: str
    share: str
    peak: str


@dataclass(frozen=True)
class GpuPage:
    """All of the page. ``heard`` is False where nothing is known but a message: no GPU and no line for any."""

    heard: bool
    simulated: bool
    driver: str
    mode: str
    message: str
    problem: str
    counts: Mapping[str, str]
    cards: Sequence[Card]
    idle: Sequence[Idle]
    idle_words: str
    line: Sequence[Waiter]
    usage: Sequence[UsageRow]


# Facts of a GPU for who wants to know all, with what they are called. Each is made in `_facts`, and so in gpus.js.
FACTS: Mapping[str, str] = {
    "uuid": "UUID",
    "pci": "PCI address",
    "driver_model": "Driver model",
    "compute_mode": "Compute mode",
    "persistence": "Persistence mode",
    "performance_state": "Performance state",
    "throttle": "Clocks held back by",
    "max_clocks": "Highest clocks",
    "fan": "Fan",
    "energy": "Energy since the driver's start",
    "memory_utilisation": "Memory interface busy",
    "encoder": "Encoder and decoder busy",
    "reserved": "Memory kept by the driver",
    "ecc": "ECC errors",
    "limits": "Memory limits",
}


# What the script copies and fills.
BLANK = {
    "card": Card(),
    "row": Row("", "", "", "", "", "", "", ""),
    "slice": Slice("", "", "", "", ""),
    "note": Note("", "warn", ""),
    "idle": Idle("", "", "", "", ""),
    "waiter": Waiter("", "", "", "", ""),
    "usage": UsageRow("", "", "", "", "", "", ""),
}


def gpu_page(view: Plain, history: Plain, usage: Sequence[GpuUsage], titles: Mapping[str, str]) -> GpuPage:
    """``history`` is the last hour, ``usage`` today's, ``titles`` what people call each lab."""

    def lab(slug: str) -> str:
        return titles.get(slug, slug)

    available, devices = bool(view["available"]), view["devices"]
    return GpuPage(
        heard=available or bool(devices),
        simulated=bool(view["simulated"]),
        driver=_driver(view),
        mode=_mode(view["mode"]),
        message=view["message"],
        problem=view["problem"],
        counts=_counts(view),
        cards=[_card(device, view, history, lab) for device in devices],
        idle=[_idle(one, view, lab) for one in view["idle"]],
        idle_words="Everybody who holds a GPU is using it." if available else "Not known while there are no figures.",
        line=[_waiter(one, view["at"]) for one in view["queue"]],
        usage=[_usage_row(one, lab) for one in sorted(usage, key=lambda one: (-one.held, one.learner, one.lab))],
    )


def colour(name: str) -> int:
    """The number of a learner's colour: the same on every page (FNV-1a, as gpus.js has it)."""
    found = 0x811C9DC5
    for byte in name.encode():
        found = (found ^ byte) * 0x01000193 & 0xFFFFFFFF
    return found % COLOURS


def span(seconds: float | None) -> str:
    """A time that has passed or will pass, in one or two units."""
    if seconds is None:
        return _NONE
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole // 60 % 60} min"
    return f"{whole // 86400} d {whole // 3600 % 24} h"


# -- figures as people write them ---------------------------------------------------------------------------------


def _figure(value: float | None, unit: str) -> str:
    return _UNREPORTED if value is None else f"{_round(value):,}{unit}"


def _size(value: float | None) -> str:
    if value is None:
        return _UNREPORTED
    if value < _KIB:
        return f"{_round(value)} B"
    if value < _MIB:
        return f"{_round(value / _KIB)} KiB"
    return f"{_round(value / _MIB)} MiB" if value < _GIB else f"{_round(value / _GIB * 10) / 10:.1f} GiB"


def _of(used: float | None, total: float | None) -> str:
    """Memory used, and of how much; a unit they share is written once."""
    if used is None or total is None:
        return _size(used)
    number, unit = _size(used).split(" ")
    whole = _size(total)
    return f"{number}{'' if whole.endswith(f' {unit}') else f' {unit}'} of {whole}"


def _round(value: float) -> int:
    """As browsers round: half a unit is one."""
    return math.floor(value + 0.5)


def _who(learner: str) -> str:
    return f"who-{colour(learner)}"


# -- the head of the page -----------------------------------------------------------------------------------------


def _driver(view: Plain) -> str:
    if not view["available"] and view["driver_version"] is None:
        return ""
    versions = (("Driver", "driver_version"), ("CUDA", "cuda_version"), ("NVML", "nvml_version"))
    return ", ".join(f"{name} {view[key] or _UNREPORTED}" for name, key in versions)


def _mode(mode: str) -> str:
    kind, _, number = mode.partition(":")
    return {
        "none": "This server gives out no GPUs.",
        "exclusive": "A learner gets a whole GPU.",
        "shared": f"{number} learners share a GPU.",
        "mig": "A learner gets a MIG instance.",
    }.get(kind, mode)


def _counts(view: Plain) -> dict[str, str]:
    on = {part["learner"] for device in view["devices"] if _known(device, view) for part in device["parts"]}
    lent = view["mode"] != "none"
    return {
        "free": f"{view['free']} of {view['slots']}" if lent else _NONE,
        "waiting": str(len(view["queue"])) if lent else _NONE,
        "idle": str(len(view["idle"])) if view["available"] else _NONE,
        "on": str(len(on)) if view["available"] else _NONE,
    }


def _idle(one: Plain, view: Plain, lab: Callable[[str], str]) -> Idle:
    return Idle(
        key=f"{one['learner']}\n{one['server']}",
        learner=one["learner"],
        lab=lab(one["lab"]),
        what=_place(one["device"], view["devices"]),
        seconds=span(one["seconds"]),
    )


def _place(uuid: str | None, devices: Iterable[Plain]) -> str:
    """A GPU or a MIG instance by the name it has on this page."""
    for device in devices:
        if uuid == device["uuid"]:
            return f"GPU {device['index']}"
        for one in device["mig"] or ():
            if uuid == one["uuid"]:
                return f"{one['name'] or 'a slice'} of GPU {device['index']}"
    return uuid or "a GPU"


def _waiter(one: Plain, now: float) -> Waiter:
    return Waiter(
        key=f"{one['learner']}\n{one['server']}",
        position=str(one["position"]),
        learner=one["learner"],
        waits=span(now - one["since"]),
        estimate="" if one["estimate"] is None else f"about {span(one['estimate'])} more",
    )


def _usage_row(one: GpuUsage, lab: Callable[[str], str]) -> UsageRow:
    return UsageRow(
        key=f"{one.learner}\n{one.lab}",
        learner=one.learner,
        lab=lab(one.lab),
        held=span(one.held),
        busy=span(one.busy),
        share=_figure(100 * one.busy / one.held, " %") if one.held else _NONE,
        peak=_size(one.peak),
    )


# -- one GPU ------------------------------------------------------------------------------------------------------


def _known(device: Plain, view: Plain) -> bool:
    """Whether its figures are of now; those of a GPU that does not answer are of some time before."""
    return bool(view["available"]) and device["state"] == "ok"


def _card(device: Plain, view: Plain, history: Plain, lab: Callable[[str], str]) -> Card:
    known = _known(device, view)
    key = device["uuid"] or f"GPU at index {device['index']}"
    strip = _strip(history["devices"].get(key), history, device["memory_total"])
    head = Card(
        key=key,
        index=str(device["index"]),
        name=device["name"] or "GPU",
        known=known,
        state="" if device["state"] == "ok" else device["state"].capitalize(),
        error=device["error"] or "",
        notes=_notes(device, view["at"], known),
        rows=_rows(device, view, lab, known),
        strip=strip,
        facts=_facts(device),
    )
    if not known:
        return head
    return replace(
        head,
        utilisation=_figure(device["utilisation"], " %"),
        memory=_of(device["memory_used"], device["memory_total"]),
        utilisation_bar=_utilisation_bar(device),
        memory_bar=_memory_bar(device),
        temperature=_figure(device["temperature"], " °C"),
        power=_watts(device),
        clocks=_clocks(device["clocks"]),
        slices=[_slice(one, device) for one in device["mig"] or ()],
    )


def _watts(device: Plain) -> str:
    limit = device["power_limit"]
    power = _figure(device["power"], " W")
    return power if device["power"] is None or limit is None else f"{power} of {_figure(limit, ' W')}"


def _parts(device: Plain) -> list[Plain]:
    """By name, so that nothing jumps while figures change."""
    return sorted(device["parts"], key=lambda part: (part["learner"], part["server"], part["instance"] or ""))


def _utilisation_bar(device: Plain) -> list[Segment]:
    """Of a GPU in slices the learners' percents are of their slices, so they are not drawn as parts of the whole."""
    if device["utilisation"] is None:
        return []
    whole = device["mig"] is not None
    found = [] if whole else [(_who(part["learner"]), part["utilisation"] or 0) for part in _parts(device)]
    if not whole:
        found.append(("who-machine", device["machine"]["utilisation"] or 0))
    rest = device["utilisation"] - sum(value for _, value in found)
    return _segments([*found, ("who-machine" if whole else "who-unknown", rest)], 100)


def _memory_bar(device: Plain) -> list[Segment]:
    used, total = device["memory_used"], device["memory_total"]
    if used is None or not total:
        return []
    found = [(_who(part["learner"]), part["memory"] or 0) for part in _parts(device)]
    found.append(("who-machine", device["machine"]["memory"] or 0))
    return _segments([*found, ("who-unknown", used - sum(value for _, value in found))], total)


def _segments(values: Iterable[tuple[str, float]], whole: float) -> list[Segment]:
    found, x = [], 0.0
    for who, value in values:
        width = min(100 * max(0.0, value) / whole, 100 - x)
        if width > 0:
            found.append(Segment(who, round(x, 2), round(width, 2)))
            x += width
    return found


def _rows(device: Plain, view: Plain, lab: Callable[[str], str], known: bool) -> list[Row]:
    """Who is on the GPU, who holds it and is not on it, the machine's own part and nobody's."""
    servers = {(one["learner"], one["server"]): one for one in view["servers"]}
    held = {(one["learner"], one["server"]): one["since"] for one in device["holders"]}
    slices = {one["uuid"]: one["name"] or "a slice" for one in device["mig"] or ()}
    rows = []
    for part in _parts(device) if known else ():
        key = part["learner"], part["server"]
        server = servers.get(key, {})
        rows.append(
            Row(
                key="\n".join((*key, part["instance"] or "")),
                who=_who(part["learner"]),
                learner=part["learner"],
                name=part["learner"],
                about=_joined(lab(part["lab"]), slices.get(part["instance"], "")),
                held=_since(held.get(key), view["at"]),
                utilisation=_figure(part["utilisation"], " %"),
                memory=_of(part["memory"], server.get("share")),
                over=bool(server.get("over_share")),
            )
        )
    on = {(part["learner"], part["server"]) for part in device["parts"]} if known else set()
    for one in sorted(device["holders"], key=lambda one: (one["learner"], one["server"])):
        key = one["learner"], one["server"]
        if key not in on:
            about = _joined(lab(one["lab"]), "runs nothing on it" if known else "")
            since = _since(one["since"], view["at"])
            rows.append(Row("\n".join((*key, "")), _who(key[0]), key[0], key[0], about, since, _NONE, _NONE))
    return rows + (_others(device) if known else [])


def _others(device: Plain) -> list[Row]:
    machine, unknown, rows = device["machine"], device["unattributed"], []
    if machine["processes"]:
        about = f"{machine['processes']} process{'' if machine['processes'] == 1 else 'es'} of no learner"
        figures = _figure(machine["utilisation"], " %"), _size(machine["memory"])
        rows.append(Row("\nmachine", "who-machine", "", "The machine itself", about, _NONE, *figures))
    if unknown:
        about = "of no process that is known"
        rows.append(Row("\nunknown", "who-unknown", "", "Unattributed", about, _NONE, _NONE, _size(unknown)))
    return rows


def _since(since: float | None, now: float) -> str:
    return _NONE if since is None else span(now - since)


def _joined(*words: str) -> str:
    return ", ".join(word for word in words if word)


def _slice(one: Plain, device: Plain) -> Slice:
    users = sorted({part["learner"] for part in device["parts"] if part["instance"] == one["uuid"]})
    measured = f" ({one['utilisation_by'].upper()})" if one["utilisation"] is not None and one["utilisation_by"] else ""
    return Slice(
        key=one["uuid"] or f"{one['gpu_instance']}/{one['compute_instance']}",
        name=one["name"] or "MIG instance",
        users=", ".join(users) or "nobody",
        utilisation=_figure(one["utilisation"], " %") + measured,
        memory=_of(one["memory_used"], one["memory_total"]),
        error=one["error"] or "",
    )


def _notes(device: Plain, now: float, known: bool) -> list[Note]:
    """What is wrong with it besides its state, and what it has reported in the last day, the latest first."""
    notes = []
    reasons = [reason for reason in device.get("throttle_reasons") or () if reason != "idle"]
    if known and reasons:
        notes.append(Note("throttle", "warn", f"Its clocks are held back: {', '.join(reasons)}."))
    errors = (device.get("ecc") or {}).get("uncorrected")
    if known and errors:
        notes.append(Note("ecc", "fail", f"{errors} ECC error{'' if errors == 1 else 's'} could not be corrected."))
    recent = [event for event in device["events"] if now - event["at"] < _EVENT_SECONDS]
    for event in sorted(recent, key=lambda event: -event["at"])[:_EVENTS]:
        cause = "; a program's own fault" if event["application"] else ""
        text = f"Xid {event['xid']}, {span(now - event['at'])} ago: {event['meaning']}{cause}"
        notes.append(Note(f"{event['at']} {event['xid']}", "warn" if event["application"] else "fail", text))
    if known:
        notes += [Note(name, "warn", sentence) for name, sentence in sorted(device["problems"].items())]
    return notes


def _facts(device: Plain) -> dict[str, str]:
    """What it says of itself; a GPU that is silent says only what stays true."""
    limits = device.get("memory_limits")
    on_off = {True: "on", False: "off", None: _UNREPORTED}
    reasons = device.get("throttle_reasons")
    state = device.get("performance_state")
    return {
        "uuid": device["uuid"] or _UNREPORTED,
        "pci": device.get("pci") or _UNREPORTED,
        "driver_model": device.get("driver_model") or _UNREPORTED,
        "compute_mode": device.get("compute_mode") or _UNREPORTED,
        "persistence": on_off[device.get("persistence")],
        "performance_state": _UNREPORTED if state is None else f"P{state}",
        "throttle": _UNREPORTED if reasons is None else ", ".join(reasons) or "nothing",
        "max_clocks": _clocks(device.get("max_clocks")),
        "fan": _figure(device.get("fan"), " %"),
        "energy": _UNREPORTED if device.get("energy") is None else f"{_round(device['energy'] / 3600):,} Wh",
        "memory_utilisation": _figure(device.get("memory_utilisation"), " %"),
        "encoder": _pair(device.get("encoder_utilisation"), device.get("decoder_utilisation")),
        "reserved": _size(device.get("memory_reserved")),
        "ecc": _ecc(device.get("ecc") or {}),
        "limits": _UNREPORTED if limits is None else limits["why"] or ("enforced" if limits["hard"] else "none"),
    }


def _clocks(clocks: Plain | None) -> str:
    clocks = clocks or {}
    return f"{_figure(clocks.get('sm'), ' MHz')}, memory {_figure(clocks.get('memory'), ' MHz')}"


def _pair(one: float | None, other: float | None) -> str:
    return f"{_figure(one, ' %')}, {_figure(other, ' %')}"


def _ecc(ecc: Plain) -> str:
    if ecc.get("enabled") is False:
        return "not watched for"
    corrected, uncorrected = ecc.get("corrected"), ecc.get("uncorrected")
    if corrected is None and uncorrected is None:
        return _UNREPORTED
    return f"{_figure(corrected, '')} corrected, {_figure(uncorrected, '')} not"


# -- the last hour ------------------------------------------------------------------------------------------------


def _strip(tracks: Plain | None, history: Plain, total: float | None) -> Strip:
    """A second without a sample is hatched, also one before anything was recorded: it is not known to be idle."""
    first, count = int(history["from"]), int(history["count"])
    if tracks is None or not count:
        return Strip(words="no sample")
    utilisation, memory = tracks["utilisation"], tracks["memory"]
    step, end = HOUR // STRIP_COLUMNS, first + count - 1
    columns = []
    for number in range(end // step - STRIP_COLUMNS + 1, end // step + 1):
        places = [second - first for second in range(number * step, min(number * step + step, end + 1))]
        found = [place for place in places if place >= 0]
        columns.append(_column(utilisation, memory, found, len(found) < len(places)))
    lines = [None if one[2] is None or not total else 100 - 100 * one[2] / total for one in columns]
    return Strip(
        known=_blocks([None if one[0] else 0.0 for one in columns]),
        used=_blocks([None if one[1] is None else 100 - one[1] for one in columns]),
        memory=_line(lines),
        words=_strip_words(utilisation, memory),
    )


def _column(
    utilisation: Sequence[int | None], memory: Sequence[int | None], places: Sequence[int], gap: bool
) -> tuple[bool, float | None, float | None]:
    """Whether it has a gap, and the means of what is known."""
    used = [value for place in places if (value := utilisation[place]) is not None]
    full = [value for place in places if (value := memory[place]) is not None]
    gap = gap or any(utilisation[place] is None and memory[place] is None for place in places)
    return gap, _mean(used), _mean(full)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _blocks(tops: Sequence[float | None]) -> str:
    """Columns from their tops down to the ground."""
    path, before = [], None
    for x, top in enumerate(tops):
        if top is not None:
            path.append(f"V{top:.4g}H{x + 1}" if before is not None else f"M{x} 100V{top:.4g}H{x + 1}")
        elif before is not None:
            path.append("V100z")
        before = top
    return "".join(path) + ("V100z" if before is not None else "")


def _line(heights: Sequence[float | None]) -> str:
    path, before = [], None
    for x, height in enumerate(heights):
        if height is not None:
            path.append(f"{'M' + str(x) + ' ' if before is None else 'V'}{height:.4g}H{x + 1}")
        before = height
    return "".join(path)


def _strip_words(utilisation: Sequence[int | None], memory: Sequence[int | None]) -> str:
    known = [value for value in utilisation if value is not None]
    missing = HOUR - len(utilisation)
    missing += sum(one is None and other is None for one, other in zip(utilisation, memory, strict=True))
    if missing >= HOUR:
        return "no sample"
    mean = f"average {_round(sum(known) / len(known))} %" if known else "utilisation not reported"
    return mean + (f", no sample in {span(missing)}" if missing > 0 else "")
