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
from tests.frames import ERROR, Scripted

HANDLE = Handle(1, "lab.Net", "Net()")
WROTE_OVER = "Your code wrote over the answers it should return."
DEAD = "Your code ended the process it ran in, or that was killed for want of memory."


def student(reply: Any) -> Student:
    made = Student(Scripted(reply), seconds=3)  # type: ignore[arg-type]
    made._number = 0  # it begins anywhere, so that no program can answer what the next one will be asked
    return made


def value(value: Any) -> dict[str, Any]:
    return {"n": 1, "value": value}


def test_no_program_knows_the_numbers_of_the_next_ones_requests() -> None:
    assert len({Student(Scripted(None), seconds=3)._number for _ in range(5)}) == 5  # type: ignore[arg-type]


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
        {"n": 1, "error": ERROR | {"message": "x" * 2001}},
        {"n": 1, "error": ERROR | {"type": "x" * 201}},
        {"n": 1, "error": ERROR | {"where": "x" * 201}},
        {"n": 1, "error": ERROR | {"traceback": "x" * 4001}},
        {"n": 1, "error": ERROR | {"bases": ["x"] * 61}},
        {"n": 1, "error": ERROR | {"bases": ["x" * 201]}},
        {"ended": 256},
        {"ended": -65},
        {"ended": 10**400},
        {"ended": True},
    ],
)
def test_a_forged_answer_ends_the_program_and_nothing_else(reply: Any) -> None:
    asked = student(reply)
    with pytest.raises(ProgramEnded) as ended:
        asked.f(1)
    assert (ended.value.outcome, str(ended.value)) == (Outcome.KILLED, WROTE_OVER)
    assert asked._sandbox.killed  # type: ignore[attr-defined]
    with pytest.raises(ProgramEnded, match=WROTE_OVER):
        asked.f(1)


def test_what_was_to_stay_in_the_sandbox_cannot_come_as_something_else() -> None:
    assert student(value(HANDLE)).put(3)._handle() == HANDLE
    assert student(value(HANDLE)).evaluate("3")._handle() == HANDLE
    assert student(value((HANDLE, []))).make("f")._handle() == HANDLE
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
        (SandboxBroken(), Outcome.KILLED, DEAD),
        (SandboxGarbled(), Outcome.KILLED, WROTE_OVER),
        ({"ended": -24}, Outcome.TIMED_OUT, "Your code used more processor time than the 3 s allow."),
        ({"ended": -9}, Outcome.KILLED, "Your code was killed; most often it wanted more memory than there is."),
        (
            {"ended": -9, "out_of_memory": True},
            Outcome.OUT_OF_MEMORY,
            "Your code wanted more memory than a check has, and was killed.",
        ),
        ({"ended": -11}, Outcome.KILLED, "Your code crashed the Python interpreter (a segmentation fault)."),
        ({"ended": -7}, Outcome.KILLED, "Your code crashed the Python interpreter (a bus error)."),
        ({"ended": -6}, Outcome.KILLED, "Your code crashed the Python interpreter (it was aborted)."),
        ({"ended": -15}, Outcome.KILLED, "Your code was ended by the signal SIGTERM."),
        ({"ended": -63}, Outcome.KILLED, "Your code was ended by the signal number 63."),
        ({"ended": 7}, Outcome.KILLED, "Your code ended its Python process (status 7) instead of returning."),
    ],
)
def test_every_end_of_a_program_has_its_sentence(reply: Any, outcome: Outcome, says: str) -> None:
    with pytest.raises(ProgramEnded) as ended:
        student(reply).f()
    assert (ended.value.outcome, str(ended.value)) == (outcome, says)


def test_an_argument_changed_in_place_is_named() -> None:
    x = torch.tensor([1.0, 2.0])
    answer = student(value((None, [3, torch.tensor([1.0, 5.0])]))).f(3, x)
    with pytest.raises(Failure) as failure:
        answer.left_alone(3, x)
    assert str(failure.value) == (
        "f(3, tensor([1.0, 2.0])) changed its argument 2 in place: "
        "it is now a tensor that differs in 1 of 2 elements; the first is at index [1]: 5.0, not 2.0."
    )


FACT = ([2], torch.float32, True)
MODULE: dict[str, Any] = {"parameters": {"w": FACT}, "buffers": {}, "training": {"": True}}


def test_the_judge_takes_what_the_agent_says_of_a_module() -> None:
    net = student(value(MODULE)).remote(HANDLE)
    assert net.parameters()["w"].shape == (2,)


