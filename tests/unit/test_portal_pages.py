"""The pages: what they say, where they lead, and that nothing a learner wrote becomes part of them."""

from __future__ import annotations

import html
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from checker.results import CheckLine, Outcome, Result
from gradlab.portal.render import OUTCOMES, ago, prose
from gradlab.settings import ROOT
from tests.courses import write_course
from tests.pages import HOSTILE, source, words
from tests.portals import Running, running_portal, verdict

PORTAL = ROOT / "gradlab" / "portal"
OPEN_TENSORS = "/hub/user-redirect/lab/tree/04_tensors.ipynb"


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("portal")
    with running_portal(folder, write_course(folder / "course").load()) as running:
        yield running


def judged(portal: Running, learner: str, *results: Result, only: str | None = None, at: float = 1000.0) -> int:
    number, _ = portal.store.accept(learner, "tensors", b"{}", only=only, seed=1, now=at)
    portal.store.record(number, verdict("tensors", *results), now=at + 1)
    return number


def page(portal: Running, learner: str, path: str = "") -> str:
    """A page's text with tags and entities taken out and white space made even."""
    return words(source(portal, learner, path))


def test_a_first_visit_is_three_sentences_and_one_button(portal: Running) -> None:
    text = source(portal, "newcomer")
    assert "Hello, newcomer." in text
    lead = re.search(r'<p class="lead">(.*?)</p>', text, re.DOTALL)
    assert lead is not None
    assert lead[1].count(". ") + lead[1].endswith(".") == 3
    hero = text[text.index('class="hero"') : text.index('id="labs-heading"')]
    assert re.findall(r'<a class="button" href="([^"]+)"', hero) == [OPEN_TENSORS]
    assert "Open the first lab: Tensors" in words(hero)
    assert "Your last checks" not in text


def test_notices_are_on_top_of_every_page_of_whom_they_are_for(portal: Running) -> None:
    now = portal.clock()
    portal.store.notify("nia", "Run a cell with `torch`.", key="gpu", until=now + 60, now=now - 120)
    portal.store.notify("nia", HOSTILE, key="exam", until=now + 60, now=now)
    portal.store.notify("nia", "This was yesterday.", key="over", until=now, now=now - 90)
    for path in ("", "attempts", "attempts?lab=tensors"):
        text = source(portal, "nia", path)
        top = text[text.index('<main id="main"') : text.index("<h1")]
        assert '<div class="notices" role="status">' in top
        assert top.count('class="notice"') == 2
        assert "Run a cell with <code>torch</code>." in top
        assert "2 min ago" in top
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in top
        assert "<script" not in top
        assert "<img" not in top
        assert "yesterday" not in text
    assert "notices" not in source(portal, "omar")


def test_progress_says_what_is_done_what_is_next_and_where_to_go_on(portal: Running) -> None:
    judged(portal, "ada", Result("rank_of", Outcome.PASSED, 2, 2), only="rank_of")
    judged(portal, "ada", Result("double", Outcome.FAILED, 0, 3), only="double")
    judged(portal, "ada", Result("rank_of", Outcome.TIMED_OUT, 0, 2), only="rank_of")
    text = page(portal, "ada")
    assert "Still open: Doubling in Tensors." in text
    assert "Continue with Tensors" in text
    assert "1 of 2 exercises passed" in text
    assert "Rank Passed 2 attempts 2 / 2" in text
    assert "Doubling Failed 1 attempt 0 / 3" in text
    assert 'aria-label="2 of 5 points"' in source(portal, "ada")
    assert "Your last checks" in text


def test_when_all_is_passed_the_page_says_so(portal: Running) -> None:
    judged(portal, "bo", Result("rank_of", Outcome.PASSED, 2, 2), Result("double", Outcome.PASSED, 3, 3))
    text = page(portal, "bo")
    assert "Every exercise is passed, all 5 points are yours." in text
    assert "All 2 exercises passed" in text


