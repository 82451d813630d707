"""A look at the GPUs of this machine from the command line, without a server: a monitor for as long as it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradlab.gpu.monitor import Frame, Monitor, Sampler
from gradlab.gpu.sampling import Sampling
from gradlab.roster import RosterFile

__all__ = ["look", "read", "watch"]

# Utilisation of processes is known between two samples, so one alone says nothing of it.
_SAMPLES = 2


def read(*, patience: float = 10.0) -> Frame:
    """One frame, of all GPUs; after ``patience`` seconds one that says that the driver does not answer."""
    sampling = Sampling()
    sampling.start()
    try:
        return sampling.first(patience)
    finally:
        sampling.close()


def look(roster: Path, *, patience: float = 10.0) -> dict[str, Any]:
    """The view after two samples; after ``patience`` seconds what is known by then."""
    with watch(roster, patience=patience) as views:
        return next(views)


@contextmanager
def watch(roster: Path, *, every: float = 1.0, patience: float = 10.0) -> Iterator[Iterator[dict[str, Any]]]:
    """A view for every sample from the second one on, for as long as the block lasts."""
    heard = threading.Semaphore(0)

    def sampler(hear: Callable[[Frame], None]) -> Sampler:
        def told(frame: Frame) -> None:
            hear(frame)
            heard.release()
            if not frame["available"]:  # a second look would say the same, and comes late
                heard.release()

        return Sampling(every=every, on_frame=told)

    monitor = Monitor(sampler, roster=RosterFile(roster))
    monitor.start()
    try:
        yield _views(monitor, heard, patience)
    finally:
        monitor.close()


def _views(monitor: Monitor, heard: threading.Semaphore, patience: float) -> Iterator[dict[str, Any]]:
    deadline = time.monotonic() + patience
    for _ in range(_SAMPLES):
        heard.acquire(timeout=max(0.0, deadline - time.monotonic()))
    while True:
        yield monitor.view()
        heard.acquire(timeout=patience)
