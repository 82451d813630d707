"""Queueing, superseding and retrying, with judges that do as they are told."""

from __future__ import annotations

import json
import logging
import threading

import pytest

from checker.engine import NotebookError
from checker.results import Outcome
from gradlab.checks import TRIES, Event
from gradlab.course import Course
from gradlab.errors import SubmissionRefused
from gradlab.judging import assignment
from gradlab.store import Store
from tests.checks import MIB, Make, causes, ended, outcomes, state
from tests.judges import ScriptedJudge
from tests.waiting import until


def test_an_accepted_notebook_gets_a_stored_verdict(make: Make, store: Store, notebook: bytes) -> None:
    judge = ScriptedJudge()
    checks = make(judge)
    number = checks.accept("ada", "tensors", notebook)
    ended(checks, number)
    found = store.submission(number)
    assert found is not None
    assert (found.state, found.learner, found.notebook) == ("judged", "ada", notebook)
    assert found.verdict is not None
    assert (found.verdict["points"], found.verdict["max_points"], found.verdict["passed"]) == (5, 5, True)
    assert found.report == '{"cells": []}'
    assert judge.calls == [("tensors", None, found.seed, notebook)]


def test_the_seed_differs_between_submissions(make: Make, store: Store, notebook: bytes) -> None:
    judge = ScriptedJudge()
    checks = make(judge)
    for _ in range(3):
        ended(checks, checks.accept("ada", "tensors", notebook))
    seeds = [seed for _, _, seed, _ in judge.calls]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_submission_is_on_disk_before_the_judge_hears_of_it(make: Make, store: Store, notebook: bytes) -> None:
    judge = ScriptedJudge()
    judge.gate.clear()
    number = make(judge).accept("ada", "tensors", notebook)
    assert Store.open(str(store._engine.url)).unjudged() == [(number, "ada")]


def test_only_one_exercise_is_judged_when_asked_for(make: Make, store: Store, notebook: bytes) -> None:
    checks = make(ScriptedJudge())
    number = checks.accept("ada", "tensors", notebook, only="double")
    ended(checks, number)
    found = store.submission(number)
    assert found is not None
    assert found.verdict is not None
    assert [result["exercise"] for result in found.verdict["results"]] == ["double"]


@pytest.mark.parametrize(
    ("lab", "only", "data", "status", "says"),
    [
        ("chess", None, b"{}", 404, "There is no lab 'chess' on this server. It has: tensors."),
        ("tensors", "mate", b"{}", 404, "has no exercise 'mate'. It has: rank_of, double."),
        ("tensors", None, b" " * (MIB + 1), 413, "The notebook is 1.0 MiB; this server takes at most 1.0 MiB. Clear"),
        ("tensors", None, b"hello", 400, "hello"),
    ],
)
def test_what_cannot_be_judged_is_refused_and_not_stored(
    make: Make, store: Store, lab: str, only: str | None, data: bytes, status: int, says: str
) -> None:
    with pytest.raises(SubmissionRefused) as refusal:
        make(ScriptedJudge()).accept("ada", lab, data, only=only)
    assert refusal.value.status == status
    if status != 400:  # the judge words those itself
        assert says in str(refusal.value)
    assert len(str(refusal.value)) > 20
    assert store.unjudged() == []
    assert store.attempts("ada") == []


def test_a_newer_notebook_takes_the_place_of_the_waiting_one(make: Make, store: Store, notebook: bytes) -> None:
    judge = ScriptedJudge()
    judge.gate.clear()
    checks = make(judge)
    events: list[Event] = []
    checks.subscribe(events.append)
    first, second, third = (checks.accept("ada", "tensors", notebook) for _ in range(3))
    ended(checks, second)
    assert state(store, second) == "superseded"
    assert state(store, first) == "accepted"
    judge.gate.set()
    ended(checks, first)
    ended(checks, third)
    assert (state(store, first), state(store, second), state(store, third)) == ("judged", "superseded", "judged")
    assert len(judge.calls) == 2
    until(lambda: len(events) == 6)
    assert [(event.kind, event.submission) for event in events if event.submission == second] == [
        ("accepted", second),
        ("superseded", second),
    ]
    assert [event.kind for event in events if event.submission == third] == ["accepted", "judged"]
    assert {(event.learner, event.lab) for event in events} == {("ada", "tensors")}


