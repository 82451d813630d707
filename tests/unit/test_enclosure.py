"""What a process is told that cannot enter a sandbox. What becomes of one that can: tests/unit/confinement."""

from __future__ import annotations

import resource

import pytest

from labkit.enclosure import enter, limit


def test_a_step_that_the_kernel_refuses_is_called_by_its_name() -> None:
    with pytest.raises(OSError, match=r"^\[Errno 9\] setns: Bad file descriptor$"):
        enter(-1, user=True, network=True)


def test_a_limit_that_nobody_knows_is_no_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    with pytest.raises(KeyError, match="cores"):
        limit({"cores": 0})
    assert resource.getrlimit(resource.RLIMIT_CORE) == before
