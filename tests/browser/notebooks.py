"""Driving JupyterLab: cells are found by what is in them, since only those near the window are in the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

STUB = "def rank_of(x):\n    raise NotImplementedError"


def lab_notebook(*more: str, lab: str = "tensors") -> dict[str, Any]:
    """A lab notebook with the exercise ``rank_of``, its check cell, and more code cells."""

    def cell(source: str, **metadata: str) -> dict[str, Any]:
        return {
            "cell_type": "code",
            "execution_count": None,
            "id": f"c{abs(hash(source)) % 10**8}",
            "metadata": metadata,
            "outputs": [],
            "source": source,
        }

    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [cell(STUB, exercise="rank_of"), cell('lab.check("rank_of")'), *(cell(source) for source in more)]
    metadata = {"kernelspec": kernel, "gradlab": {"lab": lab}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def write(path: Path, notebook: dict[str, Any]) -> Path:
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


def sources(notebook: dict[str, Any]) -> list[str]:
    """The code of a notebook's code cells."""
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def cell(page: Page, text: str) -> Locator:
    """The code cell in front whose input contains ``text``."""
    panel = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    return panel.locator(".jp-CodeCell").filter(has=page.locator(".jp-InputArea").filter(has_text=text))


def kernel_ready(page: Page) -> None:
    """Wait until the notebook in front has a kernel that waits for work.

    The notebook's own indicator says "idle" even before there is a kernel; a cell run then brings up a question.
    """
    expect(page.locator("#jp-main-statusbar")).to_contain_text("Python 3 | Idle")


def type_into(page: Page, text: str, source: str) -> None:
    """Replace the source of the cell that contains ``text``."""
    _focus(cell(page, text))
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(source)


def run(page: Page, text: str) -> Locator:
    """Run the cell that contains ``text``; returns where its output appears."""
    found = cell(page, text)
    prompt = found.locator(".jp-InputPrompt")
    before = prompt.inner_text()
    _focus(found)
    page.keyboard.press("Control+Enter")
    expect(prompt).not_to_have_text(before)
    return found.locator(".jp-OutputArea")


def _focus(found: Locator) -> None:
    """JupyterLab swaps a cell's picture for its editor when it comes near: a click before that is lost."""
    found.locator(".cm-content").click()
    expect(found.locator(".cm-editor")).to_have_class(re.compile("cm-focused"))