def test_a_newer_version_beside_the_learner_s_own_is_pointed_out(portal: Running) -> None:
    assert "newer version" not in page(portal, "cem")
    portal.store.deliver("cem", "tensors", "old", "04_tensors.ipynb", now=1.0)
    assert "newer version" not in page(portal, "cem")
    portal.store.deliver("cem", "tensors", "new", "04_tensors (new #2).ipynb", now=2.0)
    text = source(portal, "cem")
    assert 'href="/hub/user-redirect/lab/tree/04_tensors%20%28new%20%232%29.ipynb"' in text
    assert "Your own work in 04_tensors.ipynb is untouched." in words(text)
    assert f'href="{OPEN_TENSORS}"' in text
    with portal.client("cem") as cem:
        [lab] = cem.get("api/labs").json()
    assert (lab["filename"], lab["newer_filename"]) == ("04_tensors.ipynb", "04_tensors (new #2).ipynb")


def test_an_attempt_shows_cause_checks_output_and_after_a_pass_the_answer(portal: Running) -> None:
    failed = Result(
        "double",
        Outcome.FAILED,
        0,
        3,
        "It squares instead.",
        (CheckLine("doubles a vector", Outcome.FAILED, "3 became 9."), CheckLine("keeps the shape", Outcome.PASSED)),
        "hello from print",
        0.25,
    )
    number = judged(portal, "dee", Result("rank_of", Outcome.PASSED, 2, 2), failed)
    text = page(portal, "dee", "attempts")
    assert f"check {number}" in text
    assert "Doubling Failed 0 / 3 It squares instead." in text
    assert "Failed doubles a vector 3 became 9. Passed keeps the shape" in text
    assert "What the code printed hello from print" in text
    assert "In the interview The rank is the number of dimensions." in text
    assert "They may go on to ask: What is the rank of a scalar?" in text
    assert "Arithmetic on tensors is elementwise." not in text


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_words_and_a_symbol(portal: Running, outcome: Outcome) -> None:
    learner = f"of-{outcome.value.replace(' ', '-')}"
    judged(portal, learner, Result("rank_of", outcome, 0, 2, "why"), only="rank_of")
    icon, _, label = OUTCOMES[outcome.value]
    text = source(portal, learner, "attempts")
    assert icon == "ring" or f'name == "{icon}"' in (PORTAL / "templates" / "_parts.html").read_text()
    assert re.search(rf"<svg[^>]*>.*?</svg><span>{label}</span>", text)


def test_running_and_replaced_attempts_are_told_apart(portal: Running) -> None:
    first, _ = portal.store.accept("eli", "tensors", b"{}", seed=1, now=1.0)
    portal.store.accept("eli", "tensors", b"{}", seed=1, now=2.0)
    portal.store.supersede([first])
    for path in ("", "attempts"):
        text = source(portal, "eli", path)
        assert "Being checked" in text
        assert re.search(r"<svg[^>]*>.*?</svg><span>Replaced by a newer check</span>", text)


def test_attempts_can_be_narrowed_to_a_lab_and_go_back_beyond_the_first_fifty(portal: Running) -> None:
    for number in range(53):
        judged(portal, "fay", Result("rank_of", Outcome.FAILED, 0, 2), at=1000.0 + number)
    assert source(portal, "fay", "attempts").count('id="attempt-') == 50
    assert "Show older attempts" in page(portal, "fay", "attempts")
    assert source(portal, "fay", "attempts?every=true").count('id="attempt-') == 53
    assert "Only attempts at Tensors ." in page(portal, "fay", "attempts?lab=tensors")
    assert 'id="attempt-' not in source(portal, "fay", "attempts?lab=other")
    assert "Only attempts at other ." in page(portal, "fay", "attempts?lab=other")


def test_before_the_first_check_the_attempts_page_says_how_to_begin(portal: Running) -> None:
    assert "No checks yet." in page(portal, "gil", "attempts")


