"""How long a learner waits for a server: ours beside a bare DockerSpawner. ``make bench-hosting`` runs it.

``python -m bench.spawn`` measures both in one run, in turns, prints the table and writes
``docs/benchmarks-hosting.md``. The exit status is 1 if a target is missed, which is then named. It needs Docker and the
images of ``make images``, from whose wheels it makes the other one's (``bench/stock/Dockerfile``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from bench.environments import BenchError
from bench.machine import this_machine
from bench.measure import Failed, median, private_memory
from bench.report import Machine, Target, grid, plain, publish
from bench.sites import Site, bare, ours
from tests.servers import Kernel, Person
from tests.waiting import until

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks-hosting.md"
ROUNDS, CLASS, ROUND_TRIPS = 7, 5, 60
_LOOK_SECONDS = 0.02
_QUIET_SECONDS = 3.0
HEADINGS = ("", "one: s", "its server, CPU s", "kernel with torch: s", "five: s", "1 + 1: ms", "hub, MiB a server")


@dataclass
class Measured:
    """What was measured of one site; an entry a round, ``trips`` one a cell."""

    title: str
    one: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    torch: list[float] = field(default_factory=list)
    five: list[float] = field(default_factory=list)
    trips: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    @property
    def numbers(self) -> tuple[float, ...]:
        """Medians, in the order of HEADINGS; round trips in milliseconds."""
        found = [median(each) for each in (self.one, self.cpu, self.torch, self.five, self.trips, self.memory)]
        found[4] *= 1000
        return tuple(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    try:
        found = _measured(2 if options.quick else ROUNDS)
    except (BenchError, Failed) as error:
        print(f"The benchmark ended: {error}", file=sys.stderr)
        return 1
    bounds = targets(*found)
    console.print(table(found))
    text = None if options.quick else lambda: markdown(found, bounds, _machine())
    return publish(bounds, console, PAGE, text)


def _machine() -> Machine:
    names = ("jupyterhub", "dockerspawner", "jupyterlab", "torch", "gradlab")
    return this_machine({name: version(name) for name in names}, "make bench-hosting")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench-hosting", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds and no page")
    return parser


def _measured(rounds: int) -> list[Measured]:
    """The bare site and ours, in turns; the first round is a warm-up and does not count."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gradlab-bench-")))
        sites = [stack.enter_context(make(folder / make.__name__, CLASS)) for make in (bare, ours)]
        found = [Measured(site.title) for site in sites]
        for number in range(rounds + 1):
            for site, measured in zip(sites, found, strict=True):
                print(f"{site.title}, round {number} of {rounds}", file=sys.stderr, flush=True)
                _round(site, measured if number else Measured(site.title))
    return found


def _round(site: Site, measured: Measured) -> None:
    person = site.people[0]
    began = time.perf_counter()
    _start(person)
    measured.one.append(time.perf_counter() - began)
    measured.cpu.append(site.server_cpu())
    with closing(person.kernel()) as kernel:
        kernel.run("import torch; torch.zeros(1)")
        measured.torch.append(time.perf_counter() - began)
        time.sleep(_QUIET_SECONDS)
        measured.trips += [_trip(kernel) for _ in range(ROUND_TRIPS)]
    person.stop_server()
    _settle(site)
    before = private_memory(site.hub.pid)
    began = time.perf_counter()
    with ThreadPoolExecutor(CLASS) as pool:
        list(pool.map(_start, site.people))
    measured.five.append(time.perf_counter() - began)
    time.sleep(_QUIET_SECONDS)
    measured.memory.append((private_memory(site.hub.pid) - before) / CLASS)
    for person in site.people:
        person.stop_server()
    _settle(site)


def _settle(site: Site) -> None:
    """Until its containers are gone, and what is done after that is done."""
    until(lambda: not site.containers(), what="the end of the servers")
    time.sleep(_QUIET_SECONDS)


def _start(person: Person) -> None:
    """Have a server started, and return when it answers through the proxy. Failed if it is not started."""
    headers = {"Authorization": f"token {person.token}"}
    with httpx.Client(base_url=person.client.base_url, headers=headers, timeout=60) as client:
        answer = client.post(f"/hub/api/users/{person.name}/server")
        if answer.status_code not in (201, 202):
            raise Failed(f"A server was not started: {answer.status_code} {answer.text}")
        while client.get(f"/user/{person.name}/api/status").status_code != 200:
            time.sleep(_LOOK_SECONDS)


def _trip(kernel: Kernel) -> float:
    began = time.perf_counter()
    if kernel.run("1 + 1") != "2":
        raise Failed("A kernel cannot add.")
    return time.perf_counter() - began


def targets(stock: Measured, ours: Measured) -> tuple[Target, ...]:
    """All targets, the missed ones too."""
    return (
        Target("one server, of bare", median(ours.one) / median(stock.one), 0.7, " x"),
        Target("five servers at once, of bare", median(ours.five) / median(stock.five), 0.7, " x"),
        Target("processor time of a server's start, of bare", median(ours.cpu) / median(stock.cpu), 0.7, " x"),
        Target("round trip of 1 + 1", median(ours.trips) * 1000, 10, " ms"),
    )


def table(found: Sequence[Measured]) -> Table:
    made = Table(title="A learner's server: medians")
    for heading in HEADINGS:
        made.add_column(heading, justify="right" if heading else "left")
    for measured in found:
        made.add_row(measured.title, *map(plain, measured.numbers))
    return made


def markdown(found: Sequence[Measured], bounds: Sequence[Target], machine: Machine) -> str:
    """The page: the numbers, what they were measured on, and how each is defined."""
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    rows = [(measured.title, *map(plain, measured.numbers)) for measured in found]
    stock, mine = found
    ratios = [theirs / ours if ours > 0 else None for theirs, ours in zip(stock.numbers, mine.numbers, strict=True)]
    rows.append(("bare to ours", *map(plain, ratios)))
    definitions = [
        f"- Medians of {len(mine.one)} rounds ({len(mine.trips)} cells for the round trip), in which both take turns, "
        "after one that does not count.",
        "- **bare DockerSpawner**: JupyterHub with DockerSpawner's defaults, in a process of the machine, and an image "
        "with JupyterLab, jupyterhub-singleuser and torch, installed from the same wheels as ours "
        "(`bench/stock/Dockerfile`).",
        "- **Gradlab**: `docker compose up`, as in docs/operators.md. Each server has a volume, a network of its own, "
        "limits, and the labs.",
        "- **one**, **five**: from the request that starts a server, or five at the same moment, until all of them "
        "answer through the proxy.",
        "- **its server, CPU s**: user and system time of the `jupyterhub-singleuser` process until then.",
        "- **kernel with torch**: from the same request until a new kernel has answered "
        "`import torch; torch.zeros(1)`.",
        f"- **1 + 1**: from sending the cell to its last message, over the proxy's websocket, {_QUIET_SECONDS:.0f} s "
        "after the kernel was ready.",
        "- **hub, MiB a server**: memory that the hub's process alone has (USS), with five servers running and before, "
        "divided by five.",
    ]
    return (
        "\n\n".join(
            [
                "# Benchmarks of a hosted server",
                f"Written by `{machine.command}` on {machine.date}; edits are lost. On {machine.cores} cores "
                f"({machine.processor}), {machine.memory_gib:.0f} GiB of memory. {versions}.",
                grid(HEADINGS, rows),
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
