"""The portal's scripts in a real browser: the class table moves by itself, and pages keep to their own rules."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from checker.results import Outcome, Result
from tests.browser.conftest import NewPage
from tests.courses import write_course
from tests.portals import PREFIX, Running, running_portal, verdict
from tests.waiting import until

# tests/conftest.py says why they have the group of those that change networks.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("networks")]


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("portal")
    with running_portal(folder, write_course(folder / "course").load()) as running:
        yield running


def log_in(page: Page, portal: Running, name: str) -> None:
    """Give the browser the session that a login at the Hub gave to a client."""
    with portal.browser(name) as client:
        cookies = [
            {"name": cookie.name, "value": cookie.value or "", "domain": "127.0.0.1", "path": cookie.path}
            for cookie in client.cookies.jar
        ]
    page.context.add_cookies(cookies)  # type: ignore[arg-type]


def watch_class(page: Page, portal: Running) -> None:
    log_in(page, portal, "grace")
    page.goto(f"{portal.url}{PREFIX}class")
    expect(page.get_by_role("status")).to_have_text("Live")


def check(portal: Running, learner: str) -> None:
    with portal.client(learner) as client:
        sent = client.post("api/labs/tensors/checks", content=portal.notebook())
        client.get(f"api/submissions/{sent.json()['id']}?wait=30")


def names(page: Page) -> list[str]:
    return page.locator("#class-table tbody tr:visible th").all_inner_texts()


def test_points_new_learners_and_counters_appear_without_reloading(new_page: NewPage, portal: Running) -> None:
    portal.store.see("amy", now=time.time())
    page = new_page(None)
    watch_class(page, portal)
    page.evaluate("window.same = true")
    cell = page.locator("tr[data-learner=amy] td[data-lab=tensors]")
    expect(cell).to_have_text("0 / 5")
    before = int(page.locator("[data-count=points]").inner_text())

    portal.judge.hold.clear()
    with portal.client("amy") as amy:
        amy.post("api/labs/tensors/checks", content=portal.notebook())
    expect(cell).to_have_class("untouched checking")
    portal.judge.hold.set()
    expect(cell).to_have_text("5 / 5")
    expect(cell).to_have_class("full changed")
    expect(page.locator("[data-count=points]")).to_have_text(str(before + 5))
    expect(cell).to_have_class("full")

    hostile = "<img src=x onerror=alert(1)>/ñ"
    check(portal, hostile)
    link = page.get_by_role("link", name=hostile, exact=True)
    expect(link).to_be_visible()
    assert page.evaluate("window.same") is True
    link.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(hostile)


def test_a_visit_without_a_check_appears_within_twenty_seconds(new_page: NewPage, portal: Running) -> None:
    page = new_page(None)
    page.clock.install()
    with page.expect_response("**/api/class"):  # the reading that begins every watch
        watch_class(page, portal)
    active = page.locator("[data-count=active]")
    before = int(active.inner_text())
    portal.store.see("new", now=time.time())
    page.clock.fast_forward(20_000)
    expect(page.locator("tr[data-learner=new]")).to_be_visible()
    expect(active).to_have_text(str(before + 1))


def test_the_panel_of_gpus_looks_the_same_from_server_and_script(
    new_page: NewPage, portal: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    well = {"index": 0, "uuid": "GPU-1", "name": "NVIDIA H200", "memory_used": 3 << 30, "memory_total": 141 << 30}
    well |= {"utilisation": 42, "temperature": 50, "power": 78.25, "error": None}
    silent: dict[str, object] = dict.fromkeys(well) | {"index": 1}
    lost = dict.fromkeys(well) | {"index": 2, "error": "This GPU needs a reset: run `nvidia-smi --gpu-reset`."}
    page = new_page(None)
    page.clock.install()
    for devices, message in (
        ([well, silent, lost], ""),
        ([well], "The NVIDIA driver does not answer. Run `nvidia-smi`."),
        ([], "No NVIDIA driver is installed here: run `nvidia-smi`."),
    ):
        for key, value in {"available": bool(devices), "message": message, "devices": devices}.items():
            monkeypatch.setitem(portal.gpu, key, value)
        watch_class(page, portal)
        panel = page.locator("section[aria-labelledby=gpu-heading]")
        shown, drawn = panel.inner_text(), panel.locator("svg:visible").count()
        monkeypatch.setitem(portal.gpu, "message", message + " Still so.")
        with page.expect_response("**/api/gpu"):
            page.clock.fast_forward(3_000)
        expect(panel).to_contain_text("Still so.")
        monkeypatch.setitem(portal.gpu, "message", message)
        with page.expect_response("**/api/gpu"):
            page.clock.fast_forward(30_000)
        expect(panel).not_to_contain_text("Still so.")
        assert panel.inner_text() == shown
        assert panel.locator("svg:visible").count() == drawn
        assert "`" not in shown
        assert message.replace("`", "") in shown
    page.close()


def test_a_fault_of_ours_appears_and_goes_by_itself_and_looks_the_same_from_server_and_script(
    new_page: NewPage, portal: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(portal.judge.outcomes, "double", Outcome.OUR_FAULT)
    monkeypatch.setitem(portal.judge.messages, "double", "The check `halves` is broken: <img src=x onerror=alert(1)>")
    monkeypatch.setattr(portal.checks, "_retry_seconds", 0.01)
    page = new_page(None)
    watch_class(page, portal)
    section = page.locator("#faults")
    expect(section).to_be_hidden()
    check(portal, "gus/1")
    expect(section).to_contain_text("1 check ended by our fault")
    expect(section).to_contain_text("Tensors: Doubling")
    drawn = section.inner_text()
    assert "The check halves is broken: <img src=x onerror=alert(1)>" in drawn
    page.route("**/api/faults", lambda route: route.abort())
    page.reload()
    assert section.inner_text() == drawn
    page.unroute("**/api/faults")
    section.get_by_role("link", name="gus/1").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("gus/1")
    page.go_back()
    monkeypatch.setitem(portal.judge.outcomes, "double", Outcome.PASSED)
    check(portal, "gus/1")
    expect(section).to_be_hidden()


def test_after_a_logout_the_page_asks_for_nothing_more(new_page: NewPage, portal: Running) -> None:
    page = new_page(None)
    page.clock.install()
    watch_class(page, portal)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.route("**/api/gpu", lambda route: route.fulfill(status=401, json={"detail": "Log in again."}))
    page.clock.fast_forward(3_000)
    expect(page.get_by_role("status")).to_have_text("Logged out: reload this page to log in again")
    before = len(asked)
    for _ in range(4):
        page.clock.fast_forward(30_000)
        page.wait_for_timeout(50)
    assert asked[before:] == []


def test_a_reading_that_the_logout_overtakes_is_the_last(new_page: NewPage, portal: Running) -> None:
    page = new_page(None)
    page.clock.install()
    held: list[Route] = []
    asked: list[str] = []
    page.route("**/api/class", lambda route: held.append(route))
    page.route("**/api/gpu", lambda route: route.fulfill(status=401, json={"detail": "Log in again."}))
    page.on("request", lambda request: asked.append(request.url))
    with page.expect_request("**/api/class"):
        watch_class(page, portal)
    page.clock.fast_forward(3_000)
    expect(page.get_by_role("status")).to_have_text("Logged out: reload this page to log in again")
    with page.expect_response("**/api/class"):
        held.pop().continue_()
    page.wait_for_timeout(200)
    assert [url for url in asked if "faults" in url] == []


def test_after_a_lost_connection_nothing_is_missed(new_page: NewPage, portal: Running) -> None:
    portal.store.see("bea", now=time.time())
    page = new_page(None)
    watch_class(page, portal)
    live = portal.app.state.portal.live
    number, _ = portal.store.accept("bea", "tensors", b"{}", seed=1, now=time.time())
    portal.store.record(number, verdict("tensors", Result("rank_of", Outcome.PASSED, 2, 2)), now=time.time())
    expect(page.locator("tr[data-learner=bea] td[data-lab=tensors]")).to_have_text("0 / 5")
    for listener in list(live._listeners):
        listener._overrun = True  # what too many events at once would do
    with portal.client("cat") as cat:
        cat.post("api/labs/tensors/checks", content=portal.notebook())
    expect(page.locator("tr[data-learner=bea] td[data-lab=tensors]")).to_have_text("2 / 5")
    expect(page.get_by_role("status")).to_have_text("Live")


def test_closing_the_page_ends_its_stream(new_page: NewPage, portal: Running) -> None:
    live = portal.app.state.portal.live
    page = new_page(None)
    watch_class(page, portal)
    assert live.listeners >= 1
    page.close()
    until(lambda: live.listeners == 0)


def test_the_table_can_be_searched_and_sorted_with_the_keyboard(new_page: NewPage, portal: Running) -> None:
    now = time.time()
    for name in ("dan9", "dan10", "eve"):
        portal.store.see(name, now=now)
    check(portal, "dan10")
    page = new_page(None)
    watch_class(page, portal)
    search = page.get_by_role("searchbox", name="Find a learner")
    search.fill("DAN")
    assert names(page) == ["dan9", "dan10"]
    points = page.get_by_role("button", name="Points")
    points.focus()
    page.keyboard.press("Enter")
    assert names(page) == ["dan10", "dan9"]
    expect(page.get_by_role("columnheader", name="Points")).to_have_attribute("aria-sort", "descending")
    page.keyboard.press("Enter")
    assert names(page) == ["dan9", "dan10"]
    search.fill("nobody at all")
    assert names(page) == []


def test_no_page_complains_or_overflows_a_phone(browser: Browser, portal: Running) -> None:
    check(portal, "fay")
    context = browser.new_context(viewport={"width": 360, "height": 740})
    said: list[str] = []
    context.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    context.on("weberror", lambda error: said.append(str(error.error)))
    page = context.new_page()
    log_in(page, portal, "grace")
    for path in ("", "attempts", "class", "learners/fay"):
        page.goto(portal.url + PREFIX + path)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    context.close()
    assert said == []


def test_a_script_of_the_same_origin_reads_neither_pages_nor_data(new_page: NewPage, portal: Running) -> None:
    check(portal, "gil")
    page = new_page(None)
    log_in(page, portal, "grace")
    page.goto(f"{portal.url}{PREFIX}static/icon.svg")  # the same origin, as a learner's own server would be
    reached = page.evaluate(
        """async prefix => {
          const paths = ["", "attempts", "class", "learners/gil", "api/me", "api/class", "api/learners/gil/attempts"];
          return Promise.all(paths.map(async path => (await fetch(prefix + path)).status));
        }""",
        f"{portal.url}{PREFIX}",
    )
    assert reached == [403] * 7
