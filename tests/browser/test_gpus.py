"""The page of GPUs in a real browser: it goes on from what the server has rendered, and never calls a gap idle."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from gradlab.portal import api
from gradlab.roster import Roster, Server, Waiter
from tests.browser.conftest import NewPage
from tests.browser.test_portal import log_in
from tests.courses import write_course
from tests.gpuframes import GIB, MIB, device, frame, gpu_view, process, silent
from tests.portals import PREFIX, Gpus, Running, running_portal
from tests.waiting import until

# tests/conftest.py says why they have the group of those that change networks.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("networks")]

HOSTILE = "<img src=x onerror=alert(1)>/ñ"
COLUMNS = 600


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("portal")
    with running_portal(folder, write_course(folder / "course").load(), gpus="exclusive") as running:
        yield running


@pytest.fixture(autouse=True)
def _as_before(portal: Running) -> Iterator[None]:
    shown, past = portal.gpu.shown, portal.gpu.past
    yield
    portal.gpu.shown, portal.gpu.past = shown, past


def lent(now: float, *servers: Server, **more: Any) -> Roster:
    line = (Waiter("bo", "", now - 190, 1, 300.0), Waiter(HOSTILE, "", now - 40, 2))
    return Roster(servers, line=line, **({"mode": "exclusive", "slots": 8, "free": 5} | more))


def server(learner: str, now: float, uuid: str = "GPU-0", **more: Any) -> Server:
    known = {"lab": "tensors", "container": learner.encode().hex(), "device": uuid, "held_since": now - 720}
    return Server(learner, **(known | more))


def at_work(now: float, *percents: int, gpus: int = 1, **more: Any) -> dict[str, Any]:
    """A view of GPUs 0, 1, …; on the first are noor and the one with the bad name, who use it so much."""
    servers = [server(name, now) for name in ("noor", HOSTILE)][: len(percents)]
    mine = [process(10 * number, number * 10 * GIB, sm=sm) for number, sm in enumerate(percents, 1)]
    known = {"utilisation": sum(percents), "memory_used": 10 * GIB * sum(range(len(percents) + 1)) + GIB} | more
    devices = [device("GPU-0", *mine, **known)]
    devices += [device(f"GPU-{index}", index=index, utilisation=0, memory_used=0) for index in range(1, gpus)]
    return gpu_view(frame(*devices, at=now), lent(now, *servers))


def history(now: float, values: list[int | None], uuid: str = "GPU-0", learner: str = "noor") -> dict[str, Any]:
    memory = [None if value is None else GIB for value in values]
    tracks = {"utilisation": values, "memory": memory, "parts": {learner: values}}
    return {"from": int(now) - len(values) + 1, "step": 1, "count": len(values), "devices": {uuid: tracks}}


def watch(page: Page, portal: Running) -> None:
    log_in(page, portal, "grace")
    page.goto(f"{portal.url}{PREFIX}gpus")
    expect(page.get_by_role("status")).to_have_text("Live")


def card(page: Page, uuid: str = "GPU-0") -> Locator:
    return page.locator(f'#gpus > li[data-key="{uuid}"]')


def covered(page: Page, part: str) -> set[int]:
    """The columns of the strip that this path covers."""
    path = card(page).locator(part).get_attribute("d") or ""
    return {int(x) - 1 for x in re.findall(r"H(\d+)", path)}


def bars(page: Page) -> list[tuple[str, float, float]]:
    rects = page.locator(".gpu-bar rect:visible")
    found = rects.evaluate_all("all => all.map(one => ['class', 'x', 'width'].map(name => one.getAttribute(name)))")
    return [(who, float(x), float(width)) for who, x, width in found]


def test_the_script_goes_on_from_the_server_s_page_without_changing_a_word(
    new_page: NewPage, portal: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    day = time.strftime("%Y-%m-%d", time.gmtime(now))
    rows = [("ada", "tensors", 7200.0, 1800.0, 300 * MIB), ("noor", "gone", 90_000.0, 90_000.0, 30 * GIB)]
    keys = ("learner", "lab", "held", "busy", "peak")
    portal.store.keep_gpu_usage("run", [dict(zip(keys, row, strict=True)) | {"day": day} for row in rows])
    slices = [
        {"uuid": "MIG-1", "name": "1g.18gb", "gpu_instance": 7, "compute_instance": 0, "memory_used": 3 * GIB}
        | {"memory_total": 18 * GIB, "utilisation": 33, "utilisation_by": "gpm", "error": None},
        {"uuid": "MIG-2", "name": "2g.35gb", "gpu_instance": 3, "compute_instance": 0, "memory_used": None}
        | {"memory_total": None, "utilisation": None, "utilisation_by": None, "error": "Run `nvidia-smi`."},
    ]
    events = [{"at": now - 700, "xid": 31, "meaning": "a `fault`", "application": True}]
    ecc = {"enabled": True, "corrected": 1234, "uncorrected": 2}
    busy = device(
        "GPU-0",
        process(10, 40 * GIB + 300 * MIB, sm=45),
        process(20, 20 * GIB, sm=20),
        **{"utilisation": 70, "events": events, "ecc": ecc, "throttle_reasons": ["idle", "power limit"]},
        problems={"fan": "No `fan`."},
    )
    sliced = device("GPU-1", process(30, 3 * GIB, sm=None, instance="MIG-1"), index=1, mig=slices, measured=False)
    mute = device("GPU-2", index=2, utilisation=None, memory_used=None, temperature=None, power=None, name=None)
    mute |= {"clocks": {"graphics": None, "sm": None, "memory": None, "video": None}, "energy": None}
    lost = device("GPU-3", index=3, state="lost", error="Restart, then `nvidia-smi`.", utilisation=None, processes=None)
    holders = [server("noor", now, share=30 * GIB), server(HOSTILE, now, lab=""), server("kim", now, "MIG-1")]
    roster = lent(now, *holders, server("ida", now, "GPU-2", held_since=None))
    full = gpu_view(
        frame(busy, sliced, mute, lost, at=now, simulated=True, cuda_version="13.4"), roster, since=now - 90
    )
    full["devices"][0] |= {"machine": {"processes": 1, "memory": GIB // 4, "utilisation": 3}, "unattributed": 6 * GIB}
    gone = silent(now, busy, sliced, message="The NVIDIA driver hangs: run `nvidia-smi`.")
    view = gpu_view(gone, lent(now, *holders, mode="shared:4", problem="Docker gives out none: `nvidia-ctk`."))
    nothing = gpu_view(silent(now, message="No NVIDIA driver is installed here: run `nvidia-smi`."))
    monkeypatch.setattr(portal.gpu, "past", history(now, [40, None, None, 80] * 400))
    page = new_page(None)
    for one in (full, view, nothing):
        monkeypatch.setattr(portal.gpu, "shown", one)
        log_in(page, portal, "grace")
        page.route("**/events/gpu*", lambda route: route.abort())
        page.goto(f"{portal.url}{PREFIX}gpus")
        body = page.locator("main")
        said, drawn, more = words(body.inner_text()), bars(page), other(page)
        page.unroute("**/events/gpu*")
        with page.expect_response("**/api/gpu/usage*"):
            watch(page, portal)
        if one["devices"]:
            expect(card(page).locator(".strip svg")).to_have_attribute("viewBox", f"0 0 {COLUMNS} 100")
        assert words(body.inner_text()) == said
        assert other(page) == more
        for mine, theirs in zip(bars(page), drawn, strict=True):
            assert mine[0] == theirs[0]
            assert mine[1:] == pytest.approx(theirs[1:], abs=0.02)
        assert "`" not in said


def other(page: Page) -> list[Any]:
    """Where its links lead, what else it draws, and what it says of each GPU if it is asked to."""
    main = page.locator("main")
    hrefs = main.locator("a").evaluate_all("all => all.map(one => decodeURIComponent(one.getAttribute('href') ?? ''))")
    links = [re.sub(r"(?<=&xsrf=)[0-9a-f]{64}$", "…", href) for href in hrefs]  # each login has its own
    swatches = main.locator(".gpu-who .swatch:visible").evaluate_all("all => all.map(one => one.className)")
    facts = main.locator("[data-fact]").all_text_contents()
    names = main.locator("[role=img]").evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
    return [links, swatches, facts, names, main.locator("svg.icon:visible").count()]


def words(text: str) -> str:
    """What the page says, without what tells how it is kept up to date."""
    text = re.sub(r"Live|Connecting again …|As of now; reload to update|Earlier:\s+noor", "", text)
    return re.sub(r"\s+", " ", text)


def test_what_changes_at_the_source_changes_on_the_page_and_nothing_else(new_page: NewPage, portal: Running) -> None:
    now = time.time()
    portal.gpu.shown = at_work(now, 30)
    page = new_page(None)
    watch(page, portal)
    noor = card(page).get_by_role("link", name="noor")
    expect(card(page).get_by_role("row")).to_have_text([re.compile("Who"), re.compile("noor"), re.compile("Unattr")])
    noor.focus()
    page.evaluate("""() => {
      window.same = document.querySelector('#gpus tbody tr');
      window.touched = new Set();
      new MutationObserver(all => all.forEach(one => window.touched.add(one.target.parentElement?.textContent)))
        .observe(document.querySelector('#gpu-now'), {subtree: true, childList: true, characterData: true});
    }""")
    began = time.monotonic()
    portal.gpu.shown = at_work(now + 1, 42, 17, gpus=2)
    hostile = card(page).get_by_role("row").filter(has_text=HOSTILE)
    expect(hostile.locator("td")).to_have_text(["12 min", "17 %", "20.0 GiB"], timeout=2000)
    assert time.monotonic() - began < 2.5
    expect(card(page).get_by_role("row").filter(has_text="noor").locator("td").nth(1)).to_have_text("42 %")
    expect(card(page).locator("[data-measure=utilisation] b")).to_have_text("59 %")
    expect(card(page, "GPU-1")).to_contain_text("Nobody is on it.")
    expect(page.locator("[data-count=on]")).to_have_text("2")
    assert page.evaluate("document.querySelector('#gpus tbody').contains(window.same) && window.same.isConnected")
    expect(noor).to_be_focused()
    assert page.evaluate("[...window.touched].filter(text => text.includes('Free places'))") == []
    portal.gpu.shown = at_work(now + 2, 42)
    expect(card(page, "GPU-1")).to_have_count(0)
    expect(hostile).to_have_count(0)


def test_the_strip_grows_with_every_sample_and_a_gap_stays_one(new_page: NewPage, portal: Running) -> None:
    now = float(int(time.time()) // 6 * 6 + 5)  # the last second of a column
    hour: list[int | None] = [50] * 1800 + [None] * 60 + [0] * 1740
    portal.gpu.past, portal.gpu.shown = history(now, hour), at_work(now, 20)
    page = new_page(None)
    watch(page, portal)
    gap = set(range(300, 310))
    everything = set(range(COLUMNS))
    until(lambda: covered(page, ".strip-known") == everything - gap)
    assert covered(page, ".strip-used path >> nth=0") == everything - gap  # idle is drawn, as a height of nothing
    expect(card(page).get_by_role("img")).to_have_attribute(
        "aria-label", "GPU 0 in the last hour: average 25 %, no sample in 1 min"
    )
    for second in range(1, 4):
        portal.gpu.shown = at_work(now + second, 20)
        expect(card(page).locator("[data-axis=words]")).to_have_text("average 25 %, no sample in 1 min")
        until(lambda second=second: page.evaluate("past.from + past.count - 1") == int(now) + second)
    assert covered(page, ".strip-known") == everything - {column - 1 for column in gap}
    # The driver falls silent: no figure, and the strip goes on hatched.
    portal.gpu.shown = gpu_view(silent(now + 4, device("GPU-0"), message="The NVIDIA driver hangs."), lent(now))
    until(lambda: page.evaluate("past.from + past.count - 1") == int(now) + 4)
    assert covered(page, ".strip-known") == everything - {column - 1 for column in gap} - {COLUMNS - 1}
    assert page.evaluate("past.devices['GPU-0'].utilisation.slice(-2)") == [20, None]


def test_nothing_is_taken_for_idle_that_was_not_heard(
    new_page: NewPage, portal: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = float(int(time.time()))
    portal.gpu.past, portal.gpu.shown = history(now, [10] * 60), at_work(now, 10)
    page = new_page(None)
    watch(page, portal)
    until(lambda: page.evaluate("past?.count") == 60)
    portal.gpu.shown = at_work(now + 5, 10)  # four seconds are missing, and the past was read a moment ago
    until(lambda: page.evaluate("past.count") == 65)
    assert page.evaluate("past.devices['GPU-0'].utilisation.slice(-6)") == [10, None, None, None, None, 10]
    # A new stream: what was missing, the server knows.
    portal.gpu.past = history(now + 5, [10] * 61 + [11, 12, 13, 14])
    asked: list[bool] = [False]

    async def once_not(_request: object) -> bool:
        return len(asked) > 1 or asked.append(True) is not None

    monkeypatch.setattr(api, "RECHECK_SECONDS", 0.2)
    page.reload()
    monkeypatch.setattr(api, "still_instructor", once_not)
    until(lambda: len(asked) > 1)
    with page.expect_response("**/api/gpu/history"):
        pass
    until(lambda: page.evaluate("past?.count") == 65)
    assert page.evaluate("past.devices['GPU-0'].utilisation.slice(-5)") == [10, 11, 12, 13, 14]
    expect(page.get_by_role("status")).to_have_text("Live")


def test_a_failure_takes_all_figures_away_and_its_end_brings_them_back(new_page: NewPage, portal: Running) -> None:
    now = time.time()
    portal.gpu.shown = at_work(now, 30)
    page = new_page(None)
    watch(page, portal)
    expect(page.locator("#simulated")).to_be_hidden()
    message = page.locator("#gpu-message")
    expect(message).to_be_hidden()
    hangs = silent(now + 1, device("GPU-0", process(10)), message="The NVIDIA driver does not answer: `nvidia-smi`.")
    portal.gpu.shown = gpu_view(hangs, lent(now, server("noor", now)))
    expect(message).to_have_text("The NVIDIA driver does not answer: nvidia-smi.")
    expect(card(page)).to_contain_text("Silent")
    expect(card(page).locator(".gpu-figures")).to_be_hidden()
    assert not re.search(r"\d (%|GiB|°C|W)\b", re.sub("average.*", "", card(page).inner_text()))
    expect(page.locator("#idle-none")).to_have_text("Not known while there are no figures.")
    portal.gpu.shown = gpu_view(silent(now + 2, message="The GPU monitor does not answer."))
    expect(message).to_have_text("The GPU monitor does not answer.")
    expect(page.locator("#gpu-now")).to_be_hidden()
    expect(page.locator("#gpu-cards")).to_be_hidden()
    portal.gpu.shown = at_work(now + 3, 31) | {"simulated": True}
    expect(card(page).locator("[data-measure=utilisation] b")).to_have_text("31 %")
    expect(message).to_be_hidden()
    expect(page.locator("#simulated")).to_have_text("Simulated GPUs")


def test_a_source_that_says_nothing_any_more_is_not_called_live(
    new_page: NewPage, portal: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = new_page(None)
    page.clock.install()
    watch(page, portal)

    def broken(_self: Gpus) -> dict[str, Any]:
        raise ConnectionError("The monitor is gone.")

    monkeypatch.setattr(portal.app.state.portal.gpu_feed, "_view", lambda: broken(portal.gpu))
    for _ in range(8):
        page.clock.fast_forward(2_000)
        page.wait_for_timeout(20)
    expect(page.get_by_role("status")).to_have_text("Nothing new is heard: what you see is older")


def test_pointing_at_the_strip_tells_who_it_was_and_the_past_can_be_looked_at_closely(
    new_page: NewPage, portal: Running
) -> None:
    now = float(int(time.time()) // 6 * 6 + 5)
    portal.gpu.past = history(now, [50] * 1800 + [None] * 60 + [70] * 1740, learner="ida")
    portal.gpu.shown = at_work(now, 20)
    page = new_page(None)
    watch(page, portal)
    strip, said = card(page).locator(".strip"), card(page).locator("[data-axis=words]")
    expect(said).to_contain_text("average")
    box = strip.bounding_box()
    assert box is not None
    for part, text in ((0.24, "45 min ago: 50 %; ida 50 %"), (0.505, "29 min ago: no sample")):
        strip.hover(position={"x": part * box["width"], "y": 20})
        expect(said).to_have_text(text)
    expect(card(page).locator(".strip-earlier")).to_have_text("ida")
    page.mouse.move(0, 0)
    closely = page.get_by_role("button", name="5 minutes")
    closely.focus()
    page.keyboard.press("Enter")
    expect(closely).to_have_attribute("aria-pressed", "true")
    expect(card(page).locator(".strip svg")).to_have_attribute("viewBox", "0 0 300 100")
    expect(card(page)).to_contain_text("5 min ago")
    expect(said).to_have_text("average 70 %")


def test_it_is_complete_without_a_script(browser: Browser, portal: Running) -> None:
    now = time.time()
    portal.gpu.past, portal.gpu.shown = history(now, [50, None, 0] * 1200), at_work(now, 30, 12, gpus=8)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    log_in(page, portal, "grace")
    page.goto(f"{portal.url}{PREFIX}gpus")
    expect(page.get_by_role("status")).to_have_text("As of now; reload to update")
    expect(page.locator("#gpus > li")).to_have_count(8)
    expect(card(page)).to_contain_text("30 %")
    expect(card(page).locator(".strip-used path")).to_be_visible()
    expect(page.get_by_role("group", name="How much of the past")).to_be_hidden()
    card(page).locator("summary").click()
    expect(card(page).get_by_text("Memory limits need NVIDIA")).to_be_visible()
    context.close()


def test_after_a_logout_it_asks_for_nothing_more(new_page: NewPage, portal: Running) -> None:
    page = new_page(None)
    page.clock.install()
    watch(page, portal)
    page.route("**/api/gpu/usage*", lambda route: route.fulfill(status=401, json={"detail": "Log in again."}))
    page.clock.fast_forward(15_000)
    lost = "Logged out: reload this page to log in again"
    expect(page.get_by_role("status")).to_have_text(lost)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    portal.gpu.shown = at_work(time.time(), 30)
    for _ in range(4):
        page.clock.fast_forward(15_000)
        page.wait_for_timeout(300)
    assert asked == []
    expect(page.get_by_role("status")).to_have_text(lost)


def test_closing_the_page_ends_its_stream(new_page: NewPage, portal: Running) -> None:
    feed = portal.app.state.portal.gpu_feed
    page = new_page(None)
    watch(page, portal)
    assert feed.watchers >= 1
    page.close()
    until(lambda: feed.watchers == 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_neither_complains_nor_overflows_a_phone(browser: Browser, portal: Running, scheme: Any) -> None:
    now = time.time()
    long = "lena-marie.schmidt-rottenberg@example.org"
    sliced = {"uuid": "MIG-1", "name": "1g.18gb", "gpu_instance": 7, "compute_instance": 0, "memory_used": 3 * GIB}
    sliced |= {"memory_total": 18 * GIB, "utilisation": 33, "utilisation_by": "gpm", "error": None}
    on = process(10, 9 * GIB, sm=None, instance="MIG-1")
    view = gpu_view(frame(device("GPU-0", on, mig=[sliced]), at=now), lent(now, server(long, now, share=8 * GIB)))
    portal.gpu.past, portal.gpu.shown = history(now, [50, None, 0] * 1200), view
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    said: list[str] = []
    context.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    context.on("weberror", lambda error: said.append(str(error.error)))
    page = context.new_page()
    watch(page, portal)
    card(page).locator("summary").click()
    expect(card(page).locator(".strip svg")).to_have_attribute("viewBox", f"0 0 {COLUMNS} 100")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wide = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent)"
    assert page.locator(".gpu-parts td, .gpu-parts th, .gpu-measure p").evaluate_all(wide) == []
    context.close()
    assert said == []
