"""GPU usage from the GPU monitor's account into the store, every few seconds.

The account's numbers only grow within a run, and the store keeps the largest of each run. So whatever is started again,
and however often the same is carried over, nothing is counted twice.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Protocol

from gradlab.store import Store

__all__ = ["Collector", "Source"]

log = logging.getLogger(__name__)

_EVERY_SECONDS = 10.0
_CLOSE_SECONDS = 5.0


class Source(Protocol):
    """The part of the GPU monitor that has the account."""

    def usage(self) -> dict[str, Any]: ...


class Collector:
    """Works in a thread of its own from :meth:`start` to :meth:`close`, which collects once more."""

    def __init__(self, source: Source, store: Store, *, every: float = _EVERY_SECONDS) -> None:
        self._source = source
        self._store = store
        self._every = every
        self._failing = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="gpu-usage", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self._ending.set()
            self._thread.join(_CLOSE_SECONDS)

    def collect(self) -> None:
        """Carry over what there is now. A failure is logged once until it is over; the next time has it all."""
        try:
            found = self._source.usage()
            self._store.keep_gpu_usage(found["run"], found["rows"])
        except Exception as error:  # the monitor is down, the database is locked
            if not self._failing:
                log.warning("GPU usage could not be stored: %s: %s. It is tried again.", type(error).__name__, error)
            self._failing = True
            return
        if self._failing:
            log.info("GPU usage is stored again.")
        self._failing = False

    def _work(self) -> None:
        while not self._ending.wait(self._every):
            self.collect()
        self.collect()