@pytest.mark.parametrize("path", ["", "attempts", "class", "learners/{hostile}", "nowhere"])
def test_nothing_a_learner_wrote_becomes_part_of_a_page(portal: Running, path: str) -> None:
    name = f"<i>x</i>/../'\"&#?{len(path)}"
    line = CheckLine(HOSTILE, Outcome.FAILED, HOSTILE)
    judged(portal, name, Result("rank_of", Outcome.FAILED, 0, 2, HOSTILE, (line,), HOSTILE))
    visitor = name if path in ("", "attempts") else "grace"
    with portal.client(visitor) as client:
        text = client.get(path.replace("{hostile}", quote(name, safe=""))).text
    for marked_up in ("<script>", "<img src=x", "onerror=alert(2)>", "<i>x", "<b>code</b>"):
        assert marked_up not in text, marked_up
    if path in ("attempts", "learners/{hostile}"):
        assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3  # the message, the check's title, the output
        assert "{{ 7 * 7 }}" in text
        assert "<code>&lt;b&gt;code&lt;/b&gt;</code>" in text
    if path == "class":
        link = re.search(r'<a href="([^"]*)">&lt;i&gt;x&lt;/i&gt;[^<]*5</a>', text)
        assert link is not None
        with portal.client("grace") as grace:
            assert HOSTILE in html.unescape(grace.get(portal.url + html.unescape(link[1])).text)


@pytest.mark.parametrize("path", ["", "attempts", "class", "learners/ada2", "nowhere"])
def test_pages_hold_no_inline_code_and_nothing_from_elsewhere(portal: Running, path: str) -> None:
    judged(portal, "ada2", Result("rank_of", Outcome.PASSED, 2, 2))
    with portal.client("grace") as grace:
        text = grace.get(path).text
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", text)
    assert "//" not in re.sub(r"<title>.*?</title>", "", text)
    assert re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?!/services/portal/static/)', text) == []


def test_our_static_files_load_nothing_from_elsewhere_and_no_text_as_html() -> None:
    for path in (PORTAL / "static").iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|@import|url\(", text), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), path.name


def test_an_instructor_lands_on_the_class_and_on_their_own_labs(portal: Running) -> None:
    text = page(portal, "grace")
    assert "The class right now" in text
    assert "Watch the class" in text
    assert "Instructor" in text
    assert "Hello, grace." in text
    learner = page(portal, "hal")
    assert "The class right now" not in learner
    assert "Watch the class" not in learner


def test_the_class_page_is_complete_without_a_script(portal: Running) -> None:
    judged(portal, "ivy", Result("rank_of", Outcome.PASSED, 2, 2))
    text = source(portal, "grace", "class")
    row = re.search(r'<tr data-learner="ivy">(.*?)</tr>', text, re.DOTALL)
    assert row is not None
    assert 'href="/services/portal/learners/ivy"' in row[1]
    assert "2 / 5" in words(row[1])
    assert "No NVIDIA driver is installed here." in text
    assert 'data-learner="grace"' not in text


def test_the_class_page_shows_gpus_what_they_do_not_report_and_that_the_driver_hangs(
    portal: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = {"index": 0, "uuid": "GPU-1", "name": "NVIDIA H200", "memory_used": 3 << 30, "memory_total": 141 << 30}
    device |= {"utilisation": 42, "temperature": 50, "power": None, "error": None}
    lost = dict.fromkeys(device) | {"index": 1, "error": "This GPU has fallen off the bus. Run `nvidia-smi`."}
    with monkeypatch.context() as changes:
        for key, value in {"available": True, "message": "", "devices": [device, lost]}.items():
            changes.setitem(portal.gpu, key, value)
        text = source(portal, "grace", "class")
        changes.setitem(portal.gpu, "message", "The NVIDIA driver does not answer. Run `nvidia-smi`.")
        stale = source(portal, "grace", "class")
        with portal.client("grace") as grace:
            found = grace.get("api/gpu").json()
        changes.setitem(portal.gpu, "simulated", True)
        assert "Simulated GPUs" in source(portal, "grace", "class")
    assert "NVIDIA H200" in text
    assert "Simulated GPUs" not in text
    assert "Busy 42 % Memory 3.0 of 141 GiB 50 °C, —" in words(text)
    assert "This GPU has fallen off the bus. Run <code>nvidia-smi</code>." in text
    assert re.search(r'id="gpu-message" hidden', text)
    assert "The NVIDIA driver does not answer. Run <code>nvidia-smi</code>." in stale
    assert not re.search(r'id="gpu-message" hidden', stale)
    assert "NVIDIA H200" in stale
    assert found["devices"][0] == device
    assert found["message"].startswith("The NVIDIA driver does not answer.")


def test_a_learner_nobody_has_seen_is_a_page_that_says_so(portal: Running) -> None:
    with portal.client("grace") as grace:
        answer = grace.get("learners/nobody")
    assert answer.status_code == 404
    assert "Nobody called 'nobody' has been here yet." in words(answer.text)


def test_learners_whose_lab_is_gone_keep_their_attempts(portal: Running) -> None:
    number, _ = portal.store.accept("jo", "retired", b"{}", seed=1, now=1.0)
    portal.store.record(number, verdict("retired", Result("old", Outcome.PASSED, 1, 1)), now=2.0)
    assert "old retired" in page(portal, "jo", "attempts")
    with portal.client("jo") as jo:
        assert jo.get(f"api/submissions/{number}").json()["answers"] == {}


def test_pages_are_light(portal: Running) -> None:
    static = {path.name: path.stat().st_size for path in (PORTAL / "static").iterdir()}
    own = ("class.js", "gpus.js")  # a page has one of these, and all have the rest
    assert sum(static.values()) - min(static[name] for name in own) < 64_000
    assert len(source(portal, "light")) < 16_000


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (-5, "just now"),
        (44, "just now"),
        (46, "1 min ago"),
        (3540, "59 min ago"),
        (3599, "1 h ago"),
        (86399, "1 day ago"),
        (13 * 86400, "13 days ago"),
        (14 * 86400, "2 weeks ago"),
    ],
)
def test_times_are_told_in_the_coarsest_unit_that_says_enough(seconds: float, says: str) -> None:
    assert ago(1_000_000.0 - seconds, 1_000_000.0) == says


