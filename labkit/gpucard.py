"""A reading of the GPUs as a card, as text, and as one line a GPU: pure functions of it.

Each GPU is shown as the operating system's own GPU page would show it, and its memory split into what is yours, what is
others' and what is free. What is not reported is said to be so, and a GPU that could not be read has no figures at all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labkit.readings import Device, Reading, number, span
from labkit.render import BAD, LINE, QUIET, WARN, block, clean, escape, prose, quiet

__all__ = ["card_html", "card_text", "lines", "read_at"]

_UNKNOWN = "not reported"
_MIB, _GIB = 2.0**20, 2.0**30
_NOBODYS = "unattributed"
_DRIVERS = "kept by the driver"
_IN_USE = "in use, whose is not known"
_TEXT_BAR = 40

_TRACK = "var(--jp-layout-color2, #eeeeee)"
_YOURS = "var(--jp-brand-color1, #1976d2)"
_OTHERS = "var(--jp-ui-font-color2, #757575)"
_HATCHED = f"repeating-linear-gradient(135deg, {_OTHERS} 0 3px, {_TRACK} 3px 6px)"


@dataclass(frozen=True)
class _Part:
    """A part of a GPU's memory; ``sign`` draws it in text."""

    name: str
    size: float
    colour: str
    sign: str


def card_html(reading: Reading, remarks: Sequence[str] = ()) -> str:
    """The card; ``remarks`` are sentences below the figures."""
    if not reading.devices:
        return block(f"<div>{prose(' '.join((reading.message, *remarks)))}</div>", WARN if reading.failed else LINE)
    devices = "".join(_device_html(device, reading) for device in reading.devices)
    return block(devices + "".join(quiet(sentence) for sentence in _sentences(reading, remarks)))


def card_text(reading: Reading, remarks: Sequence[str] = ()) -> str:
    """The same for terminals and for reading a notebook's source."""
    if not reading.devices:
        return clean(" ".join((reading.message, *remarks)))
    rows = [line for device in reading.devices for line in _device_text(device, reading)]
    return "\n".join([*rows, *(clean(sentence) for sentence in _sentences(reading, remarks))])


def lines(reading: Reading) -> str:
    """One line a GPU, or the sentence that says why there is none."""
    if not reading.devices:
        return clean(reading.message)
    return "\n".join(_line(device, reading) for device in reading.devices)


def read_at(reading: Reading) -> str:
    """When the figures were read: a notebook may be opened again next week."""
    return f"Read at {time.strftime('%H:%M:%S %Z', time.localtime(reading.at)).strip()}."


# -- what is said ------------------------------------------------------------------------------------------------------


def _sentences(reading: Reading, remarks: Sequence[str]) -> list[str]:
    """What the figures do not say."""
    said = ["These figures are simulated: nothing can run on such a GPU."] if reading.simulated else []
    if reading.idle is not None and reading.idle >= 60:
        said.append(f"You have not used it for {span(reading.idle)}.")
    if reading.held and reading.busy is not None:
        peak = "" if reading.peak is None else f", with {_size(reading.peak)} of memory at most"
        said.append(f"Today (UTC) you had a GPU for {span(reading.held)} and used it for {span(reading.busy)}{peak}.")
    return [*said, *remarks]


def _figures(device: Device, reading: Reading) -> list[tuple[str, str]]:
    """What an operating system's GPU page has, in the order in which people look for it."""
    return [
        ("Utilisation", _shown(device, "utilisation", "%")),
        ("Memory used", _memory(device)),
        ("Temperature", _shown(device, "temperature", "°C")),
        ("Power", _shown(device, "power", "W")),
        ("Driver version", reading.driver_version or _UNKNOWN),
        ("Driver model", _failed(device, "driver_model") or device["driver_model"] or _UNKNOWN),
    ]


def _whose(device: Device) -> list[tuple[str, str, _Part | None]]:
    """Name, figures and part in the bar of all that the memory is split into; no part where the size is not known."""
    parts = {part.name: part for part in _parts(device)}
    mine, others = device["mine"], device["others"]
    processes = mine["processes"]
    running = "" if processes is None else f"{processes:.0f} process{'' if processes == 1 else 'es'}"
    yours = [_failed(device, "mine") or _size(mine["memory"]), _busy(mine["utilisation"]), running]
    rows = [("yours", yours), ("others", [_size(others["memory"]), _busy(others["utilisation"])])]
    rows += [(name, [_size(parts[name].size)]) for name in (_NOBODYS, _DRIVERS, _IN_USE) if name in parts]
    rows.append(("free", [_size(parts["free"].size if "free" in parts else None)]))
    return [(name, ", ".join(filter(None, told)), parts.get(name)) for name, told in rows]