def test_one_learner_has_one_check_running_though_threads_are_free(make: Make, notebook: bytes) -> None:
    judge = ScriptedJudge()
    judge.gate.clear()
    checks = make(judge, workers=4)
    checks.accept("ada", "tensors", notebook)
    last = checks.accept("ada", "tensors", notebook)
    other = checks.accept("bob", "tensors", notebook)
    until(lambda: judge.running == 2)
    judge.gate.set()
    ended(checks, last)
    ended(checks, other)
    assert judge.most == 2


def test_learners_run_in_parallel_up_to_the_executor_and_in_order(make: Make, notebook: bytes) -> None:
    judge = ScriptedJudge()
    judge.gate.clear()
    checks = make(judge, workers=2)
    marked = {name: json.dumps(json.loads(notebook) | {"who": name}).encode() for name in ("ada", "bob", "cyd", "dan")}
    numbers = [checks.accept(name, "tensors", data) for name, data in marked.items()]
    until(lambda: judge.running == 2)
    judge.gate.set()
    ended(checks, *numbers)
    assert judge.most == 2
    order = [json.loads(data)["who"] for _, _, _, data in judge.calls]
    assert set(order[:2]) == {"ada", "bob"}
    assert set(order[2:]) == {"cyd", "dan"}


def test_a_hundred_checks_of_one_learner_delay_another_by_one_at_most(
    make: Make, store: Store, notebook: bytes
) -> None:
    judge = ScriptedJudge()
    judge.gate.clear()
    checks = make(judge, workers=1)

    def marked(name: str) -> bytes:
        return json.dumps(json.loads(notebook) | {"who": name}).encode()

    hundred = [checks.accept("ada", "tensors", marked("ada")) for _ in range(50)]
    other = checks.accept("bob", "tensors", marked("bob"))
    hundred += [checks.accept("ada", "tensors", marked("ada")) for _ in range(50)]
    judge.gate.set()
    ended(checks, other, *hundred)
    assert [json.loads(data)["who"] for _, _, _, data in judge.calls] == ["ada", "bob", "ada"]
    assert [number for number in hundred if state(store, number) == "judged"] == [hundred[0], hundred[-1]]


