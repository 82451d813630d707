"""Every lab of the course is proven: what ``gradlab labs verify`` shows, with the judge the server uses."""

from collections.abc import Iterator

import pytest

from checker.engine import Judge, JudgeConfig
from checker.sandbox.config import SandboxConfig
from checker.sandbox.confinement import detect
from gradlab.course import Course
from gradlab.settings import ROOT
from gradlab.verification import verify_lab

COURSE = Course.load(ROOT / "labs", ROOT / "checker" / "labs")


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    judge = Judge(JudgeConfig(SandboxConfig(method=detect()), pool=1))
    judge.warm()
    yield judge
    judge.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("slug", [lab.slug for lab in COURSE.labs])
def test_a_lab_is_proven(slug: str, judge: Judge) -> None:
    report = verify_lab(COURSE, judge, COURSE.lab(slug), seeds=(1, 2), workers=1)
    wrong = [f"{p.exercise}, {p.kind} {p.name}: {p.outcome}. {p.message} {p.remedy}" for p in report.proofs if not p.ok]
    assert wrong == []
    assert report.problems == ()
    assert {proof.kind for proof in report.proofs} == {"reference", "blank", "mistake"}


@pytest.mark.parametrize("lab", COURSE.labs, ids=[lab.slug for lab in COURSE.labs])
def test_a_learners_notebook_gives_nothing_away(lab) -> None:
    for exercise in lab.exercises:
        assert exercise.answer not in lab.notebook
        assert not any(hint in lab.notebook for hint in exercise.hints)


def test_questions_of_the_first_three_labs_are_all_answered() -> None:
    topics = {lab.slug for lab in COURSE.labs}
    open_questions = [q.id for q in COURSE.questions if q.topic in topics and not COURSE.answering(q.id)]
    assert topics >= {"environment", "tensors", "gpu-usage"}
    assert open_questions == []