def _parts(device: Device) -> list[_Part]:
    """The memory from left to right, none negative, and no more of them than there is; empty if that is not known."""
    total, used = device["memory_total"], device["memory_used"]
    if not total or used is None:
        return []
    mine, others = device["mine"]["memory"], device["others"]["memory"]
    left, parts = total, []

    def take(name: str, size: float, colour: str, sign: str) -> None:
        nonlocal left
        size = max(0.0, min(size, left))
        left -= size
        parts.append(_Part(name, size, colour, sign))

    if mine is None:
        take(_IN_USE, used, _HATCHED, "?")
    else:
        take("yours", mine, _YOURS, "#")
        if others is not None:
            take("others", others, _OTHERS, "o")
        # Processes that nobody sees, or what is left of dead ones: it is said, and nobody has to wonder.
        rest = used - mine - (others or 0.0)
        take(_NOBODYS, rest if rest >= _MIB else 0.0, _HATCHED, "?")
    take(_DRIVERS, device["memory_reserved"] or 0.0, _HATCHED, "-")
    take("free", left, _TRACK, ".")
    return [part for part in parts if part.size > 0 or part.name in ("yours", "others", "free")]


def _share(device: Device) -> tuple[str, bool]:
    """What is said of the learner's share, and whether it is exceeded."""
    share, mine = device["share"], device["mine"]["memory"]
    if share is None:
        return "", False
    told = f"Your share is {_gib(share)} GiB"
    if mine is not None and mine > share:
        remedy = "Free some: others need it, and a program over the share may be stopped."
        return f"{told}: you are over it by {_size(mine - share)}. {remedy}", True
    return f"{told}.", False


def _memory(device: Device) -> str:
    used, total = device["memory_used"], device["memory_total"]
    if failed := _failed(device, "memory"):
        return failed
    if used is None and total is None:
        return _UNKNOWN
    return f"{_gib(used)} of {_gib(total)} GiB" if None not in (used, total) else f"{_size(used)} of {_size(total)}"


def _shown(device: Device, name: str, unit: str) -> str:
    value = number(device[name])
    return _failed(device, name) or (_UNKNOWN if value is None else f"{value:.0f} {unit}")


def _failed(device: Device, name: str) -> str:
    """What is said in place of a figure that failed otherwise than by not being reported."""
    problem = device["problems"].get(name)
    return "" if problem is None else f"could not be read ({_one_line(problem)})"


def _gib(size: float | None) -> str:
    if size is None:
        return _UNKNOWN
    # What is there is not nothing.
    return "<0.1" if 0 < size < 0.05 * _GIB else f"{size / _GIB:.1f}"


def _size(size: float | None) -> str:
    if size is None:
        return _UNKNOWN
    return f"{size / _MIB:.0f} MiB" if size < _GIB else f"{size / _GIB:.1f} GiB"


def _busy(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.0f} % busy"


def _title(device: Device, reading: Reading) -> tuple[str, str, str]:
    """Number, name, and the word that none of it is real, unless the name has it."""
    name = _one_line(device["name"]) if device["name"] else "name not reported"
    mark = "simulated" if reading.simulated and "simulated" not in name else ""
    return f"GPU {device['index']}", name, mark


def _one_line(text: Any) -> str:
    return " ".join(clean(str(text)).split())


# -- as one line -------------------------------------------------------------------------------------------------------


def _line(device: Device, reading: Reading) -> str:
    number_, name, mark = _title(device, reading)
    head = f"{number_} {name}{f' ({mark})' if mark else ''}: "
    if device["error"]:
        return head + _one_line(device["error"])
    mine, others = device["mine"]["memory"], device["others"]["memory"]
    told = [f"yours {_gib(mine)}", f"others {_gib(others)}"]
    if unattributed := sum(part.size for part in _parts(device) if part.name == _NOBODYS):
        told.append(f"unattributed {_gib(unattributed)}")
    over = ", over your share" if _share(device)[1] else ""
    busy, memory = _shown(device, "utilisation", "%"), _memory(device)
    figures = [
        f"{busy} busy" if device["utilisation"] is not None else f"utilisation {busy}",
        memory if None not in (device["memory_used"], device["memory_total"]) else f"memory {memory}",
    ]
    if mine is not None or others is not None:
        figures[-1] += f" ({', '.join(told)}{over})"
    for field, unit in (("temperature", "°C"), ("power", "W")):
        shown = _shown(device, field, unit)
        figures.append(shown if device[field] is not None else f"{field} {shown}")
    return head + ", ".join(figures)


