"""``check`` and ``hint``: from the cell that runs to what is shown below it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labkit.client import Portal
from labkit.display import Card, Shown, interactive_shell
from labkit.errors import CheckInterrupted, LabError
from labkit.notebook import Notebook, locate, mailbox, on_screen
from labkit.render import hint_html, hint_text, verdict_html, verdict_text

__all__ = ["Checked", "Hint", "check", "hint"]

_POLL = 20  # seconds the portal holds a question for a verdict
Exercise = str | Callable[..., Any] | None


class Checked(Shown):
    """A verdict: true if everything checked has passed. ``to_dict`` gives the portal's data."""

    def __init__(self, submission: dict[str, Any], remarks: list[str], shell: Any = None) -> None:
        super().__init__(shell)
        self.submission = int(submission["id"])
        self._verdict: dict[str, Any] = submission["verdict"]
        self._answers: dict[str, dict[str, str]] = submission.get("answers") or {}
        self._remarks = remarks

    @property
    def passed(self) -> bool:
        return bool(self._verdict["passed"])

    @property
    def points(self) -> int:
        return int(self._verdict["points"])

    @property
    def max_points(self) -> int:
        return int(self._verdict["max_points"])

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain data, with the interview answers it opened."""
        return {**self._verdict, "answers": self._answers}

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return verdict_text(self._verdict, self._answers, self._remarks)

    def _repr_html_(self) -> str:
        return verdict_html(self._verdict, self._answers, self._remarks)


class Hint(Shown):
    """One hint of an exercise: ``number`` of ``of``, and its ``text``."""

    def __init__(self, exercise: str, data: dict[str, Any], shell: Any = None) -> None:
        super().__init__(shell)
        self.exercise = exercise
        self.number = int(data["number"])
        self.of = int(data["of"])
        self.text = str(data["hint"])

    def __repr__(self) -> str:
        return hint_text(self.exercise, self.number, self.of, self.text)

    def _repr_html_(self) -> str:
        return hint_html(self.exercise, self.number, self.of, self.text)


def check(exercise: Exercise = None, *, notebook: str | os.PathLike[str] | None = None) -> Checked:
    """See :func:`labkit.check`."""
    only = _name(exercise)
    shell = interactive_shell()
    card = Card(shell)
    portal = Portal.from_environment(tell=card.note)
    what = f"`{only}`" if only is not None else "the whole lab"
    number: int | None = None
    try:
        found = _notebook_to_check(shell, card, f"Checking {what} …", notebook)
        number = portal.submit(found.lab, found.data, only)
        submission = _verdict(portal, number)
    except LabError:
        card.note(f"Checking {what}: no verdict.")
        raise
    except KeyboardInterrupt:
        card.note(f"Checking {what}: you stopped waiting.")
        raise CheckInterrupted(_interrupted(portal, number)) from None
    checked = Checked(submission, [found.remark] if found.remark else [], shell)
    checked.display(card)
    return checked


def hint(exercise: Exercise = None) -> Hint:
    """See :func:`labkit.hint`."""
    name = _name(exercise)
    if name is None:
        raise LabError('Name the exercise you want a hint for, as its check cell does: lab.hint("exercise").')
    shell = interactive_shell()
    card = Card(shell)
    portal = Portal.from_environment(tell=card.note)
    given = Hint(name, portal.next_hint(Notebook.read(locate(shell)).lab, name), shell)
    given.display(card)
    return given


def _name(exercise: Exercise) -> str | None:
    """An exercise's name; a function or class stands for the name it was defined with."""
    if exercise is None or isinstance(exercise, str):
        return exercise
    name = getattr(exercise, "__name__", None)
    if not isinstance(name, str):
        kind = type(exercise).__name__
        raise LabError(f'An exercise is named by a string, as in lab.check("exercise"), not by a value of type {kind}.')
    return name


def _notebook_to_check(shell: Any, card: Card, sentence: str, file: str | os.PathLike[str] | None) -> Notebook:
    if file is not None:
        card.note(sentence)
        return Notebook.read(Path(file))
    if getattr(shell, "kernel", None) is None:
        locate(shell)  # says that there is no notebook here, and what to do
    mailbox()  # before the request goes out: its answer may come at once
    request = uuid.uuid4().hex
    card.note(sentence, save=request)
    return on_screen(shell, request)


def _verdict(portal: Portal, number: int) -> dict[str, Any]:
    while True:
        submission = portal.submission(number, _POLL)
        if submission.get("verdict") is not None:
            return submission
        if submission["state"] == "superseded":
            raise LabError("A newer check of yours replaced this one before it was judged: read that one's verdict.")


def _interrupted(portal: Portal, number: int | None) -> str:
    if number is None:
        return "Stopped before the portal confirmed the check. Run the cell again to check."
    return f"Stopped waiting. Check {number} goes on, and its verdict will be in the portal: {portal.url}/attempts"
