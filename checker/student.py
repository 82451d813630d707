"""The learner's program as the judge sees it: functions to call, whose answers are data or handles.

``student.rank_of(x)`` runs in the sandbox and gives an :class:`Answer`; what it asserts raises :class:`Failure` with a
sentence for the learner. An exception in learner code is kept in the answer, and raised when the answer is used, so
that a check can expect one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from checker.compare import EXACT, Tolerance, describe, difference, rounded
from checker.results import Outcome
from checker.sandbox.base import OutputFlood, Sandbox, SandboxBroken, SandboxGarbled, SandboxTimeout
from labkit.wire import Handle

__all__ = ["Answer", "Failure", "ProgramEnded", "Student", "StudentError"]

# The agent's own start-up of a program (fork, frames) is not the learner's time; it gets this much on top.
_GRACE_SECONDS = 5.0
_WROTE_OVER = "Your code wrote over the answers it should return."


class Failure(Exception):
    """The answer is wrong; the text tells the learner what differs and, where known, the likely misconception."""


@dataclass
class StudentError(Exception):
    """Learner code raised. ``bases`` are the names of the exception's classes, most special first."""

    type: str
    bases: tuple[str, ...]
    message: str
    where: str | None
    traceback: str
    call: str = ""

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        during = f"{self.call} raised " if self.call else ""
        text = f"{during}{self.type}: {self.message}{place}"
        return f"{text}\n{self.traceback.rstrip()}" if self.traceback else text

    @property
    def outcome(self) -> Outcome:
        memory = "MemoryError" in self.bases or "can't allocate memory" in self.message
        memory = memory or self.type == "OutOfMemoryError"
        return Outcome.OUT_OF_MEMORY if memory else Outcome.ERROR


@dataclass
class ProgramEnded(Exception):
    """The program is gone: timed out, killed, or it ended itself. Nothing more can be asked of it.

    ``reusable`` says whether the agent outlived it and can run the next program.
    """

    outcome: Outcome
    message: str
    reusable: bool = False

    def __str__(self) -> str:
        return self.message


class Answer:
    """What one call returned: its ``value``, and the assertions a check is made of."""

    def __init__(self, call: str, value: Any = None, error: StudentError | None = None, after: Any = None) -> None:
        self.call = call
        self.error = error
        self._value = value
        self._after = after

    @property
    def value(self) -> Any:
        """The returned data (or :class:`Handle`). Raises the learner's exception if there was one."""
        if self.error is not None:
            raise self.error
        return self._value

    @property
    def args_after(self) -> list[Any]:
        """The positional arguments as the call left them in the sandbox."""
        if self.error is not None:
            raise self.error
        return list(self._after)

    def equals(self, want: Any, *, diagnose: Mapping[str, Any] | None = None) -> None:
        """The value is ``want``: same type, shape, dtype and elements.

        ``diagnose`` maps what to tell the learner to the value that this misconception gives.
        """
        self._compare(want, EXACT, diagnose)

    def is_close(
        self,
        want: Any,
        *,
        rtol: float | None = None,
        atol: float | None = None,
        diagnose: Mapping[str, Any] | None = None,
    ) -> None:
        """As :meth:`equals`, within the dtype's tolerance or the one given."""
        self._compare(want, Tolerance(rtol, atol), diagnose)

    def satisfies(self, predicate: Callable[[Any], bool], otherwise: str) -> None:
        """``predicate(value)`` is true; ``otherwise`` is what the learner reads if not (``{got}`` is the value)."""
        try:
            good = predicate(self.value)
        except (StudentError, ProgramEnded):
            raise
        except Exception:
            # A predicate that cannot even be applied (wrong type, wrong shape) is an answer that does not satisfy it.
            good = False
        if good is not True:
            raise Failure(f"{self.call}: {otherwise.replace('{got}', describe(self._value))}")

    def raises(self, expected: str, *, otherwise: str = "") -> None:
        """The call raised ``expected`` (an exception's class name) or a subclass of it."""
        if self.error is None:
            raise Failure(
                f"{self.call} returned {describe(self._value)}; it should raise {expected}. {otherwise}".strip()
            )
        if expected not in self.error.bases:
            raised = f"{self.call} raised {self.error.type} ({self.error.message})"
            raise Failure(f"{raised}; it should raise {expected}. {otherwise}".strip())

    def left_alone(self, *args: Any) -> None:
        """The positional arguments are what they were: the call changed none of them in place."""
        for index, (before, after) in enumerate(zip(args, self.args_after, strict=True)):
            if (found := difference(after, before)) is not None:
                raise Failure(f"{self.call} changed its argument {index + 1} in place: it is now {found}.")

    def _compare(self, want: Any, tolerance: Tolerance, diagnose: Mapping[str, Any] | None) -> None:
        value = self.value
        found = difference(value, want, tolerance)
        if found is None:
            return
        sentence = f"{self.call} returned {found}"
        sentence += "" if sentence.endswith("?") else "."
        for message, mistaken in (diagnose or {}).items():
            if difference(value, mistaken, tolerance) is None:
                raise Failure(f"{sentence} {message}")
        raise Failure(sentence)

    def as_dict(self, want: dict[Any, Any]) -> dict[Any, Any]:
        """The value, to be looked at key by key; what is no dict fails as it would against ``want``."""
        if type(self.value) is not dict:
            self.equals(want)
        found: dict[Any, Any] = self.value
        return found


