"""The learner's program as the judge sees it: functions and classes to call, whose answers are data or remote objects.

``student.rank_of(x)`` runs in the sandbox and gives an :class:`Answer`; what it asserts raises :class:`Failure` with a
sentence for the learner. An exception in learner code is kept in the answer, and raised when the answer is used, so
that a check can expect one. :mod:`checker.remote` has what can be done with an object that stays in the sandbox.
"""

from __future__ import annotations

import functools
import math
import secrets
import signal
import time
from collections.abc import Callable
from typing import Any

import torch

from checker import forbidden
from checker.answer import Answer, Failure, ProgramEnded, StudentError
from checker.draw import Draw
from checker.remote import Remote, data
from checker.results import Outcome
from checker.sandbox.base import OutputFlood, Sandbox, SandboxBroken, SandboxGarbled, SandboxTimeout
from labkit.exceptions import MAX_BASES, MAX_MESSAGE, MAX_NAME, MAX_TRACEBACK
from labkit.operations import MAX_OPERATIONS
from labkit.wire import Handle

__all__ = ["Answer", "Failure", "ProgramEnded", "Remote", "Student", "StudentError"]

# The agent's own start-up of a program (fork, frames) is not the learner's time; it gets this much on top.
_GRACE_SECONDS = 5.0
_WROTE_OVER = "Your code wrote over the answers it should return."
_AGENT_DEAD = "Your code ended the process it ran in, or that was killed for want of memory."
_CRASHES = {
    -signal.SIGSEGV: "a segmentation fault",
    -signal.SIGBUS: "a bus error",
    -signal.SIGABRT: "it was aborted",
    -signal.SIGILL: "an illegal instruction",
    -signal.SIGFPE: "an arithmetic fault",
}


