"""The GPUs for a page: read in a thread of its own, kept for two seconds, never waited for longer than that.

A driver call can hang for minutes when a GPU is in trouble. Then the page says so, and no second reader is started
before the first has come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Devices"]


class Devices:
    """Wraps the reader the command line hands in (``gradlab.gpu``), which may be slow, hang or raise."""

    def __init__(
        self,
        read: Callable[[], dict[str, Any]],
        *,
        keep: float = 2.0,
        deadline: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._keep = keep
        self._deadline = deadline
        self._clock = clock
        self._reading: asyncio.Future[dict[str, Any]] | None = None
        self._last: tuple[float, dict[str, Any]] | None = None

    async def latest(self) -> dict[str, Any]:
        """The reader's answer, at most ``keep`` seconds old; or one that says why there is none."""
        if self._last is not None and self._clock() - self._last[0] < self._keep:
            return self._last[1]
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_future()
            threading.Thread(target=self._run, args=(self._reading,), name="gpu-reader", daemon=True).start()
        done, _ = await asyncio.wait({self._reading}, timeout=self._deadline)
        if not done or self._last is None:
            return _without(
                f"The GPU driver has not answered for {self._deadline:g} s. Run `gradlab gpu` on the server to see why."
            )
        return self._last[1]

    def _run(self, reading: asyncio.Future[dict[str, Any]]) -> None:
        try:
            found = self._read()
        except Exception as error:  # a broken driver must not take the page with it
            found = _without(f"The GPUs cannot be read: {error}. Run `gradlab gpu` on the server.")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            reading.get_loop().call_soon_threadsafe(self._finish, reading, found)

    def _finish(self, reading: asyncio.Future[dict[str, Any]], found: dict[str, Any]) -> None:
        self._last = (self._clock(), found)
        self._reading = None
        if not reading.done():
            reading.set_result(found)


def _without(message: str) -> dict[str, Any]:
    return {"available": False, "message": message, "driver_version": None, "devices": []}
