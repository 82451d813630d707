"""GPU readings that never keep anybody waiting: a driver call can hang for ever and cannot be ended from inside.

The source runs in a thread of its own with a deadline. While it hangs, readers get the last good reading with a
sentence that says from when it is, and no second call is started.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Reader"]

Reading = dict[str, Any]


class Reader:
    """Call it for a reading. Readings younger than ``fresh`` seconds are shared, however many pages ask."""

    def __init__(
        self,
        source: Callable[[], Reading],
        *,
        deadline: float = 2.0,
        fresh: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._deadline = deadline
        self._fresh = fresh
        self._clock = clock
        self._changed = threading.Condition()
        self._asked_at: float | None = None
        self._answers = 0
        self._last: tuple[float, Reading] | None = None

    def __call__(self) -> Reading:
        """The current reading, or the last good one with a word on its age; returns within the deadline."""
        with self._changed:
            now = self._clock()
            if self._last is not None and 0 <= now - self._last[0] < self._fresh:
                return dict(self._last[1])
            if self._asked_at is None:
                self._asked_at = now
                threading.Thread(target=self._ask, name="gpu-reading", daemon=True).start()
            # Whoever comes while a call already hangs past its deadline does not wait for it again.
            left = self._deadline - max(0.0, now - self._asked_at)
            before = self._answers
            if self._changed.wait_for(lambda: self._answers > before, max(0.0, left)):
                assert self._last is not None
                return dict(self._last[1])
            return self._stale()

    def _ask(self) -> None:
        try:
            reading = self._source()
        except Exception as error:  # a reader that dies would leave the panel frozen without a word
            reading = {
                "available": False,
                "message": f"Reading the GPUs failed: {type(error).__name__}: {error}. Run `gradlab gpu` for details.",
                "driver_version": None,
                "devices": [],
            }
        with self._changed:
            self._last = (self._clock(), reading)
            self._asked_at = None
            self._answers += 1
            self._changed.notify_all()

    def _stale(self) -> Reading:
        remedy = "If it stays so, run `nvidia-smi`: when that hangs too, only a restart of the machine helps."
        if self._last is None:
            return {
                "available": False,
                "message": f"The NVIDIA driver has not answered for {self._deadline:g} s. {remedy}",
                "driver_version": None,
                "devices": [],
            }
        since, reading = self._last
        when = time.strftime("%H:%M:%S", time.localtime(since))
        message = f"The NVIDIA driver does not answer; these figures are from {when}. {remedy}"
        return reading | {"message": message}