class Student:
    """One learner's program in one sandbox. Attributes are its functions: ``student.name(*args)`` gives an Answer.

    ``seconds`` is the wall-clock budget of all its calls together, on the judge's clock.
    """

    def __init__(self, sandbox: Sandbox, *, seconds: float) -> None:
        self._sandbox = sandbox
        self._budget = seconds
        self._limit = seconds
        self._number = 0
        self._ended: ProgramEnded | None = None

    def __getattr__(self, name: str) -> Callable[..., Answer]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.call(name, *args, **kwargs)

    def call(self, target: str | Handle, *args: Any, keep: bool = False, **kwargs: Any) -> Answer:
        """Call a function by name, or an object by handle. ``keep`` leaves even data in the sandbox, as a handle."""
        text = _call_text(target, args, kwargs)
        request = {"op": "call", "target": target, "args": list(args), "kwargs": kwargs, "keep": keep}
        try:
            value, after = self._ask(request)
        except StudentError as error:
            error.call = text
            return Answer(text, error=error)
        return Answer(text, value, after=after)

    def get(self, target: str | Handle) -> Answer:
        """The value of a global name, or of a kept object, as data."""
        return self._answer(str(target) if isinstance(target, str) else "the object", {"op": "get", "target": target})

    def put(self, value: Any) -> Handle:
        """Make an object in the sandbox, to be passed to several calls or looked at after them."""
        handle: Handle = self._ask({"op": "put", "value": value})
        return handle

    def attr(self, target: Handle, name: str) -> Answer:
        return self._answer(f".{name}", {"op": "attr", "target": target, "name": name})

    def item(self, target: Handle, key: Any) -> Answer:
        return self._answer(f"[{key!r}]", {"op": "item", "target": target, "key": key})

    def set_item(self, target: Handle, key: Any, value: Any) -> None:
        self._ask({"op": "set_item", "target": target, "key": key, "value": value})

    def simulate_gpu(self, state: dict[str, Any]) -> None:
        """From now on NVML shows the program GPUs in this state (see :mod:`labkit.nvsim`)."""
        self._ask({"op": "simulate_gpu", "state": state})

    # -- used by the specification, not by checks --------------------------------------------------------------------

    def _load(self, segments: list[dict[str, Any]], future: list[str], seed: int) -> None:
        """Run the program's statements. StudentError if they raise."""
        cpu = int(self._limit + _GRACE_SECONDS)
        self._ask({"op": "start", "segments": segments, "future": future, "seed": seed, "cpu_seconds": cpu})

    def _end(self) -> None:
        """Ask the program to end and wait until it has; whatever goes wrong now changes no verdict."""
        if self._ended is None:
            deadline = time.monotonic() + _GRACE_SECONDS
            self._sandbox.send({"op": "end"}, deadline)
            reply = self._sandbox.receive(deadline)
            if not (isinstance(reply, dict) and "ended" in reply):
                raise SandboxBroken(f"the agent answered {reply!r} to the end")

    def _answer(self, text: str, request: dict[str, Any]) -> Answer:
        try:
            return Answer(text, self._ask(request))
        except StudentError as error:
            error.call = text
            return Answer(text, error=error)

    def _ask(self, request: dict[str, Any]) -> Any:
        if self._ended is not None:
            raise self._ended
        self._number += 1
        request = request | {"n": self._number}
        started = time.monotonic()
        try:
            self._sandbox.send(request, started + self._budget)
            reply = self._sandbox.receive(started + self._budget)
        except SandboxTimeout:
            raise self._over(Outcome.TIMED_OUT, f"Your code did not finish within {self._limit:g} s.") from None
        except OutputFlood:
            raise self._over(Outcome.KILLED, "Your code printed more than is allowed, and was stopped.") from None
        except SandboxGarbled:
            raise self._over(Outcome.KILLED, _WROTE_OVER) from None
        except SandboxBroken:
            raise self._over(Outcome.KILLED, "Your code ended the process it ran in.") from None
        self._budget = max(0.0, self._budget - (time.monotonic() - started))
        return self._read_reply(request, reply)

    def _read_reply(self, request: dict[str, Any], reply: Any) -> Any:
        if isinstance(reply, dict) and type(reply.get("ended")) is int:
            raise self._over(*_ending(reply["ended"], self._limit), reusable=True)
        if not _answers(request, reply):
            self._sandbox.kill()
            raise self._over(Outcome.KILLED, _WROTE_OVER)
        if "error" in reply:
            raise StudentError(**reply["error"] | {"bases": tuple(reply["error"]["bases"])})
        return reply["value"]

    def _over(self, outcome: Outcome, message: str, *, reusable: bool = False) -> ProgramEnded:
        self._ended = ProgramEnded(outcome, message, reusable)
        return self._ended


