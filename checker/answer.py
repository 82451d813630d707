"""What a call of the learner's code gave, and the assertions that a check is made of.

What the learner reads of a call follows one rule. Hidden inputs are described, not shown: a tensor or array by shape
and dtype, a long text or container by type and length. Single numbers, words and a few items are shown, because
"returned 3 for rank_of(2)" teaches, and so are small floating-point tensors of whole numbers: those are edge cases
written by hand (``Draw`` draws none), and a message about ``[0.0, inf]`` teaches nothing without them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from checker.compare import EXACT, Tolerance, describe, difference, rounded
from checker.results import Outcome
from labkit.wire import Handle

__all__ = ["Answer", "Failure", "ProgramEnded", "StudentError", "call_text"]

_MAX_ARGUMENT = 80
_MAX_SHOWN = 6
_MAX_ITEMS = 3
_MAX_TEXT = 12
_MAX_AXES = 6
_CONTAINERS = (list, tuple, dict, set, frozenset)
# What several of a type are called; of any other, "items".
_SEVERAL: dict[type, str] = {
    kind: "strings" if kind is str else f"{kind.__name__}s" for kind in (bool, int, float, str, list, tuple, dict)
}
_OUT_OF_MEMORY = (
    "can't allocate memory",  # torch's CPU allocator
    "cannot allocate memory",  # the kernel's ENOMEM
    "cuda out of memory",
    "cuda error: out of memory",
    "cublas_status_alloc_failed",
    "std::bad_alloc",
)


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
        text = f"{during}{self.type}{f': {self.message}' if self.message else ''}{place}"
        if self.outcome is Outcome.OUT_OF_MEMORY:
            text += f"\n{self._memory()}"
        return f"{text}\n{self.traceback.rstrip()}" if self.traceback else text

    @property
    def outcome(self) -> Outcome:
        memory = "MemoryError" in self.bases or self.type == "OutOfMemoryError"
        memory = memory or any(words in self.message.lower() for words in _OUT_OF_MEMORY)
        return Outcome.OUT_OF_MEMORY if memory else Outcome.ERROR

    def _memory(self) -> str:
        if not re.search("cuda|cublas", self.message, re.IGNORECASE):
            return "The check ran out of memory: what is the largest thing your code makes at one time?"
        number = re.search(r"GPU (\d{1,3})\b", self.message)
        gpu = f"GPU {number[1]}" if number else "The GPU"
        return f"{gpu} ran out of memory: what is the largest tensor on it, and what keeps old ones alive?"


@dataclass
class ProgramEnded(Exception):
    """The program is gone: timed out, killed, or it ended itself. Nothing more can be asked of it or its sandbox."""

    outcome: Outcome
    message: str

    def __str__(self) -> str:
        return self.message


class Answer:
    """What one call returned: its ``value``, and the assertions a check is made of.

    ``verb`` stands between the call and what it gave: a call "returned" something, an attribute "is" something. The
    call's arguments, ``args``, help to recognise a usual mistake.
    """

    def __init__(
        self,
        call: str,
        value: Any = None,
        error: StudentError | None = None,
        after: Any = None,
        verb: str = "returned",
        args: Sequence[Any] = (),
    ) -> None:
        self.call = call
        self.error = error
        self._value = value
        self._after = after
        self._verb = verb
        self._args = args

    @property
    def value(self) -> Any:
        """The returned data (or :class:`Handle`). Raises the learner's exception if there was one."""
        if self.error is not None:
            raise self.error
        return self._value

    @property
    def args_after(self) -> list[Any]:
        """The positional arguments as the call left them in the sandbox; objects that stay there by their handles."""
        if self.error is not None:
            raise self.error
        return list(self._after)

    def equals(
        self,
        want: Any,
        *,
        diagnose: Mapping[str, Any] | None = None,
        layout: bool = False,
        requires_grad: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        """The value is ``want``: same type, shape, dtype and elements.

        ``diagnose`` maps what to tell the learner to the value that this misconception gives. ``layout`` asks for the
        same strides too, ``requires_grad`` for the same part in autograd, ``device`` for tensors on this device.
        """
        self._compare(want, EXACT, diagnose, layout=layout, requires_grad=requires_grad, device=device)

    def is_close(
        self,
        want: Any,
        *,
        rtol: float | None = None,
        atol: float | None = None,
        diagnose: Mapping[str, Any] | None = None,
        layout: bool = False,
        requires_grad: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        """As :meth:`equals`, within the dtype's tolerance or the one given."""
        self._compare(want, Tolerance(rtol, atol), diagnose, layout=layout, requires_grad=requires_grad, device=device)

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
            if (found := _change(after, before)) is not None:
                raise Failure(f"{self.call} changed its argument {index + 1} in place: it is now {found}.")

    def as_dict(self, want: dict[Any, Any]) -> dict[Any, Any]:
        """The value, to be looked at key by key; what is no dict fails as it would against ``want``."""
        if type(self.value) is not dict:
            self.equals(want)
        found: dict[Any, Any] = self.value
        return found

    def tensor(self) -> torch.Tensor:
        """The value, which has to be a tensor; Failure if it is anything else."""
        if type(self.value) is not torch.Tensor:
            raise Failure(f"{self.call} {self._verb} {describe(self.value)}, which is no tensor.")
        found: torch.Tensor = self.value
        return found

    def _compare(self, want: Any, tolerance: Tolerance, diagnose: Mapping[str, Any] | None, **asked: Any) -> None:
        value = self.value
        found = difference(value, want, tolerance, explain=False, **asked)
        if found is None:
            return
        for message, mistaken in (diagnose or {}).items():
            if difference(value, mistaken, tolerance, explain=False) is None:
                raise Failure(f"{self._sentence(found)} {message}")
        explained = difference(value, want, tolerance, inputs=self._args, **asked)
        raise Failure(self._sentence(explained or found))

    def _sentence(self, found: str) -> str:
        return f"{self.call} {self._verb} {found}{'' if found.endswith('?') else '.'}"


def call_text(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The call as the learner would write it, with arguments in a few words."""
    words = [_argument(arg) for arg in args] + [f"{key}={_argument(value)}" for key, value in kwargs.items()]
    return f"{name}({', '.join(words)})"


def _argument(value: Any) -> str:
    text = _described(value)
    return text if len(text) <= _MAX_ARGUMENT else text[: _MAX_ARGUMENT - 1] + "…"


def _described(value: Any) -> str:
    if isinstance(value, Handle):
        return f"<{value.type.rsplit('.', 1)[-1]}>"
    if isinstance(value, torch.Tensor):
        if _is_edge_case(value.detach()):
            return f"tensor({rounded(value.tolist())})"
        return f"<tensor {tuple(value.shape)} {str(value.dtype)[6:]}>"
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "f" and _is_edge_case(torch.from_numpy(value.copy())):
            return f"array({rounded(value.tolist())})"
        return f"<array {value.shape} {value.dtype}>"
    if isinstance(value, str | bytes):
        unit = "characters" if isinstance(value, str) else "bytes"
        return repr(value) if len(value) <= _MAX_TEXT else f"<{type(value).__name__} of {len(value)} {unit}>"
    return _container(value) if isinstance(value, _CONTAINERS) else describe(value)


def _container(value: Any) -> str:
    """With its items, if only a few of them show a value; otherwise by type and length."""
    if not value or _is_shape(value):
        return describe(value)
    if len(list(itertools.islice(_showing(value), _MAX_ITEMS + 1))) > _MAX_ITEMS:
        return f"<{type(value).__name__} of {_count(value)}>"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_described(key)}: {_described(item)}" for key, item in value.items()) + "}"
    words = list(map(_described, value))
    if isinstance(value, list):
        return f"[{', '.join(words)}]"
    if isinstance(value, tuple):
        return f"({', '.join(words)}{',' if len(words) == 1 else ''})"
    braced = "{" + ", ".join(sorted(words)) + "}"
    return braced if isinstance(value, set) else f"frozenset({braced})"


def _count(value: Any) -> str:
    """``5 ints``, where all are of one type that has a plural."""
    if len(value) == 1:
        return "1 item"
    kinds = set(map(type, value)) if not isinstance(value, dict) else set()
    [kind] = kinds if len(kinds) == 1 else {object}
    return f"{len(value)} {_SEVERAL.get(kind, 'items')}"


def _showing(value: Any) -> Iterator[Any]:
    """The items at any depth but for tensors, arrays and objects, whose descriptions hold nothing that was drawn."""
    for item in value.values() if isinstance(value, dict) else value:
        if not isinstance(item, torch.Tensor | np.ndarray | Handle):
            yield item
        if isinstance(item, _CONTAINERS):
            yield from _showing(item)


def _is_shape(value: Any) -> bool:
    """Whether it could be a tensor's shape: those are told of tensors, too."""
    sizes = isinstance(value, tuple) and len(value) <= _MAX_AXES
    return sizes and all(type(size) is int and size >= 0 for size in value)


def _change(after: Any, before: Any) -> str | None:
    """How an argument is not what it was; a list that has grown is as hidden as the one that was sent."""
    if type(after) is type(before) and isinstance(before, list | set) and len(after) != len(before):
        return f"a {type(before).__name__} of length {len(after)}, not {len(before)}"
    return difference(after, before, explain=False)


def _is_edge_case(value: torch.Tensor) -> bool:
    small = value.numel() <= _MAX_SHOWN and value.dim() <= 2 and value.is_floating_point()
    return small and bool(((value == value.trunc()) | value.isnan()).all())
