"""The fuzz targets find nothing in a few seconds; `make fuzz` looks longer.

In processes of their own: atheris instruments what is imported, and never returns.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from gradlab.settings import ROOT
from tests.conftest import Require


def fuzz(target: str, *options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", target, "-seed=1", f"-artifact_prefix={cwd}/", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(autouse=True)
def _needs_atheris(require: Require) -> None:
    missing = importlib.util.find_spec("atheris") is None
    require("atheris", "it is not installed (it has wheels for Linux on x86_64)" if missing else "")


@pytest.mark.parametrize(("target", "runs"), [("fuzz_unpack", 3000), ("fuzz_student", 300), ("fuzz_agent", 150)])
def test_a_short_run_finds_nothing(target: str, runs: int, tmp_path: Path) -> None:
    done = fuzz(f"tests.fuzz.{target}", f"-runs={runs}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {runs} runs" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_breaks_a_promise_is_found_and_can_be_seen_again(tmp_path: Path) -> None:
    """The harness itself: a target that fails on a word of its dictionary, within a few inputs."""
    target = tmp_path / "broken.py"
    target.write_text(
        "from tests.fuzz.harness import run\n"
        "def target(data):\n"
        "    assert b'sesame' not in data\n"
        "run(target, [b'open'], ['sesame'])\n"
    )
    command = [sys.executable, str(target), "-seed=1", f"-artifact_prefix={tmp_path}/"]
    env = {"PYTHONPATH": str(ROOT)}
    found = subprocess.run([*command, "-runs=5000"], env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode != 0
    (crash,) = tmp_path.glob("crash-*")
    assert b"sesame" in crash.read_bytes()
    again = subprocess.run([*command, str(crash)], env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode != 0
    assert "AssertionError" in again.stderr + again.stdout
