"""What every sandbox promises, tried on each kind through the same interface that the judge uses.

What only namespaces can promise is tried where there are some; ``plain`` promises limits and a user of its own.
"""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from checker.results import Outcome
from checker.sandbox import base
from checker.sandbox.base import Sandbox, SandboxBroken, SandboxTimeout
from checker.student import ProgramEnded, StudentError
from gradlab.settings import ROOT
from labkit.wire import MAX_PAYLOAD, PREFIX
from tests.conftest import Require
from tests.sandboxes import (
    CONFIG,
    ISOLATING,
    LEAVE_CHILD,
    METHODS,
    STARTED,
    WARM,
    configured,
    marked,
    open_sandbox,
    program,
    run,
    start,
    why_not_plain,
)
from tests.waiting import ended, until


def params(*methods: str) -> list[Any]:
    """Each method's tests go to one process of the tests, which starts the sandbox that they share once."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in methods]


isolates = pytest.mark.parametrize("method", params(*ISOLATING), indirect=True)
is_started = pytest.mark.parametrize("method", params(*STARTED), indirect=True)
is_warm = pytest.mark.parametrize("method", params(*WARM), indirect=True)


@pytest.fixture(params=params(*METHODS), scope="module")
def method(request: pytest.FixtureRequest, require: Require) -> str:
    name: str = request.param
    if name.startswith("plain"):
        # An ordinary user's has neither a user id nor a PID namespace of its own: what these tests do to their own
        # processes, kill(-1) among it, would be done to all of the user's.
        require("root")
    require(name.partition(",")[0], {"plain": why_not_plain(), "plain, forked": ""}.get(name))
    return name


@pytest.fixture(scope="module")
def sandbox(method: str) -> Iterator[Sandbox]:
    """One for all tests that leave it sound."""
    os.environ["SERVER_TEST_SECRET"] = "not for learners"
    sandbox = start(method)
    yield sandbox
    sandbox.close()
    del os.environ["SERVER_TEST_SECRET"]


@pytest.fixture
def fresh(method: str) -> Iterator[Sandbox]:
    """One for a test that ends it."""
    sandbox = start(method)
    yield sandbox
    sandbox.close()


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
KILLS = """
import contextlib, os
def main():
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, 9)
    os._exit(3)
