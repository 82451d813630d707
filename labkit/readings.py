"""A reading of the GPUs, as everything that shows one takes it, and how it is made of what the portal answers.

An answer comes over the network: whatever is in it, a reading has numbers, short texts and None, and None is what is
not known or not reported.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from labkit.render import clean

__all__ = ["ON_THE_CPU", "Reading", "blank", "from_portal", "number", "span"]

Device = dict[str, Any]

ON_THE_CPU = "Everything here runs on the CPU, and exercises that need a GPU are skipped."

# More bytes, seconds or degrees than anything has; beyond it a number can no longer be formatted as a float.
_TOO_LARGE = 2.0**63
_TEXTS = ("name", "uuid", "driver_model")
_NUMBERS = ("utilisation", "memory_used", "memory_total", "memory_reserved", "temperature", "power", "share")
_LONGEST_NAME = 120
_LONGEST_MESSAGE = 1000


@dataclass
class Reading:
    """The GPUs at one moment: either ``devices`` or ``message``, a sentence that says why there are none.

    Each device has ``index``, ``name``, ``uuid``, ``driver_model``, ``utilisation`` (percent), ``memory_used``,
    ``memory_total``, ``memory_reserved`` (bytes), ``temperature`` (°C), ``power`` (W), ``share`` (bytes that are meant
    for this learner), ``mine`` (``memory``, ``utilisation``, ``processes``) and ``others`` (``memory``,
    ``utilisation``). None is what is not reported. A device that could not be read has a sentence as its ``error``;
    ``problems`` has one for each single field that failed otherwise than by not being reported.

    ``failed``: the driver should have answered and did not, which says nothing about the GPUs. ``simulated``: all of it
    is made up. ``lasting``: there is no GPU here, and the next reading would say so again. Not ``final``: where the
    driver here shows GPUs, that is to be shown instead. ``at`` is in seconds since the epoch; ``idle``, ``held`` and
    ``busy`` are seconds, ``peak`` bytes.
    """

    devices: list[Device] = field(default_factory=list)
    message: str = ""
    failed: bool = False
    simulated: bool = False
    lasting: bool = False
    final: bool = True
    driver_version: str | None = None
    at: float = field(default_factory=time.time)
    idle: float | None = None
    held: float | None = None
    busy: float | None = None
    peak: float | None = None


def blank(index: int, **fields: Any) -> Device:
    """A device of which nothing but its index and the ``fields`` is known."""
    device: Device = {"index": index, **dict.fromkeys((*_TEXTS, *_NUMBERS, "error")), "problems": {}}
    device["mine"] = {"memory": None, "utilisation": None, "processes": None}
    device["others"] = {"memory": None, "utilisation": None}
    return device | fields


def from_portal(answer: Mapping[str, Any]) -> Reading | None:
    """What the portal answered as a reading; None if it knows nothing, so that the driver here has to be asked."""
    waiting = _waiting(_mapping(answer.get("waiting")))
    common: dict[str, Any] = {
        "simulated": answer.get("simulated") is True,
        "driver_version": _text(answer.get("driver_version")),
        "at": _moment(answer.get("at")),
    }
    if answer.get("available") is not True:
        return _unavailable(answer, waiting, common)
    listed = answer.get("devices")
    devices = [
        _device(place, one) for place, one in enumerate(listed if isinstance(listed, list) else []) if _is_mapping(one)
    ]
    if not devices:
        return Reading(message=waiting or _no_gpu(), **common)
    usage = _mapping(answer.get("usage"))
    return Reading(
        devices,
        idle=number(answer.get("idle")),
        held=number(usage.get("held")),
        busy=number(usage.get("busy")),
        peak=number(usage.get("peak")),
        **common,
    )


def _unavailable(answer: Mapping[str, Any], waiting: str, common: dict[str, Any]) -> Reading | None:
    state, message = answer.get("state"), _text(answer.get("message"), _LONGEST_MESSAGE)
    if state == "silent":  # whoever asks a driver that hangs, hangs as well
        return Reading(message=message or "The driver of the GPUs does not answer.", failed=True, **common)
    if waiting:
        return Reading(message=waiting, final=False, **common)
    if message and state not in ("no driver", "no gpu"):
        return Reading(message=f"{message} Tell your instructor.", failed=True, final=False, **common)
    return None


def number(value: Any) -> float | None:
    """A number that can be a measurement; None for anything else, as a text, NaN or something negative."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) and 0 <= found < _TOO_LARGE else None


def span(seconds: float) -> str:
    """A length of time in words, to the minute from one minute on."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _device(place: int, data: Mapping[str, Any]) -> Device:
    index = number(data.get("index"))
    mine, others = _mapping(data.get("mine")), _mapping(data.get("others"))
    return blank(place if index is None else int(index)) | {
        **{name: _text(data.get(name)) for name in _TEXTS},
        **{name: number(data.get(name)) for name in _NUMBERS},
        "error": _text(data.get("error"), _LONGEST_MESSAGE),
        "mine": {name: number(mine.get(name)) for name in ("memory", "utilisation", "processes")},
        "others": {name: number(others.get(name)) for name in ("memory", "utilisation")},
    }


def _waiting(waiting: Mapping[str, Any]) -> str:
    """How it stands with one who waits, in the words of the page where a server starts; empty for anybody else."""
    position, estimate = number(waiting.get("position")), number(waiting.get("estimate"))
    if position is None:
        return ""
    place = f"You wait for a GPU, {position:.0f} ahead of you"
    if estimate is not None:
        about = "less than a minute" if estimate < 60 else f"about {span(estimate)}"
        return f"{place}: yours should be free in {about}."
    if position <= 1:
        return f"{place}: you get the next GPU that becomes free."
    return f"{place}: how long that takes cannot be said yet."


def _no_gpu() -> str:
    return (
        "You have no GPU now. Open a lab with a GPU from the list of labs, and you get one or a place in the queue. "
        f"Until then: {ON_THE_CPU[0].lower()}{ON_THE_CPU[1:]}"
    )


def _moment(value: Any) -> float:
    """Seconds since the epoch, in this or the next few centuries; now where the portal says something else."""
    found = number(value)
    return time.time() if found is None or not 0 < found < 1e10 else found


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any, longest: int = _LONGEST_NAME) -> str | None:
    """One line of it; None for what is no text, or none that can be seen."""
    if not isinstance(value, str):
        return None
    # Half a surrogate pair is a text in Python and cannot be sent to a page.
    line = " ".join(clean(value[:longest].encode("utf-8", "replace").decode()).split())
    return line or None
