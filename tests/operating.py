"""What an operator does with a hosted server of the tests: the commands behind `make backup` and its like."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker

from gradlab.settings import ROOT
from tests.hosted import Hosted

__all__ = ["another", "backup", "equip", "script", "write_env"]


def equip(folder: Path) -> None:
    """Make this folder one from which a server is operated."""
    shutil.copytree(ROOT / "scripts", folder / "scripts", dirs_exist_ok=True)
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    for name in ("docker-compose.yml", ".env.example", "Makefile"):
        shutil.copy(ROOT / name, folder)


def script(folder: Path, name: str, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run one of scripts/ in this folder; standard error is in its output."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GRADLAB_", "COMPOSE_"))}
    return subprocess.run(
        [folder / "scripts" / name, *arguments],
        env=kept | environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def backup(folder: Path) -> Path:
    """Back the server of this folder up; the file."""
    done = script(folder, "backup")
    assert done.returncode == 0, done.stdout
    (file,) = sorted((folder / "backups").iterdir())[-1:]
    assert f"backups/{file.name}: " in done.stdout, done.stdout
    return file


def write_env(folder: Path, **values: str) -> None:
    """Set variables in ``.env``; others stay."""
    file = folder / ".env"
    lines = file.read_text().splitlines() if file.exists() else []
    lines = [line for line in lines if line.partition("=")[0] not in values]
    file.write_text("".join(f"{line}\n" for line in [*lines, *(f"{key}={value}" for key, value in values.items())]))


@contextlib.contextmanager
def another(server: Hosted, folder: Path) -> Iterator[Hosted]:
    """A place for what was ``server``, which is down: a folder without settings, a name of its own, the same port."""
    folder.mkdir()
    equip(folder)
    with contextlib.closing(docker.from_env()) as engine:
        found = Hosted(f"{server.name}-again", folder, server.port, engine, server.env)
        found._signed_up.update(server._signed_up)
        try:
            yield found
        finally:
            if (folder / ".env").exists():
                found.destroy()
            for volume in engine.volumes.list(filters={"name": found.name}):
                volume.remove(force=True)