def test_many_threads_of_one_learner_leave_nothing_behind(make: Make, store: Store, notebook: bytes) -> None:
    checks = make(ScriptedJudge(), workers=4)
    numbers: list[int] = []
    threads = [
        threading.Thread(target=lambda: numbers.append(checks.accept("ada", "tensors", notebook))) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended(checks, *numbers)
    assert store.unjudged() == []
    assert state(store, max(numbers)) == "judged"
    assert {state(store, number) for number in numbers} <= {"judged", "superseded"}


@pytest.mark.parametrize("fault", [Outcome.OUR_FAULT, RuntimeError("the kernel died")])
def test_a_fault_of_ours_is_tried_again(make: Make, store: Store, notebook: bytes, fault: Outcome | Exception) -> None:
    checks = make(ScriptedJudge([fault, fault]))
    number = checks.accept("ada", "tensors", notebook)
    ended(checks, number)
    assert outcomes(store, number) == ["passed", "passed"]
    found = store.submission(number)
    assert found is not None
    assert found.tries == 3


def test_after_three_faults_the_verdict_says_that_it_is_our_fault(
    make: Make, store: Store, notebook: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    judge = ScriptedJudge([RuntimeError("the kernel died")] * 5)
    checks = make(judge)
    number = checks.accept("ada", "tensors", notebook)
    ended(checks, number)
    assert len(judge.calls) == TRIES == 3
    found = store.submission(number)
    assert found is not None
    assert found.verdict is not None
    assert (found.verdict["points"], found.verdict["max_points"]) == (0, 5)
    assert outcomes(store, number) == ["our fault", "our fault"]
    message = found.verdict["results"][0]["message"]
    assert message.startswith("This is our fault, not yours: ")
    assert "othing was scored; your instructor sees it" in message
    assert "the kernel died" not in message
    assert "the kernel died" in caplog.text
    assert causes(store) == [("ada", ("double", "rank_of"), ("The judge failed: RuntimeError: the kernel died",))]


def test_a_judge_that_blames_itself_three_times_is_believed_and_its_words_are_the_instructors(
    make: Make, store: Store, notebook: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    judge = ScriptedJudge([Outcome.OUR_FAULT] * 3)
    checks = make(judge)
    number = checks.accept("ada", "tensors", notebook)
    ended(checks, number)
    assert outcomes(store, number) == ["our fault", "our fault"]
    assert len(judge.calls) == 3
    found = store.submission(number)
    assert found is not None
    assert found.verdict is not None
    assert found.verdict["results"][0]["message"].startswith("This is our fault, not yours: the judge failed")
    assert "hidden" not in json.dumps(found.verdict)
    assert "The judge blames itself for submission 1 (lab tensors): hidden: our fault" in caplog.text
    assert causes(store) == [("ada", ("double", "rank_of"), ("hidden: our fault",))]
    ended(checks, checks.accept("ada", "tensors", notebook))
    assert causes(store) == []


def test_a_cause_of_any_length_and_characters_can_be_stored(
    make: Make, store: Store, notebook: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "gradlab.checks")  # a report of the test could not be sent on with such a text
    long = RuntimeError("half \ud800, nothing \0, " + "x" * 5000)
    checks = make(ScriptedJudge([long] * 3))
    ended(checks, checks.accept("ada", "tensors", notebook, only="double"))
    [(_, _, [cause])] = causes(store)
    assert cause.startswith("The judge failed: RuntimeError: half ?, nothing \ufffd, xxx")
    assert cause.endswith("x …")
    assert len(cause) == 1002


def test_the_next_check_of_the_learner_runs_after_a_fault(make: Make, store: Store, notebook: bytes) -> None:
    checks = make(ScriptedJudge([RuntimeError("one"), RuntimeError("two"), RuntimeError("three")]))
    first = checks.accept("ada", "tensors", notebook)
    second = checks.accept("ada", "tensors", notebook)
    ended(checks, first)
    ended(checks, second)
    assert outcomes(store, first) == ["our fault", "our fault"]
    assert outcomes(store, second) == ["passed", "passed"]


def test_a_failing_database_ends_no_thread_and_loses_no_submission(
    make: Make, store: Store, notebook: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checks = make(ScriptedJudge(), workers=1)

    def full(*_: object, **__: object) -> bool:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "record", full)
        first = checks.accept("ada", "tensors", notebook)
        until(lambda: "could not be judged; the next start tries again" in caplog.text)
    assert store.unjudged() == [(first, "ada")]
    second = checks.accept("ada", "tensors", notebook)
    ended(checks, second)
    ended(checks, first)
    assert (state(store, first), state(store, second)) == ("superseded", "judged")


def test_a_notebook_that_the_changed_lab_does_not_know_is_our_fault_at_once(
    make: Make, store: Store, notebook: bytes
) -> None:
    judge = ScriptedJudge([NotebookError("The notebook has no exercise of this lab in it.")])
    checks = make(judge)
    number = checks.accept("ada", "tensors", notebook)
    ended(checks, number)
    found = store.submission(number)
    assert found is not None
    assert found.verdict is not None
    assert [result["message"] for result in found.verdict["results"]] == [
        "This is our fault, not yours: the lab has changed since. The notebook has no exercise of this lab in it. "
        "Nothing was scored; your instructor sees it. Your notebook is kept: run the check again later."
    ] * 2
    assert len(judge.calls) == 1
    [(_, _, cause)] = causes(store)
    assert cause == ("The lab has changed since. The notebook has no exercise of this lab in it.",)


def test_a_failing_or_unsubscribed_listener_disturbs_nobody(
    make: Make, notebook: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    checks = make(ScriptedJudge())
    heard: list[Event] = []
    gone: list[Event] = []

    def broken(event: Event) -> None:
        raise RuntimeError("the browser left")

    checks.subscribe(broken)
    unsubscribe = checks.subscribe(gone.append)
    checks.subscribe(heard.append)
    unsubscribe()
    unsubscribe()
    ended(checks, checks.accept("ada", "tensors", notebook))
    until(lambda: [event.kind for event in heard] == ["accepted", "judged"])
    assert gone == []
    assert "A listener failed" in caplog.text


def test_the_judge_gets_the_lab_as_the_course_describes_it(course: Course) -> None:
    given = assignment(course.labs[0])
    assert (given.slug, given.template, given.checks) == ("tensors", course.labs[0].notebook, course.labs[0].checks)
    assert [(task.name, task.points, task.defines, task.needs) for task in given.tasks] == [
        ("rank_of", 2, ("rank_of",), ()),
        ("double", 3, ("double",), ("rank_of",)),
    ]
