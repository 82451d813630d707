"""A driver that hides processes says so to nobody; memory in use without any process gives it away."""

from __future__ import annotations

from typing import Any

import pytest

from gradlab.gpu.host import hidden_processes
from tests.gpuframes import GIB, MIB, device, frame, process, silent

USED: dict[str, Any] = {"memory_used": 10 * GIB}
PEACE: dict[str, Any] = {"memory_used": 5 * MIB}


def test_memory_in_use_without_any_process_is_told_with_the_remedy() -> None:
    assert hidden_processes(frame(device(**USED), device("GPU-1", **PEACE))) == (
        "A GPU has 10.0 GiB of memory in use, but the driver lists no process, so nobody knows whose. Since 535.113 "
        "the driver hides processes from whoever is in another PID namespace: start the GPU monitor in the machine's "
        "own (a container: with pid: host). If it is there, look with `nvidia-smi` on the machine itself: a process "
        "that ended may have left the memory behind."
    )
    assert hidden_processes(frame(device(**USED), device("GPU-1", **USED))).startswith("2 GPUs have 20.0 GiB of memory")


def test_on_mig_instances_it_is_a_matter_of_rights() -> None:
    found = hidden_processes(frame(device(mig=[], measured=False, **USED)))
    assert "shows processes on MIG instances to an administrator alone" in found
    assert "namespace" not in found


@pytest.mark.parametrize(
    "devices",
    [
        [],
        [device(**PEACE)],
        # A high reading while memory is scrubbed at the driver's start.
        [device(memory_used=0, utilisation=100)],
        [device("GPU-0", process(10, GIB), **USED)],
        [device("GPU-0", process(10, None), **USED)],
        # One process is seen, so processes are not hidden; what the other GPU has is unattributed.
        [device("GPU-0", process(10, GIB), **USED), device("GPU-1", **USED)],
        [device(processes=None, **USED)],
        [device(memory_used=None)],
        [device(state="lost", **USED)],
        [device(memory_used=256 * MIB)],
        # Without the newer call, used memory has in it what the driver reserves.
        [device(memory_used=2 * GIB, memory_reserved=None)],
        [device(memory_used=256 * MIB, memory_total=None, memory_reserved=None)],
    ],
)
def test_what_has_another_reason_is_not_taken_for_hidden_processes(devices: list[dict[str, Any]]) -> None:
    assert hidden_processes(frame(*devices)) == ""


@pytest.mark.parametrize(
    "more",
    [
        {"memory_used": 256 * MIB + 1},
        {"memory_used": 4 * GIB, "memory_reserved": None},
        {"memory_used": 256 * MIB + 1, "memory_total": None, "memory_reserved": None},
    ],
)
def test_more_than_that_is_told(more: dict[str, Any]) -> None:
    assert hidden_processes(frame(device(**more)))


def test_a_driver_that_is_silent_hides_nothing() -> None:
    assert hidden_processes(silent(1000.0, device(**USED))) == ""
    assert hidden_processes(frame(device(**USED), available=False, state="failed")) == ""
