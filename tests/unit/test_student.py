"""What the learner reads when the sandbox answers something else than the agent would, or nothing any more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from checker.results import Outcome
from checker.sandbox.base import OutputFlood, SandboxBroken, SandboxGarbled, SandboxTimeout
from checker.student import Failure, ProgramEnded, Student, StudentError
from labkit.wire import Handle

HANDLE = Handle(1, "lab.Net", "Net()")
ERROR = {"type": "E", "bases": ["E", "Exception"], "message": "no", "where": "cell 1, line 2", "traceback": ""}
WROTE_OVER = "Your code wrote over the answers it should return."


class Scripted:
    """The part of a sandbox that a Student uses: gives one reply (or raises it), whatever it is asked."""

    def __init__(self, reply: Any) -> None:
        self.reply = reply
        self.killed = False

    def send(self, message: dict[str, Any], deadline: float) -> None:
        pass

    def receive(self, deadline: float) -> Any:
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply

    def kill(self) -> None:
        self.killed = True


def student(reply: Any) -> Student:
    return Student(Scripted(reply), seconds=3)  # type: ignore[arg-type]


def value(value: Any) -> dict[str, Any]:
    return {"n": 1, "value": value}


def test_an_answer_is_the_value_and_the_arguments_after() -> None:
    answer = student(value((3, [[1]]))).f([1])
    answer.equals(3)
    answer.left_alone([1])


@pytest.mark.parametrize(
    "reply",
    [
        5,
        None,
        {},
        {"n": 1},
        {"value": (3, [1])},
        {"n": 2, "value": (3, [1])},
        {"n": True, "value": (3, [1])},
        {"n": 1.0, "value": (3, [1])},
        {"n": torch.ones(3), "value": (3, [1])},
        {"ended": torch.ones(3)},
        {"ended": None},
        value(5),
        value(None),
        value((3,)),
        value((3, None)),
        value((3, (1,))),
        value((3, [])),
        value((3, [1, 2])),
        value((3, [1], {})),
        value([3, [1]]),
        value(torch.zeros(2)),
        {"n": 1, "error": None},
        {"n": 1, "error": np.zeros(3)},
        {"n": 1, "error": torch.zeros(3)},
        {"n": 1, "error": {}},
        {"n": 1, "error": ERROR | {"bases": torch.zeros(3)}},
        {"n": 1, "error": ERROR | {"bases": [torch.zeros(3)]}},
        {"n": 1, "error": ERROR | {"message": torch.zeros(3)}},
        {"n": 1, "error": ERROR | {"where": 3}},
        {"n": 1, "error": ERROR | {"more": 3}},
    ],
)
def test_a_forged_answer_ends_the_program_and_nothing_else(reply: Any) -> None:
    asked = student(reply)
    with pytest.raises(ProgramEnded) as ended:
        asked.f(1)
    assert (ended.value.outcome, str(ended.value), ended.value.reusable) == (Outcome.KILLED, WROTE_OVER, False)
    assert asked._sandbox.killed  # type: ignore[attr-defined]
    with pytest.raises(ProgramEnded, match=WROTE_OVER):
        asked.f(1)


def test_what_was_to_stay_in_the_sandbox_cannot_come_as_something_else() -> None:
    assert student(value(HANDLE)).put(3) == HANDLE
    assert student(value((HANDLE, []))).call("f", keep=True).value == HANDLE
    with pytest.raises(ProgramEnded, match=WROTE_OVER):
        student(value(5)).put(3)
    with pytest.raises(ProgramEnded, match=WROTE_OVER):
        student(value((5, []))).call("f", keep=True)


def test_an_exception_is_told_with_its_place_and_only_when_the_answer_is_used() -> None:
    answer = student({"n": 1, "error": ERROR}).f(1)
    answer.raises("Exception")
    with pytest.raises(StudentError) as error:
        _ = answer.value
    assert str(error.value) == "f(1) raised E: no (cell 1, line 2)"
    assert error.value.outcome is Outcome.ERROR


@pytest.mark.parametrize(
    ("reply", "outcome", "says"),
    [
        (SandboxTimeout(), Outcome.TIMED_OUT, "Your code did not finish within 3 s."),
        (OutputFlood(), Outcome.KILLED, "Your code printed more than is allowed, and was stopped."),
        (SandboxBroken(), Outcome.KILLED, "Your code ended the process it ran in."),
        (SandboxGarbled(), Outcome.KILLED, WROTE_OVER),
        ({"ended": -24}, Outcome.TIMED_OUT, "Your code used more processor time than the 3 s allow."),
        ({"ended": -9}, Outcome.KILLED, "Your code was killed; most often it wanted more memory than there is."),
        ({"ended": -11}, Outcome.KILLED, "Your code crashed the Python interpreter."),
        ({"ended": 7}, Outcome.KILLED, "Your code ended its Python process (status 7) instead of returning."),
    ],
)
def test_every_end_of_a_program_has_its_sentence(reply: Any, outcome: Outcome, says: str) -> None:
    with pytest.raises(ProgramEnded) as ended:
        student(reply).f()
    assert (ended.value.outcome, str(ended.value)) == (outcome, says)
    assert ended.value.reusable is isinstance(reply, dict)


def test_an_argument_changed_in_place_is_named() -> None:
    x = torch.tensor([1.0, 2.0])
    answer = student(value((None, [3, torch.tensor([1.0, 5.0])]))).f(3, x)
    with pytest.raises(Failure) as failure:
        answer.left_alone(3, x)
    assert str(failure.value) == (
        "f(3, tensor([1.0, 2.0])) changed its argument 2 in place: "
        "it is now a tensor that differs in 1 of 2 elements; the first is at index [1]: 5.0, not 2.0."
    )