def _answers(request: dict[str, Any], reply: Any) -> bool:
    """Whether a reply has the shape that the agent gives it: learner code may have sent anything in its place."""
    if not isinstance(reply, dict) or type(reply.get("n")) is not int or reply["n"] != request["n"]:
        return False
    if "error" in reply:
        return _is_error(reply["error"])
    value = reply.get("value")
    if request["op"] == "call":
        if type(value) is not tuple or len(value) != 2:
            return False
        value, after = value
        if type(after) is not list or len(after) != len(request["args"]):
            return False
    kept = request["op"] == "put" or request.get("keep", False)
    return "value" in reply and (isinstance(value, Handle) or not kept)


def _is_error(data: Any) -> bool:
    texts = ("type", "message", "traceback")
    return (
        isinstance(data, dict)
        and data.keys() == {*texts, "bases", "where"}
        and all(type(data[name]) is str for name in texts)
        and type(data["bases"]) is list
        and all(type(base) is str for base in data["bases"])
        and type(data["where"]) in (str, type(None))
    )


def _ending(status: int, limit: float) -> tuple[Outcome, str]:
    """What the end of the program's process means; negative numbers are signals."""
    if status == -24:  # SIGXCPU
        return Outcome.TIMED_OUT, f"Your code used more processor time than the {limit:g} s allow."
    if status == -9:
        return Outcome.KILLED, "Your code was killed; most often it wanted more memory than there is."
    if status in (-11, -7, -6):
        return Outcome.KILLED, "Your code crashed the Python interpreter."
    return Outcome.KILLED, f"Your code ended its Python process (status {status}) instead of returning."


def _call_text(target: str | Handle, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The call as the learner would write it, with arguments in a few words."""
    name = target if isinstance(target, str) else "the object"
    words = [_argument(arg) for arg in args] + [f"{key}={_argument(value)}" for key, value in kwargs.items()]
    return f"{name}({', '.join(words)})"


def _argument(value: Any) -> str:
    if isinstance(value, Handle):
        return f"<{value.type.rsplit('.', 1)[-1]}>"
    if isinstance(value, torch.Tensor):
        small = value.numel() <= 6 and value.dim() <= 2
        return (
            f"tensor({rounded(value.tolist())})" if small else f"<tensor {tuple(value.shape)} {str(value.dtype)[6:]}>"
        )
    return describe(value)
