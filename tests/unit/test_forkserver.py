"""The fork server: children as good as new processes, that outlive neither their server nor their owner."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from gradlab.settings import ROOT
from labkit.forkserver import Forked, fork, fork_soon, gather_pages, listen, why_unfit
from tests.waiting import ended, until

SEQPACKET = socket.SOCK_SEQPACKET
LIGHT = (
    "import sys; from labkit import forkserver, nursery; forkserver.ForkServer(int(sys.argv[1]), nursery.run).serve()"
)


@contextlib.contextmanager
def server(*argv: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A fork server's socket and process; short paths, as Unix sockets want them."""
    with tempfile.TemporaryDirectory(prefix="f", dir="/tmp") as folder:
        path = f"{folder}/s"
        with listen(path) as listener:
            process = subprocess.Popen(
                [sys.executable, *argv, str(listener.fileno())],
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
                cwd="/",
            )
        with process:
            try:
                yield path, process
            finally:
                process.kill()


@pytest.fixture(scope="module")
def light() -> Iterator[str]:
    """One without torch."""
    with server("-c", LIGHT) as (path, _):
        yield path


@pytest.fixture(scope="module")
def nursery() -> Iterator[str]:
    with server("-m", "labkit.nursery") as (path, _):
        yield path


def child(path: str, function: str, *descriptors: int, **request: Any) -> Forked:
    return fork(path, {"run": f"tests.forked:{function}"} | request, descriptors, timeout=60)


