"""The card of ``lab.gpu()``: complete as HTML, as text and as one line; escaped; never a zero for what is not known."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.gpucard import card_html, card_text, lines
from labkit.readings import Reading, blank, from_portal, number, span
from tests.own_gpus import GIB, answer, held

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\" ' & \x1b[31mred\x1b[0m \u202egnp.exe\nnext"


class Page(HTMLParser):
    """What a browser makes of a piece of HTML; fails on tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "br":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"

    @property
    def bar(self) -> dict[str, float]:
        """Percent of the memory bar by what it says when somebody points at it."""
        found = {}
        for _, attributes in self.tags:
            width = re.match(r"width: ([\d.]+)%", attributes.get("style") or "")
            if width:
                found[(attributes["title"] or "").split(":")[0]] = float(width[1])
        return found


def reading(*devices: dict[str, Any], **fields: Any) -> Reading:
    found = from_portal(answer(*devices, **fields))
    assert found is not None
    return found


def test_who_has_had_no_gpu_today_is_not_told_of_nothing() -> None:
    assert "Today" not in card_text(reading(held(), usage={"held": 0.0, "busy": 0.0, "peak": 0}))


def test_a_gpu_has_all_that_the_systems_own_page_has_and_whose_the_memory_is() -> None:
    found = reading(held())
    for text in (Page(card_html(found)).text, card_text(found)):
        for told in (
            "GPU 0",
            "NVIDIA H200",
            "42 %",
            "12.0 of 140.0 GiB",
            "35 °C",
            "98 W",
            "610.43.02",
            "not applicable on Linux",
            "3.0 GiB, 12 % busy, 2 processes",
            "9.0 GiB, 30 % busy",
            "128.0 GiB",
            "Today (UTC) you had a GPU for 1 h 12 min and used it for 14 min, with 5.0 GiB of memory at most.",
        ):
            assert told in text, told
        assert "simulated" not in text
        assert "not reported" not in text
    assert lines(found) == (
        "GPU 0 NVIDIA H200: 42 % busy, 12.0 of 140.0 GiB (yours 3.0, others 9.0), 35 °C, 98 W"  # one line a GPU
    )


def test_the_bar_is_in_proportion_and_the_same_in_text() -> None:
    found = reading(held(memory_used=70 * GIB, mine={"memory": 35 * GIB}, others={"memory": 28 * GIB}))
    assert Page(card_html(found)).bar == {"yours": 25.0, "others": 20.0, "unattributed": 5.0}
    bar = re.search(r"\[(.*)\]", card_text(found))
    assert bar is not None
    assert bar[1] == "#" * 10 + "o" * 8 + "?" * 2 + "." * 20
    assert "unattributed" in card_text(found)
    assert "(yours 35.0, others 28.0, unattributed 7.0)" in lines(found)


def test_what_is_hardly_anything_is_not_nothing() -> None:
    found = reading(held(memory_used=30 << 20, mine={"memory": 20 << 20}, others={"memory": 10 << 20}))
    assert "<0.1 of 140.0 GiB (yours <0.1, others <0.1)" in lines(found)
    assert "20 MiB" in card_text(found)
    assert "[#o....." in card_text(found)
    none = reading(held(memory_used=0, mine={"memory": 0}, others={"memory": 0}))
    assert "0.0 of 140.0 GiB (yours 0.0, others 0.0)" in lines(none)


@pytest.mark.parametrize(
    ("field", "label", "line"),
    [
        ("utilisation", "Utilisation", "utilisation not reported"),
        ("temperature", "Temperature", "temperature not reported"),
        ("power", "Power", "power not reported"),
        ("driver_model", "Driver model", None),
        ("memory_used", "Memory used", "memory not reported of 140.0 GiB"),
    ],
)
def test_what_is_not_reported_is_said_to_be_so_and_is_no_zero(field: str, label: str, line: str | None) -> None:
    found = reading(held(**{field: None}))
    assert re.search(rf"  {label}: +not reported", card_text(found))
    assert f"{label}\nnot reported" in Page(card_html(found)).text
    assert line is None or line in lines(found)
    assert not re.search(r"\b0 (%|°C|W)", card_text(found) + lines(found))


