"""The pool of judge kernels: each is used once, ended at once, and nothing of it stays."""

from __future__ import annotations

import os
import threading
import time
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
from tests.attacks.conftest import RIGHT, attacked_lab, attacks_notebook
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
    startup = tmp_path / ".ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "mine.py").write_text("mine = 3")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("HOME", str(tmp_path))
    kernel = pool.take()
    reply = kernel.client().execute_interactive(
        "assert 'mine' not in globals() and 'get_ipython' not in globals()", store_history=True, timeout=60
    )
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


def test_no_more_kernels_start_at_once_than_there_are_cores(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2})
    lock, running, seen = threading.Lock(), [0], []

    def start(_pool: KernelPool) -> None:
        with lock:
            running[0] += 1
            seen.append(running[0])
        time.sleep(0.2)
        with lock:
            running[0] -= 1
        raise KernelUnavailable("enough")

    monkeypatch.setattr(KernelPool, "_start", start)
    monkeypatch.setattr(Nursery, "ensure", lambda _nursery: None)
    pool = KernelPool(SandboxConfig(method=detect()), 7, workplace)
    pool.warm()
    until(lambda: len(seen) == 7)
    pool.close()
    assert max(seen) == 3


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
