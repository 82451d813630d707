"""How a sandbox ends, tried on each kind: at a bound, with its owner, or closed; and what is left of it then."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import psutil
import pytest
import torch

from checker.results import Outcome
from checker.sandbox import base
from checker.sandbox.base import Sandbox, SandboxBroken, SandboxTimeout
from checker.student import ProgramEnded
from gradlab.settings import ROOT
from labkit.wire import MAX_PAYLOAD, PREFIX
from tests.conftest import Require
from tests.sandboxes import (
    CONFIG,
    ISOLATING,
    LEAVE_CHILD,
    METHODS,
    STARTED,
    configured,
    demanded,
    isolates,
    marked,
    open_sandbox,
    params,
    program,
    run,
    start,
)
from tests.waiting import ended, until

is_started = pytest.mark.parametrize("method", params(*STARTED), indirect=True)

# When it is next asked something, it begins an answer of the greatest size itself, and goes on with it.
ANSWER = f"""
import fcntl, os, select, stat, threading
pipes = {{}}
for number in range(3, 64):
    try:
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            pipes[fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE] = number
    except OSError:
        pass
def answer():
    select.select([pipes[os.O_RDONLY]], [], [])
    os.write(pipes[os.O_WRONLY], {PREFIX.pack(b"GLW1", 8, MAX_PAYLOAD)!r})
    while True:
        os.write(pipes[os.O_WRONLY], bytes(1 << 16))
threading.Thread(target=answer, daemon=True).start()
def main(x): pass
"""

# Children of children, which end after their parents have: whoever is the first process inherits them.
ORPHANS = """
import os, time

def main():
    for _ in range(12):
        child = os.fork()
        if child == 0:
            if os.fork() == 0:
                time.sleep(0.1)
            os._exit(0)
        os.waitpid(child, 0)
    time.sleep(0.3)
    return 12
"""


@pytest.fixture(params=params(*METHODS), scope="module")
def method(request: pytest.FixtureRequest, require: Require) -> str:
    return demanded(request.param, require)


@pytest.fixture
def fresh(method: str) -> Iterator[Sandbox]:
    """One for a test that ends it."""
    sandbox = start(method)
    yield sandbox
    sandbox.close()


@pytest.fixture
def mark() -> str:
    """A name that no other process has."""
    return f"marked-{uuid.uuid4()}"


def left_behind(mark: str) -> list[psutil.Process]:
    until(lambda: bool(marked(mark)))
    return marked(mark)


def test_more_output_than_allowed_ends_the_sandbox(fresh: Sandbox, mark: str) -> None:
    source = LEAVE_CHILD.format(mark=mark) + "def main():\n    while True: print('x' * 100)"
    student = program(fresh, source)
    children = left_behind(mark)
    started = time.monotonic()
    with pytest.raises(ProgramEnded, match="printed more than is allowed"):
        student.main().value  # noqa: B018
    assert time.monotonic() - started < 30
    until(lambda: ended(children), 30)
    output = fresh.take_output()
    assert len(output) == CONFIG.output_kb << 10
    assert output.startswith(f"{'x' * 100}\n" * 3)
    assert not fresh.sound


def test_a_deadline_ends_everything_in_the_sandbox(fresh: Sandbox, mark: str) -> None:
    student = program(fresh, LEAVE_CHILD.format(mark=mark) + "def main():\n    while True: pass", seconds=3)
    children = left_behind(mark)
    started = time.monotonic()
    with pytest.raises(ProgramEnded) as end:
        student.main().value  # noqa: B018
    assert end.value.outcome is Outcome.TIMED_OUT
    assert time.monotonic() - started < 30
    until(lambda: ended(children), 30)
    fresh.kill()  # once more does no harm
    with pytest.raises(SandboxBroken, match="the agent has ended"):
        fresh.receive(time.monotonic() + 5)
    fresh.close()
    fresh.close()


@isolates  # else they are the system's to bury
def test_the_dead_of_one_program_take_no_room_from_the_next(fresh: Sandbox) -> None:
    for _ in range(3):
        assert run(fresh, ORPHANS) == 12


def test_what_a_sandbox_has_said_can_be_read_after_its_close(fresh: Sandbox) -> None:
    run(fresh, "def main(): print('before')")
    fresh.close()
    assert fresh.take_output() == "before\n"
    assert fresh.take_output() == ""


def test_an_answer_without_end_fills_no_memory(fresh: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_MAX_INBOX", 1 << 20)
    student = program(fresh, ANSWER)
    with pytest.raises(ProgramEnded, match="wrote over the answers") as end:
        student.main(torch.zeros(1 << 20)).value  # noqa: B018
    # The bound was the reason, not that an answer was no frame once all of it had come.
    assert str(end.value.__context__) == "the agent answers more than it was asked"


@is_started  # a forked agent has all it needs to start, whatever its limit
def test_a_sandbox_that_cannot_start_says_why(method: str) -> None:
    sandbox = open_sandbox(configured(method, memory_mb=20))
    try:
        sandbox.start()
        sandbox.wait_ready(60)
    except (OSError, SandboxBroken) as error:
        told = f"{error} {sandbox.take_output()}"
    finally:
        sandbox.close()
    assert re.search("MemoryError|annot allocate memory|failed to map segment|bad_alloc", told), told


def test_what_comes_after_the_deadline_is_late_even_if_it_is_there(method: str) -> None:
    sandbox = open_sandbox(configured(method))
    sandbox.start()
    try:
        assert select.select(sandbox._descriptors()[0], [], [], 120)[0]
        with pytest.raises(SandboxTimeout):
            sandbox.wait_ready(0)
        assert not sandbox.ready
    finally:
        sandbox.close()


def test_a_sandbox_ends_with_its_owner_however_that_ends(method: str, mark: str) -> None:
    command = [sys.executable, "-m", "tests.sandboxes", method, mark]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"running\n"
        children = left_behind(mark)
        owner.kill()
    if method.startswith("plain"):  # a child that made itself a session of its own is out of reach
        for child in children:
            child.kill()
    until(lambda: ended(children))


def test_what_a_program_leaves_behind_ends_with_it_or_at_the_latest_with_the_sandbox(
    method: str, fresh: Sandbox, mark: str
) -> None:
    student = program(fresh, LEAVE_CHILD.format(mark=mark) + "def main(): return 1")
    children = left_behind(mark)
    student.main().equals(1)
    student._end()
    if method in ISOLATING:
        assert marked(mark) == []
    # The next one finds the sandbox as the first one did.
    assert run(fresh, "def main(x): return x + 1", 2) == 3
    fresh.close()
    until(lambda: ended(children))
