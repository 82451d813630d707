"""The peers' environments: each a real one of its own in ``bench/.envs``, with every version pinned.

Only torch is shared: its folders in this project's environment are linked to, because it is 750 MB and the same build
for all is what makes the numbers comparable. Nothing else of this project is to be found there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution, version
from pathlib import Path

__all__ = ["BenchError", "ensure", "version_in"]

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE / ".envs"


class BenchError(RuntimeError):
    """The benchmark cannot be run here; the text names the remedy."""


def ensure(name: str) -> Path:
    """The environment that ``requirements-NAME.txt`` describes, made now if it is not so. BenchError if it fails."""
    folder, requirements = ENVIRONMENTS / name, HERE / f"requirements-{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes() + version("torch").encode()).hexdigest()
    stamp = folder / "made-from"
    if stamp.is_file() and stamp.read_text() == digest:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    _uv("venv", "--python", sys.executable, str(folder))
    python = str(folder / "bin" / "python")
    # --no-deps: the file is complete, so nothing can be dragged in that it does not name (such as another torch).
    _uv("pip", "install", "--no-deps", "--compile-bytecode", "--python", python, "--requirement", str(requirements))
    _share_torch(folder)
    stamp.write_text(digest)
    return folder


def version_in(folder: Path, package: str) -> str:
    """The version of a package in an environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run(
        [folder / "bin" / "python", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def _share_torch(folder: Path) -> None:
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    torch = distribution("torch")
    for name in sorted({file.parts[0] for file in torch.files or []} - {".."}):
        (site / name).symlink_to(Path(str(torch.locate_file(name))))


def _uv(*arguments: str) -> None:
    uv = Path(sys.executable).with_name("uv")
    if not uv.is_file():
        raise BenchError(f"{uv} is missing: it makes the peers' environments. Run `make environment`.")
    done = subprocess.run([uv, "--quiet", *arguments], env=_uv_environment(), capture_output=True, text=True)
    if done.returncode:
        raise BenchError(
            f"uv {' '.join(arguments[:2])} failed:\n{done.stderr.strip()}\nThe peers come from the package index "
            "that pip uses: check the network, or set PIP_INDEX_URL to one that has them, and run `make bench` again."
        )


def _uv_environment() -> dict[str, str]:
    """uv does not read pip's configuration; it gets the index from there."""
    found = {**os.environ, "UV_SYSTEM_CERTS": "1"}
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True
    )
    index = os.environ.get("PIP_INDEX_URL") or asked.stdout.strip()
    return found | ({"UV_DEFAULT_INDEX": index} if index else {})