# -- as text -----------------------------------------------------------------------------------------------------------


def _device_text(device: Device, reading: Reading) -> list[str]:
    number_, name, mark = _title(device, reading)
    head = f"{number_}  {name}{f'  ({mark})' if mark else ''}"
    if device["error"]:
        return [head, f"  {_one_line(device['error'])}"]
    rows = [head, *(f"  {label + ':':<16}{value}" for label, value in _figures(device, reading))]
    parts = _parts(device)
    if parts:
        rows.append(f"  [{_text_bar(parts)}]")
    for label, told, part in _whose(device):
        rows.append(f"    {part.sign if part else ' '} {label + ':':<{_width(device)}}{told}")
    if share := _share(device)[0]:
        rows.append(f"  {share}")
    return rows


def _width(device: Device) -> int:
    return max(len(label) for label, _, _ in _whose(device)) + 2


def _text_bar(parts: Sequence[_Part]) -> str:
    """Every part in proportion; the smallest that is there has a place."""
    total, bar = sum(part.size for part in parts), ""
    for part in parts[:-1]:
        places = round(_TEXT_BAR * part.size / total)
        bar += part.sign * max(places, 1 if part.size > 0 else 0)
    return bar[:_TEXT_BAR] + parts[-1].sign * (_TEXT_BAR - len(bar))


# -- as HTML -----------------------------------------------------------------------------------------------------------


def _device_html(device: Device, reading: Reading) -> str:
    number_, name, mark = _title(device, reading)
    badge = f"border: 1px solid {WARN}; border-radius: 3px; padding: 0 5px; margin-left: 6px"
    simulated = f' <span style="{badge}">{mark}</span>' if mark else ""
    head = f"<div>{escape(number_)} · <b>{escape(name)}</b>{simulated}</div>"
    if device["error"]:
        return f'<div style="margin: 2px 0 10px">{head}<div style="color: {BAD}">{prose(device["error"])}</div></div>'
    body = head + "".join(_tile(label, value) for label, value in _figures(device, reading)) + _bar(device)
    body += "".join(_row(*row) for row in _whose(device))
    told, over = _share(device)
    if told:
        sign = f'<span style="color: {WARN}">▲</span> ' if over else ""
        body += f'<div style="margin-top: 2px">{sign}{escape(told)}</div>'
    return f'<div style="margin: 2px 0 12px">{body}</div>'


def _tile(label: str, value: str) -> str:
    colour = f"color: {QUIET}" if value == _UNKNOWN else "font-weight: 600"
    small = f"color: {QUIET}; font-size: 85%"
    inner = f'<div style="{small}">{escape(label)}</div><div style="{colour}">{escape(value)}</div>'
    return f'<div style="display: inline-block; vertical-align: top; margin: 4px 24px 2px 0">{inner}</div>'


def _bar(device: Device) -> str:
    """The memory as one stacked bar. What it says stands below it in words, so nothing is lost without it."""
    parts, total = _parts(device), device["memory_total"]
    if not parts:
        return ""
    drawn = [
        f'<div style="width: {100 * part.size / total:.3f}%; height: 100%; float: left; background: {part.colour}" '
        f'title="{escape(part.name)}: {_size(part.size)}"></div>'
        for part in parts
        if part.size > 0 and part.name != "free"
    ]
    if device["share"] is not None and device["share"] < total:
        place = f"position: absolute; top: -3px; bottom: -3px; left: {100 * device['share'] / total:.3f}%"
        line = f"{place}; border-left: 2px solid {WARN}"
        drawn.append(f'<div style="{line}" title="the end of your share"></div>')
    frame = f"position: relative; height: 16px; max-width: 44em; margin: 6px 0; background: {_TRACK}"
    return f'<div style="{frame}; outline: 1px solid {LINE}">{"".join(drawn)}</div>'


def _row(label: str, told: str, part: _Part | None) -> str:
    colour = part.colour if part else "transparent"
    key = f"display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.5em; background: {colour}"
    edge = f"outline: 1px solid {LINE}" if part else ""
    name = '<span style="display: inline-block; min-width: 14em">'
    return f'<div><span style="{key}; {edge}"></span>{name}{escape(label)}</span>{escape(told)}</div>'
