"""What it costs to watch GPUs: the GPU monitor beside nvitop and gpustat. ``make bench-gpu`` runs it.

``python -m bench.gpu`` measures all on one simulated machine in one run, in turns: eight GPUs, two hundred real
processes of forty learners, a look every second. It prints the table and writes ``docs/benchmarks-gpu.md``. The exit
status is 1 if a target is missed, which is then named. It needs a C compiler, for the simulated driver.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from bench.environments import BenchError
from bench.machine import this_machine
from bench.measure import Failed, cpu_seconds, median, tree
from bench.report import Machine, Target, grid, plain, publish
from gradlab.errors import SimulatorError
from gradlab.gpu.simulator import environment, scenario
from gradlab.roster import Roster, Server, write
from gradlab.settings import ROOT
from tests.households import Household
from tests.simulated import GIB, MIB, device, driver
from tests.waiting import until

PAGE = ROOT / "docs" / "benchmarks-gpu.md"
ROUNDS, WINDOW_SECONDS, CHANGES = 4, 15.0, 40
GPUS, LEARNERS, EACH = 8, 40, 5
PROCESSES = LEARNERS * EACH
HEADINGS = ("", "CPU: % of a core", "least", "most", "to ours", "memory: MiB")
DETAILS = ("", "CPU: % of a core", "memory: MiB")
_SETTLE_SECONDS = 4.0
_LOOK_SECONDS = 0.01
_BOUND = 2.0

# Each says first how many GPUs and processes it sees, then looks every second.
_EVERY_SECOND = """
import time
print(*count(look()), flush=True)
due = time.monotonic()
while True:
    look()
    due = max(due + 1, time.monotonic())
    time.sleep(max(0, due - time.monotonic()))
