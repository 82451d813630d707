"""Verdicts as HTML and as text: complete, escaped, and of bounded length."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from checker.results import Outcome
from labkit.render import (
    MAX_CHARACTERS,
    MAX_LINES,
    clean,
    hint_html,
    hint_text,
    note_html,
    verdict_html,
    verdict_text,
)
from tests.fake_portal import result, verdict

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\" ' & \x1b[31mred\x1b[0m \x1b]0;title\x07\u202egnp.exe"
ALLOWED = {"div", "span", "b", "code", "pre", "br", "details", "summary", "table", "tr", "th", "td"}


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
        self.text += data

    def unfolded(self) -> list[bool]:
        return ["open" in attributes for tag, attributes in self.tags if tag == "details"]


def check(title: str, outcome: str = "passed", message: str = "") -> dict[str, str]:
    return {"title": title, "outcome": outcome, "message": message}


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_of_the_judge_has_words_and_a_sign_of_its_own(outcome: Outcome) -> None:
    line = verdict_text(verdict(result("rank_of", outcome))).splitlines()[0]
    scored = "not scored" if outcome == "our fault" else f"{2 if outcome == 'passed' else 0} of 2 points"
    assert line == f"{line[0]} {outcome} · rank_of · {scored}"
    assert line[0] != "·"
    assert f"{line[0]} {outcome}" in Page(verdict_html(verdict(result("rank_of", outcome)))).text


def test_signs_differ_so_that_colour_is_never_all() -> None:
    assert len({verdict_text(verdict(result("x", outcome)))[0] for outcome in Outcome}) == len(Outcome)


def test_a_failure_says_what_passed_what_failed_why_and_what_was_printed() -> None:
    failed = result(
        "rank_of",
        "failed",
        checks=[check("A scalar has rank 0"), check("A matrix has rank 2", "failed", "You returned 6,\nnot 2.")],
        output="shape is torch.Size([2, 3])\n",
    )
    assert verdict_text(verdict(failed)).splitlines() == [
        "✗ failed · rank_of · 0 of 2 points",
        "  ✓ A scalar has rank 0",
        "  ✗ A matrix has rank 2",
        "    You returned 6,",
        "    not 2.",
        "  Your code printed:",
        "    shape is torch.Size([2, 3])",
        "Judged in 0.20 s.",
    ]
    page = Page(verdict_html(verdict(failed)))
    for part in ("A scalar has rank 0", "You returned 6,", "not 2.", "shape is torch.Size([2, 3])"):
        assert part in page.text


def test_a_message_that_one_check_says_is_not_said_twice() -> None:
    failed = result("rank_of", "failed", message="You returned 6.", checks=[check("Rank", "failed", "You returned 6.")])
    assert Page(verdict_html(verdict(failed))).text.count("You returned 6.") == 1
    assert verdict_text(verdict(failed)).count("You returned 6.") == 1


def test_outcomes_without_a_message_explain_themselves() -> None:
    explained = {outcome: verdict_text(verdict(result("x", outcome))) for outcome in Outcome}
    said = {outcome: text.splitlines()[1].strip() for outcome, text in explained.items() if text.count("\n") > 1}
    assert said == {
        Outcome.NOT_ATTEMPTED: "There is no answer yet: the stub is as it came.",
        Outcome.SKIPPED: "It was not judged.",
        Outcome.TIMED_OUT: "It took longer than the time limit.",
        Outcome.OUT_OF_MEMORY: "It needed more memory than the limit.",
        Outcome.KILLED: "It was ended from outside.",
        Outcome.OUR_FAULT: "The judge itself failed. You lose no points; check again, and tell your instructor.",
    }


def test_what_is_our_fault_is_not_scored_as_zero() -> None:
    alone = verdict(result("a", "our fault"))
    assert "? our fault · a · not scored" in verdict_text(alone)
    assert "our fault · a · not scored" in Page(verdict_html(alone)).text
    beside = verdict(result("a"), result("b", "our fault"))
    assert verdict_text(beside).startswith("tensors: 1 of 2 exercises passed, 2 of 2 points, 1 not scored\n")


def test_a_pass_gives_the_interview_answer_and_the_follow_up_question() -> None:
    answers = {"rank_of": {"title": "Rank", "answer": "The number of\n\n`dims`.", "follow_up": "And of a scalar?"}}
    page = Page(verdict_html(verdict(result("rank_of")), answers))
    assert "In the interview: The number ofdims." in page.text
    assert "They may go on: And of a scalar?" in page.text
    assert "code" in {tag for tag, _ in page.tags}
    assert page.tags.count(("br", {})) == 2
    text = verdict_text(verdict(result("rank_of")), answers)
    assert "  In the interview: The number of\n" in text
    assert "  They may go on: And of a scalar?" in text


def test_a_whole_lab_starts_with_its_points_and_unfolds_what_went_wrong() -> None:
    answers = {"a": {"title": "A", "answer": "Because.", "follow_up": ""}}
    data = verdict(
        result("a"), result("b", "failed", message="No."), result("c", "not attempted"), result("d", "killed")
    )
    page = Page(verdict_html(data, answers))
    assert page.text.startswith("tensors: 1 of 4 exercises passed, 2 of 8 points")
    assert page.unfolded() == [False, True, True]  # what was not attempted has nothing to unfold
    assert verdict_text(data, answers).startswith("tensors: 1 of 4 exercises passed, 2 of 8 points\n✓ passed · a")


def test_remarks_are_shown() -> None:
    remark = "`rank_of` changed after you last ran it."
    assert "rank_of changed after" in Page(verdict_html(verdict(result("rank_of")), {}, [remark])).text
    assert remark in verdict_text(verdict(result("rank_of")), {}, [remark])


def hostile_verdict() -> dict[str, Any]:
    bad = result(HOSTILE, "failed", message=HOSTILE, checks=[check(HOSTILE, HOSTILE, HOSTILE + "!")], output=HOSTILE)
    return verdict(bad, {**bad, "outcome": HOSTILE}) | {"lab": HOSTILE}


@pytest.mark.parametrize(
    "html",
    [
        verdict_html(hostile_verdict(), {HOSTILE: {"title": "", "answer": HOSTILE, "follow_up": HOSTILE}}, [HOSTILE]),
        hint_html(HOSTILE, 1, 2, HOSTILE),
        note_html(HOSTILE),
    ],
)
def test_hostile_text_is_only_text(html: str) -> None:
    page = Page(html)
    assert {tag for tag, _ in page.tags} <= ALLOWED
    assert {name for _, attributes in page.tags for name in attributes} <= {"style", "title", "open"}
    assert "<script>alert(1)</script>" in page.text
    for hidden in ("\x1b", "\u202e", "\x07", "]0;title"):
        assert hidden not in html


def test_hostile_text_cannot_drive_a_terminal() -> None:
    text = verdict_text(hostile_verdict(), {HOSTILE: {"title": "", "answer": HOSTILE, "follow_up": ""}}, [HOSTILE])
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "red" in text


@pytest.mark.parametrize("output", ["x" * 1_000_000, "line\n" * 100_000, "\x1b[1m" * 300_000 + "end", "\n" * 100_000])
def test_endless_output_is_cut_and_says_so(output: str) -> None:
    html = verdict_html(verdict(result("rank_of", "failed", output=output)))
    assert len(html) < 3 * MAX_CHARACTERS
    assert html.count("\n") < MAX_LINES + 5


def test_what_is_left_out_is_counted() -> None:
    assert clean("x" * (MAX_CHARACTERS + 7)).endswith("x\n… 7 more characters left out")
    assert clean("a\n" * (MAX_LINES + 2)).endswith("a\n… 5 more characters left out")
    assert clean("short\n") == "short"


def test_a_progress_bar_does_not_overprint() -> None:
    assert clean("10%\r20%\r\ndone") == "10%\n20%\ndone"


def test_a_hint_says_which_it_is_and_how_to_get_the_next() -> None:
    assert hint_text("rank_of", 1, 3, "Count.") == (
        'rank_of · hint 1 of 3\nCount.\nRun lab.hint("rank_of") again for the next.'
    )
    assert hint_text("rank_of", 3, 3, "Count.").endswith("That was the last one.")
    assert "rank_of · hint 1 of 3" in Page(hint_html("rank_of", 1, 3, "Use `x.dim()`.")).text