def test_prose_escapes_before_it_marks_up() -> None:
    assert prose("use `a<b>` & `c`\n<p>") == "use <code>a&lt;b&gt;</code> &amp; <code>c</code>\n&lt;p&gt;"
    assert prose("an `open tick") == "an `open tick"


def test_text_has_enough_contrast_in_light_and_dark() -> None:
    style = (PORTAL / "static" / "portal.css").read_text()
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", part)) for part in style.split("@media")[:2])
    assert light.keys() == dark.keys()
    assert light["paper"] != dark["paper"]
    for scheme in (light, dark):
        pairs = [(text, ground) for text in ("ink", "muted", "accent") for ground in ("paper", "card", "sunk")]
        pairs += [(tone, ground) for tone in ("pass", "fail", "warn", "ours", "none") for ground in ("card", "sunk")]
        pairs += [("on-accent", "accent"), ("accent", "accent-soft"), ("pass", "pass-soft"), ("muted", "pass-soft")]
        for text, ground in pairs:
            assert contrast(scheme[text], scheme[ground]) >= 4.5, (text, ground, scheme[text], scheme[ground])


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def test_templates_and_static_files_are_part_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["gradlab.portal"]
    shipped = {path for pattern in patterns for path in PORTAL.glob(pattern)}
    there: set[Path] = {path for folder in ("templates", "static") for path in (PORTAL / folder).rglob("*")}
    assert there
    assert there == shipped


@pytest.mark.parametrize(
    ("login", "learner", "instructor"),
    [
        ("signup", ["Password", "Log out"], ["Password", "Log out"]),
        ("approval", ["Password", "Log out"], ["Approvals", "Password", "Log out"]),
        ("github", ["Log out"], ["Log out"]),
    ],
)
def test_a_password_of_one_s_own_is_changed_and_sign_ups_approved_from_any_page(
    login: str, learner: list[str], instructor: list[str], tmp_path: Path
) -> None:
    more = {"login_allow": "everybody", "oauth_client_id": "x", "oauth_client_secret": "y"} if login == "github" else {}
    with running_portal(tmp_path, write_course(tmp_path / "course").load(), login=login, **more) as running:
        for name, wanted in (("hal", learner), ("grace", instructor)):
            links = re.findall(r'<a class="quiet" href="(/hub/[^"]+)">([^<]+)</a>', source(running, name, ""))
            assert [text for _, text in links] == wanted
            assert dict(links).items() <= {
                ("/hub/authorize", "Approvals"),
                ("/hub/change-password", "Password"),
                ("/hub/logout", "Log out"),
            }