@pytest.mark.parametrize(
    "forged",
    [
        None,
        {},
        MODULE | {"more": {}},
        MODULE | {"parameters": [FACT]},
        MODULE | {"parameters": {1: FACT}},
        MODULE | {"parameters": {"w": list(FACT)}},
        MODULE | {"parameters": {"w": ([2], torch.float32)}},
        MODULE | {"parameters": {"w": ([-1], torch.float32, True)}},
        MODULE | {"parameters": {"w": ([2**50], torch.float32, True)}},
        MODULE | {"parameters": {"w": ([0, 2**39, 2**39], torch.float32, True)}},
        MODULE | {"parameters": {"w": ([True], torch.float32, True)}},
        MODULE | {"parameters": {"w": (torch.zeros(1), torch.float32, True)}},
        MODULE | {"parameters": {"w": ([2], "float32", True)}},
        MODULE | {"buffers": {"w": ([2], torch.float32, 1)}},
        MODULE | {"training": {"": 1}},
    ],
)
def test_a_forged_module_ends_the_program(forged: Any) -> None:
    with pytest.raises(ProgramEnded, match=WROTE_OVER):
        student(value(forged)).remote(HANDLE).parameters()


@pytest.mark.parametrize(
    "forged",
    [
        None,
        [],
        [{"value": 1}],
        [{"value": 1}, {"value": 1}, {"value": 1}],
        [{"value": 1}, {}],
        [{"value": 1}, {"value": 1, "more": 2}],
        [{"value": 1}, {"error": None}],
        [{"value": 1}, {"error": ERROR | {"message": "x" * 2001}}],
        ({"value": 1}, {"value": 1}),
    ],
)
def test_forged_answers_of_many_calls_end_the_program(forged: Any) -> None:
    with pytest.raises(ProgramEnded, match=WROTE_OVER):
        student(value(forged)).f.each([(1,), (2,)])


@pytest.mark.parametrize(
    "forged",
    [None, [5], [("softmax", "")], [("softmax", "", 1.0)], [("x" * 201, "", 1)], [("x", 3, 1)], [("x", "", 1)] * 501],
)
def test_a_forged_trace_ends_the_program(forged: Any) -> None:
    with pytest.raises(ProgramEnded, match=WROTE_OVER):
        student(value(forged)).f.operations(1)


@pytest.mark.parametrize("forged", [None, 5, (1,), (torch.ones(1), 5), [torch.ones(1), HANDLE]])
def test_a_forged_graph_ends_the_program(forged: Any) -> None:
    with pytest.raises(ProgramEnded, match=WROTE_OVER):
        student(value(forged)).f.gradients(torch.ones(1))


CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of 79.11 GiB of which 1.2 GiB is free."
)


@pytest.mark.parametrize(
    ("kind", "bases", "message", "says"),
    [
        (
            "MemoryError",
            ["MemoryError"],
            "",
            "f() raised MemoryError (cell 1, line 2)\nThe check ran out of memory: what",
        ),
        ("_ArrayMemoryError", ["_ArrayMemoryError", "MemoryError"], "Unable to allocate 8 GiB", "The check ran out of"),
        ("RuntimeError", ["RuntimeError"], CPU, "The check ran out of memory"),
        ("OSError", ["OSError"], "[Errno 12] Cannot allocate memory", "The check ran out of memory"),
        (
            "OutOfMemoryError",
            ["OutOfMemoryError", "RuntimeError"],
            CUDA,
            "GPU 3 ran out of memory: what is the largest",
        ),
        ("RuntimeError", ["RuntimeError"], "CUDA error: out of memory", "The GPU ran out of memory"),
        ("AcceleratorError", ["RuntimeError"], "CUBLAS_STATUS_ALLOC_FAILED when calling", "The GPU ran out of memory"),
    ],
)
def test_want_of_memory_is_an_outcome_of_its_own(kind: str, bases: list[str], message: str, says: str) -> None:
    error = ERROR | {"type": kind, "bases": bases, "message": message}
    with pytest.raises(StudentError) as raised:
        _ = student({"n": 1, "error": error}).f().value
    assert raised.value.outcome is Outcome.OUT_OF_MEMORY
    assert says in str(raised.value)


