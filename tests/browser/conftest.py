"""Debian's Chromium for the browser tests; screenshots and the page's own complaints are kept when one fails."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.conftest import Require

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# A lab server starts and JupyterLab loads on two busy cores: be patient with what appears, never sleep.
PATIENCE_MS = 90_000

NewPage = Callable[[BrowserContext | None], Page]


@contextlib.contextmanager
def chromium(patience_ms: int = PATIENCE_MS) -> Iterator[Browser]:
    """A Chromium; tests wait so long for what is to appear. While Playwright is there, no other event loop can run."""
    expect.set_options(timeout=patience_ms)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()
            expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser(require: Require) -> Iterator[Browser]:
    """One for a file, and gone after it."""
    require("chromium")
    with chromium() as browser:
        yield browser


def new_context(browser: Browser) -> BrowserContext:
    """Someone's browser: cookies, storage and cache of its own."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(PATIENCE_MS)
    return context


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One person's browser for all tests of a file; its cache saves loading JupyterLab again."""
    context = new_context(browser)
    yield context
    context.close()


@pytest.fixture
def new_page(browser: Browser, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewPage]:
    """Opens pages, in somebody's browser or in a new one; closed after the test, and photographed if it failed."""
    contexts: list[BrowserContext] = []
    opened: list[Page] = []
    said: list[str] = []

    def open_page(context: BrowserContext | None = None) -> Page:
        if context is None:
            context = new_context(browser)
            contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        opened.append(page)
        return page

    yield open_page
    if getattr(request.node, "failed", False):
        for number, page in enumerate(opened):
            page.screenshot(path=tmp_path / f"page{number}.png")
        (tmp_path / "browser.log").write_text("\n".join(said), encoding="utf-8")
        print(f"Screenshots and the browser's log are in {tmp_path}")
    for thing in (*opened, *contexts):
        thing.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Tell the fixtures of a test how it went."""
    report = yield
    if report.when == "call":
        item.failed = report.failed
    return report
