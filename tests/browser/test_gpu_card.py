"""The live card of ``lab.gpu(watch=…)`` in a real JupyterLab: it changes in its place while other cells run."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NewPage
from tests.browser.notebooks import cell, run
from tests.browser.test_saving import LabServer, jupyter
from tests.fake_portal import fake_portal
from tests.own_gpus import GIB, answer, held

# tests/conftest.py says why they have the group of those that change networks.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("networks")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    with fake_portal() as portal, jupyter(tmp_path_factory.mktemp("jupyter"), portal) as server:
        yield server


def bar(page: Page) -> list[float]:
    """Widths of the memory bar's parts, as the browser draws them, and of the bar itself."""
    found = cell(page, "watch=60").locator(".jp-OutputArea-output div[title]")
    return [one.bounding_box()["width"] for one in (*found.all(), found.first.locator(".."))]  # type: ignore[index]


def test_a_live_card_changes_while_another_cell_runs(server: LabServer, new_page: NewPage) -> None:
    server.portal.gpu = answer(held(memory_used=70 * GIB, mine={"memory": 35 * GIB}, others={"memory": 35 * GIB}))
    page = new_page(None)
    server.open(page, "gpu.ipynb", "lab.gpu(watch=60)", "import time; time.sleep(60)", "%gpu", "lab.gpu(watch=0)")
    card = run(page, "watch=60")
    expect(card).to_contain_text("GPU 0 · NVIDIA H200")
    yours, others, whole = bar(page)
    assert yours == pytest.approx(whole / 4, abs=2)
    assert others == pytest.approx(whole / 4, abs=2)

    run(page, "time.sleep(60)")
    server.portal.gpu = answer(held(utilisation=97))
    expect(card).to_contain_text("97 %")
    expect(card.locator(".jp-OutputArea-child")).to_have_count(1)
    expect(cell(page, "time.sleep(60)").locator(".jp-InputPrompt")).to_have_text("[*]:")
    page.get_by_role("button", name=re.compile("Interrupt")).first.click()
    expect(cell(page, "time.sleep(60)").locator(".jp-OutputArea")).to_contain_text("KeyboardInterrupt")

    expect(run(page, "%gpu")).to_contain_text("GPU 0 NVIDIA H200: 97 % busy, 12.0 of 140.0 GiB (yours 3.0, others 9.0)")
    expect(card).to_contain_text("Live until")  # interrupting a cell did not end it
    run(page, "watch=0")
    expect(card).to_contain_text("No longer live.")
