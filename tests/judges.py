"""Judges that do as they are told, for tests of what surrounds a judge. The real one is tested by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from checker.engine import Assignment
from checker.results import Outcome, Result, Verdict

__all__ = ["ScriptedJudge", "verdict"]


def verdict(assignment: Assignment, outcome: Outcome, *, only: str | None = None, seed: int = 0) -> Verdict:
    """The same outcome for every exercise asked for."""
    tasks = [task for task in assignment.tasks if only in (None, task.name)]
    results = tuple(
        Result(
            task.name,
            outcome,
            task.points if outcome is Outcome.PASSED else 0,
            task.points,
            message=f"hidden: {outcome}",
        )
        for task in tasks
    )
    return Verdict(lab=assignment.slug, results=results, seed=seed, seconds=0.01, report='{"cells": []}')


class ScriptedJudge:
    """Answers with the outcomes (or raises the exceptions) of ``script`` in turn, then with passes.

    While ``gate`` is clear, ``check`` blocks; ``running`` counts who is inside, ``most`` the most at one time.
    """

    def __init__(self, script: Iterable[Outcome | Exception] = ()) -> None:
        self.script = iter(script)
        self.gate = threading.Event()
        self.gate.set()
        self.calls: list[tuple[str, str | None, int, bytes]] = []
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def check(self, assignment: Assignment, notebook: bytes, *, only: str | None = None, seed: int) -> Verdict:
        with self._lock:
            self.calls.append((assignment.slug, only, seed, notebook))
            self.running += 1
            self.most = max(self.most, self.running)
            step = next(self.script, Outcome.PASSED)
        try:
            assert self.gate.wait(30), "the test forgot to open the gate"
        finally:
            with self._lock:
                self.running -= 1
        if isinstance(step, Exception):
            raise step
        return verdict(assignment, step, only=only, seed=seed)
