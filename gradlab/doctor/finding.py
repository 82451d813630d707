"""What the doctor says of one thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Finding", "Status", "cards", "careful", "unseen"]

# "unseen": it cannot be told from where the doctor runs; the remedy is the command that tells.
Status = Literal["ok", "warning", "failed", "unseen"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``remedy`` is empty only where the status is ``ok``."""

    name: str
    status: Status
    value: str
    remedy: str = ""


def careful(name: str, look: Callable[[], Finding], remedy: str) -> Finding:
    """What breaks the looking is a finding too: the rest is examined all the same."""
    try:
        return look()
    except Exception as error:
        return Finding(name, "failed", f"{type(error).__name__}: {error}", remedy)


def cards(reading: Mapping[str, Any]) -> str:
    """The driver and its GPUs in words, and that they are no real ones, if so."""
    names = ", ".join(device["name"] or f"GPU {device['index']}" for device in reading["devices"])
    return f"{'simulated ' if reading['simulated'] else ''}driver {reading['driver_version']}: {names}"


def unseen(name: str, value: str, command: str) -> Finding:
    """A thing that only the machine itself tells, not a container on it."""
    return Finding(name, "unseen", f"{value} not visible from here", f"Run on the host: {command}")
