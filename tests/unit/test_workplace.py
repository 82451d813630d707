"""What a judge has on disk: private, gone with it, and swept up after one that was killed."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from checker.workplace import Workplace, is_alive
from gradlab.settings import ROOT
from tests.conftest import Require


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files that is ours alone, with a short path."""
    with tempfile.TemporaryDirectory(prefix="w", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_it_is_private_and_gone_after_the_close() -> None:
    workplace = Workplace()
    folder = workplace.folder("job-")
    (folder / "file").write_text("x")
    assert workplace.path.stat().st_mode & 0o777 == 0o700
    assert folder.parent == workplace.path
    workplace.close()
    assert not workplace.path.exists()


def test_what_a_killed_judge_left_is_removed_and_the_living_are_spared(elsewhere: Path) -> None:
    script = "from checker.workplace import Workplace; print(Workplace().path, flush=True); input()"
    environment = os.environ | {"TMPDIR": str(elsewhere), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"import tempfile; {script}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().strip())
        living = Workplace()
        assert left.is_dir()
        other.kill()
    (elsewhere / "gradlab-judge-without-a-lock").mkdir()
    last = Workplace()
    assert not left.exists()
    assert living.path.is_dir()
    assert (elsewhere / "gradlab-judge-without-a-lock").is_dir()
    living.close()
    last.close()


def test_what_another_users_judge_has_on_disk_is_not_ours_to_remove(elsewhere: Path, require: Require) -> None:
    require("root")
    theirs = elsewhere / "gradlab-judge-of-another-user"
    theirs.mkdir()
    (theirs / "lock").touch()
    os.chown(theirs, 12345, 12345)
    Workplace().close()
    assert theirs.is_dir()


def test_a_path_that_is_too_long_for_sockets_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    workplace = Workplace()
    try:
        assert workplace.path.parent == Path("/tmp")
        assert is_alive(workplace.name)
        path = workplace.folder("nursery-") / "sandboxes"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    finally:
        workplace.close()
    assert not is_alive(workplace.name)


def test_its_lock_is_held_from_the_moment_it_can_be_found(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    lock, seen = fcntl.flock, []

    def locking(descriptor: int, how: int) -> None:
        seen.append([path.name for path in elsewhere.glob("*/lock")])
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", locking)
    workplace = Workplace()
    monkeypatch.undo()
    assert seen == [[]]
    assert (workplace.path / "lock").is_file()
    workplace.close()
