"""GPU monitors for tests: a machine with containers on paper, and the real service on a real Unix socket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from gradlab.gpu.frames import unavailable
from gradlab.gpu.host import Host
from gradlab.gpu.monitor import Frame, Monitor
from gradlab.gpu.nvml import Nvml
from gradlab.gpu.residents import Residents
from gradlab.gpu.web import create_monitor_app
from gradlab.roster import Roster
from tests.nvml import GIB, Library, loaded
from tests.procs import process
from tests.waiting import until

__all__ = ["ADA", "BOB", "NOBODYS", "InThread", "Machine", "Service", "asking", "monitoring", "serving"]

ADA, BOB = "a" * 64, "b" * 64
# A process that is in no container.
NOBODYS = 99


class Machine:
    """``/proc`` and the tree of cgroups (version 2, systemd) of a machine, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.cgroups = folder / "proc", folder / "cgroup"
        self.cgroups.mkdir(parents=True)
        (self.cgroups / "cgroup.controllers").write_text("cpu memory\n")
        (self.proc / "self" / "ns").mkdir(parents=True)
        (self.proc / "self" / "ns" / "pid").symlink_to("pid:[4026532000]")
        self.process("self", "/system.slice/docker-" + "f" * 64 + ".scope")
        self.process(1, "/init.scope")

    @property
    def host(self) -> Host:
        return Host(self.proc, self.cgroups)

    def process(self, pid: int | str, path: str) -> None:
        process(self.proc, pid, f"0::{path}\n")

    def container(self, container: str, *pids: int) -> Path:
        """A container with these processes; the folder of its group."""
        for pid in pids:
            self.process(pid, f"/system.slice/docker-{container}.scope")
        group = self.cgroups / "system.slice" / f"docker-{container}.scope"
        group.mkdir(parents=True, exist_ok=True)
        self.computed(container, 0.0)
        return group

    def computed(self, container: str, seconds: float) -> None:
        """This is how long the container has used processors so far."""
        group = self.cgroups / "system.slice" / f"docker-{container}.scope"
        (group / "cpu.stat").write_text(f"usage_usec {seconds * 1e6:.0f}\nuser_usec 0\nsystem_usec 0\n")


class InThread:
    """A sampler that reads in a thread of this process, where a test has put a driver of its own below the binding."""

    def __init__(self, nvml: Nvml, hear: Callable[[Frame], None], *, every: float = 0.02) -> None:
        self._nvml, self._hear, self._every = nvml, hear, every
        self._latest = unavailable("silent", "Nothing has been heard of the NVIDIA driver yet.")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="samples", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join(2)
        self._nvml.close()

    def latest(self) -> Frame:
        return self._latest

    def limit(self, gpu: str, group: Path, size: int | None) -> None:
        self._nvml.limit(gpu, group, size)

    def _work(self) -> None:
        while not self._ending.wait(self._every):
            self._latest = self._nvml.frame()
            self._hear(self._latest)


@contextmanager
def serving(app: FastAPI, socket: Path, **options: Any) -> Iterator[httpx.Client]:
    """The application on a Unix socket while the block runs, and a client for it."""
    server = uvicorn.Server(uvicorn.Config(app, uds=str(socket), log_level="warning", lifespan="off", **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, what="the service's start")
        with asking(socket) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def asking(socket: Path, **options: Any) -> Iterator[httpx.Client]:
    """A client for the service at this socket."""
    transport = httpx.HTTPTransport(uds=str(socket))
    with httpx.Client(transport=transport, base_url="http://gpus", timeout=20, **options) as client:
        yield client


@dataclass
class Service:
    """The GPU monitor's service at work, and what it sees."""

    library: Library
    machine: Machine
    client: httpx.Client
    socket: Path

    def get(self, path: str) -> Any:
        return self.client.get(path).raise_for_status().json()

    def sampled(self, what: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The first activity of which this is true."""
        return until(lambda: (found := self.get("/activity")) and what(found) and found, 10, what="that activity")

    def limit(self, **values: Any) -> Any:
        wanted = {"container": ADA, "pid": 10, "gpu": "GPU-0", "bytes": 4 * GIB}
        answer = self.client.post("/limits", json=wanted | values)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def monitoring(
    folder: Path, library: Library | None, roster: Callable[[], Roster] = Roster, **options: Any
) -> Iterator[Service]:
    """The service with this driver, on a machine where Ada has the processes 10 and 11 and Bob has 20."""
    machine = Machine(folder)
    machine.container(ADA, 10, 11)
    machine.container(BOB, 20)
    machine.process(NOBODYS, "/user.slice/session-2.scope")
    socket = folder / "gpus.sock"
    with ExitStack() as stack:
        stack.enter_context(loaded(library))
        nvml = Nvml(cgroups=machine.cgroups)
        monitor = Monitor(
            lambda hear: InThread(nvml, hear),
            host=machine.host,
            residents=Residents(machine.proc),
            roster=roster,
            **options,
        )
        client = stack.enter_context(serving(create_monitor_app(monitor), socket))
        stack.enter_context(closing(monitor))
        monitor.start()
        until(lambda: monitor.reading()["state"] != "silent", what="the first frame")
        yield Service(library or Library(), machine, client, socket)