class Student:
    """One learner's program in one sandbox. Attributes are its names: ``student.name(*args)`` gives an Answer.

    ``seconds`` is the wall-clock budget of all its calls together, on the judge's clock. ``seed`` draws what checks
    need beside their inputs (upstream gradients, permutations); without it, they differ from run to run. A name of the
    learner's that is also a method here is reached by ``student.call("make", …)``.
    """

    _segments: tuple[dict[str, Any], ...] = ()
    _seed: int | None = None

    def __init__(self, sandbox: Sandbox, *, seconds: float, seed: int | None = None) -> None:
        self._sandbox = sandbox
        self._budget = seconds
        self._limit = seconds
        self._seed = seed
        self._number = secrets.randbits(32)  # so that no program can answer what the next one will be asked
        self._ended: ProgramEnded | None = None

    def __getattr__(self, name: str) -> Remote:
        if name.startswith("_"):
            raise AttributeError(name)
        return Remote(self, name)

    def call(self, target: str | Handle | Remote, *args: Any, keep: bool = False, **kwargs: Any) -> Answer:
        """Call a function by name, or a remote object. ``keep`` leaves even data in the sandbox, as a handle."""
        return self.remote(target)._called(args, kwargs, keep=keep)

    def make(self, target: str, *args: Any, **kwargs: Any) -> Remote:
        """Call a class or function and leave what it gives in the sandbox. Raises what the learner's code raised."""
        return Remote(self, target).make(*args, **kwargs)

    def get(self, target: str | Handle | Remote) -> Answer:
        """The value of a global name, or of a remote object, as data."""
        return self.remote(target).get()

    def put(self, value: Any) -> Remote:
        """Make an object in the sandbox, to be passed to several calls or looked at after them."""
        return Remote(self, self._ask({"op": "put", "value": data(value)}))

    def evaluate(self, expression: str) -> Remote:
        """What an expression of the course's gives in the sandbox, left there; ``torch``, ``nn`` and ``np`` are known.

        None of the learner's names is in it, but torch itself may have been changed by the learner.
        """
        return Remote(self, self._ask({"op": "evaluate", "expression": expression}))

    def remote(self, target: str | Handle | Remote) -> Remote:
        """A name, or an object that an answer gave as a handle, to be used as :class:`Remote`."""
        return target if isinstance(target, Remote) else Remote(self, target)

    def uses(self, *names: str) -> list[forbidden.Use]:
        """Where the submitted program names these operations, in its order; see :mod:`checker.forbidden`.

        For advice: nothing fails by it, a check says what it likes of the lines.
        """
        return forbidden.uses(self._segments, names)

    def avoids(self, *names: str) -> None:
        """The submitted program does not name these operations: Failure with the first line that does.

        It fails, where :meth:`uses` only advises, because some exercises are nothing without it: whoever writes
        "softmax without torch.softmax" with torch.softmax has not done it, however right the numbers are. Read from the
        text that is judged, so nothing can be hidden by what runs; but a name may be put together so that no reader
        finds it, and a class of the program's own may have a method of that name.
        """
        if found := self.uses(*names):
            raise Failure(f"{found[0]}. {forbidden.by_hand(names)}")

    def simulate_gpu(self, state: dict[str, Any]) -> None:
        """From now on NVML shows the program GPUs in this state (see :mod:`labkit.nvsim`)."""
        self._ask({"op": "simulate_gpu", "state": state})

    # -- used by the specification, not by checks --------------------------------------------------------------------

    def _load(self, segments: list[dict[str, Any]], future: list[str], seed: int) -> None:
        """Run the program's statements. StudentError if they raise."""
        self._segments = tuple(segments)
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

    # -- used by remote objects --------------------------------------------------------------------------------------

    @functools.cached_property
    def _draw(self) -> Draw:
        return Draw(secrets.randbits(62) if self._seed is None else self._seed, "student")

    def _answer(self, text: str, request: dict[str, Any], verb: str = "returned") -> Answer:
        try:
            return Answer(text, self._ask(request), verb=verb)
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
            raise self._over(Outcome.KILLED, _AGENT_DEAD) from None
        self._budget = max(0.0, self._budget - (time.monotonic() - started))
        return self._read_reply(request, reply)

    def _read_reply(self, request: dict[str, Any], reply: Any) -> Any:
        if _is_end(reply):
            raise self._over(*_ending(reply, self._limit))
        if not _answers(request, reply):
            raise self._forged()
        if "error" in reply:
            raise StudentError(**reply["error"] | {"bases": tuple(reply["error"]["bases"])})
        return reply["value"]

    def _forged(self) -> ProgramEnded:
        """The end of a program that answered as no agent would."""
        self._sandbox.kill()
        return self._over(Outcome.KILLED, _WROTE_OVER)

    def _over(self, outcome: Outcome, message: str) -> ProgramEnded:
        self._ended = ProgramEnded(outcome, message)
        return self._ended


def _answers(request: dict[str, Any], reply: Any) -> bool:
    """Whether a reply has the shape that the agent gives it: learner code may have sent anything in its place."""
    if not isinstance(reply, dict) or type(reply.get("n")) is not int or reply["n"] != request["n"]:
        return False
    if "error" in reply:
        return _is_error(reply["error"])
    if "value" not in reply:
        return False
    form = _FORMS.get(request["op"])
    return form is None or form(request, reply["value"])


def _is_kept(request: dict[str, Any], value: Any) -> bool:
    return type(value) is Handle


def _is_got(request: dict[str, Any], value: Any) -> bool:
    return type(value) is Handle or not request["keep"]


def _is_returned(request: dict[str, Any], value: Any) -> bool:
    if type(value) is not tuple or len(value) != 2 or not _is_got(request, value[0]):
        return False
    return type(value[1]) is list and len(value[1]) == (len(request["args"]) if request["after"] else 0)


def _are_attempts(request: dict[str, Any], value: Any) -> bool:
    return type(value) is list and len(value) == len(request["calls"]) and all(map(_is_attempt, value))


def _is_attempt(value: Any) -> bool:
    return isinstance(value, dict) and (value.keys() == {"value"} or ("error" in value and _is_error(value["error"])))


