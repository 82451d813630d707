"""Our own faults on the pages: the instructor reads the cause, the learner that nothing was scored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from checker.results import Outcome, Result
from gradlab.portal.views import class_faults
from tests.courses import write_course
from tests.pages import HOSTILE, source, words
from tests.portals import Running, running_portal, verdict

CAUSE = f"The check 'halves' is broken: KeyError: 'x'. {HOSTILE}"


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Running]:
    """A portal of its own, whose judge blames itself for ``double``."""
    with running_portal(tmp_path, write_course(tmp_path / "course").load()) as running:
        running.judge.outcomes["double"] = Outcome.OUR_FAULT
        running.judge.messages["double"] = CAUSE
        running.checks._retry_seconds = 0.01
        yield running


def checked(portal: Running, learner: str) -> int:
    with portal.client(learner) as client:
        number = int(client.post("api/labs/tensors/checks", content=portal.notebook()).json()["id"])
        assert client.get(f"api/submissions/{number}?wait=30").json()["state"] == "judged"
    return number


def faults_section(portal: Running) -> str:
    found = re.search(r'<section id="faults".*?</section>', source(portal, "grace", "class"), re.DOTALL)
    assert found is not None
    return found[0]


def test_a_fault_of_ours_reaches_the_instructor_with_its_cause_until_a_sound_verdict(faulty: Running) -> None:
    assert re.search(r'^<section id="faults"[^>]* hidden>', faults_section(faulty))
    number = checked(faulty, "kim")
    section = faults_section(faulty)
    assert not re.search(r'^<section id="faults"[^>]* hidden>', section)
    assert "1 check ended by our fault" in section
    assert f'<a href="/services/portal/learners/kim#attempt-{number}">kim</a>' in section
    assert f"kim Tensors: Doubling just now {CAUSE.replace('`', '')}" in words(section)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in section
    assert "<script" not in section
    assert "<img" not in section
    with faulty.client("grace") as grace:
        told = grace.get("api/faults").json()
    fault = {"submission": number, "learner": "kim", "where": "Tensors: Doubling", "causes": [CAUSE]}
    assert (told["count"], told["heading"]) == (1, "1 check ended by our fault")
    assert [one | fault for one in told["latest"]] == told["latest"]
    faulty.judge.outcomes["double"] = Outcome.FAILED
    checked(faulty, "kim")
    section = faults_section(faulty)
    assert re.search(r'^<section id="faults"[^>]* hidden>', section)
    assert "kim" not in section


def test_no_learner_reads_the_cause_of_our_fault(faulty: Running) -> None:
    number = checked(faulty, "lea")
    with faulty.client("lea") as lea:
        for path in ("", "attempts", f"api/submissions/{number}", "api/labs", "class", "api/faults", "learners/lea"):
            answer = lea.get(path)
            assert "KeyError" not in answer.text, path
            assert "alert(1)" not in answer.text, path
            assert answer.status_code == (403 if path in ("class", "api/faults", "learners/lea") else 200), path
        attempt = words(lea.get("attempts").text)
    assert "This is our fault, not yours: the judge failed on your notebook several times." in attempt
    assert "Nothing was scored; your instructor sees it." in attempt
    assert "not scored" in attempt
    assert "0 / " not in attempt


def test_of_an_attempt_only_what_was_scored_is_counted(faulty: Running) -> None:
    checked(faulty, "lou")
    attempt = words(source(faulty, "lou", "attempts"))
    assert "2 / 2 points" in attempt
    assert attempt.count("not scored") == 1
    faulty.judge.outcomes["rank_of"] = Outcome.OUR_FAULT
    checked(faulty, "liv")
    attempt = words(source(faulty, "liv", "attempts"))
    assert " points" not in attempt
    assert attempt.count("not scored") == 3  # each exercise, and all


def test_faults_of_a_whole_class_are_counted_and_cut_and_forgotten_after_two_weeks(faulty: Running) -> None:
    portal, now = faulty, faulty.clock()
    both = [Result(name, Outcome.OUR_FAULT, 0, 2) for name in ("rank_of", "double")]
    for index in range(21):
        number, _ = portal.store.accept(f"many-{index}", "tensors", b"{}", seed=1, now=now)
        portal.store.record(number, verdict("tensors", *both), now=now)
    gone, _ = portal.store.accept("mo", "retired", b"{}", seed=1, now=now)
    fault = verdict("retired", Result("retired", Outcome.OUR_FAULT, 0, 0))
    portal.store.record(gone, fault, causes={"retired": "There is no lab 'retired'."}, now=now)
    section = words(faults_section(portal))
    assert "22 checks ended by our fault; here are the latest 20" in section
    assert "mo retired just now There is no lab 'retired'." in section
    assert "many-20 Tensors: Rank, Doubling just now The judge gave no cause; logs/portal.log in the state" in section
    assert section.count("many-") == 19
    found = class_faults(portal.course, portal.store, now + 14 * 86400 + 1)
    assert (found.count, found.latest) == (0, ())
