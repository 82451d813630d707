"""Labs arrive in homes, and nothing a learner made is ever overwritten."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from gradlab.course import Lab, write_templates
from labkit.delivery import deliver
from tests.courses import write_course

NAME = "04_tensors.ipynb"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return write_course(tmp_path / "course").load().labs[0]


@pytest.fixture
def newer(tmp_path: Path, lab: Lab) -> Lab:
    course = write_course(tmp_path / "course2")
    source = course.labs / "04_tensors.py"
    source.write_text(source.read_text().replace("Two questions", "Two better questions"))
    found = course.load().labs[0]
    assert found.version != lab.version
    return found


class Home:
    """A learner's home; ``start`` is what a start of their server does, and what the portal is told of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "home"
        self.path.mkdir()
        self.known: dict[str, tuple[str, str]] = {}

    def start(self, *labs: Lab) -> list[tuple[str, str]]:
        """What was done: file name and action of each lab that was delivered."""
        templates = self.path.with_name("templates")
        write_templates(labs, templates)
        done = deliver(templates, self.path, self.known)
        self.known |= {one.lab: (one.version, one.filename) for one in done}
        return [(one.filename, one.action) for one in done]

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_the_first_start_brings_the_lab_and_the_next_changes_nothing(home: Home, lab: Lab) -> None:
    assert home.start(lab) == [(NAME, "written")]
    file = home.path / NAME
    assert file.read_text() == lab.notebook
    file.write_text("my work")
    assert home.start(lab) == []
    assert file.read_text() == "my work"
    assert home.names() == [NAME]


def test_a_newer_version_replaces_an_untouched_notebook(home: Home, lab: Lab, newer: Lab) -> None:
    home.start(lab)
    assert home.start(newer) == [(NAME, "replaced")]
    assert (home.path / NAME).read_text() == newer.notebook
    assert home.names() == [NAME]
    assert home.start(newer) == []


def test_a_newer_version_is_put_beside_a_changed_notebook(home: Home, lab: Lab, newer: Lab) -> None:
    home.start(lab)
    (home.path / NAME).write_text("my work")
    assert home.start(newer) == [("04_tensors-v2.ipynb", "beside")]
    assert (home.path / NAME).read_text() == "my work"
    assert (home.path / "04_tensors-v2.ipynb").read_text() == newer.notebook
    assert home.start(newer) == []
    assert home.known == {"tensors": (newer.version, "04_tensors-v2.ipynb")}


def test_versions_beside_take_the_first_free_name(home: Home, lab: Lab, newer: Lab) -> None:
    home.start(lab)
    (home.path / NAME).write_text("my work")
    (home.path / "04_tensors-v2.ipynb").write_text("my copy")
    assert home.start(newer)[0][0] == "04_tensors-v3.ipynb"
    assert (home.path / "04_tensors-v2.ipynb").read_text() == "my copy"


def test_a_deleted_notebook_comes_back_and_a_renamed_one_stays(home: Home, lab: Lab) -> None:
    home.start(lab)
    (home.path / NAME).rename(home.path / "mine.ipynb")
    (home.path / "mine.ipynb").write_text("my work")
    assert home.start(lab) == [(NAME, "written")]
    assert (home.path / "mine.ipynb").read_text() == "my work"


def test_going_back_to_an_older_version_works_like_going_on(home: Home, lab: Lab, newer: Lab) -> None:
    home.start(lab)
    home.start(newer)
    assert home.start(lab) == [(NAME, "replaced")]
    assert home.start(lab) == []


def test_a_home_that_is_older_than_the_database_keeps_its_files(home: Home, lab: Lab) -> None:
    """A restored home, a lost database: what is there may be work, so it stays, and the lab comes beside it."""
    (home.path / NAME).write_text("my work")
    assert home.start(lab) == [("04_tensors-v2.ipynb", "beside")]
    assert (home.path / NAME).read_text() == "my work"


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_in_the_notebooks_place_is_neither_followed_nor_replaced(
    home: Home, lab: Lab, newer: Lab, tmp_path: Path, dangling: bool
) -> None:
    outside = tmp_path / "outside"
    if not dangling:
        outside.write_text(lab.notebook)  # looks untouched, if one follows the link
    home.start(lab)
    (home.path / NAME).unlink()
    (home.path / NAME).symlink_to(outside)
    assert home.start(newer)[0][1] == "beside"
    assert (home.path / NAME).is_symlink()
    assert not outside.exists() if dangling else outside.read_text() == lab.notebook


def test_a_fifo_in_the_notebooks_place_does_not_hang_the_server(home: Home, lab: Lab, newer: Lab) -> None:
    home.start(lab)
    (home.path / NAME).unlink()
    os.mkfifo(home.path / NAME)
    assert home.start(newer)[0][0] == "04_tensors-v2.ipynb"


def test_a_folder_in_the_notebooks_place_stays(home: Home, lab: Lab, newer: Lab) -> None:
    home.start(lab)
    (home.path / NAME).unlink()
    (home.path / NAME).mkdir()
    assert home.start(newer)[0][0] == "04_tensors-v2.ipynb"


def test_a_failed_write_leaves_no_half_notebook(home: Home, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", fails)
    with pytest.raises(OSError, match="No space left"):
        home.start(lab)
    monkeypatch.undo()
    assert home.names() == []
    assert home.start(lab)[0][1] == "written"


def test_several_labs_are_delivered_one_by_one(home: Home, lab: Lab) -> None:
    second = replace(lab, slug="second", stem="05_second")
    assert [filename for filename, _ in home.start(lab, second)] == [NAME, "05_second.ipynb"]
