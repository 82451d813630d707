"""What a GPU monitor says of a container that computes or does not, at a moment that stands still."""

from __future__ import annotations

from typing import Any

from gradlab.settings import Settings
from tests.monitors import ADA

__all__ = ["MINUTE", "NOW", "SETTINGS", "activity"]

NOW = 1_000_000.0
MINUTE = 60.0
SETTINGS = Settings(gpus="exclusive")


def activity(
    *,
    busy: float | None = None,
    held: float | None = None,
    computing: float | None = None,
    processes: int = 1,
    measured: bool = True,
    since: float = 6000.0,
    processors: bool = True,
    error: str = "",
    ok: bool = True,
) -> dict[str, Any]:
    """The monitor's answer about Ada's container; times in minutes before now."""

    def at(minutes: float | None) -> float | None:
        return None if minutes is None else NOW - minutes * MINUTE

    known = {"processes": processes, "memory": 1, "devices": {}, "measured": measured}
    known |= {"busy_at": at(busy), "held_at": at(held), "computing_at": at(computing)}
    return {
        "ok": ok,
        "message": "" if ok else "The driver hangs.",
        "since": at(since),
        "processors": processors,
        "containers": {ADA: known},
        "devices": {"GPU-0": {"busy_at": at(busy), "measured": measured, "error": error}},
    }
