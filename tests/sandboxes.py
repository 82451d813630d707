"""Sandboxes of every kind, and programs to run in them: what the tests of the sandboxes' contract are made of.

``python -m tests.sandboxes METHOD MARK`` is the owner of a sandbox, waiting to be killed.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psutil
import pytest

from checker.nursery import Nursery
from checker.sandbox.base import Sandbox
from checker.sandbox.config import SandboxConfig
from checker.sandbox.confinement import Confinement, Limits, command
from checker.sandbox.docker import DockerSandbox
from checker.sandbox.process import ProcessSandbox
from checker.student import Student
from checker.workplace import Workplace
from gradlab.settings import ROOT
from tests.servers import reachable

__all__ = [
    "CONFIG",
    "ISOLATING",
    "LEAVE_CHILD",
    "METHODS",
    "STARTED",
    "WARM",
    "configured",
    "demanded",
    "isolates",
    "marked",
    "nursery",
    "open_sandbox",
    "params",
    "program",
    "run",
    "start",
]

# Process sandboxes are started, and forked from a nursery: confined in two ways that must not differ.
METHODS = ("bubblewrap", "unshare", "docker", "bubblewrap, forked", "unshare, forked", "plain", "plain, forked")
# Those with namespaces of their own, those whose agent is a program of its own, and those that load what torch loads
# only when it is used.
ISOLATING = tuple(name for name in METHODS if not name.startswith("plain"))
STARTED = tuple(name for name in METHODS if not name.endswith("forked"))
WARM = tuple(name for name in METHODS if name == "docker" or name.endswith("forked"))
CONFIG = SandboxConfig(memory_mb=800, processes=24, scratch_mb=8, output_kb=64, installation="gradlab-tests")
_START_SECONDS = 120

# A child that outlives its parent, and is found by its name.
LEAVE_CHILD = """
import os
if os.fork() == 0:
    os.setsid()
    os.execv("/bin/sleep", ["{mark}", "600"])
"""


def params(*methods: str) -> list[Any]:
    """Each method's tests go to one process of the tests, which starts the sandbox that they share once."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in methods]


isolates = pytest.mark.parametrize("method", params(*ISOLATING), indirect=True)


def demanded(method: str, require: Callable[..., None]) -> str:
    """The method itself, if it can be tried here; else ``require`` skips or fails the test."""
    if method.startswith("plain"):
        # An ordinary user's has neither a user id nor a PID namespace of its own: what these tests do to their own
        # processes, kill(-1) among it, would be done to all of the user's.
        require("root")
    require(method.partition(",")[0], {"plain": _why_not_plain(), "plain, forked": ""}.get(method))
    return method


@functools.cache
def nursery() -> str:
    """The socket of a nursery that all tests of this process share."""
    workplace = Workplace()
    made = Nursery(workplace, "plain")
    atexit.register(workplace.close)
    atexit.register(made.close)
    made.ensure()
    return made.sandboxes


def configured(method: str, **config: Any) -> SandboxConfig:
    """The tests' configuration for one of :data:`METHODS`."""
    name, _, forked = method.partition(", ")
    made: SandboxConfig = replace(CONFIG, method=name, nursery=nursery() if forked else "", **config)
    return made


def open_sandbox(config: SandboxConfig) -> Sandbox:
    if config.method == "docker":
        return DockerSandbox(config)
    return ReachableSandbox(config) if config.method == "plain" else ProcessSandbox(config)


class ReachableSandbox(ProcessSandbox):
    """One without namespaces, whose user may read this environment wherever it lies: below /root, say."""

    def _launch(self, theirs: list[int]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("checker.sandbox.process.command", lambda *what: [*_reaching(), *command(*what)])
            super()._launch(theirs)


@functools.cache
def _reaching() -> tuple[str, ...]:
    """What ``plain`` is started by, so that its user can read this environment."""
    return () if not _fault_of_plain(()) else tuple(reachable())


@functools.cache
def _why_not_plain() -> str:
    """Why the agent cannot run without namespaces: its user may not read this environment. Empty if it can."""
    return _fault_of_plain(_reaching())


def _fault_of_plain(prefix: tuple[str, ...]) -> str:
    argv = command("plain", Confinement(Limits(), scratch_mb=1, uid=65_000), [sys.executable, "-c", "import labkit"])
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*prefix, *argv], capture_output=True, text=True, timeout=60, cwd="/", env=environment)
    return done.stderr.strip()[-200:]


def start(method: str, **config: Any) -> Sandbox:
    """A sandbox that is ready; to be closed by the caller."""
    sandbox = open_sandbox(configured(method, **config))
    try:
        sandbox.start()
        sandbox.wait_ready(_START_SECONDS)
    except BaseException as error:
        error.add_note(f"It printed: {sandbox.take_output()}")
        sandbox.close()
        raise
    return sandbox


def program(sandbox: Sandbox, source: str, *, seconds: float = 30) -> Student:
    """A learner's program, started."""
    student = Student(sandbox, seconds=seconds)
    student._load([{"source": textwrap.dedent(source), "cell": 1, "line": 1}], [], 1)
    return student


def run(sandbox: Sandbox, source: str, *args: Any, seconds: float = 30) -> Any:
    """What the program's function ``main`` returns; the program ends."""
    student = program(sandbox, source, seconds=seconds)
    try:
        return student.main(*args).value
    finally:
        if student._ended is None:
            student._end()


def marked(mark: str) -> list[psutil.Process]:
    """The processes that have ``mark`` as their name, wherever on this machine they are."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if (process.info["cmdline"] or [""])[0] == mark and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def _own(method: str, mark: str) -> None:
    sandbox = start(method, holder="killed")
    student = program(sandbox, LEAVE_CHILD.format(mark=mark) + "def main():\n    while True:\n        pass\n")
    print("running", flush=True)
    with contextlib.suppress(Exception):
        student.main()
    time.sleep(600)


if __name__ == "__main__":
    _own(*sys.argv[1:])