def test_other_errors_say_nothing_of_memory() -> None:
    error = StudentError("RuntimeError", ("RuntimeError",), "CUDA error: invalid device ordinal", None, "")
    assert error.outcome is Outcome.ERROR
    assert "memory" not in str(error)


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        # Written by hand: small, floating-point, whole.
        (torch.tensor([1.0, -2.0]), "f(tensor([1.0, -2.0]))"),
        (torch.tensor([float("inf"), float("nan"), 0.0]), "f(tensor([inf, nan, 0.0]))"),
        (torch.tensor(3.0, requires_grad=True), "f(tensor(3.0))"),
        (torch.zeros(2, 0), "f(tensor([[], []]))"),
        (np.array([0.0, 1.0]), "f(array([0.0, 1.0]))"),
        # Drawn, or as good as drawn.
        (torch.tensor([0.5]), "f(<tensor (1,) float32>)"),
        (torch.tensor([3, 4]), "f(<tensor (2,) int64>)"),
        (torch.ones(7), "f(<tensor (7,) float32>)"),
        (torch.ones(1, 1, 1), "f(<tensor (1, 1, 1) float32>)"),
        (np.array([0.5]), "f(<array (1,) float64>)"),
        (np.array([3]), "f(<array (1,) int64>)"),
        ([torch.tensor([0.25]), 3], "f([<tensor (1,) float32>, 3])"),
        ((torch.tensor([0.25]),), "f((<tensor (1,) float32>,))"),
        ({"a": [torch.tensor([0.25])]}, "f({'a': [<tensor (1,) float32>]})"),
        (HANDLE, "f(<Net>)"),
        ([torch.tensor([0.25]), 3, 1, 4, 1, 5], "f(<list of 6 items>)"),
        ({"w": torch.ones(9), "b": torch.ones(7)}, "f({'w': <tensor (9,) float32>, 'b': <tensor (7,) float32>})"),
        # A word, a number, a few of them, a shape.
        (2, "f(2)"),
        (0.1 + 0.2, "f(0.3)"),
        (None, "f(None)"),
        (torch.float32, "f(torch.float32)"),
        ("cp311-cp311", "f('cp311-cp311')"),
        ([3, 1.5, None], "f([3, 1.5, None])"),
        ([[], [2]], "f([[], [2]])"),
        ((1,), "f((1,))"),
        ((2, 1, 3, 4, 5), "f((2, 1, 3, 4, 5))"),
        (torch.Size([2, 1, 3, 4]), "f(torch.Size([2, 1, 3, 4]))"),
        ({"a": 1}, "f({'a': 1})"),
        ({2, 1}, "f({1, 2})"),
        # A name of its own: its order differs between processes of the tests, which must collect the same.
        pytest.param(frozenset(["b", "a"]), "f(frozenset({'a', 'b'}))", id="frozenset"),
        # Long.
        (list(range(100)), "f(<list of 100 ints>)"),
        ([3, 1, 4, 1, 5], "f(<list of 5 ints>)"),
        ([[1, 2], [3, 4]], "f(<list of 2 lists>)"),
        ([[1, 2, 3, 4]], "f(<list of 1 item>)"),
        ([1, "a", None, 2.5], "f(<list of 4 items>)"),
        ((-3, 1), "f((-3, 1))"),
        ((-3, 1, 4, 1), "f(<tuple of 4 ints>)"),
        (tuple(range(7)), "f(<tuple of 7 ints>)"),
        ({1.5, 2.5, 3.5, 4.5}, "f(<set of 4 floats>)"),
        (dict(zip("abcd", "efgh", strict=True)), "f(<dict of 4 items>)"),
        ({"a": [3, 1, 4, 1]}, "f(<dict of 1 item>)"),
        ("secret-string", "f(<str of 13 characters>)"),
        (["secret-string"], "f([<str of 13 characters>])"),
        ({"secret-string": 1}, "f({<str of 13 characters>: 1})"),
        (b"a secret text", "f(<bytes of 13 bytes>)"),
    ],
    ids=str,
)
def test_hidden_inputs_are_described_not_shown(argument: Any, shown: str) -> None:
    assert student(value((3, [1]))).f(argument).call == shown


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ([torch.ones(7)] * 1000, "f([<tensor (7,) float32>, <tensor (7,) float32>, "),
        (10**4000, "f(1000"),
    ],
    ids=["tensors", "digits"],
)
def test_a_long_description_is_cut(argument: Any, shown: str) -> None:
    call = student(value((3, [1]))).f(argument).call
    assert call.startswith(shown)
    assert "…" in call
    assert len(call) < 90


def test_an_argument_that_has_grown_is_not_shown() -> None:
    answer = student(value((None, [[3, 1, 4, 1, 5, 9]]))).f([3, 1, 4, 1, 5])
    with pytest.raises(Failure) as failure:
        answer.left_alone([3, 1, 4, 1, 5])
    assert str(failure.value) == (
        "f(<list of 5 ints>) changed its argument 1 in place: it is now a list of length 6, not 5."
    )


def test_what_ends_otherwise_than_an_agent_does_is_our_fault() -> None:
    with pytest.raises(SandboxBroken, match=r"^the agent answered \{'n': 1, 'value': 3\} to the end$"):
        student(value(3))._end()
    student({"ended": {}})._end()


def test_names_with_an_underscore_are_no_functions_of_the_learners() -> None:
    with pytest.raises(AttributeError):
        _ = student(None)._repr_html_
    with pytest.raises(AttributeError):
        _ = student(None).f._repr_html_
