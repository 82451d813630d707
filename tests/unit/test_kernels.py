"""The pool of judge kernels: each is used once, ended at once, and nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from checker.engine import Judge, JudgeConfig
from checker.kernels import KernelPool, KernelUnavailable
from checker.nursery import Nursery
from checker.sandbox.config import SandboxConfig
from checker.sandbox.confinement import detect
from checker.workplace import Workplace
from gradlab.settings import ROOT
from labkit.forkserver import Forked
from tests.attacks.conftest import RIGHT, attacked_lab, attacks_notebook
from tests.conftest import Require
from tests.waiting import ended, until


@pytest.fixture
def workplace() -> Iterator[Workplace]:
    made = Workplace()
    yield made
    made.close()


@pytest.fixture
def pool(workplace: Workplace) -> Iterator[KernelPool]:
    pool = KernelPool(SandboxConfig(method=detect()), 1, workplace)
    yield pool
    pool.close()


def kernels(workplace: Workplace) -> list[str]:
    """The folders of kernels that are there now."""
    return sorted(path.name for path in workplace.path.glob("kernel-*"))


def family() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def test_a_kernel_is_used_once_and_leaves_nothing(pool: KernelPool, workplace: Workplace) -> None:
    others = family()
    pool._nursery.ensure()
    before = family()
    pool.warm()
    first = pool.take()
    assert first.client() is first.client()
    assert first.client().connected
    its_own = family() - before
    assert len(its_own) >= 2  # the kernel and its sandbox

    pool.retire(first)
    until(lambda: ended(its_own))
    second = pool.take()
    assert second.provisioner.pid not in its_own
    assert second.is_alive()

    pool.close()
    assert ended(family() - others)
    assert kernels(workplace) == []


def test_a_kernel_writes_no_history_and_runs_no_file_of_the_operators(
    pool: KernelPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    profile = tmp_path / ".ipython" / "profile_default"
    (profile / "startup").mkdir(parents=True)
    for name in ("startup/mine.py", "ipython_config.py", "ipython_kernel_config.py"):
        (profile / name).write_text(f"open({str(tmp_path / 'read')!r}, 'a').write({name!r})")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("HOME", str(tmp_path))
    kernel = pool.take()
    home = "import os\nassert os.environ['HOME'] == " + repr(str(tmp_path))
    reply = kernel.client().execute_interactive(home, store_history=True, timeout=60)
    assert reply["content"]["status"] == "ok", reply["content"]
    pool.discard(kernel)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_kernel_that_cannot_be_shut_down_leaves_no_folder(
    pool: KernelPool, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = pool.take()

    def refuse(**_how: object) -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(kernel, "shutdown_kernel", refuse)
        with pytest.raises(RuntimeError, match="no"):
            pool.discard(kernel)
    assert kernels(workplace) == []
    kernel.shutdown_kernel(now=True)


def test_a_sandbox_that_does_not_start_is_reported_in_its_own_words(tmp_path: Path) -> None:
    judge = Judge(JudgeConfig(SandboxConfig(method=detect(), memory_mb=20), pool=1))
    try:
        verdict = judge.check(attacked_lab(tmp_path / "lab", 1), attacks_notebook([RIGHT]), seed=1)
    finally:
        judge.close()
    result = verdict.results[0]
    assert result.outcome == "our fault"
    assert result.message.startswith("The sandbox does not start: SandboxBroken: the agent has ended. It printed: ")
    assert not result.message.endswith("It printed: nothing")


@pytest.mark.parametrize(("judges", "most"), [("a socket to fork from", 3), ("", 2)])
def test_as_many_kernels_are_forked_at_once_as_there_are_cores_and_two_started_cold(
    judges: str, most: int, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2})
    monkeypatch.setattr(Nursery, "ensure", lambda _nursery: None)
    monkeypatch.setattr(Nursery, "judges", judges)
    meeting = threading.Barrier(most)
    lock, running, seen = threading.Lock(), [0], []

    def start(_pool: KernelPool) -> None:
        with lock:
            running[0] += 1
            seen.append(running[0])
        meeting.wait(30)  # so many are here together
        with lock:
            running[0] -= 1
        raise KernelUnavailable("enough")

    monkeypatch.setattr(KernelPool, "_start", start)
    pool = KernelPool(SandboxConfig(method=detect()), 2 * most, workplace)
    pool.warm()
    until(lambda: len(seen) == 2 * most)
    pool.close()
    assert max(seen) <= most
    assert not meeting.broken


def test_a_fork_server_that_hangs_holds_a_kernel_up_and_no_more(
    pool: KernelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("checker.kernels._FORK_SECONDS", 0.5)
    pool._nursery.ensure()
    judges = pool._nursery._judges
    assert judges is not None
    judges.send_signal(signal.SIGSTOP)
    try:
        kernel = pool.take()
        assert not isinstance(kernel.provisioner.process, Forked)
        assert kernel.is_alive()
    finally:
        judges.send_signal(signal.SIGCONT)
    pool.discard(kernel)


def test_a_kernel_that_died_while_it_waited_is_not_handed_out(pool: KernelPool) -> None:
    pool.warm()
    first = pool.take()
    pool._ready.put(first)
    os.killpg(first.provisioner.pid, 9)
    until(lambda: not first.is_alive())
    assert pool.take() is not first


def test_a_kernel_that_is_retired_after_the_close_is_ended_too(pool: KernelPool, workplace: Workplace) -> None:
    kernel = pool._start()
    pool._started.clear()  # as if it had started while the pool closed
    pool.close()
    pool.retire(kernel)
    assert not kernel.is_alive()
    assert kernels(workplace) == []


PATIENT = """
import os, threading
from checker.kernel import _patience
with _patience():
    inside = os.getpriority(os.PRIO_PROCESS, 0)
print(inside, os.getpriority(os.PRIO_PROCESS, 0))
"""


@pytest.mark.parametrize(("rights", "priorities"), [("+all", "10 0"), ("-all", "0 0")])
def test_a_judge_that_prepares_itself_lets_others_go_first_where_it_can_take_that_back(
    rights: str, priorities: str, require: Require
) -> None:
    """Root in a container may have no capabilities."""
    require("root")
    argv = ["setpriv", "--bounding-set", rights, sys.executable, "-c", PATIENT]
    assert subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == priorities
