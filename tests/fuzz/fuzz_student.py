"""Any reply of a sandbox: the judge's Student takes it, or ends the program, and never breaks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import atheris
import torch

with atheris.instrument_imports(
    include=["labkit.wire", "labkit.decoder", "checker.answer", "checker.compare", "checker.student"]
):
    from checker.student import Answer, Failure, ProgramEnded, Student, StudentError
    from labkit.wire import Handle, WireError

from tests.frames import ERROR, Scripted
from tests.fuzz.harness import Draw, run


def reply(draw: Draw) -> Any:
    """What an agent sends, with something in it replaced; or anything."""
    shapes: list[Any] = [
        {"n": 1, "value": (draw.value(), [draw.value()])},
        {"n": 1, "value": draw.value()},
        {"n": 1, "error": dict(ERROR)},
        {"n": 1, "error": draw.value()},
        {"ended": draw.choice([0, -9, -24, 1, 10**30, draw.value()])},
        draw.value(),
    ]
    made = draw.choice(shapes)
    if type(made) is dict and made:
        spot = made["error"] if type(made.get("error")) is dict and draw.below(2) else made
        for _ in range(draw.below(3)):
            if spot:
                spot[draw.choice(list(spot))] = draw.value()
        if not draw.below(4):
            spot[draw.word()] = draw.value()
    return made


def uses(draw: Draw, want: Any, seen: torch.Tensor) -> list[Callable[[Answer], Any]]:
    """What a check does with an answer."""
    return [
        lambda answer: answer.equals(want),
        lambda answer: answer.is_close(want),
        lambda answer: answer.equals(want, diagnose={"No.": draw.value()}),
        lambda answer: answer.raises("ValueError"),
        lambda answer: answer.left_alone(seen) if "(" in answer.call else None,
        lambda answer: answer.satisfies(lambda value: value > 0, "it is {got}"),
        lambda answer: answer.as_dict({}),
        lambda answer: str(answer.value),
    ]


def target(data: bytes) -> None:
    draw = Draw(data)
    try:
        sandbox: Any = Scripted(reply(draw))
    except WireError:
        return
    seen = draw.tensor()
    asks: list[Callable[[Student], Any]] = [
        lambda student: student.call("f", seen),
        lambda student: student.call(Handle(1, "lab.Net", "Net()"), seen, keep=True),
        lambda student: student.get("f"),
        lambda student: student.put(seen),
    ]
    # These three are a verdict; anything else would be our fault.
    with contextlib.suppress(Failure, StudentError, ProgramEnded):
        student = Student(sandbox, seconds=60)
        student._number = 0
        got = draw.choice(asks)(student)
        if isinstance(got, Answer):
            draw.choice(uses(draw, draw.value(), seen))(got)


if __name__ == "__main__":
    run(target, [bytes(range(n, n + 64)) for n in range(0, 192, 16)], ERROR)
