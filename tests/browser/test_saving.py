"""What is checked is what is on the screen: a real JupyterLab in Chromium, and a portal that keeps what it was sent."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import NewPage
from tests.browser.notebooks import STUB, cell, kernel_ready, lab_notebook, run, sources, type_into, write
from tests.fake_portal import TOKEN, FakePortal, fake_portal, result, verdict

# tests/conftest.py says why they have the group of those that change networks.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("networks")]

LABKIT = Path(__file__).resolve().parents[2] / "labkit"
RIGHT = "def rank_of(x):\n    return x.dim()"
WRONG = "def rank_of(x):\n    return x.numel()"


def judge(notebook: dict[str, Any], only: str | None) -> dict[str, Any]:
    outcome = "passed" if RIGHT in sources(notebook) else "failed"
    return verdict(result("rank_of", outcome, message="" if outcome == "passed" else "It counts the elements."))


@dataclass
class LabServer:
    url: str
    home: Path
    portal: FakePortal

    def open(self, page: Page, name: str, *more: str) -> None:
        """A lab notebook of that name, in front, its kernel ready."""
        path = self.home / name
        if not path.exists():
            write(path, lab_notebook(*more))
        # A workspace of its own: JupyterLab reopens what the default one had open, in every window.
        page.goto(f"{self.url}/lab/workspaces/w{time.monotonic_ns()}/tree/{name}?token=secret")
        kernel_ready(page)


@contextmanager
def jupyter(folder: Path, portal: FakePortal) -> Iterator[LabServer]:
    """A JupyterLab as a learner's server has it, without the hub."""
    home = folder / "home"
    home.mkdir(parents=True)
    private = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment = (
        os.environ
        | private
        | {
            "JUPYTER_PATH": str(LABKIT),
            "PYTHONPATH": str(LABKIT.parent),
            "IPYTHONDIR": str(folder / "ipython"),
            "GRADLAB_PORTAL_URL": portal.url,
            "JUPYTERHUB_API_TOKEN": TOKEN,
        }
    )
    log = folder / "jupyter.log"
    words = ("--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", "--IdentityProvider.token=secret")
    with log.open("wb") as file:
        command = [sys.executable, "-m", "jupyterlab", *words, f"--ServerApp.root_dir={home}"]
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"http://127\.0\.0\.1:([1-9]\d*)/lab", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield LabServer(f"http://127.0.0.1:{found[1]}", home, portal)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    with fake_portal(judge=judge) as portal, jupyter(tmp_path_factory.mktemp("jupyter"), portal) as server:
        yield server


@pytest.fixture
def lab(server: LabServer) -> LabServer:
    """The server with an empty portal."""
    server.portal.requests.clear()
    return server


@pytest.fixture
def page(new_page: NewPage, context: BrowserContext) -> Page:
    return new_page(context)


def test_what_was_just_run_is_saved_and_checked(lab: LabServer, page: Page) -> None:
    lab.open(page, "just_run.ipynb")
    expect(run(page, "lab.check")).to_contain_text("It counts the elements.")
    type_into(page, "def rank_of", RIGHT)
    run(page, "def rank_of")
    expect(run(page, "lab.check")).to_contain_text("In the interview:")
    assert sources(lab.portal.notebooks[0])[0] == STUB
    assert sources(lab.portal.notebooks[-1])[0] == RIGHT


def test_an_edit_that_was_not_run_is_on_the_screen_and_is_checked_too(lab: LabServer, page: Page) -> None:
    lab.open(page, "not_run.ipynb")
    type_into(page, "def rank_of", WRONG)
    run(page, "def rank_of")
    type_into(page, "def rank_of", RIGHT)
    output = run(page, "lab.check")
    expect(output).to_contain_text("passed")
    expect(output).to_contain_text("rank_of changed after you last ran it. What is on the screen was judged.")
    assert sources(lab.portal.notebooks[-1])[0] == RIGHT


def test_a_renamed_notebook_is_found(lab: LabServer, page: Page) -> None:
    lab.open(page, "before.ipynb", "lab.hint('rank_of')")
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="before.ipynb").click(button="right")
    page.get_by_role("menuitem", name="Rename").first.click()
    page.get_by_role("dialog").get_by_role("textbox").fill("after.ipynb")
    page.get_by_role("dialog").get_by_role("button", name="Rename").click()
    expect(page.get_by_role("tab", name="after.ipynb")).to_be_visible()
    # A copy takes the old name: the path that the kernel was started with now belongs to another notebook.
    write(lab.home / "before.ipynb", lab_notebook(lab="another"))
    type_into(page, "def rank_of", RIGHT)
    expect(run(page, "lab.check")).to_contain_text("passed")
    expect(run(page, "lab.hint")).to_contain_text("hint 1 of 2")
    assert {one.path.split("/")[5] for one in lab.portal.requests if "/labs/" in one.path} == {"tensors"}