"""
_NVITOP = """
from nvitop import take_snapshots as look
count = lambda found: (len(found.devices), len(found.gpu_processes))
"""
_GPUSTAT = """
import gpustat
look = lambda: gpustat.new_query().jsonify()
count = lambda found: (len(found["gpus"]), sum(len(one["processes"]) for one in found["gpus"]))
"""
_GPUSTAT_COMMAND = """
import json, os, subprocess, sys
command = [os.path.join(os.path.dirname(sys.executable), "gpustat"), "--json"]
look = lambda: json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
count = lambda found: (len(found["gpus"]), sum(len(one["processes"]) for one in found["gpus"]))
"""
PEERS = {
    "nvitop": ("nvitop", "`nvitop.take_snapshots()` every second in one process"),
    "gpustat": ("gpustat", "`gpustat.new_query()` every second in one process, as `gpustat --watch` does"),
    "command": ("gpustat --json", "the command itself, started every second, or once the one before has ended"),
}
_CODE = {"nvitop": _NVITOP, "gpustat": _GPUSTAT, "command": _GPUSTAT_COMMAND}
OURS, WATCHED = "ours", "watched"


@dataclass
class Measured:
    """One tool; an entry a round: ``cpu`` in percent of a core, ``memory`` (RSS of all its processes) in MiB."""

    title: str
    definition: str
    cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


@dataclass
class Found:
    """Everything that was measured: ``parts`` are the two processes of ours, ``delays`` in seconds."""

    tools: dict[str, Measured]
    parts: dict[str, Measured]
    delays: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    try:
        found = _measured(1 if options.quick else ROUNDS, CHANGES // 5 if options.quick else CHANGES)
    except (BenchError, Failed, SimulatorError) as error:
        print(f"The benchmark ended: {error}", file=sys.stderr)
        return 1
    bounds = targets(found)
    console.print(table(found))
    text = None if options.quick else lambda: markdown(found, bounds, _machine())
    return publish(bounds, console, PAGE, text)


def _machine() -> Machine:
    names = ("nvidia-ml-py", "nvitop", "gpustat", "gradlab")
    return this_machine({name: version(name) for name in names}, "make bench-gpu")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench-gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, fewer changes and no page")
    return parser


# -- the measurements --------------------------------------------------------------------------------------------------


def blank() -> Found:
    """Nothing is measured yet."""
    tools = {
        OURS: Measured("Gradlab", "`gradlab gpu-monitor`: its own process and the sampler's, with nobody asking"),
        WATCHED: Measured("Gradlab, watched", "the same while a client reads the view (`GET /view`) every second"),
    }
    tools |= {key: Measured(title, definition) for key, (title, definition) in PEERS.items()}
    parts = {"sampler": Measured("sampler", "asks NVML"), "monitor": Measured("monitor", "owners, account, history")}
    return Found(tools, parts)


def _measured(rounds: int, changes: int) -> Found:
    found = blank()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gradlab-bench-")))
        lab = stack.enter_context(Lab.opened(folder))
        for number in range(1, rounds + 1):
            _say(f"Gradlab, round {number} of {rounds}")
            with _service(lab) as (process, client):
                _ours(process, client, found)
                if number == rounds:
                    _say(f"{changes} changes, until the view has them")
                    found.delays = [_delay(lab, client) for _ in range(changes)]
            for key in PEERS:
                _say(f"{PEERS[key][0]}, round {number} of {rounds}")
                with _peer(lab, key) as process:
                    _watch(process, found.tools[key])
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass
class Lab:
    """Forty learners with five processes each, on eight simulated GPUs."""

    folder: Path
    households: list[tuple[int, list[int]]]
    env: dict[str, str] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Lab]:
        with ExitStack() as stack:
            households = [stack.enter_context(contextlib.closing(Household())) for _ in range(LEARNERS)]
            lab = cls(folder, [(one.pid, [one.bear() for _ in range(EACH)]) for one in households])
            lab.change(0)
            lab.env = os.environ | environment(lab.scenario)
            servers = [
                Server(f"learner-{number:02}", lab="05_attention", pid=pid, device=f"GPU-{number % GPUS}", since=1.0)
                for number, (pid, _) in enumerate(lab.households)
            ]
            write(folder / "servers.json", Roster(tuple(servers), mode="shared:5", slots=LEARNERS))
            yield lab

    @property
    def scenario(self) -> Path:
        return self.folder / "scenario"

    def change(self, used: int) -> None:
        """So many MiB more are in use on the first GPU."""
        scenario.write(self.scenario, driver(*(self._device(gpu, used if gpu == 0 else 0) for gpu in range(GPUS))))

    def _device(self, gpu: int, used: int) -> Mapping[str, Any]:
        pids = [pid for _, found in self.households[gpu::GPUS] for pid in found]
        return device(
            gpu,
            memory={"total": 140 * GIB, "reserved": GIB, "used": len(pids) * GIB + used * MIB},
            utilisation={"gpu": 75, "memory": 20},
            processes=[{"pid": pid, "memory": GIB, "type": "C"} for pid in pids],
            process_samples=[{"pid": pid, "time": "now", "sm": 3, "memory": 1} for pid in pids],
        )


@contextmanager
def _service(lab: Lab) -> Iterator[tuple[psutil.Process, httpx.Client]]:
    """The shipped GPU monitor, once it knows all processes, and a client for it."""
    known = {"GRADLAB_RUN_DIR": str(lab.folder), "GRADLAB_STATE_DIR": str(lab.folder), "GRADLAB_SPAWNER": "process"}
    command = [str(Path(sys.executable).with_name("gradlab")), "gpu-monitor"]
    transport = httpx.HTTPTransport(uds=str(lab.folder / "gpus.sock"))
    with (
        _program(command, lab.env | known) as process,
        httpx.Client(transport=transport, base_url="http://gpus", timeout=10) as client,
    ):
        until(lambda: _alive(process) and _seen(client) == (GPUS, PROCESSES), what="a view of all processes")
        yield psutil.Process(process.pid), client


@contextmanager
def _peer(lab: Lab, key: str) -> Iterator[psutil.Process]:
    """Another tool, once it has shown that it sees all processes."""
    with _program([sys.executable, "-c", _CODE[key] + _EVERY_SECOND], lab.env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = process.stdout.readline().split()
        if [int(word) for word in said] != [GPUS, PROCESSES]:
            raise Failed(f"{PEERS[key][0]} sees {said}, not {GPUS} GPUs and {PROCESSES} processes.")
        yield psutil.Process(process.pid)


@contextmanager
def _program(command: Sequence[str], env: Mapping[str, str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Ended afterwards, with whatever it has started."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, env=env, cwd=ROOT, stderr=errors, start_new_session=True, **options)
        try:
            yield process
        except (AssertionError, Failed) as error:
            errors.seek(0)
            last = b"\n".join(errors.read().splitlines()[-10:]).decode(errors="replace")
            raise Failed(f"{error}\n{last}".rstrip()) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _alive(process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, f"it ended with status {process.returncode}"
    return True


def _seen(client: httpx.Client) -> tuple[int, int]:
    """GPUs, and processes that are known to be a learner's and at work."""
    with contextlib.suppress(httpx.HTTPError):
        view = client.get("/view").json()
        busy = [one for one in view["servers"] if one["utilisation"]]
        return len(view["devices"]), sum(one["processes"] for one in busy)
    return 0, 0


def _ours(process: psutil.Process, client: httpx.Client, found: Found) -> None:
    sampler = next(one for one in process.children() if "gradlab.gpu.sampler" in one.cmdline())
    _watch(process, found.tools[OURS], lambda: _parts(process, sampler), found.parts)
    ending = threading.Event()

    def read() -> None:
        while not ending.wait(1.0):
            client.get("/view").raise_for_status()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        _watch(process, found.tools[WATCHED])
    finally:
        ending.set()
        reader.join()


def _parts(monitor: psutil.Process, sampler: psutil.Process) -> dict[str, tuple[float, float]]:
    """Of each its CPU seconds so far and its memory in MiB."""
    return {
        name: (sum(process.cpu_times()[:2]), process.memory_info().rss / MIB)
        for name, process in (("monitor", monitor), ("sampler", sampler))
    }


