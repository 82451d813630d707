"""The pool of judge kernels: each is used once, ended at once, and nothing of it stays."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from checker.kernels import KernelPool
from checker.sandbox.config import SandboxConfig
from checker.sandbox.confinement import detect
from tests.judges import until


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this test's kernels have their folders; sockets' paths must be short."""
    path = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    yield path
    path.rmdir()  # fails if a kernel left anything there


@pytest.fixture
def pool(folders: Path) -> Iterator[KernelPool]:
    pool = KernelPool(SandboxConfig(method=detect()), 1)
    yield pool
    pool.close()


def family() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def gone(pids: set[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


def test_a_kernel_is_used_once_and_leaves_nothing(pool: KernelPool, folders: Path) -> None:
    before = family()
    pool.warm()
    first = pool.take()
    assert first.client() is first.client()
    assert first.client().connected
    its_own = family() - before
    assert len(its_own) >= 2  # the kernel and its sandbox

    pool.retire(first)
    until(lambda: gone(its_own))
    second = pool.take()
    assert second.provisioner.pid not in its_own
    assert second.is_alive()

    pool.close()
    assert gone(family() - before)
    assert list(folders.iterdir()) == []


def test_a_kernel_that_died_while_it_waited_is_not_handed_out(pool: KernelPool) -> None:
    pool.warm()
    first = pool.take()
    pool._ready.put(first)
    os.killpg(first.provisioner.pid, 9)
    until(lambda: not first.is_alive())
    assert pool.take() is not first


def test_a_kernel_that_is_retired_after_the_close_is_ended_too(pool: KernelPool, folders: Path) -> None:
    kernel = pool._start()
    pool._started.clear()  # as if it had started while the pool closed
    pool.close()
    pool.retire(kernel)
    assert not kernel.is_alive()
    assert list(folders.iterdir()) == []
