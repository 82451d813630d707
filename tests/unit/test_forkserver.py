"""The fork server: children as good as new processes, that outlive neither their server nor their owner."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from labkit.forkserver import Forked, fork, gather_pages, wait_until_listening, why_unfit
from tests.judges import until

SEQPACKET = socket.SOCK_SEQPACKET
ROOT = Path(__file__).resolve().parents[2]
LIGHT = "import sys; from labkit import forkserver, nursery; forkserver.ForkServer(sys.argv[1], nursery.run).serve()"


@contextlib.contextmanager
def server(*argv: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A fork server's socket and process; short paths, as Unix sockets want them."""
    with tempfile.TemporaryDirectory(prefix="f", dir="/tmp") as folder:
        path = f"{folder}/s"
        process = subprocess.Popen(
            [sys.executable, *argv, path],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            cwd="/",
        )
        with process:
            try:
                wait_until_listening(path, process, 30)
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


def gone(*pids: int) -> Callable[[], bool]:
    def ended(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return lambda: all(ended(pid) for pid in pids)


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
    until(gone(*pids))
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
    until(gone(*pids))


def test_the_children_end_with_the_server_however_it_ends() -> None:
    for end in (lambda p: p.stdin.close(), lambda p: p.kill()):
        with server("-c", LIGHT) as (path, process):
            forked, pids = sleepers(path)
            end(process)
            until(gone(pids[0]))
            process.wait(10)
            assert forked.wait(10) == -9


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
        with pytest.raises(TimeoutError):
            fork(f"{folder}/s", {}, timeout=0.1)


def test_a_server_that_ends_while_it_starts_is_told_apart_from_one_that_takes_too_long(tmp_path: Path) -> None:
    ends = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with ends, pytest.raises(OSError, match="the fork server ended with status 3 while it started"):
        wait_until_listening(str(tmp_path / "s"), ends, 30)
    with subprocess.Popen(["sleep", "60"]) as process:
        with pytest.raises(OSError, match="the fork server did not listen within 0 s"):
            wait_until_listening(str(tmp_path / "s"), process, 0)
        process.kill()


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