def _watch(
    process: psutil.Process,
    tool: Measured,
    look: Callable[[], dict[str, tuple[float, float]]] = dict,
    parts: Mapping[str, Measured] | None = None,
) -> None:
    """One window: CPU time and memory of a process and its descendants, and of the ``parts`` that ``look`` sees."""
    time.sleep(_SETTLE_SECONDS)
    began, spent, before = time.perf_counter(), cpu_seconds(process.pid), look()
    time.sleep(WINDOW_SECONDS)
    if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
        raise Failed(f"{tool.title} ended while it was measured.")
    took, spent, after = time.perf_counter() - began, cpu_seconds(process.pid) - spent, look()
    tool.cpu.append(100 * spent / took)
    tool.memory.append(sum(_resident(one) for one in tree(process.pid)))
    for name, part in (parts or {}).items():
        part.cpu.append(100 * (after[name][0] - before[name][0]) / took)
        part.memory.append(after[name][1])


def _resident(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        return float(process.memory_info().rss / MIB)
    return 0.0


def _delay(lab: Lab, client: httpx.Client) -> float:
    """Seconds from a change, at any moment between two looks, until the view has it."""
    time.sleep(random.uniform(0.0, 1.0))
    used = random.randrange(1, 1024)
    lab.change(used)
    began = time.perf_counter()
    wanted = PROCESSES // GPUS * GIB + used * MIB
    while client.get("/view").json()["devices"][0]["memory_used"] != wanted:
        if time.perf_counter() - began > 20:
            raise Failed("The view does not show a change within 20 s.")
        time.sleep(_LOOK_SECONDS)
    return time.perf_counter() - began


# -- what they amount to -----------------------------------------------------------------------------------------------


def targets(found: Found) -> tuple[Target, ...]:
    """All targets, the missed ones too."""
    ours = median(found.tools[OURS].cpu)
    return (
        Target("sampler and monitor, of a core", ours, _BOUND, " %"),
        Target("from a change to the view, longest", max(found.delays), 1.5, " s"),
    )


def _rows(found: Found) -> list[tuple[str, ...]]:
    ours = median(found.tools[OURS].cpu)
    return [
        (
            tool.title,
            plain(median(tool.cpu)),
            plain(min(tool.cpu)),
            plain(max(tool.cpu)),
            plain(median(tool.cpu) / ours if ours > 0 else None),
            plain(median(tool.memory)),
        )
        for tool in found.tools.values()
    ]


def table(found: Found) -> Table:
    made = Table(title=f"{GPUS} GPUs, {PROCESSES} processes, a look every second: medians")
    for heading in HEADINGS:
        made.add_column(heading, justify="right" if heading else "left")
    for row in _rows(found):
        made.add_row(*row)
    return made


def markdown(found: Found, bounds: Sequence[Target], machine: Machine) -> str:
    """The page: the numbers, what they were measured on, and how each is defined."""
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    parts = [(one.title, plain(median(one.cpu)), plain(median(one.memory))) for one in found.parts.values()]
    delays = f"{plain(median(found.delays))} s in the median, {plain(max(found.delays))} s at most"
    definitions = [
        f"- Medians of {len(found.tools[OURS].cpu)} rounds, in which all take turns; a round is {WINDOW_SECONDS:g} s "
        f"after {_SETTLE_SECONDS:g} s that do not count.",
        f"- The machine has {GPUS} simulated GPUs and {PROCESSES} real processes of {LEARNERS} learners on them, all "
        "busy. The simulated driver answers within microseconds. How long a real one takes, `python -m bench.gpu_real` "
        "measures where there is one (docs/gpu-verified.md).",
        "- **CPU**: user and system time of all processes of the tool, in percent of one core. **To ours**: divided by "
        "that of Gradlab.",
        "- **Memory**: RSS of all processes of the tool, at the end of a round.",
        f"- **From a change to the view**: {len(found.delays)} changes of the scenario, at any moment between two "
        "looks, until the view has them.",
        "- Each tool shows first that it sees all GPUs and all processes, or the run ends. They do not do the same: "
        "nvitop and gpustat read command, user, CPU and memory of each process every time; Gradlab finds out whose a "
        "process is when it comes, keeps an hour of history, and writes the account of GPU-seconds.",
        *(f"- **{tool.title}**: {tool.definition}." for tool in found.tools.values()),
    ]
    return (
        "\n\n".join(
            [
                "# Benchmarks of the GPU monitor",
                f"Written by `{machine.command}` on {machine.date}; edits are lost. On {machine.cores} cores "
                f"({machine.processor}), {machine.memory_gib:.0f} GiB of memory. {versions}.",
                grid(HEADINGS, _rows(found)),
                "## Gradlab in detail",
                grid(DETAILS, parts),
                f"A change is in the view after {delays}.",
                "## Targets",
                grid(("", "bound", "measured", ""), [(target.name, *target.words) for target in bounds]),
                "## What is measured",
                "\n".join(definitions),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
