"""What every sandbox promises, tried on each kind through the same interface that the judge uses.

What only namespaces can promise is tried where there are some; ``plain`` promises limits and a user of its own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest
import torch

from checker.results import Outcome
from checker.sandbox.base import Sandbox
from checker.sandbox.config import SandboxConfig
from checker.sandbox.docker import DockerSandbox
from checker.student import ProgramEnded, StudentError
from gradlab.settings import ROOT
from tests.conftest import Require
from tests.sandboxes import CONFIG, METHODS, WARM, demanded, isolates, params, program, run, start

is_warm = pytest.mark.parametrize("method", params(*WARM), indirect=True)


@pytest.fixture(params=params(*METHODS), scope="module")
def method(request: pytest.FixtureRequest, require: Require) -> str:
    return demanded(request.param, require)


@pytest.fixture(scope="module")
def sandbox(method: str) -> Iterator[Sandbox]:
    """One for all tests that leave it sound."""
    os.environ["SERVER_TEST_SECRET"] = "not for learners"
    sandbox = start(method)
    yield sandbox
    sandbox.close()
    del os.environ["SERVER_TEST_SECRET"]


KILLS = """
import contextlib, os
def main():
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, 9)
    os._exit(3)
"""


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


# -- what a program finds --------------------------------------------------------------------------------------------


def test_the_environment_is_the_sandboxs_own(sandbox: Sandbox) -> None:
    found = run(sandbox, "import os\ndef main(): return dict(os.environ)")
    assert found.pop("HOME") == found.pop("TMPDIR") == found.pop("MPLCONFIGDIR") == "/tmp"
    assert found.pop("OMP_NUM_THREADS") == "1"
    names = {"PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LANG", "MPLBACKEND"}
    # A container also has what its image says, for whoever starts from it: nothing of the machine.
    assert found.keys() - names <= {"HOSTNAME", "PWD", "OLDPWD"} | _image_variables(sandbox)
    assert not [name for name in found if "JUPYTER" in name]


def _image_variables(sandbox: Sandbox) -> set[str]:
    if not isinstance(sandbox, DockerSandbox):
        return set()
    with closing(docker.from_env()) as engine:
        said = engine.images.get(SandboxConfig().image).attrs["Config"]["Env"]
    return {line.split("=", 1)[0] for line in said}


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


def test_a_program_that_kills_all_it_can_reach_harms_only_its_sandbox(method: str, sandbox: Sandbox) -> None:
    with closing(start(method)) as another:
        student = program(another, KILLS)
        with pytest.raises(ProgramEnded) as end:
            student.main().value  # noqa: B018
        assert end.value.outcome is Outcome.KILLED
        assert run(sandbox, "def main(x): return x + 1", 2) == 3


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
