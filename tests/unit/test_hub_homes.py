"""Labs arrive in homes, and nothing a learner made or laid out as a trap is ever overwritten or followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gradlab.course import Lab
from gradlab.hub.homes import Delivery, deliver, open_home
from gradlab.store import Store
from tests.conftest import Require
from tests.courses import write_course

UID = 123_456 if os.getuid() == 0 else os.getuid()
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


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}")
    yield store
    store.close()


class Home:
    """Ada's home; ``start`` is what a start of her server does."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.homes, self.path, self._store = folder, folder / "ada", store
        self._now = 0.0

    def start(self, *labs: Lab) -> list[Delivery]:
        self._now += 1
        with open_home(self.homes, "ada", UID) as home:
            return deliver(home, UID, "ada", labs, self._store, now=self._now)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir())


@pytest.fixture
def home(tmp_path: Path, store: Store) -> Home:
    return Home(tmp_path / "homes", store)


def test_the_first_start_brings_the_lab_and_the_next_changes_nothing(home: Home, lab: Lab) -> None:
    assert home.start(lab) == [Delivery("tensors", NAME, "written")]
    file = home.path / NAME
    assert file.read_text() == lab.notebook
    assert file.stat().st_uid == UID == home.path.stat().st_uid
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.homes.stat().st_mode) == 0o711
    file.write_text("my work")
    assert home.start(lab) == []
    assert file.read_text() == "my work"
    assert home.names() == [NAME]


def test_a_newer_version_replaces_an_untouched_notebook(home: Home, lab: Lab, newer: Lab) -> None:
    home.start(lab)
    assert home.start(newer) == [Delivery("tensors", NAME, "replaced")]
    assert (home.path / NAME).read_text() == newer.notebook
    assert (home.path / NAME).stat().st_uid == UID
    assert home.names() == [NAME]
    assert home.start(newer) == []


def test_a_newer_version_is_put_beside_a_changed_notebook(home: Home, lab: Lab, newer: Lab, store: Store) -> None:
    home.start(lab)
    (home.path / NAME).write_text("my work")
    assert home.start(newer) == [Delivery("tensors", "04_tensors-v2.ipynb", "beside")]
    assert (home.path / NAME).read_text() == "my work"
    assert (home.path / "04_tensors-v2.ipynb").read_text() == newer.notebook
    assert home.start(newer) == []
    assert store.deliveries("ada")["tensors"] == [(lab.version, NAME), (newer.version, "04_tensors-v2.ipynb")]


def test_versions_beside_take_the_first_free_name(home: Home, lab: Lab, newer: Lab) -> None:
    home.start(lab)
    (home.path / NAME).write_text("my work")
    (home.path / "04_tensors-v2.ipynb").write_text("my copy")
    assert home.start(newer)[0].filename == "04_tensors-v3.ipynb"
    assert (home.path / "04_tensors-v2.ipynb").read_text() == "my copy"


def test_a_deleted_notebook_comes_back_and_a_renamed_one_stays(home: Home, lab: Lab) -> None:
    home.start(lab)
    (home.path / NAME).rename(home.path / "mine.ipynb")
    (home.path / "mine.ipynb").write_text("my work")
    assert home.start(lab) == [Delivery("tensors", NAME, "written")]
    assert (home.path / "mine.ipynb").read_text() == "my work"


def test_going_back_to_an_older_version_works_like_going_on(home: Home, lab: Lab, newer: Lab) -> None:
    home.start(lab)
    home.start(newer)
    assert home.start(lab) == [Delivery("tensors", NAME, "replaced")]
    assert home.start(lab) == []


def test_a_home_that_is_older_than_the_database_keeps_its_files(home: Home, lab: Lab) -> None:
    """A restored home, a lost database: what is there may be work, so it stays, and the lab comes beside it."""
    home.path.mkdir(parents=True)
    (home.path / NAME).write_text("my work")
    assert home.start(lab) == [Delivery("tensors", "04_tensors-v2.ipynb", "beside")]
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
    assert home.start(newer)[0].action == "beside"
    assert (home.path / NAME).is_symlink()
    assert not outside.exists() if dangling else outside.read_text() == lab.notebook


def test_a_fifo_in_the_notebooks_place_does_not_hang_the_hub(home: Home, lab: Lab, newer: Lab) -> None:
    home.start(lab)
    (home.path / NAME).unlink()
    os.mkfifo(home.path / NAME)
    assert home.start(newer)[0].filename == "04_tensors-v2.ipynb"


def test_a_folder_in_the_notebooks_place_stays(home: Home, lab: Lab, newer: Lab) -> None:
    home.start(lab)
    (home.path / NAME).unlink()
    (home.path / NAME).mkdir()
    assert home.start(newer)[0].filename == "04_tensors-v2.ipynb"


def test_a_home_that_is_a_link_is_refused(home: Home, lab: Lab, tmp_path: Path) -> None:
    home.homes.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    home.path.symlink_to(elsewhere)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        home.start(lab)
    assert list(elsewhere.iterdir()) == []


def test_a_failed_write_leaves_no_half_notebook(home: Home, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", fails)
    with pytest.raises(OSError, match="No space left"):
        home.start(lab)
    monkeypatch.undo()
    assert home.names() == []
    assert home.start(lab)[0].action == "written"


def test_a_restored_home_gets_its_owner_back_without_following_links(
    home: Home, lab: Lab, tmp_path: Path, require: Require
) -> None:
    require("root")  # nobody else gives files away
    outside = tmp_path / "outside"
    outside.write_text("the server's")
    (home.path / "folder").mkdir(parents=True)
    (home.path / "folder" / "work.ipynb").write_text("my work")
    (home.path / "folder" / "link").symlink_to(outside)
    home.start(lab)
    assert (home.path / "folder" / "work.ipynb").stat().st_uid == UID
    assert (home.path / "folder" / "link").lstat().st_uid == UID
    assert outside.stat().st_uid == 0


def test_several_labs_are_delivered_one_by_one(home: Home, lab: Lab) -> None:
    second = replace(lab, slug="second", stem="05_second")
    assert [done.filename for done in home.start(lab, second)] == [NAME, "05_second.ipynb"]
