"""What a simulated learner does next: right answers, known mistakes, untouched stubs, hints. Pure, given its dice.

Every answer is one that the course has: an exercise's reference solution or one of its known mistakes. So what becomes
of them is what the judge makes of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gradlab.course import Course, Exercise, Lab, Mistake
from gradlab.verification import answered_notebook, reference_answers

__all__ = ["NAMES", "Attempt", "Student", "names"]

NAMES = (
    *("ada", "grace", "alan", "barbara", "edsger", "hedy", "donald", "radia", "claude", "katherine"),
    *("john", "margaret", "dennis", "frances", "ken", "jean", "tony", "adele", "niklaus", "shafi"),
    *("leslie", "karen", "vint", "lynn", "tim", "evelyn", "bjarne", "mary", "guido", "joan"),
    *("linus", "sophie", "james", "anita", "larry", "annie", "yukihiro", "ruth", "andrew", "betty"),
)

# How often a learner hands in what is not begun, asks for a hint after a failure, gives up on an exercise for now.
_UNTOUCHED, _ASKS, _GIVES_UP = 0.05, 0.3, 0.06
# How often one has the whole lab checked: in between, and when all of it is done.
_WHOLE, _WHOLE_AT_END = 0.04, 0.5
# Of all learners some begin with the second lab, fewer with the third: a class is seldom in one place.
_AHEAD = 0.5


def names(count: int) -> list[str]:
    """So many different names; beyond those there are, they have numbers."""
    return [NAMES[i % len(NAMES)] + (str(i // len(NAMES) + 1) if i >= len(NAMES) else "") for i in range(count)]


@dataclass(frozen=True)
class Attempt:
    """A notebook (.ipynb JSON) to hand in; ``only`` is the one exercise that is to be checked, None for all."""

    lab: str
    only: str | None
    notebook: bytes


class Student:
    """One learner's way through the course; when it has an end, it is gone over again.

    ``seed`` makes the student: how able they are, where they begin, and every choice.
    """

    def __init__(self, course: Course, *, seed: str) -> None:
        self._random = random.Random(seed)
        self._labs = course.labs
        self._able = self._random.betavariate(5, 3)
        self._place = 0
        while self._place + 1 < len(self._labs) and self._random.random() > _AHEAD:
            self._place += 1
        self._answers: dict[str, dict[str, str]] = {lab.slug: {} for lab in self._labs}
        self._tried: set[tuple[str, str]] = set()
        self._passed: set[tuple[str, str]] = set()
        self._left: set[tuple[str, str]] = set()
        self._at: Exercise | None = None

    @property
    def lab(self) -> Lab:
        """Where they are."""
        return self._labs[self._place]

    def remember(self, passed: Iterable[tuple[str, str]]) -> None:
        """These exercises, by lab and name, were passed in an earlier run of the server."""
        for slug, name in passed:
            lab = next((lab for lab in self._labs if lab.slug == slug), None)
            answer = reference_answers(lab).get(name) if lab else None
            if answer is not None:
                self._answers[slug][name] = answer
                self._passed.add((slug, name))

    def attempt(self) -> Attempt:
        """What they hand in next."""
        if (exercise := self._next()) is None:
            exercise = self._go_on()
        self._at = exercise
        self._answer(exercise)
        whole = self._random.random() < (_WHOLE_AT_END if self._is_last(exercise) else _WHOLE)
        notebook = answered_notebook(self.lab, self._answers[self.lab.slug]).encode()
        return Attempt(self.lab.slug, None if whole else exercise.name, notebook)

    def take(self, outcomes: Mapping[str, str]) -> str | None:
        """What the judge said, by exercise; returns the exercise for which they want a hint now, if they do."""
        lab = self.lab.slug
        self._passed |= {(lab, name) for name, outcome in outcomes.items() if outcome == "passed"}
        if self._at is None or (lab, self._at.name) in self._passed:
            return None
        if self._random.random() < _GIVES_UP or outcomes.get(self._at.name) == "skipped":
            self._left.add((lab, self._at.name))
        return self._at.name if self._at.hints and self._random.random() < _ASKS else None

    def _next(self) -> Exercise | None:
        """The first exercise of this lab that is open."""
        done = self._passed | self._left
        return next((one for one in self.lab.exercises if (self.lab.slug, one.name) not in done), None)

    def _is_last(self, exercise: Exercise) -> bool:
        return exercise == self.lab.exercises[-1]

    def _go_on(self) -> Exercise:
        """The next lab, or one more time the course; what was left is tried again then."""
        self._place = (self._place + 1) % len(self._labs)
        slug = self.lab.slug
        self._left = {one for one in self._left if one[0] != slug}
        if self._next() is None:
            self._answers[slug] = {}
            self._passed = {one for one in self._passed if one[0] != slug}
            self._tried = {one for one in self._tried if one[0] != slug}
        return self._next() or self.lab.exercises[0]

    def _answer(self, exercise: Exercise) -> None:
        """Put into the notebook what they believe to be right, or nothing."""
        answers = self._answers[self.lab.slug]
        if self._random.random() < _UNTOUCHED and exercise.name not in answers:
            return
        mistakes = [one for one in self.lab.mistakes if one.exercise == exercise.name and not self._knows(one)]
        if mistakes and self._random.random() > self._able:
            mistake = self._random.choice(mistakes)
            self._tried.add((self.lab.slug, mistake.name))
            answers[exercise.name] = mistake.source
        else:
            answers[exercise.name] = reference_answers(self.lab)[exercise.name]

    def _knows(self, mistake: Mistake) -> bool:
        """Nobody makes the same mistake twice, here."""
        return (self.lab.slug, mistake.name) in self._tried
