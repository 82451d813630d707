"""What the spawner does with files; starting and stopping is tested on a real hub."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from tornado.web import HTTPError

from gradlab.hub import spawner
from gradlab.hub.spawner import LearnerSpawner, _link_labkit
from gradlab.settings import ROOT, Settings
from tests.courses import write_course


@pytest.fixture
def ada(tmp_path: Path) -> LearnerSpawner:
    course = write_course(tmp_path / "course")
    settings = Settings(state_dir=tmp_path / "state", labs_dir=course.labs, checks_dir=course.checks)
    settings.state_dir.mkdir()
    user = SimpleNamespace(name="ada", id=1)
    return LearnerSpawner(settings=settings, user=user, log=logging.getLogger())


def test_a_learner_gets_in_though_the_labs_cannot_be_delivered(
    ada: LearnerSpawner, caplog: pytest.LogCaptureFixture
) -> None:
    ada.settings.state_dir.joinpath("gradlab.sqlite").write_text("this is no database")
    ada._prepare()
    assert ada.home.is_dir()
    assert "Labs cannot be delivered to ada: The database" in caplog.text
    assert ada.user_env({})["GRADLAB_DELIVERED"] == ""  # and so nothing is put beside anything


def test_a_port_that_somebody_else_took_is_not_the_learners_server(
    ada: LearnerSpawner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(spawner, "listening_uid", lambda port: ada.uid + 1)
    with pytest.raises(HTTPError, match=r"Port 4711 of your server was taken by somebody else's process\. Start your"):
        asyncio.run(ada._wait_listening(4711, tmp_path / "log"))


def test_the_link_to_labkit_follows_the_project(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    link = tmp_path / "python" / "labkit"
    _link_labkit(settings)
    assert link.readlink() == ROOT / "labkit"
    link.unlink()
    link.symlink_to(tmp_path / "an-older-place" / "labkit")
    _link_labkit(settings)
    _link_labkit(settings)
    assert link.readlink() == ROOT / "labkit"
