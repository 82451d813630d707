"""Homes, made by a server that may be root: nothing a learner laid out as a trap is ever followed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gradlab.hub.homes import open_home
from tests.conftest import Require

UID = 123_456 if os.getuid() == 0 else os.getuid()


def make(homes: Path) -> Path:
    with open_home(homes, "ada", UID):
        return homes / "ada"


def test_a_home_belongs_to_its_learner_alone(tmp_path: Path) -> None:
    home = make(tmp_path / "homes")
    assert home.stat().st_uid == UID
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o711
    (home / "work").write_text("kept")
    assert (make(tmp_path / "homes") / "work").read_text() == "kept"


def test_a_home_that_is_a_link_is_refused(tmp_path: Path) -> None:
    homes, elsewhere = tmp_path / "homes", tmp_path / "elsewhere"
    homes.mkdir()
    elsewhere.mkdir(0o755)
    (homes / "ada").symlink_to(elsewhere)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        make(homes)
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o755


def test_a_restored_home_gets_its_owner_back_without_following_links(tmp_path: Path, require: Require) -> None:
    require("root")  # nobody else gives files away
    outside = tmp_path / "outside"
    outside.write_text("the server's")
    folder = tmp_path / "homes" / "ada" / "folder"
    folder.mkdir(parents=True)
    (folder / "work.ipynb").write_text("my work")
    (folder / "link").symlink_to(outside)
    make(tmp_path / "homes")
    assert (folder / "work.ipynb").stat().st_uid == UID
    assert (folder / "link").lstat().st_uid == UID
    assert outside.stat().st_uid == 0
