"""How a program ends, in a real sandbox: the next one runs, and want of memory or a long error ends none."""

from __future__ import annotations

import pytest

from checker.results import Outcome
from checker.student import ProgramEnded, StudentError
from tests.unit.remote.conftest import Load


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("import os; os._exit(0)", Outcome.KILLED),
        ("import ctypes; ctypes.string_at(0)", Outcome.KILLED),
        ("while True: pass", Outcome.TIMED_OUT),
    ],
)
def test_after_an_end_the_next_program_runs(load: Load, body: str, outcome: Outcome) -> None:
    """What each end is called: tests/unit/test_student.py."""
    with pytest.raises(ProgramEnded) as ended:
        load(f"def f():\n    {body}", seconds=0.5 if "while" in body else 20).f()
    assert ended.value.outcome is outcome
    load("def f():\n    return 3").f().equals(3)


@pytest.mark.parametrize(
    "body", ["torch.empty(1 << 40)", "bytes(1 << 40)", "keep = []\n    while True: keep.append(bytes(1 << 22))"]
)
def test_want_of_memory_is_told_and_the_program_goes_on(load: Load, body: str) -> None:
    student = load(f"def f():\n    {body}\ndef g():\n    return 3")
    with pytest.raises(StudentError) as error:
        _ = student.f().value
    assert error.value.outcome is Outcome.OUT_OF_MEMORY
    assert "\nThe check ran out of memory: what is the largest thing your code makes at one time?\n" in str(error.value)
    student.g().equals(3)


def test_the_last_byte_is_not_needed_to_tell_of_it(load: Load) -> None:
    source = """
    import resource

    def f():
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20), most))
        keep = [None] * (1 << 18)
        for i in range(1 << 18):
            keep[i] = bytes(300)  # small objects: when one does not fit any more, nothing does
    """
    with pytest.raises(StudentError) as error:
        _ = load(source).f().value
    assert error.value.outcome is Outcome.OUT_OF_MEMORY


def test_the_longest_error_is_still_taken(load: Load) -> None:
    source = """
    Named = type("N" * 1000, (ValueError,), {})
    for i in range(100):
        Named = type("N" * 1000, (Named,), {})
    def f():
        raise Named("x" * 10_000_000)
    """
    answer = load(source).f()
    assert answer.error is not None
    assert (len(answer.error.type), len(answer.error.message), len(answer.error.bases)) == (200, 2000, 60)
