"""Finding out which confinement works, where one of them hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A process of its own: detect keeps what it found, and this one's seconds are not everybody's.
DETECT = """
import os, sys
from checker.sandbox import confinement
confinement._PROBE_SECONDS = float(sys.argv[3])
os.environ["PATH"] = sys.argv[2]
try:
    print(confinement.detect(sys.argv[1]))
except RuntimeError as error:
    print(error)
"""
HANGS = "The sandbox method '{}' does not work on this machine: it did not answer within 0.5 s."


def detected(preference: str, path: str, *, seconds: float = 0.5) -> str:
    """What detect says if a probe may take so long."""
    argv = [sys.executable, "-c", DETECT, preference, path, str(seconds)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """A folder of programs that never answer."""
    for name in ("bwrap", "unshare", "prlimit"):
        (tmp_path / name).write_text("#!/bin/sh\nexec /bin/sleep 60\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_a_method_that_hangs_is_passed_over(hanging: Path) -> None:
    (hanging / "unshare").unlink()
    (hanging / "prlimit").unlink()
    # Long enough for the probe that works, on a busy machine too.
    assert detected("auto", f"{hanging}:{os.environ['PATH']}", seconds=5) in ("unshare", "plain")


def test_a_method_that_hangs_is_named_with_what_to_do(hanging: Path) -> None:
    told = detected("bubblewrap", str(hanging))
    remedy = "Install bubblewrap, allow unprivileged user namespaces, or set GRADLAB_SANDBOX=auto."
    assert told == f"{HANGS.format('bubblewrap')} {remedy}"


def test_where_nothing_works_every_method_is_named_and_auto_is_no_remedy(hanging: Path) -> None:
    told = detected("auto", str(hanging))
    failures = " ".join(HANGS.format(method) for method in ("bubblewrap", "unshare", "plain"))
    assert told == f"{failures} Install bubblewrap or allow unprivileged user namespaces."
