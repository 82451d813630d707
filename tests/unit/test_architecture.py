"""The import directions of docs/architecture.md: they hold, and breaking one is noticed."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradlab.settings import ROOT

PACKAGES = ("gradlab", "checker", "labkit")
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"}
    words = [str(LINT_IMPORTS), "--no-cache", "--config", str(folder / "pyproject.toml")]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The three packages and their contracts, to be spoilt."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            target = tmp_path / path.relative_to(ROOT)
            if "labs" not in path.relative_to(ROOT).parts:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_all_contracts_are_kept() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    assert ", 0 broken." in done.stdout


def test_an_unspoilt_copy_keeps_them_too(copy: Path) -> None:
    assert lint(copy).returncode == 0


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("labkit/errors.py", "import checker.results"),
        ("labkit/errors.py", "import gradlab.errors"),
        ("checker/results.py", "import gradlab.errors"),
        ("gradlab/portal/models.py", "import gradlab.hub.environment"),
        ("gradlab/portal/models.py", "import gradlab.gpu.nvml"),
        ("gradlab/hub/environment.py", "import gradlab.gpu.nvml"),
        ("gradlab/gpu/monitor.py", "import gradlab.portal.models"),
        ("gradlab/portal/models.py", "import gradlab.checks"),
        ("gradlab/store/tables.py", "import gradlab.course"),
        ("gradlab/errors.py", "import gradlab.settings"),
        ("gradlab/checks.py", "import gradlab.cli"),
        ("gradlab/portal/models.py", "import checker.results"),
        ("checker/sandbox/confinement.py", "import checker.engine"),
        ("gradlab/novelty.py", "pass"),
    ],
)
def test_a_wrong_import_is_noticed(copy: Path, module: str, line: str) -> None:
    path = copy / module
    path.write_text((path.read_text() if path.exists() else "") + f"\n{line}\n")
    done = lint(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert " broken." in done.stdout or "novelty" in done.stdout


def imports(path: Path) -> Iterator[str]:
    """Full names of everything a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(package: str) -> list[Path]:
    return [path for path in sorted((ROOT / package).rglob("*.py")) if "labs" not in path.relative_to(ROOT).parts]


def test_the_hub_takes_nothing_from_the_judge_but_the_confinement() -> None:
    taken = {name for path in sources("gradlab/hub") for name in imports(path) if name.split(".")[0] == "checker"}
    assert taken
    assert all(name.startswith("checker.sandbox.confinement") for name in taken), taken


@pytest.mark.parametrize(
    ("package", "homes"),
    [("pynvml", {"gradlab/gpu/nvml/"}), ("sqlalchemy", {"gradlab/store"}), ("alembic", {"gradlab/store"})],
)
def test_some_libraries_are_known_in_one_place_alone(package: str, homes: set[str]) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in sources("gradlab")
        if package in {n.split(".")[0] for n in imports(path)}
    }
    assert users
    assert all(any(user.startswith(home) for home in homes) for user in users), users


def test_nothing_of_the_server_or_the_judge_is_imported_by_what_learners_get() -> None:
    for path in [*sources("labkit"), *(ROOT / "labs").glob("*.py")]:
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"gradlab", "checker"}, path


def test_what_runs_inside_a_sandbox_needs_nothing_of_ours() -> None:
    roots = {name.split(".")[0] for name in imports(ROOT / "labkit" / "seal.py")}
    assert roots <= set(sys.stdlib_module_names)


def test_all_packages_are_installed() -> None:
    """A package that pyproject.toml forgets is there in the checkout and missing in an installation."""
    found = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for name in PACKAGES
        for path in (ROOT / name).rglob("__init__.py")
    }
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = next(line for line in text.splitlines() if line.startswith("packages = [") and '"gradlab.store"' in line)
    assert found == set(ast.literal_eval(listed.split("=", 1)[1].strip()))
