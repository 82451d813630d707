"""The two commands and the locks they rest on."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from gradlab.settings import ROOT
from tests.conftest import demand


def test_make_alone_lists_the_commands() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"make (\w+)", shown)[:2] == ["help", "up"]
    assert "make test" in shown


def run_environment(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/environment in a folder of its own, where this shell script is the only python3."""
    (folder / "python3").write_text(f"#!/bin/sh\n{python}\n")
    (folder / "python3").chmod(0o755)
    (folder / "scripts").mkdir()
    script = folder / "scripts" / "environment"
    script.write_text((ROOT / "scripts" / "environment").read_text())
    for name in ("requirements.lock", "pyproject.toml", "package.json", "package-lock.json"):
        (folder / name).write_text("")
    env = {"PATH": f"{folder}:/usr/bin:/bin", "PYTHON": "python3"}
    return subprocess.run(["bash", script], env=env, capture_output=True, text=True, check=False)


def test_an_old_python_is_refused_with_the_remedy(tmp_path: Path) -> None:
    done = run_environment(tmp_path, '[ "$1" = --version ] && echo Python 3.9.2 && exit 0; exit 1')
    assert done.returncode == 1
    assert "Gradlab needs Python 3.11 or newer; Python 3.9.2 is what was found." in done.stderr
    assert "sudo apt install python3 python3-venv" in done.stderr


def test_a_python_without_venv_is_refused_with_the_remedy(tmp_path: Path) -> None:
    done = run_environment(
        tmp_path, 'case "$2" in *ensurepip*) exit 1;; esac; [ "$1" = --version ] && echo Python 3.11.2; exit 0'
    )
    assert done.returncode == 1
    assert "sudo apt install python3-venv" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_lock_pins_exactly_and_names_nothing_of_cuda() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.match(r"[a-z0-9-]+==[^ ]+( ; .+)?$", line)] == []
    names = {line.split("==")[0] for line in lines}
    assert {name for name in names if re.match(r"(cuda-|nvidia-(cu|nccl|nv)|triton)", name)} == set()
    assert {"torch", "jupyterhub", "pytest", "uv", "nvidia-ml-py"} <= names
    assert "torch==2.13.0" in lines


def test_the_lock_holds_what_the_project_asks_for() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    asked = set(re.findall(r'^  "([a-z0-9-]+)(?:[><=~]=?)[^"]*",', text, flags=re.MULTILINE))
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE))
    assert len(asked) > 20
    assert asked - locked == set()


def test_the_node_lock_has_digests_and_no_download_addresses() -> None:
    packages = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    assert packages["node_modules/configurable-http-proxy"]["version"].startswith("5.")
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert [name for name, package in packages.items() if name and "integrity" not in package] == []


def test_what_ci_prepared_must_not_be_skipped() -> None:
    with pytest.raises(pytest.skip.Exception, match="needs no-such-tool: no-such-tool is not on PATH"):
        demand("no-such-tool", required="bubblewrap,chromium")
    with pytest.raises(pytest.fail.Exception, match=r"no-such-tool was prepared for \(TEST_REQUIRE\)"):
        demand("no-such-tool", required="bubblewrap,no-such-tool")
    demand("sh", required="sh")
    with pytest.raises(pytest.fail.Exception, match=r"sh was prepared for .* and is not usable: found to be broken"):
        demand("sh", "found to be broken", required="sh")


def test_the_scripts_can_be_run() -> None:
    names = ["environment", "lock", "test", "secrets", "backup", "restore", "down", "images"]
    for name in (*(f"scripts/{name}" for name in names), ".ci/run"):
        assert os.access(ROOT / name, os.X_OK), name
        subprocess.run(["bash", "-n", ROOT / name], check=True)