def test_the_notebook_that_ran_the_check_is_saved_though_another_tab_is_in_front(lab: LabServer, page: Page) -> None:
    lab.open(page, "behind.ipynb", "import time, pathlib\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)")
    type_into(page, "def rank_of", RIGHT)
    run(page, "import time")
    run(page, "lab.check")  # waits for the cell above
    front = write(lab.home / "front.ipynb", lab_notebook())
    before = front.read_bytes()
    page.get_by_role("button", name="Refresh the file browser.").or_(
        page.locator("[data-command='filebrowser:refresh']")
    ).first.click()
    page.get_by_role("listitem", name=re.compile("front.ipynb")).dblclick()
    kernel_ready(page)
    type_into(page, "def rank_of", WRONG)
    (lab.home / "go").touch()
    page.get_by_role("tab", name="behind.ipynb").click()
    expect(cell(page, "lab.check").locator(".jp-OutputArea")).to_contain_text("passed")
    assert sources(lab.portal.notebooks[-1])[0] == RIGHT
    assert front.read_bytes() == before


def test_of_two_windows_the_one_that_ran_the_check_is_saved(
    lab: LabServer, page: Page, new_page: NewPage, context: BrowserContext
) -> None:
    first, second = page, new_page(context)
    saved: list[str] = []
    second.on("request", lambda request: saved.append(request.url) if request.method == "PUT" else None)
    lab.open(first, "windows.ipynb", "'seen ' + 'everything'")
    lab.open(second, "windows.ipynb")
    type_into(second, "def rank_of", WRONG)
    saved.clear()  # what its start saves: the workspace
    type_into(first, "def rank_of", RIGHT)
    expect(run(first, "lab.check")).to_contain_text("passed")
    assert sources(lab.portal.notebooks[-1])[0] == RIGHT
    # The kernel's messages come in order, so the other window has seen the check's request when it shows this.
    expect(run(second, "everything")).to_contain_text("seen everything")
    assert [url for url in saved if "contents" in url] == []


def test_a_question_of_jupyterlab_stops_the_check_and_nothing_is_sent(lab: LabServer, page: Page) -> None:
    short = "import functools, labkit.learner as l\nl.on_screen = functools.partial(l.on_screen, patience=1)"
    lab.open(page, "conflict.ipynb", short)
    run(page, "import functools")
    time.sleep(1)  # JupyterLab takes a change on disk within half a second of its own save for its own
    write(lab.home / "conflict.ipynb", lab_notebook("x = 'from elsewhere'"))
    run(page, "lab.check")
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(cell(page, "lab.check").locator(".jp-OutputArea")).to_contain_text(
        "It may be asking you something: answer that."
    )
    assert lab.portal.notebooks == []


def test_a_console_on_the_same_kernel_checks_the_notebook(lab: LabServer, page: Page) -> None:
    lab.open(page, "console.ipynb")
    type_into(page, "def rank_of", RIGHT)
    cell(page, "def rank_of").click(button="right")
    page.get_by_role("menuitem", name="New Console for Notebook").click()
    prompt = page.locator(".jp-CodeConsole-promptCell .cm-content")
    prompt.click()
    page.keyboard.insert_text("lab.check('rank_of')")
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".jp-CodeConsole-content")).to_contain_text("passed")
    assert sources(lab.portal.notebooks[-1])[0] == RIGHT


def test_saving_works_again_after_a_restart_and_after_a_crash_of_the_kernel(lab: LabServer, page: Page) -> None:
    lab.open(page, "restarts.ipynb", "import os; os._exit(1)")
    type_into(page, "def rank_of", WRONG)
    expect(run(page, "lab.check")).to_contain_text("It counts the elements.")
    page.get_by_role("button", name="Restart the kernel", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Confirm Kernel Restart").click()
    kernel_ready(page)
    type_into(page, "def rank_of", RIGHT)
    output = run(page, "lab.check")
    expect(output).to_contain_text("In the interview:")
    expect(output).not_to_contain_text("JupyterLab did not answer")
    run(page, "os._exit")
    page.get_by_role("dialog").get_by_role("button", name="Ok").click()
    # JupyterLab shows "starting" after a crash until somebody asks the new kernel for something.
    type_into(page, "def rank_of", WRONG)
    output = run(page, "lab.check")
    expect(output).to_contain_text("It counts the elements.")
    expect(output).not_to_contain_text("JupyterLab did not answer")
