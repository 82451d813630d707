"""Waiting for what happens in another thread or process; the deadline makes a wrong program fail instead of hang."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import psutil

__all__ = ["ended", "until"]

T = TypeVar("T")
_LONGEST_PAUSE = 0.05


def until(predicate: Callable[[], T | None], seconds: float = 60, *, what: str = "it") -> T:
    """Wait for a true value of ``predicate`` and return it; fail by name after ``seconds``."""
    deadline = time.monotonic() + seconds
    pause = 0.005
    while not (found := predicate()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return found


def ended(processes: Iterable[psutil.Process | int]) -> bool:
    """Whether they are all gone; a zombie is. A number stands for whoever has it now."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(process) if isinstance(process, int) else process
            if found.is_running() and found.status() != psutil.STATUS_ZOMBIE:
                return False
    return True
