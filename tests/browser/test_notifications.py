"""What the server has to tell a learner appears in JupyterLab, and goes when it no longer holds."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from gradlab.store import Store
from tests.browser.conftest import NewPage
from tests.browser.notebooks import kernel_ready
from tests.servers import RunningServer
from tests.waiting import until

# tests/conftest.py says why they have the group of those that change networks.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("networks")]

IDLE = "Your server holds a GPU and has not computed anything for 30 minutes. <b>Soon</b> it is stopped. "
# What the browser does when the window comes into sight: then a page asks at once, and not only every half minute.
RETURN = "document.dispatchEvent(new Event('visibilitychange'))"


@pytest.fixture
def store(running_server: RunningServer) -> Iterator[Store]:
    store = Store.open(running_server.settings.store_url)
    yield store
    store.close()


def open_lab(page: Page, server: RunningServer, name: str) -> None:
    page.goto(server.url)
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(server.learner_password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("status")).to_contain_text("has not computed anything")
    page.get_by_role("link", name="Open Tensors", exact=True).click()
    kernel_ready(page)


def toast(page: Page) -> Locator:
    return page.locator(".Toastify__toast")


def test_notices_appear_change_and_go(new_page: NewPage, running_server: RunningServer, store: Store) -> None:
    def tell(key: str, text: str) -> None:
        now = time.time()
        store.notify("warned", text, key=key, until=now + 600, now=now)

    tell("gpu", 2 * IDLE + "The end.")
    page = new_page(None)
    open_lab(page, running_server, "warned")

    # Text and nothing else; JupyterLab cuts it off, so all of it is there at a click.
    expect(toast(page)).to_contain_text(
        "· Your server holds a GPU and has not computed anything for 30 minutes. <b>Soon"
    )
    expect(toast(page)).not_to_contain_text("The end.")
    toast(page).get_by_role("button", name="Read all").click()
    expect(page.get_by_role("dialog")).to_contain_text(IDLE + "The end.")
    page.get_by_role("dialog").get_by_role("button", name="Ok").click()
    toast(page).get_by_title("Hide notification").click()
    expect(toast(page)).to_have_count(0)

    # By itself, and alone: what was closed stays closed.
    begun = time.monotonic()
    tell("exam", "The exam begins at ten.")
    expect(toast(page)).to_contain_text("· The exam begins at ten.")
    print(f"From the store to the learner's eyes: {time.monotonic() - begun:.1f} s")
    assert time.monotonic() - begun < 60  # 40 s, on a machine that is not busy
    expect(page.get_by_title("2 notifications")).to_be_visible()

    store.withdraw("warned", "exam")
    tell("gpu", "It is stopped now.")

    def changed() -> bool:
        page.evaluate(RETURN)
        page.wait_for_timeout(500)
        found = toast(page).all_inner_texts()
        return len(found) == 1 and "· It is stopped now." in found[0] and "Read all" not in found[0]

    until(changed, seconds=60, what="the change")  # at most ten seconds: so often this learner's server asks
    expect(page.get_by_title("1 notification")).to_be_visible()