def test_memory_of_which_nobody_knows_whose_it_is_is_one_block() -> None:
    """Under WDDM the driver does not tell what a process has."""
    found = reading(held(driver_model="WDDM", mine={"memory": None, "processes": 1}, others={"memory": None}))
    assert Page(card_html(found)).bar == {"in use, whose is not known": pytest.approx(100 * 12 / 140, abs=0.001)}
    assert re.search(r"yours: +not reported, 1 process\n", card_text(found))
    assert "12.0 of 140.0 GiB, 35" in lines(found)  # and no parentheses


def test_what_others_have_is_not_guessed() -> None:
    found = reading(held(others={"memory": None}))
    assert set(Page(card_html(found)).bar) == {"yours", "unattributed"}
    assert re.search(r"others: +not reported\n", card_text(found))
    assert "(yours 3.0, others not reported, unattributed 9.0)" in lines(found)


def test_figures_that_contradict_each_other_do_not_break_the_bar() -> None:
    """Readings of memory and of processes are taken one after the other."""
    found = reading(held(memory_used=1 * GIB, mine={"memory": 100 * GIB}, others={"memory": 90 * GIB}))
    bar = Page(card_html(found)).bar
    assert sum(bar.values()) <= 100.001
    assert all(width >= 0 for width in bar.values())


@pytest.mark.parametrize(
    "problem", ["GPU 0 is lost. Tell your instructor.", "This GPU has to be reset before anything can run on it."]
)
def test_a_gpu_that_could_not_be_read_has_no_figures_and_the_others_have(problem: str) -> None:
    found = reading(held(error=problem, utilisation=0), held(index=1))
    first, second = lines(found).splitlines()
    assert first == f"GPU 0 NVIDIA H200: {problem}"
    assert second.startswith("GPU 1 NVIDIA H200: 42 % busy")
    page = Page(card_html(found))
    assert problem in page.text
    assert page.text.count("Utilisation") == 1
    assert card_text(found).count("Utilisation") == 1


def test_a_single_figure_that_failed_says_so() -> None:
    found = Reading([blank(0, name="NVIDIA H200", problems={"power": "Unknown Error", "memory": "Timeout"})])
    assert "Power:          could not be read (Unknown Error)" in card_text(found)
    assert "Memory used:    could not be read (Timeout)" in card_text(found)
    assert "memory could not be read (Timeout)" in lines(found)
    assert "power could not be read (Unknown Error)" in lines(found)
    assert "Memory used\ncould not be read (Timeout)" in Page(card_html(found)).text


def test_simulated_figures_say_so_wherever_they_are_shown() -> None:
    found = reading(held(), simulated=True)
    assert Page(card_html(found)).text.count("simulated") == 2  # beside the name, and in a sentence
    assert card_text(found).startswith("GPU 0  NVIDIA H200  (simulated)")
    assert lines(found).startswith("GPU 0 NVIDIA H200 (simulated): 42 % busy")
    named = reading(held(name="NVIDIA L40S (simulated)"), simulated=True)
    assert lines(named).startswith("GPU 0 NVIDIA L40S (simulated): 42 % busy")


@pytest.mark.parametrize(
    ("mine", "over"), [(3 * GIB, ""), (20 * GIB, ""), (20 * GIB + (512 << 20), "you are over it by 512 MiB")]
)
def test_a_share_is_named_and_marked_when_it_is_exceeded(mine: int, over: str) -> None:
    found = reading(held(share=20 * GIB, mine={"memory": mine, "utilisation": 1, "processes": 1}))
    for text in (card_text(found), Page(card_html(found)).text):
        assert "Your share is 20.0 GiB" in text
        assert (over in text) if over else ("over it" not in text)
    assert ("over your share" in lines(found)) == bool(over)
    assert ("▲" in card_html(found)) == bool(over)
    assert 'title="the end of your share"' in card_html(found)


