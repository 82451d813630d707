"""The GPU monitor on a machine with a real NVIDIA GPU: its figures beside ``nvidia-smi``'s, and what they cost.

``python -m bench.gpu_real``, in the root of the repository, writes ``docs/gpu-verified.md`` with driver and card. Three
things are looked at: every figure of a frame, while the GPU rests and, where torch has CUDA, while it works; what each
call of NVML takes, as a frame makes it; and whether a child that is forked from a process with torch loaded, which is
how a lab's kernel starts, can use CUDA.

Nothing depends on it. It needs Python 3.11, ``nvidia-smi`` and ``pip install nvidia-ml-py psutil rich``; the fork, and
a GPU that works, need torch with CUDA. The exit status is 1 if something differs, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.machine import this_machine
from bench.measure import median, quantile
from bench.report import Machine, grid, plain
from bench.smi import Compared, Smi, compare, compare_processes
from gradlab.gpu.nvml import Nvml, read
from labkit.forkserver import fork, listen

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "gpu-verified.md"
ROUNDS, FRAMES, STARTS = 5, 200, 5
NO_GPU = 2
_APART_SECONDS = 0.5
_LOAD_SECONDS = 120.0
_CUDA_SECONDS = 60.0

# Keeps a GPU at work, and says when it does.
_WORK = """
import torch
a = torch.ones(4096, 4096, device="cuda")
torch.cuda.synchronize()
print("working", flush=True)
while True:
    a = (a @ a).clamp(0, 1)
    torch.cuda.synchronize()
