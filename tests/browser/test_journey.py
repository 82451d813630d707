"""The whole of it, as people see it: a learner solves an exercise, an instructor watches the point arrive."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NewPage
from tests.browser.notebooks import kernel_ready, run, type_into
from tests.servers import RunningServer
from tests.waiting import until

# tests/conftest.py says why they have the group of those that change networks.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("networks")]

RANK_OF = "def rank_of(x: torch.Tensor) -> int:\n    return x.ndim"
DOUBLE = "def double(x: torch.Tensor) -> torch.Tensor:\n    return 2 * x"

# Remembers when the cell got its full points, by the clock that the server has too, and that the page was not reloaded.
WATCH = """
cell => {
  window.arrived = null;
  new MutationObserver(() => {
    if (window.arrived === null && cell.textContent.startsWith('5')) window.arrived = Date.now() / 1000;
  }).observe(cell, { childList: true, characterData: true, subtree: true });
}
"""


def log_in(page: Page, server: RunningServer, name: str, password: str) -> None:
    page.goto(server.url)
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name=f"Hello, {name}.")).to_be_visible()


def test_a_learner_passes_and_an_instructor_sees_the_point_appear(
    new_page: NewPage, running_server: RunningServer
) -> None:
    server = running_server
    notebook = new_page(None)
    log_in(notebook, server, "journey", server.learner_password)
    notebook.get_by_role("link", name="Open Tensors", exact=True).click()
    kernel_ready(notebook)
    assert notebook.url.endswith("/lab/tree/04_tensors.ipynb")

    run(notebook, "import torch")
    expect(run(notebook, 'lab.check("rank_of")')).to_contain_text("not attempted")
    type_into(notebook, "def rank_of", RANK_OF)
    run(notebook, "def rank_of")
    output = run(notebook, 'lab.check("rank_of")')
    expect(output).to_contain_text("passed · rank_of · 2 of 2 points")
    expect(output).to_contain_text("The rank is the number of dimensions.")

    table = new_page(None)
    log_in(table, server, "teacher", server.instructor_password)
    table.get_by_role("link", name="Watch the class").click()
    row = table.get_by_role("row").filter(has=table.get_by_role("rowheader", name="journey"))
    cell = row.locator("[data-lab=tensors]")
    expect(cell).to_contain_text("2 / 5")
    expect(table.get_by_role("status")).to_contain_text("Live")
    cell.evaluate(WATCH)

    type_into(notebook, "def double", DOUBLE)
    expect(run(notebook, 'lab.check("double")')).to_contain_text("passed · double · 3 of 3 points")
    until(lambda: table.evaluate("window.arrived !== null"), what="the point in the class table")
    expect(cell).to_contain_text("5 / 5")
    attempts = server.log_in("journey").api("GET", "/services/portal/api/submissions/3").json()
    delay = table.evaluate("window.arrived") - attempts["judged_at"]
    print(f"From the verdict to the class table: {delay:.2f} s")
    assert attempts["only"] == "double"
    assert delay < 5  # on a machine that may be busy

    table.get_by_role("link", name="journey", exact=True).click()
    expect(table.get_by_role("heading", name="journey")).to_be_visible()
    expect(table.get_by_role("main")).to_contain_text("Doubling")
