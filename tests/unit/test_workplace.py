"""What a judge has on disk: private, gone with it, and swept up after one that was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from checker.workplace import Workplace

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_it_is_private_and_gone_after_the_close() -> None:
    workplace = Workplace()
    folder = workplace.folder("job-")
    (folder / "file").write_text("x")
    assert workplace.path.stat().st_mode & 0o777 == 0o700
    assert folder.parent == workplace.path
    workplace.close()
    assert not workplace.path.exists()


def test_what_a_killed_judge_left_is_removed_and_the_living_are_spared(tmp_path: Path) -> None:
    script = "from checker.workplace import Workplace; print(Workplace().path, flush=True); input()"
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"import tempfile; {script}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().strip())
        living = Workplace()
        assert left.is_dir()
        other.kill()
    (tmp_path / "gradlab-judge-without-a-lock").mkdir()
    if os.geteuid() == 0:
        (tmp_path / "gradlab-judge-of-another-user").mkdir()
        (tmp_path / "gradlab-judge-of-another-user" / "lock").touch()
        os.chown(tmp_path / "gradlab-judge-of-another-user", 12345, 12345)
    last = Workplace()
    assert not left.exists()
    assert living.path.is_dir()
    assert (tmp_path / "gradlab-judge-without-a-lock").is_dir()
    assert os.geteuid() != 0 or (tmp_path / "gradlab-judge-of-another-user").is_dir()
    living.close()
    last.close()