def test_a_gpu_that_is_not_used_is_said_to_be_so_after_a_minute() -> None:
    assert "You have not used it for 12 min." in card_text(reading(held(), idle=12 * 60 + 59.0))
    assert "not used" not in card_text(reading(held(), idle=59.0))
    assert "not used" not in card_text(reading(held(), idle=None))


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h 0 min")]
)
def test_lengths_of_time(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("waiting", "sentence"),
    [
        ({"position": 1, "estimate": None}, "1 ahead of you: you get the next GPU that becomes free."),
        ({"position": 3, "estimate": 700.0}, "3 ahead of you: yours should be free in about 11 min."),
        ({"position": 3, "estimate": 20.0}, "3 ahead of you: yours should be free in less than a minute."),
        ({"position": 3, "estimate": None}, "3 ahead of you: how long that takes cannot be said yet."),
    ],
)
def test_who_waits_reads_which_place_that_is(waiting: dict[str, Any], sentence: str) -> None:
    assert lines(reading(waiting=waiting)) == f"You wait for a GPU, {sentence}"


def test_who_has_none_reads_how_to_get_one() -> None:
    sentence = (
        "You have no GPU now. Open a lab with a GPU from the list of labs, and you get one or a place in the queue. "
        "Until then: everything here runs on the CPU, and exercises that need a GPU are skipped."
    )
    found = reading()
    assert card_text(found) == lines(found) == sentence
    assert sentence in Page(card_html(found)).text


@pytest.mark.parametrize("name", ["message", "name", "driver_version", "driver_model", "error"])
def test_hostile_text_is_only_text(name: str) -> None:
    if name == "message":
        found = Reading(message=HOSTILE, failed=True)
    elif name == "driver_version":
        found = reading(held(), driver_version=HOSTILE)
    else:
        found = reading(held(**{name: HOSTILE}))
    page = Page(card_html(found, [HOSTILE]))
    assert {tag for tag, _ in page.tags} <= {"div", "span", "b", "br", "code"}
    assert {attribute for _, attributes in page.tags for attribute in attributes} <= {"style", "title"}
    assert "<script>alert(1)</script>" in page.text
    for text in (card_html(found, [HOSTILE]), card_text(found, [HOSTILE]), lines(found)):
        assert "\x1b" not in text
        assert "\u202e" not in text
    if name != "message":
        assert len(lines(found).splitlines()) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(
    device=st.fixed_dictionaries({}, optional=dict.fromkeys(held(), JSON)),
    other=st.fixed_dictionaries({}, optional=dict.fromkeys((*answer(), "at", "odd"), JSON)),
    split=st.fixed_dictionaries({}, optional={"memory": JSON, "utilisation": JSON, "processes": JSON}),
    there=st.sampled_from((True, False, None)),
)
def test_whatever_comes_over_the_network_is_shown_or_passed_over(
    device: dict[str, Any], other: dict[str, Any], split: dict[str, Any], there: bool | None
) -> None:
    told = answer(device, held(mine=split, others=split)) | other
    found = from_portal(told if there is None else told | {"available": there})
    if found is None:
        return
    Page(card_html(found))
    card_text(found).encode()
    lines(found).encode()
    assert found.devices or found.message
    for one in found.devices:
        figures = [
            one[name] for name in ("utilisation", "memory_used", "memory_total", "temperature", "power", "share")
        ]
        assert all(figure is None or 0 <= figure < 2**63 for figure in (*figures, *one["mine"].values()))


@pytest.mark.parametrize("value", [True, "7", None, float("nan"), float("inf"), -1, 10**400, [], 2**63])
def test_what_is_no_measurement_is_not_known(value: Any) -> None:
    assert number(value) is None


@pytest.mark.parametrize("value", [0, 7, 7.5, 2**62])
def test_a_measurement_is_a_number(value: float) -> None:
    assert number(value) == value
