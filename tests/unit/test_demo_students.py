"""How simulated learners choose what to hand in: only what the course has, and on from what has passed."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from gradlab.course import Course, Lab
from gradlab.demo.students import NAMES, Attempt, Student, names
from gradlab.hub.login.names import fault
from gradlab.settings import Settings
from gradlab.verification import reference_answers
from tests.courses import write_course


@pytest.fixture(scope="module")
def course() -> Course:
    """The course of this project, with several labs."""
    settings = Settings()
    return Course.load(settings.labs_dir, settings.checks_dir)


@pytest.fixture
def small(tmp_path: Path) -> Course:
    return write_course(tmp_path).load()


def cells(attempt: Attempt) -> dict[str, str]:
    """What is in the exercise cells of the notebook, by exercise."""
    notebook = json.loads(attempt.notebook)
    return {
        cell["metadata"]["exercise"]: "".join(cell["source"])
        for cell in notebook["cells"]
        if "exercise" in cell["metadata"]
    }


def judged(course: Course, attempt: Attempt) -> dict[str, str]:
    """What the judge would say, by comparison with what the course has."""
    known = sources(course.lab(attempt.lab))
    return {
        name: known.get((name, source.strip()), "failed")
        for name, source in cells(attempt).items()
        if attempt.only in (None, name)
    }


@functools.cache
def sources(lab: Lab) -> dict[tuple[str, str], str]:
    """What becomes of a cell, by exercise and source; whatever else there is fails."""
    stubs = cells(Attempt(lab.slug, None, lab.notebook.encode()))
    found = {(name, source.strip()): "not attempted" for name, source in stubs.items()}
    return found | {(name, source.strip()): "passed" for name, source in reference_answers(lab).items()}


@pytest.mark.parametrize("seed", range(5))
def test_everything_that_is_handed_in_is_the_courses_own(course: Course, seed: int) -> None:
    student = Student(course, seed=f"{seed}")
    seen = set()
    for _ in range(60):
        attempt = student.attempt()
        lab = course.lab(attempt.lab)
        known = {mistake.source.strip() for mistake in lab.mistakes}
        outcomes = judged(course, attempt)
        for name, outcome in outcomes.items():
            assert outcome != "failed" or cells(attempt)[name].strip() in known
        seen |= set(outcomes.values())
        student.take(outcomes)
    assert seen >= {"passed", "failed"}


def test_a_student_goes_through_all_labs_and_then_once_more(course: Course) -> None:
    student = Student(course, seed="thorough")
    passed: set[tuple[str, str]] = set()
    visits: list[str] = []
    for _ in range(400):
        attempt = student.attempt()
        if not visits or visits[-1] != attempt.lab:
            visits.append(attempt.lab)
        outcomes = judged(course, attempt)
        passed |= {(attempt.lab, name) for name, outcome in outcomes.items() if outcome == "passed"}
        student.take(outcomes)
    assert passed == {(lab.slug, exercise.name) for lab in course.labs for exercise in lab.exercises}
    slugs = [lab.slug for lab in course.labs]
    begin = slugs.index(visits[0])
    assert visits == [slugs[(begin + place) % len(slugs)] for place in range(len(visits))]
    assert len(visits) > len(slugs)


def test_a_student_who_was_here_before_goes_on_from_there(small: Course) -> None:
    student = Student(small, seed="returns")
    student.remember([("tensors", "rank_of"), ("tensors", "no longer there"), ("gone", "away")])
    attempt = student.attempt()
    assert attempt.only in (None, "double")
    assert cells(attempt)["rank_of"].strip() == reference_answers(small.labs[0])["rank_of"].strip()


def test_no_mistake_is_made_twice_before_it_passed(small: Course) -> None:
    for seed in range(30):
        student = Student(small, seed=f"{seed}")
        student.remember([("tensors", "rank_of")])
        made = []
        while judged(small, attempt := student.attempt()).get("double") != "passed":
            made.append(cells(attempt)["double"])
            student.take({"double": "failed"})
        mistakes = [source for source in made if "raise NotImplementedError" not in source]
        assert len(set(mistakes)) == len(mistakes)


def test_what_cannot_be_judged_yet_is_left_for_later(course: Course) -> None:
    student = Student(course, seed="blocked")
    first = student.attempt().only
    assert first is not None
    student.take({first: "skipped"})
    for _ in range(5):
        assert student.attempt().only != first
        student.take({})


def test_hints_are_asked_for_only_after_a_failure(small: Course) -> None:
    asked = {"passed": 0, "failed": 0}
    for seed in range(200):
        for outcome in asked:
            student = Student(small, seed=f"{seed}")
            student.attempt()
            hint = student.take({"rank_of": outcome})
            assert hint in (None, "rank_of")
            asked[outcome] += hint is not None
    assert asked["passed"] == 0
    assert 30 < asked["failed"] < 90


def test_the_class_is_the_same_with_the_same_seed_and_its_people_differ(course: Course) -> None:
    def handed_in(seed: str) -> list[Attempt]:
        student = Student(course, seed=seed)
        attempts = []
        for _ in range(15):
            attempts.append(student.attempt())
            student.take(judged(course, attempts[-1]))
        return attempts

    assert handed_in("ada") == handed_in("ada")
    assert handed_in("ada") != handed_in("grace")
    begins = {Student(course, seed=name).lab.slug for name in NAMES}
    assert begins == {lab.slug for lab in course.labs}


@pytest.mark.parametrize("count", [1, 40, 200])
def test_every_learner_has_a_name_of_their_own_that_the_hub_takes(count: int) -> None:
    found = names(count)
    assert len(set(found)) == count
    assert not any(fault(name) for name in found)
    assert found[0] == "ada"
