"""GPU sampling for tests: the real supervisor and its real child, at twenty frames a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil

from gradlab.gpu.sampling import Frame, Sampling
from tests.simulated import GIB, Simulated, driver, simulated
from tests.waiting import until

__all__ = ["EVERY", "HIDDEN", "HOST", "Sampled", "children", "first", "runs", "sample", "sampled", "sampling"]

EVERY = 0.05
# Of a simulated driver: the numbers of processes are as they are written, though there are no such processes.
HOST = {"visibility": "host"}
HIDDEN = (
    "The driver does not say which processes use this GPU, so whether it is idle is not known. Give the GPU monitor "
    "more rights: docs/operators.md, “Idle servers and idle GPUs”, has them."
)
_PATIENCE = 30.0


class Sampled:
    """A sampler at work. ``frames`` are all that it gave so far."""

    def __init__(self, sampling: Sampling, frames: list[Frame]) -> None:
        self.sampling, self.frames = sampling, frames

    def sees(self, what: Callable[[Frame], Any]) -> Frame:
        """The first frame from now on of which this is true."""
        before = len(self.frames)

        def found() -> Frame | None:
            return next((frame for frame in self.frames[before:] if what(frame)), None)

        return until(found, _PATIENCE, what="that frame")

    def state(self, state: str) -> Frame:
        return self.sees(lambda frame: frame["state"] == state)

    def device(self, what: Callable[[dict[str, Any]], Any], index: int = 0) -> dict[str, Any]:
        """A GPU in the first frame from now on in which this is true of it."""
        frame = self.sees(lambda frame: len(frame["devices"]) > index and what(frame["devices"][index]))
        device: dict[str, Any] = frame["devices"][index]
        return device

    @property
    def child(self) -> psutil.Process:
        """The process that asks the driver."""
        (child,) = until(children, _PATIENCE, what="a sampler")
        return child


def children(of: psutil.Process | None = None) -> list[psutil.Process]:
    """The processes that ask the driver, started by this one or another."""
    found = []
    for process in (of or psutil.Process()).children():
        try:
            if "gradlab.gpu.sampler" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


@contextmanager
def sampled(**options: Any) -> Iterator[Sampled]:
    frames: list[Frame] = []

    def hear(frame: Frame) -> None:
        frames.append(frame)

    with closing(Sampling(**({"every": EVERY, "on_frame": hear} | options))) as sampling:
        sampling.start()
        yield Sampled(sampling, frames)


@contextmanager
def sampling(
    folder: Path, *devices: Mapping[str, Any], without: Sequence[str] = (), deadline: float = 30.0, **fields: Any
) -> Iterator[tuple[Simulated, Sampled]]:
    sim = simulated(folder, driver(*devices, **HOST, **fields), without=without)
    with sampled(env=sim.env, deadline=deadline) as gpus:
        yield sim, gpus


def first(folder: Path, *devices: Mapping[str, Any], without: Sequence[str] = (), **fields: Any) -> dict[str, Any]:
    """The first frame under this driver."""
    with sampling(folder, *devices, without=without, **fields) as (_, gpus):
        return gpus.sampling.first(30)


def runs(pid: int, memory: int | None = GIB, kinds: str = "C", **more: Any) -> dict[str, Any]:
    return {"pid": pid, "memory": memory, "type": kinds} | more


def sample(pid: int, sm: int, at: int | str = "now") -> dict[str, Any]:
    return {"pid": pid, "time": at, "sm": sm, "memory": 1, "encoder": 0, "decoder": 0}