"""


@pytest.fixture
def mark() -> str:
    """A name that no other process has."""
    return f"marked-{uuid.uuid4()}"


def left_behind(mark: str) -> list[psutil.Process]:
    until(lambda: bool(marked(mark)))
    return marked(mark)


# -- frames and output ---------------------------------------------------------------------------------------------


def test_values_go_both_ways_and_large_ones_whole(sandbox: Sandbox) -> None:
    large = torch.randn(2 << 20)
    negated, number = run(sandbox, "def main(x, n): return -x, n + 1", large, 2**70)
    assert torch.equal(negated, -large)
    assert number == 2**70 + 1


def test_output_is_collected_whoever_prints_it_and_apart_from_answers(sandbox: Sandbox) -> None:
    source = r"""
        import os, sys
        def main():
            print("printed")
            print("complained", file=sys.stderr, flush=True)
            os.system("echo echoed")
            os.write(1, b"GLW1 \xff raw\n")
            return 7
    """
    assert run(sandbox, source) == 7
    assert sorted(sandbox.take_output().splitlines()) == ["GLW1 \ufffd raw", "complained", "echoed", "printed"]
    assert sandbox.take_output() == ""


def test_standard_input_is_empty(sandbox: Sandbox) -> None:
    assert run(sandbox, "import sys\ndef main(): return sys.stdin.read()") == ""


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


# -- ends ----------------------------------------------------------------------------------------------------------


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


def test_a_program_that_kills_all_it_can_reach_harms_only_its_sandbox(fresh: Sandbox, sandbox: Sandbox) -> None:
    student = program(fresh, KILLS)
    with pytest.raises(ProgramEnded) as end:
        student.main().value  # noqa: B018
    assert end.value.outcome is Outcome.KILLED
    assert run(sandbox, "def main(x): return x + 1", 2) == 3


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


# -- what a program finds --------------------------------------------------------------------------------------------


def test_the_environment_is_the_sandboxs_own(sandbox: Sandbox) -> None:
    found = run(sandbox, "import os\ndef main(): return dict(os.environ)")
    assert found.pop("HOME") == found.pop("TMPDIR") == found.pop("MPLCONFIGDIR") == "/tmp"
    assert found.pop("OMP_NUM_THREADS") == "1"
    names = {"PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LANG", "MPLBACKEND"}
    assert found.keys() - names <= {"HOSTNAME", "NVIDIA_VISIBLE_DEVICES", "PWD", "OLDPWD"}


def test_a_program_is_nobody_and_cannot_become_more(sandbox: Sandbox) -> None:
    source = """
        import ctypes, os
        def main():
            status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
            libc = ctypes.CDLL(None, use_errno=True)
            allowed = [name for name, flag in (("user", 0x1000_0000), ("mount", 0x2_0000)) if libc.unshare(flag) == 0]
            found = {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
            return os.getuid(), os.getgroups(), found, int(status["NoNewPrivs"]), allowed
    """
    uid, groups, capabilities, no_new_privileges, allowed = run(sandbox, source)
    assert uid != 0
    assert 0 not in groups
    assert set(capabilities.values()) == {0}
    assert no_new_privileges == 1
    assert allowed == []


def test_the_system_is_read_only(sandbox: Sandbox) -> None:
    source = """
        import os, sys, torch, labkit
        def main():
            written = []
            for folder in ("/", "/usr", "/etc", "/dev", "/opt", "/home", "/var/tmp", "/run", "/dev/shm", "/sys",
                           sys.prefix, os.path.dirname(torch.__file__), os.path.dirname(labkit.__file__)):
                try:
                    open(os.path.join(folder, "gradlab-test"), "w").close()
                    os.unlink(os.path.join(folder, "gradlab-test"))
                    written.append(folder)
                except OSError:
                    pass
            return written
    """
    # A sandbox without namespaces shares the machine's public scratch folders.
    assert set(run(sandbox, source)) <= ({"/var/tmp", "/dev/shm"} if sandbox._config.method == "plain" else set())


@isolates
def test_there_is_no_network(sandbox: Sandbox) -> None:
    source = """
        import socket
        def main(port):
            reached = []
            for address in ("127.0.0.1", "169.254.169.254", "172.17.0.1"):
                with socket.socket() as s:
                    s.settimeout(1)
                    if s.connect_ex((address, port)) == 0:
                        reached.append(address)
            return reached, [name for _, name in socket.if_nameindex()]
    """
    with socket.create_server(("0.0.0.0", 0)) as server:
        reached, interfaces = run(sandbox, source, server.getsockname()[1])
    assert reached == []
    assert interfaces == ["lo"]


@isolates
def test_nothing_of_the_machine_is_seen(sandbox: Sandbox) -> None:
    source = """
        import glob, os
        def main(folder):
            words = [open(path, "rb").read() for path in glob.glob("/proc/[0-9]*/cmdline")]
            sockets = [path for path in ("/var/run/docker.sock", "/run/docker.sock") if os.path.exists(path)]
            return b" ".join(words), os.path.exists(folder), sockets
    """
    commands, checker, sockets = run(sandbox, source, str(Path(ROOT, "checker")))
    assert b"pytest" not in commands
    assert not checker
    assert sockets == []


@is_warm
def test_nothing_is_left_to_load_for_common_calls(sandbox: Sandbox) -> None:
    source = """
        import sys, torch
        def main():
            before = set(sys.modules)
            torch.testing.assert_close(torch.ones(2), torch.ones(2))
            net = torch.nn.Linear(2, 1)
            net(torch.ones(1, 2)).sum().backward()
            torch.optim.Adam(net.parameters()).step()
            return sorted(set(sys.modules) - before)
    """
    assert run(sandbox, source) == []


# -- bounds --------------------------------------------------------------------------------------------------------


def test_memory_is_bounded(sandbox: Sandbox) -> None:
    source = "import torch\ndef main(mib): return torch.ones(mib << 18).sum().item()"
    assert run(sandbox, source, 100) == 100 << 18
    with pytest.raises(StudentError) as error:
        run(sandbox, source, 1000)
    assert error.value.outcome is Outcome.OUT_OF_MEMORY


def test_processes_are_bounded(sandbox: Sandbox) -> None:
    source = """
        import os, signal
        def main():
            children = []
            try:
                while len(children) < 100:
                    child = os.fork()
                    if child == 0:
                        signal.pause()
                    children.append(child)
            except BlockingIOError:
                pass
            for child in children:
                os.kill(child, 9)
                os.waitpid(child, 0)
            return len(children)
    """
    assert 4 <= run(sandbox, source) < CONFIG.processes


def test_open_files_are_bounded(sandbox: Sandbox) -> None:
    source = """
        import os
        def main():
            opened = []
            try:
                while len(opened) < 1000:
                    opened.append(os.open("/dev/null", os.O_RDONLY))
            except OSError as error:
                return len(opened), error.strerror
    """
    count, reason = run(sandbox, source)
    assert 200 <= count <= 256
    assert reason == "Too many open files"


@isolates
def test_scratch_space_is_bounded(sandbox: Sandbox) -> None:
    source = """
        import os, tempfile
        def main():
            written = 0
            with tempfile.TemporaryDirectory() as folder:
                try:
                    for number in range(64):
                        with open(f"{folder}/{number}", "wb", buffering=0) as file:
                            written += file.write(bytes(1 << 20))
                except OSError as error:
                    return written, error.strerror
    """
    written, reason = run(sandbox, source)
    assert 4 << 20 <= written <= CONFIG.scratch_mb << 20
    assert reason == "No space left on device"


def test_a_file_is_bounded_and_no_core_is_dumped(sandbox: Sandbox) -> None:
    source = """
        import os, resource, signal, tempfile
        def main():
            with tempfile.TemporaryFile(buffering=0) as file:
                try:
                    for _ in range(64):
                        file.write(bytes(1 << 20))
                except OSError:
                    return os.fstat(file.fileno()).st_size, resource.getrlimit(resource.RLIMIT_CORE)
    """
    size, cores = run(sandbox, source)
    assert 0 < size <= CONFIG.scratch_mb << 20
    assert cores == (0, 0)