def told(path: str, function: str) -> Any:
    """What the child writes to its descriptor."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe:
        forked = child(path, function, write)
        os.close(write)
        text = pipe.readline() if function == "sleeps" else pipe.read()
        forked.close() if function == "sleeps" else forked.wait(10)
    return json.loads(text)


def sleepers(path: str) -> tuple[Forked, list[int]]:
    read, write = os.pipe()
    forked = child(path, "sleeps", write)
    os.close(write)
    pids: list[int] = json.loads(os.read(read, 1000))
    os.close(read)
    assert all(psutil.pid_exists(pid) for pid in pids)
    return forked, pids


# -- a child ---------------------------------------------------------------------------------------------------------


def test_its_exit_status_is_told(light: str) -> None:
    forked = child(light, "status", status=7)
    assert forked.wait(10) == 7
    assert forked.poll() == forked.returncode == 7


def test_a_signal_is_told_as_a_negative_number(light: str) -> None:
    assert child(light, "signalled", signal=signal.SIGSEGV).wait(10) == -signal.SIGSEGV


def test_what_it_raises_is_its_own_failure(light: str) -> None:
    assert child(light, "fails").wait(10) == 1
    assert child(light, "status", status=0).wait(10) == 0


def test_it_is_waited_for_no_longer_than_asked(light: str) -> None:
    forked, _ = sleepers(light)
    assert forked.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        forked.wait(0.05)
    forked.kill()
    assert forked.wait(10) == -9


def test_it_has_the_descriptors_it_was_given_and_no_others(light: str) -> None:
    other, _ = sleepers(light)
    found = told(light, "sees")
    other.close()
    assert found == {"open": [0, 1, 2, *found["mine"]], "mine": found["mine"], "leader": True, "interrupt": True}
    assert len(found["mine"]) == 1


def test_children_draw_different_random_numbers(nursery: str) -> None:
    first, second = told(nursery, "draws"), told(nursery, "draws")
    assert first[0] != second[0]
    assert first[1] != second[1]


# -- who outlives whom -----------------------------------------------------------------------------------------------


def test_a_child_and_what_it_started_end_when_its_owner_lets_go(light: str) -> None:
    forked, pids = sleepers(light)
    forked.close()
    until(lambda: ended(pids))
    assert forked.returncode == -9


def test_a_child_ends_when_its_owner_is_killed(light: str) -> None:
    script = "import sys, time; from tests.unit.test_forkserver import sleepers; kept = sleepers(sys.argv[1])\n"
    script += "print(*kept[1], flush=True); time.sleep(60)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", script, light], stdout=subprocess.PIPE, text=True, env=environment
    ) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 2
        owner.kill()
    until(lambda: ended(pids))


def test_the_children_end_with_the_server_however_it_ends() -> None:
    for end in (lambda p: p.stdin.close(), lambda p: p.kill()):
        with server("-c", LIGHT) as (path, process):
            forked, pids = sleepers(path)
            end(process)
            until(partial(ended, pids[:1]))
            process.wait(10)
            assert forked.wait(10) == -9


def test_an_end_and_a_farewell_at_the_same_moment_hurt_nobody_else() -> None:
    with server("-c", LIGHT) as (path, process):
        bystander, _ = sleepers(path)
        forked, pids = sleepers(path)
        process.send_signal(signal.SIGSTOP)
        os.kill(forked.pid, signal.SIGKILL)
        forked.close()
        process.send_signal(signal.SIGCONT)
        until(lambda: ended(pids))
        assert child(path, "status", status=3).wait(10) == 3
        assert bystander.poll() is None
        bystander.close()


# -- errors ----------------------------------------------------------------------------------------------------------


def test_no_server_and_one_that_does_not_answer_are_errors_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fork(str(tmp_path / "none"), {}, timeout=1)
    with (
        tempfile.TemporaryDirectory(prefix="f", dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX, SEQPACKET) as deaf,
    ):
        deaf.bind(f"{folder}/s")
        deaf.listen()
        with pytest.raises(TimeoutError, match=r"the fork server has not answered for 0\.1 s"):
            fork(f"{folder}/s", {}, timeout=0.1)


def test_a_server_that_ends_before_it_has_answered_is_an_error_of_the_system() -> None:
    def end() -> None:
        with listener.accept()[0] as connection:
            connection.recv(1000)

    with (
        tempfile.TemporaryDirectory(prefix="f", dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX, SEQPACKET) as listener,
    ):
        listener.bind(f"{folder}/s")
        listener.listen()
        thread = threading.Thread(target=end)
        thread.start()
        with pytest.raises(ConnectionError, match=r"^the fork server has ended$"):
            fork(f"{folder}/s", {}, timeout=30)
        thread.join(30)


def test_a_fork_that_fails_is_the_failure_of_its_request_alone() -> None:
    failing = "import os; fork, server, left = os.fork, os.getpid(), [2]\n"
    failing += "def sometimes():\n    left[0] -= os.getpid() == server\n"
    failing += "    if left[0] == 0: raise BlockingIOError(11, 'no more')\n    return fork()\nos.fork = sometimes\n"
    with server("-c", failing + LIGHT) as (path, _):
        bystander, _ = sleepers(path)
        with pytest.raises(OSError, match=r"the fork server could not fork: .Errno 11. no more"):
            child(path, "status", status=0)
        assert child(path, "status", status=3).wait(10) == 3
        assert bystander.poll() is None
        bystander.close()


@pytest.mark.parametrize("free", [0, 1, 3])
def test_without_enough_free_descriptors_requests_wait_and_keep_no_core_busy(free: int) -> None:
    with server("-c", LIGHT) as (path, process):
        serving = psutil.Process(process.pid)
        assert child(path, "status", status=3).wait(10) == 3  # it serves by now
        until(lambda: serving.num_fds() == 5)  # three streams, where it listens, and the selector
        limit = serving.rlimit(psutil.RLIMIT_NOFILE)
        serving.rlimit(psutil.RLIMIT_NOFILE, (serving.num_fds() + free, limit[1]))
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(told, path, "sleeps")
            used = serving.cpu_times()
            with pytest.raises(FutureTimeout):
                asked.result(timeout=1)
            assert serving.cpu_times().user - used.user < 0.3
            assert serving.cpu_times().system - used.system < 0.3
            serving.rlimit(psutil.RLIMIT_NOFILE, limit)
            assert asked.result(timeout=30)


def test_descriptors_that_got_lost_are_not_done_without(light: str) -> None:
    """The kernel leaves out what a server has no room for."""
    with socket.socket(socket.AF_UNIX, SEQPACKET) as connection:
        connection.settimeout(30)
        connection.connect(light)
        request = {"run": "tests.forked:status", "status": 0, "descriptors": 2}
        socket.send_fds(connection, [json.dumps(request).encode()], [0])
        assert json.loads(connection.recv(1000)) == {"error": "2 descriptors were sent, 1 arrived"}
        assert connection.recv(1000) == b""
    assert child(light, "status", status=3).wait(10) == 3


@pytest.mark.parametrize("message", [b"no JSON", b"[]", b"{}", b'{"descriptors": "0"}'])
def test_what_is_no_request_harms_nobody(message: bytes, light: str) -> None:
    bystander, _ = sleepers(light)
    with socket.socket(socket.AF_UNIX, SEQPACKET) as connection:
        connection.settimeout(30)
        connection.connect(light)
        connection.send(message)
        assert "error" in json.loads(connection.recv(1000))
    assert child(light, "status", status=3).wait(10) == 3
    assert bystander.poll() is None
    bystander.close()


def test_whoever_asks_one_that_ends_while_it_starts_is_told_so_at_once() -> None:
    request = {"run": "tests.forked:status", "status": 0}
    for wait in (False, True):
        with server("-c", "import time; time.sleep(0.5); raise SystemExit(3)") as (path, process):
            if wait:
                process.wait()
            with pytest.raises(ConnectionError, match="the fork server has ended"):
                fork(path, request, timeout=60)
            with pytest.raises(ConnectionError, match="the fork server has ended"):
                asyncio.run(fork_soon(path, request, timeout=60))


def test_one_that_is_killed_while_it_rehearses_keeps_nobody_waiting() -> None:
    script = "import time\nfrom labkit.rehearsal import load_what_it_loads\nload_what_it_loads(lambda: time.sleep(60))"
    with server("-c", script) as (path, process):
        until(lambda: psutil.Process(process.pid).children(), what="the rehearsal")
        process.kill()
        with pytest.raises(ConnectionError, match="the fork server has ended"):
            fork(path, {"run": "tests.forked:status", "status": 0}, timeout=30)


def test_one_that_only_hangs_is_waited_for_as_long_as_one_likes() -> None:
    with server("-c", "import time; time.sleep(60)") as (path, _), pytest.raises(TimeoutError):
        fork(path, {"run": "tests.forked:status"}, timeout=0.2)


def test_its_socket_is_for_its_user_alone_and_a_path_is_used_once(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with listen(path):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(OSError, match="Address already in use"):
        listen(path)


def test_a_process_with_threads_refuses_to_be_forked() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    threads = len(os.listdir("/proc/self/task"))
    assert why_unfit() == f"it runs {threads} threads, and a child has only the one that forked"
    release.set()
    thread.join()


def test_a_process_that_has_loaded_cudas_driver_refuses_to_be_forked(tmp_path: Path) -> None:
    import zlib

    library = tmp_path / "libcuda.so.1"  # the name is what the kernel tells of a loaded driver
    shutil.copy(zlib.__file__, library)
    script = f"import ctypes; ctypes.PyDLL({str(library)!r}); {LIGHT}"
    with server("-c", script) as (_, process):
        assert process.wait(30) != 0
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert "cannot be forked: CUDA's driver is loaded, and does not survive a fork" in said


# -- with torch ------------------------------------------------------------------------------------------------------


def test_the_parent_has_not_touched_cuda_and_a_child_may_use_two_threads(nursery: str) -> None:
    """A parent that ran one multi-threaded operation leaves children that hang in theirs."""
    found = told(nursery, "torch_state")
    assert found == {"threads": 1, "cuda": False, "bad fork": False, "sum": 4e6}


def test_nothing_is_left_to_load_for_common_calls(nursery: str) -> None:
    assert told(nursery, "lazy_parts") == []


def test_huge_pages_hold_what_was_there_before() -> None:
    before = bytearray(os.urandom(8 << 20))
    kept = bytes(before)
    gather_pages()
    assert before == kept


class Madvise:
    """What the C library's function was asked for."""

    argtypes: tuple[type, ...] = ()

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def __call__(self, start: int, length: int, advice: int) -> int:
        self.asked.append((start, length, advice))
        return 0


def test_all_memory_of_the_process_is_to_be_in_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, madvise = bytearray(8 << 20), Madvise()
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(madvise=madvise))
    gather_pages()
    assert madvise.argtypes == (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    huge = {page for first, length, _ in madvise.asked for page in range(first, first + length, 2 << 20)}
    assert {page % (2 << 20) for page in huge} == {0}
    assert {length % (2 << 20) for _, length, _ in madvise.asked} == {0}
    assert {advice for _, _, advice in madvise.asked} == {25}  # MADV_COLLAPSE
    whole = [page for page in range(start, start + len(memory)) if page % (2 << 20) == 0][:-1]
    assert len(whole) >= 3
    assert set(whole) <= huge
