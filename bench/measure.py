"""Wall time, CPU time and memory of a process and all its descendants; summaries of repeated measurements.

Memory is sampled by a process of its own (``python -m bench.measure PID``), in runs of their own: reading the memory
map of a process with torch loaded holds that process up for milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = [
    "ERRORS",
    "OUTPUT",
    "Failed",
    "Memory",
    "MemoryWatch",
    "Sample",
    "cpu_seconds",
    "living",
    "median",
    "private_memory",
    "quantile",
    "run",
]

OUTPUT, ERRORS = "output.txt", "errors.txt"
_EVERY_SECONDS = 0.02


class Failed(RuntimeError):
    """A tool did not do what was to be measured; the text ends with what it printed last."""


@dataclass(frozen=True)
class Sample:
    """One measurement: wall-clock seconds, and CPU seconds (user and system) of the whole process tree."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Memory:
    """Most memory at one time in MiB: ``peak`` of the whole tree (PSS), ``private`` of the processes that ended."""

    peak: float
    private: float


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed (nearest rank, nothing interpolated)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def run(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], ok: Sequence[int] = (0,), memory: bool = False
) -> tuple[Sample, Memory | None]:
    """Run a command to its end, sampling its memory if asked to. Failed if its exit status is none of ``ok``.

    What it prints is in ``cwd`` afterwards, in the files OUTPUT and ERRORS.
    """
    log = cwd / ERRORS
    with (cwd / OUTPUT).open("w") as output, log.open("w") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        watch = MemoryWatch(process.pid) if memory else None
        # Of the process and of every descendant that was waited for, which for these tools is all of them.
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        found = watch.stop() if watch else None
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in ok:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise Failed(f"{Path(argv[0]).name} ended with status {process.returncode}:\n{last}")
    return Sample(wall, usage.ru_utime + usage.ru_stime), found


def tree(pid: int, *, containers: bool = False) -> list[psutil.Process]:
    """A process and its descendants; with ``containers`` also every process in a container of this machine."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        found = {process.pid: process for process in [root, *root.children(recursive=True)]}
        if containers:
            shims = [p for p in psutil.process_iter(["name"]) if str(p.info["name"]).startswith("containerd-shim")]
            for shim in shims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found |= {process.pid: process for process in shim.children(recursive=True)}
        return list(found.values())
    return []


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process, its descendants and those of them that ended and were waited for have used."""
    total = 0.0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def living(pid: int) -> set[int]:
    """The descendants that have not ended; a zombie has."""
    found = set()
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found


def private_memory(pid: int | str = "self") -> float:
    """Memory that this process alone has (USS), in MiB."""
    return _memory(pid)[1]


def _memory(pid: int | str) -> tuple[float, float]:
    """PSS (shared pages divided by how many share them) and USS (only its own), in MiB; zeros once it has ended."""
    sizes = {"Pss:": 0, "Private_Clean:": 0, "Private_Dirty:": 0, "Private_Hugetlb:": 0}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, *rest = line.split()
            if name in sizes:
                sizes[name] = int(rest[0])
    pss = sizes.pop("Pss:")
    return pss / 1024, sum(sizes.values()) / 1024


class MemoryWatch:
    """Samples the memory of a process tree from another process, from the start until :meth:`stop`."""

    def __init__(self, pid: int, *, containers: bool = False) -> None:
        argv = [sys.executable, "-m", "bench.measure", str(pid), *(["containers"] if containers else [])]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()  # the first sample is taken

    def stop(self) -> Memory:
        """End the sampling. Failed if this user may not read the memory maps."""
        answer, _ = self._process.communicate("")
        if self._process.returncode:
            raise Failed("The memory of a process could not be read: run the benchmark as the user who owns them all.")
        return Memory(**json.loads(answer))


def ended_private(samples: Sequence[Mapping[int, float]], survivors: set[int]) -> float:
    """The most that processes which are no survivors had for themselves at one time, from USS by process id.

    A page counts for whom it belonged to when nobody shared it: a process that forks shares all it has with its child,
    but it has not become cheaper by that. So each process counts with the most it has had so far.
    """
    most: dict[int, float] = {}
    highest = 0.0
    for sample in samples:
        for pid, size in sample.items():
            most[pid] = max(size, most.get(pid, 0.0))
        highest = max(highest, sum(most[pid] for pid in sample if pid not in survivors))
    return highest


def _watch(pid: int, containers: bool) -> Iterator[tuple[float, dict[int, float]]]:
    """Samples of PSS in all and USS by process, until the standard input ends."""
    while True:
        sizes = {process.pid: _memory(process.pid) for process in tree(pid, containers=containers)}
        yield sum(pss for pss, _ in sizes.values()), {number: uss for number, (_, uss) in sizes.items()}
        if select.select([sys.stdin], [], [], _EVERY_SECONDS)[0]:
            return


def main() -> None:
    pid, containers = int(sys.argv[1]), "containers" in sys.argv
    samples: list[tuple[float, dict[int, float]]] = []
    for sample in _watch(pid, containers):
        if not samples:
            print(flush=True)
        samples.append(sample)
    survivors = {process.pid for process in tree(pid, containers=containers)}
    private = ended_private([sizes for _, sizes in samples], survivors)
    print(json.dumps({"peak": max(pss for pss, _ in samples), "private": private}))


if __name__ == "__main__":
    main()
