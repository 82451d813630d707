"""The processes that judges are forked from: with them a check is fast, without them it is only slower."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from checker import nursery as module
from checker.engine import Judge, JudgeConfig
from checker.kernels import KernelPool
from checker.nursery import Nursery
from checker.sandbox.config import SandboxConfig
from checker.sandbox.confinement import detect
from checker.workplace import Workplace
from labkit.forkserver import Forked
from tests.attacks.conftest import RIGHT, attacked_lab, attacks_notebook
from tests.waiting import until


@pytest.fixture
def workplace() -> Iterator[Workplace]:
    made = Workplace()
    yield made
    made.close()


def cold(monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> None:
    """Have nurseries be another program."""
    popen = subprocess.Popen

    def instead(command: list[str], **how: Any) -> Any:
        return popen(argv if "labkit.nursery" in command else command, **how)

    monkeypatch.setattr(module.subprocess, "Popen", instead)


def test_both_parents_end_with_it_and_are_started_again_after_they_died(
    workplace: Workplace, caplog: pytest.LogCaptureFixture
) -> None:
    nursery = Nursery(workplace, detect())
    assert (nursery.sandboxes, nursery.judges) == ("", "")
    nursery.ensure()
    assert Path(nursery.sandboxes).is_socket()
    assert Path(nursery.judges).is_socket()
    first = nursery._process
    assert first is not None
    nursery.ensure()
    assert nursery._process is first

    parents = [first.pid, nursery._judges.pid] if nursery._judges else []
    first.kill()
    first.wait()
    until(lambda: not any(psutil.pid_exists(pid) for pid in parents))
    with caplog.at_level(logging.WARNING):
        nursery.ensure()
    assert "What judges are forked from has ended (status -9)." in caplog.text
    assert nursery._process is not first
    assert Path(nursery.judges).is_socket()

    running = nursery._process
    nursery.close()
    assert running is not None
    assert running.poll() is not None
    assert list(workplace.path.glob("nursery-*")) == []
    nursery.ensure()
    assert nursery.judges == ""


def test_one_that_ends_again_and_again_is_left_alone_for_a_while(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cold(monkeypatch, [sys.executable, "-c", "raise SystemExit(4)"])
    nursery = Nursery(workplace, detect())
    for _ in range(5):
        nursery.ensure()
    assert [record.name for record in caplog.records] == ["checker.nursery"] * 3
    monkeypatch.setattr(module, "_WITHIN_SECONDS", 0)
    nursery.ensure()
    assert len(caplog.records) == 4
    nursery.close()


def test_learner_code_finds_nothing_of_the_server_in_the_memory_it_shares(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADLAB_SECRET", "hidden")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "hidden")
    nursery = Nursery(workplace, detect())
    nursery.ensure()
    try:
        assert nursery._process is not None
        environment = Path(f"/proc/{nursery._process.pid}/environ").read_bytes()
        mapped = Path(f"/proc/{nursery._process.pid}/maps").read_text()
    finally:
        nursery.close()
    assert b"hidden" not in environment
    assert b"GRADLAB" not in environment
    assert "libcuda" not in mapped


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([sys.executable, "-c", "raise SystemExit(4)"], "the fork server has ended"),
        (["/no/such/python"], "No such file or directory: '/no/such/python'"),
    ],
)
def test_without_one_a_check_starts_cold_and_gives_the_same_verdict(
    argv: list[str], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cold(monkeypatch, argv)
    judge = Judge(JudgeConfig(SandboxConfig(method=detect()), pool=1))
    judge.warm()
    try:
        with caplog.at_level(logging.WARNING):
            verdict = judge.check(attacked_lab(tmp_path / "lab", 1), attacks_notebook([RIGHT]), seed=1)
    finally:
        judge.close()
    assert verdict.passed
    [record] = [record for record in caplog.records if record.name == "checker.nursery"][:1]
    assert says in record.getMessage()
    assert record.getMessage().endswith("so every check starts cold and takes seconds longer.")


def test_kernels_and_sandboxes_are_forked_where_it_works(workplace: Workplace) -> None:
    pool = KernelPool(SandboxConfig(method=detect()), 1, workplace)
    pool.warm()
    try:
        kernel = pool.take()
        assert isinstance(kernel.provisioner.process, Forked)
        command = psutil.Process(kernel.provisioner.pid).cmdline()
        assert "labkit.nursery" in command  # a forked process keeps its parent's command line
        reply = kernel.client().execute_interactive(
            "from checker.sandbox.pool import sandboxes\nwaiting = sandboxes()._waiting\n"
            "assert waiting._forked is not None and waiting.ready",
            timeout=60,
        )
        assert reply["content"]["status"] == "ok", reply["content"]
        threads = [int(thread) for thread in os.listdir(f"/proc/{kernel.provisioner.pid}/task")]
        # It was patient while it started; now somebody waits for it, and for all of its threads.
        assert len(threads) > 1
        assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {0}
    finally:
        pool.close()


def test_a_kernel_ends_with_its_fork_server(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = KernelPool(SandboxConfig(method=detect()), 1, workplace)
    pool.warm()
    try:
        kernel = pool.take()
        process = pool._nursery._process
        assert process is not None
        os.kill(process.pid, 9)
        until(lambda: not kernel.is_alive())
        signalled: list[int] = []
        monkeypatch.setattr(os, "killpg", lambda group, _: signalled.append(group))
        pool.discard(kernel)
        assert signalled == []  # its number may be another's by now
        monkeypatch.undo()
        assert pool.take().is_alive()  # cold, or from a nursery that was started again
    finally:
        pool.close()
