"""Every check of every lab is asked about answers of the wrong kind: whatever comes back is the learner's, not ours."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import checker.spec
from checker.draw import Draw
from checker.student import Answer, Failure, ProgramEnded, Student, StudentError
from gradlab.settings import ROOT
from labkit.wire import Handle

CHECKS = sorted(ROOT.glob("checker/labs/*/checks.py"))
HANDLE = Handle(1, "builtins.dict_keys", "dict_keys(['a'])")
# The keys that checks look at, each with something that belongs to none of them.
KEYS = sorted({key for path in CHECKS for key in re.findall(r'"([a-z_]+)"', path.read_text())})
ODD: dict[str, Any] = {
    "None": None,
    "an int": 7,
    "a text": "text",
    "a list": [1, "two", None, {}],
    "a tuple": (1, None),
    "an empty dict": {},
    "a dict with mixed keys": {1: "a", "b": 2, None: [3], ("c",): None},
    "an array": np.array([[1.5, 2.5], [3.5, 4.5]]),
    "a tensor": torch.ones(2, 3),
    "an object": HANDLE,
    "a dict of ints": dict.fromkeys(KEYS, 3),
    "a dict of lists": {key: [1, "two", None] for key in KEYS},
    "a dict of arrays": {key: np.ones(3) for key in KEYS},
    "a dict of lists of arrays": {key: [np.ones(3)] for key in KEYS},
    "a dict of objects": dict.fromkeys(KEYS, HANDLE),
    "a list of dicts": [dict.fromkeys(KEYS, 3)] * 3,
}


class OddStudent(Student):
    """A program that answers everything the same, without a sandbox."""

    def __init__(self, answer: Any) -> None:
        self._odd = answer

    def _ask(self, request: dict[str, Any]) -> Any:
        if request["op"] == "each":
            return [{"value": copy.copy(self._odd)} for _ in request["calls"]]
        if request["op"] in ("module", "forward", "trace"):
            raise StudentError("TypeError", ("TypeError",), "odd", None, "")
        if request["op"] in ("put", "evaluate") or request.get("keep"):
            kept = Handle(2, "lab.Kept", "kept")
            return (kept, request["args"]) if request["op"] == "call" else kept
        odd = copy.copy(self._odd)
        return (odd, request["args"]) if request["op"] == "call" else odd


@dataclass
class Run:
    """What became of the checks of one lab, by the functions' names; ``ours`` are exceptions that are no verdict."""

    names: dict[str, Any] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    ours: list[str] = field(default_factory=list)

    def check(self, exercise: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
        def run(function: Callable[[], None]) -> Callable[[], None]:
            try:
                function()
            except (Failure, StudentError, ProgramEnded) as found:
                self.wrong[function.__name__] = str(found)
            except Exception as error:
                self.ours.append(f"{exercise}, {function.__name__}: {type(error).__name__}: {error}")
            return function

        return run


def run_checks(path: Path, student: Student, monkeypatch: pytest.MonkeyPatch, run: Run, *but: str) -> None:
    """Run a checker notebook, without the checks of the exercises named last."""

    def check(exercise: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
        return run.check(exercise) if exercise not in but else lambda function: function

    monkeypatch.setattr(checker.spec, "begin", lambda _job: (check, student, Draw(1)))
    exec(compile(path.read_text(), str(path), "exec"), run.names)


def test_every_lab_has_checks() -> None:
    assert {path.parent.name for path in CHECKS} == {path.stem for path in ROOT.glob("labs/*.py")} != set()


@pytest.mark.parametrize("path", CHECKS, ids=[path.parent.name for path in CHECKS])
@pytest.mark.parametrize("kind", ODD)
def test_no_odd_answer_is_our_fault(path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # None is what settle has to return; what follows then needs the model, which is not here.
    run, but = Run(), ("settle",) if ODD[kind] is None else ()
    run_checks(path, OddStudent(ODD[kind]), monkeypatch, run, *but)
    assert run.ours == []
    assert len(run.wrong) >= 8


class GpuStudent(OddStudent):
    """Answers the lab on GPUs rightly and at once, but says WDDM everywhere; a driver takes its time to appear."""

    def __init__(self, run: Run) -> None:
        super().__init__(None)
        self._run = run

    def _ask(self, request: dict[str, Any]) -> Any:
        if request["op"] == "simulate_gpu":
            self._state = request["state"]
            if any("moments" in device for device in self._state["devices"]):
                time.sleep(0.4)
            return None
        if request["target"] == "gpu_page":
            self._odd = [gpu | {"driver_model": "WDDM"} for gpu in self._run.names["page"](self._state)]
        if request["target"] == "sample_utilisation":
            self._odd = self._run.names["sampled"](self._state, request["args"][0])
        return super()._ask(request)


def test_the_lab_on_gpus_tells_linux_from_windows_and_times_the_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()
    [path] = [path for path in CHECKS if path.parent.name == "02_gpu_usage"]
    run_checks(path, GpuStudent(run), monkeypatch, run, "dxdiag_gpus", "read_smi", "who_uses", "memory_parts")
    assert run.ours == []
    assert "A driver model on Linux?" in run.wrong["reads_a_linux_machine"]
    assert "'WDDM', not 'MCDM'" in run.wrong["names_driver_models"]
    assert not re.search("Linux|no driver models", run.wrong["names_driver_models"])
    assert "did not wait" in run.wrong["waits_between_readings"]
    assert "averages_without_the_first" not in run.wrong


def test_what_is_no_dict_is_told_as_any_other_answer_is() -> None:
    want = {"name": "torch"}
    assert Answer("f()", {"other": 1}).as_dict(want) == {"other": 1}
    with pytest.raises(Failure, match=re.escape("f() returned 3, which is an int, not a dict.")):
        Answer("f()", 3).as_dict(want)
    with pytest.raises(Failure, match=re.escape("f() returned None, not {'name': 'torch'}. Did you forget a return")):
        Answer("f()").as_dict(want)
    error = StudentError("KeyError", ("KeyError", "Exception"), "'a'", None, "")
    with pytest.raises(StudentError):
        Answer("f()", error=error).as_dict(want)
