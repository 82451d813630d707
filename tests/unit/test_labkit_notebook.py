"""What a notebook on disk says: of which lab it is, what answers it has, and whether they are those that ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labkit.errors import LabError
from labkit.notebook import Notebook, Ran
from tests.browser.notebooks import lab_notebook, write
from tests.screens import RIGHT, WRONG, with_answer


def ran(*cells: str) -> list[Ran]:
    return [Ran(cell, cell) for cell in cells]


def test_a_notebook_knows_its_lab_and_the_names_of_its_answers(tmp_path: Path) -> None:
    notebook = Notebook.read(write(tmp_path / "a.ipynb", lab_notebook("x = 1", lab="gpu-usage")))
    assert notebook.lab == "gpu-usage"
    assert notebook.answer_names() == {"rank_of"}


@pytest.mark.parametrize("metadata", [{}, {"gradlab": {}}, {"gradlab": {"lab": 3}}, {"gradlab": "tensors"}, None])
def test_another_notebook_is_not_a_lab(tmp_path: Path, metadata: Any) -> None:
    path = write(tmp_path / "own.ipynb", {**lab_notebook(), "metadata": metadata})
    with pytest.raises(LabError, match=r"own\.ipynb is not a lab notebook: .* Open a lab from the portal's list"):
        _ = Notebook.read(path).lab


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"cells": 3}', b"\xff\xfe"])
def test_a_file_that_is_no_notebook_is_not_sent(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.ipynb"
    path.write_bytes(content)
    with pytest.raises(LabError, match=r"a\.ipynb is not a notebook \(\.ipynb\)\. Nothing was sent\."):
        Notebook.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"gone\.ipynb cannot be read: No such file or directory"):
        Notebook.read(tmp_path / "gone.ipynb")


@pytest.mark.parametrize(
    ("runs", "changed"),
    [
        ((), []),
        ((RIGHT,), []),
        ((RIGHT + "\n",), []),
        ((WRONG,), ["rank_of"]),
        ((WRONG, RIGHT), []),
        ((RIGHT, WRONG), ["rank_of"]),
        ((RIGHT, "helper = 3"), []),  # a scratch cell that is no answer
        ((RIGHT, "rank_of = print"), ["rank_of"]),
        ((RIGHT, "cache[rank_of] = 1"), []),
        ((RIGHT, "%%bash\nls"), []),
        ((RIGHT, "def rank_of(:"), []),
    ],
)
def test_an_answer_changed_if_its_last_run_is_not_among_the_cells(
    tmp_path: Path, runs: tuple[str, ...], changed: list[str]
) -> None:
    notebook = Notebook.read(write(tmp_path / "a.ipynb", with_answer(RIGHT)))
    assert notebook.changed_since(ran(*runs)) == changed


def test_the_answers_are_looked_up_once_however_long_the_history_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking them up parses every cell of the notebook, and every check waits for it."""
    looked_up = []
    names = Notebook.answer_names
    monkeypatch.setattr(Notebook, "answer_names", lambda self: looked_up.append(1) or names(self))
    notebook = Notebook.read(write(tmp_path / "a.ipynb", with_answer(RIGHT)))
    assert notebook.changed_since(ran(*[WRONG] * 100)) == ["rank_of"]
    assert len(looked_up) == 1


def test_without_exercise_marks_every_cell_counts(tmp_path: Path) -> None:
    content = lab_notebook("class Net:\n    pass")
    del content["cells"][0]["metadata"]["exercise"]
    notebook = Notebook.read(write(tmp_path / "a.ipynb", content))
    assert notebook.answer_names() == {"rank_of", "Net"}
    assert notebook.changed_since(ran("class Net:\n    x = 1")) == ["Net"]