"""


@dataclass
class Costs:
    """Seconds of each call, by its name in the library; of whole frames; of a start with its first frame.

    ``cpu`` is what of a frame's time this process had a processor.
    """

    calls: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    frames: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)


@dataclass
class Verified:
    """Everything that was found out."""

    frame: Mapping[str, Any]
    compared: dict[str, Compared] = field(default_factory=dict)
    worked: str = ""
    costs: Costs = field(default_factory=Costs)
    fork: dict[str, Any] = field(default_factory=dict)

    @property
    def differences(self) -> list[str]:
        return [f"{row.name}: {one}" for row in self.compared.values() for one in row.differences]


def main(arguments: Sequence[str] | None = None) -> int:
    """Look, print, write; the exit status."""
    argparse.ArgumentParser(prog="python -m bench.gpu_real", description=__doc__).parse_args(arguments)
    frame = read()
    if not frame["available"]:
        print(f"There is no GPU here to compare with: {frame['message']}", file=sys.stderr)
        return NO_GPU
    if frame["simulated"]:
        print("The driver here is Gradlab's simulator, which proves nothing about a real one.", file=sys.stderr)
        return NO_GPU
    smi = Smi()
    try:
        smi.gpus()
    except RuntimeError as error:
        print(f"There is nothing to compare with: {error}", file=sys.stderr)
        return NO_GPU
    found = verified(smi)
    PAGE.write_text(markdown(found, _machine()), encoding="utf-8")
    print(f"Written to docs/{PAGE.name}.")
    wrong = [*found.differences, *([found.fork["problem"]] if found.fork.get("problem") else [])]
    for one in wrong:
        print(f"Differs: {one}")
    return 1 if wrong else 0


def verified(smi: Smi) -> Verified:
    """All of it, on the GPUs of this machine."""
    why = _why_no_cuda()
    found = Verified(read(), worked=why)
    look(found.compared, smi, ROUNDS)
    if not why:
        with _at_work():
            look(found.compared, smi, ROUNDS)
    found.costs = costs(FRAMES, STARTS)
    found.fork = {"skipped": why} if why else forked()
    return found


# -- figures -----------------------------------------------------------------------------------------------------------


def look(found: dict[str, Compared], smi: Smi, rounds: int) -> None:
    """Ask ``nvidia-smi``, take a frame, ask ``nvidia-smi``; so many times."""
    nvml = Nvml()
    try:
        nvml.frame()
        for _ in range(rounds):
            time.sleep(_APART_SECONDS)
            before, apps = smi.gpus(), smi.apps()
            devices = [one for one in nvml.frame()["devices"] if one["state"] == "ok"]
            compare_processes(found, devices, apps, smi.apps())
            compare(found, devices, before, smi.gpus())
    finally:
        nvml.close()


@contextlib.contextmanager
def _at_work() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", _WORK], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "working":
            raise RuntimeError("The program that should keep the GPU at work has ended.")
        time.sleep(2 * _APART_SECONDS)
        yield
    finally:
        process.kill()
        process.communicate()


def _why_no_cuda() -> str:
    """Why torch cannot compute on a GPU here, in a process of its own; empty if it can."""
    code = "import torch; print(torch.__version__, torch.cuda.is_available())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    words = done.stdout.split()
    if done.returncode or len(words) != 2:
        return "torch is not installed"
    return "" if words[1] == "True" else f"torch {words[0]} has no CUDA here"


# -- costs -------------------------------------------------------------------------------------------------------------


class _Timed:
    """A function of the library that notes how long it takes."""

    _function: Any
    _seconds: list[float]

    def __init__(self, function: Any, seconds: list[float]) -> None:
        self.__dict__.update(_function=function, _seconds=seconds)

    def __call__(self, *arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return self._function(*arguments)
        finally:
            self._seconds.append(time.perf_counter() - began)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._function, name, value)


def costs(frames: int, starts: int) -> Costs:
    """Take frames one after the other, and start the library anew a few times for what is asked rarely."""
    found = Costs()
    with _timed(found.calls):
        for _ in range(starts):
            began = time.perf_counter()
            read()
            found.starts.append(time.perf_counter() - began)
        nvml = Nvml()
        try:
            nvml.frame()
            for _ in range(frames):
                spent = time.process_time()
                found.frames.append(nvml.frame()["took"])
                found.cpu.append(time.process_time() - spent)
        finally:
            nvml.close()
    return found


@contextlib.contextmanager
def _timed(calls: Mapping[str, list[float]]) -> Iterator[None]:
    """While it lasts, each call of the binding into the library is timed."""
    import pynvml

    usual = pynvml._nvmlGetFunctionPointer
    pynvml._nvmlGetFunctionPointer = lambda name: _Timed(usual(name), calls[name])
    try:
        yield
    finally:
        pynvml._nvmlGetFunctionPointer = usual


# -- a warm kernel's fork ----------------------------------------------------------------------------------------------


def forked(run: str = "bench.gpu_real:child") -> dict[str, Any]:
    """Two children, one after the other, of a process with torch loaded: what each says, or a ``problem``."""
    with tempfile.TemporaryDirectory(prefix="gradlab-bench-") as folder:
        path = str(Path(folder) / "nursery")
        with listen(path) as listener:
            nursery = subprocess.Popen(
                [sys.executable, "-m", "labkit.nursery", str(listener.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                cwd=ROOT,
            )
        try:
            children = [_child(path, run) for _ in range(2)]
            holders = {process["pid"] for one in read()["devices"] for process in one["processes"] or ()}
            if nursery.pid in holders:
                return {"problem": "The process that is forked from is on the GPU itself."}
            return {"children": children}
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            return {"problem": f"A forked child could not use CUDA: {error}"}
        finally:
            nursery.kill()
            nursery.communicate()


def _child(path: str, run: str) -> dict[str, Any]:
    reading, writing = os.pipe()
    try:
        process = fork(path, {"run": run}, [writing], timeout=_LOAD_SECONDS)
        status = process.wait(_CUDA_SECONDS)
    finally:
        os.close(writing)
        with os.fdopen(reading) as answers:
            said = answers.read()
    if status != 0:
        raise ValueError(f"it ended with status {status}")
    answer: dict[str, Any] = json.loads(said)
    return answer


def child(_request: Mapping[str, Any], descriptors: Sequence[int]) -> int:
    """In the child: compute on the GPU, and say what came out and how long it took."""
    import torch

    began = time.perf_counter()
    total = float(torch.ones(1 << 20, device="cuda").mul(2).sum())
    answer = {"total": total, "seconds": time.perf_counter() - began, "device": torch.cuda.get_device_name()}
    os.write(descriptors[0], json.dumps(answer).encode())
    return 0 if total == 2 << 20 else 1


# -- the page ----------------------------------------------------------------------------------------------------------


def _machine() -> Machine:
    found = {}
    for name in ("nvidia-ml-py", "torch"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return this_machine(found, "python -m bench.gpu_real")


def markdown(found: Verified, machine: Machine) -> str:
    """The page: cards and driver, what agrees, what differs, what it costs."""
    frame = found.frame
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    names = Counter(str(one["name"]) for one in frame["devices"])
    cards = ", ".join(f"{count} x {name}" for name, count in names.items())
    worked = f"while it rested ({found.worked})" if found.worked else "while it rested and while it worked"
    parts = [
        "# GPU figures, verified",
        f"Written by `{machine.command}` on {machine.date}; edits are lost. {cards}; driver {frame['driver_version']}, "
        f"NVML {frame['nvml_version']}, CUDA {frame['cuda_version']}. {versions}.",
        "## Beside nvidia-smi",
        f"Each figure of a frame, {worked}: `nvidia-smi` is asked before and after, and the figure agrees if it lies "
        "between both, give or take what it may move in a moment. What both do not report agrees, too. A query of "
        "`nvidia-smi` has no field for energy, for the highest video clock, and for events.",
        grid(("figure", "nvidia-smi's field", "last value", "agreed", "not reported"), _rows(found)),
        *_differences(found),
        "## What it costs",
        _frames(found.costs),
        grid(("call", "calls", "median µs", "95th percentile µs", "longest µs"), _calls(found.costs)),
        "## A warm kernel's fork under CUDA",
        _fork(found.fork),
    ]
    return "\n\n".join(parts) + "\n"


def _rows(found: Verified) -> list[tuple[str, ...]]:
    return [
        (row.name, f"`{row.asked}`", row.example, f"{row.agreed} of {row.looks}", str(row.unreported))
        for row in found.compared.values()
    ]


def _differences(found: Verified) -> list[str]:
    said = found.differences
    return ["### What differs", "\n".join(f"- {one}" for one in said)] if said else ["Nothing differs."]


def _frames(found: Costs) -> str:
    took, most = median(found.frames) * 1000, quantile(found.frames, 0.95) * 1000
    cpu = median(found.cpu) * 1000
    return (
        f"A frame of all GPUs takes {plain(took)} ms in the median, {plain(most)} ms in the 95th percentile of "
        f"{len(found.frames)}, with {plain(cpu)} ms of processor time: {plain(cpu / 10)} % of a core at one a second. "
        f"The first one, with the start of the library, takes {plain(median(found.starts))} s."
    )


def _calls(found: Costs) -> list[tuple[str, ...]]:
    """The dearest first."""
    ordered = sorted(found.calls.items(), key=lambda one: -sum(one[1]))
    return [
        (
            f"`{name}`",
            str(len(times)),
            *(plain(1e6 * one) for one in (median(times), quantile(times, 0.95), max(times))),
        )
        for name, times in ordered
        if times
    ]


def _fork(found: Mapping[str, Any]) -> str:
    if "skipped" in found:
        return f"Not looked at: {found['skipped']}."
    if "problem" in found:
        return f"It does not work: {found['problem']}"
    times = " and ".join(f"{plain(one['seconds'])} s" for one in found["children"])
    return (
        "A child forked from a process with torch loaded, and CUDA untouched, computes on "
        f"{found['children'][0]['device']}: two of them needed {times} for their first sum, with the start of CUDA in "
        "it. Their parent is not on the GPU."
    )


if __name__ == "__main__":
    sys.exit(main())
