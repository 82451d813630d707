"""Which operations of torch a call runs, as PyTorch's own hooks see them.

``TorchFunctionMode`` sees functions as they are called from Python (``scaled_dot_product_attention``),
``TorchDispatchMode`` what they become below autograd (``aten::_softmax``); PyTorch documentation, "Extending PyTorch".
Learner code can switch both off, so what is not seen may have run all the same.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from typing import Any

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from labkit.exceptions import MAX_NAME

__all__ = ["MAX_OPERATIONS", "Trace"]

MAX_OPERATIONS = 500


class Trace:
    """``with Trace() as trace: …``, then ``trace.lines()``."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._modes = contextlib.ExitStack()

    def __enter__(self) -> Trace:
        self._modes.enter_context(_Functions(self))
        self._modes.enter_context(_Dispatched(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._modes.close()

    def add(self, name: str) -> None:
        """Count one call of ``name`` at the notebook's line that runs now."""
        key = name[:MAX_NAME], _place()
        if key in self._counts or len(self._counts) < MAX_OPERATIONS:
            self._counts[key] = self._counts.get(key, 0) + 1

    def lines(self) -> list[tuple[str, str, int]]:
        """Name, place (``cell 3, line 2``; empty if unknown) and number of calls, in the order of the first ones."""
        return [(name, place, count) for (name, place), count in self._counts.items()]


class _Functions(TorchFunctionMode):
    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._trace.add(str(getattr(func, "__name__", func)))
        return func(*args, **(kwargs or {}))


class _Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing here is compiled, and to keep the compiler away PyTorch would load it, for three seconds.
        return False

    def __init__(self, trace: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._trace = trace

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._trace.add(str(func.name()))
        return func(*args, **(kwargs or {}))


def _place() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<cell "):
            return f"{frame.f_code.co_filename.strip('<>')}, line {frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""