def _is_module(request: dict[str, Any], value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"parameters", "buffers", "training"}:
        return False
    if not all(isinstance(part, dict) and all(type(name) is str for name in part) for part in value.values()):
        return False
    facts = [*value["parameters"].values(), *value["buffers"].values()]
    return all(map(_is_fact, facts)) and all(type(mode) is bool for mode in value["training"].values())


def _is_fact(value: Any) -> bool:
    if type(value) is not tuple or len(value) != 3:
        return False
    shape, dtype, requires_grad = value
    return (shape is None or _is_shape(shape)) and type(dtype) is torch.dtype and type(requires_grad) is bool


def _is_shape(value: Any) -> bool:
    """Whether a tensor can have it: also one without elements has strides, which are products of its sizes."""
    if type(value) is not list or len(value) > 32 or not all(type(size) is int and size >= 0 for size in value):
        return False
    return math.prod(size or 1 for size in value) < 2**40


def _is_forward(request: dict[str, Any], value: Any) -> bool:
    return type(value) is tuple and len(value) == 2 and type(value[1]) is Handle


def _are_gradients(request: dict[str, Any], value: Any) -> bool:
    if type(value) is not tuple or len(value) != 2 or type(value[0]) is not list or type(value[1]) is not dict:
        return False
    named = all(type(name) is str for name in value[1])
    return named and all(type(grad) in (torch.Tensor, type(None)) for grad in [*value[0], *value[1].values()])


def _are_operations(request: dict[str, Any], value: Any) -> bool:
    if type(value) is not list or len(value) > MAX_OPERATIONS:
        return False
    lines = all(type(line) is tuple and len(line) == 3 for line in value)
    return lines and all(
        _is_text(name, MAX_NAME) and _is_text(at, MAX_NAME) and type(n) is int for name, at, n in value
    )


def _is_error(error: Any) -> bool:
    if not isinstance(error, dict) or error.keys() != {"type", "bases", "message", "where", "traceback"}:
        return False
    where, bases = error["where"], error["bases"]
    return (
        _is_text(error["type"], MAX_NAME)
        and _is_text(error["message"], MAX_MESSAGE)
        and _is_text(error["traceback"], MAX_TRACEBACK)
        and (where is None or _is_text(where, MAX_NAME))
        and type(bases) is list
        and len(bases) <= MAX_BASES
        and all(_is_text(base, MAX_NAME) for base in bases)
    )


def _is_text(value: Any, limit: int) -> bool:
    return type(value) is str and len(value) <= limit


_FORMS: dict[str, Callable[[dict[str, Any], Any], bool]] = {
    "put": _is_kept,
    "evaluate": _is_kept,
    "get": _is_got,
    "call": _is_returned,
    "each": _are_attempts,
    "module": _is_module,
    "forward": _is_forward,
    "backward": _are_gradients,
    "trace": _are_operations,
}


def _is_end(reply: Any) -> bool:
    return isinstance(reply, dict) and type(reply.get("ended")) is int and -64 <= reply["ended"] <= 255


def _ending(reply: dict[str, Any], limit: float) -> tuple[Outcome, str]:
    """What the end of the program's process means; negative numbers are signals.

    ``out_of_memory`` is there and true if the agent saw the kernel kill for want of memory.
    """
    status = reply["ended"]
    if reply.get("out_of_memory") is True:
        return Outcome.OUT_OF_MEMORY, "Your code wanted more memory than a check has, and was killed."
    if status == -signal.SIGXCPU:
        return Outcome.TIMED_OUT, f"Your code used more processor time than the {limit:g} s allow."
    if status == -signal.SIGKILL:
        return Outcome.KILLED, "Your code was killed; most often it wanted more memory than there is."
    if status in _CRASHES:
        return Outcome.KILLED, f"Your code crashed the Python interpreter ({_CRASHES[status]})."
    if status < 0:
        name = next((known.name for known in signal.Signals if known == -status), f"number {-status}")
        return Outcome.KILLED, f"Your code was ended by the signal {name}."
    return Outcome.KILLED, f"Your code ended its Python process (status {status}) instead of returning."
