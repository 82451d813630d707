"""Comparing what learner code returned with what is right, and saying how it differs.

Only data of :mod:`labkit.wire` arrives here, so types are exact: no ``__eq__``, no subclass, nothing that computes
when it is looked at. The comparison runs with the judge's own torch and numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from labkit.wire import Handle

__all__ = ["Tolerance", "describe", "difference", "rounded"]

# rtol, atol by dtype; as torch.testing.assert_close has them (PyTorch documentation, torch.testing).
_DEFAULTS = {
    torch.float16: (1e-3, 1e-5),
    torch.bfloat16: (1.6e-2, 1e-5),
    torch.float32: (1.3e-6, 1e-5),
    torch.float64: (1e-7, 1e-7),
    torch.complex64: (1.3e-6, 1e-5),
    torch.complex128: (1e-7, 1e-7),
}


@dataclass(frozen=True)
class Tolerance:
    """``|got - want| <= atol + rtol * |want|``; None takes the dtype's default, zero for integers."""

    rtol: float | None = None
    atol: float | None = None

    def of(self, dtype: torch.dtype) -> tuple[float, float]:
        """``(rtol, atol)`` for tensors of this dtype."""
        rtol, atol = _DEFAULTS.get(dtype, (0.0, 0.0))
        return (rtol if self.rtol is None else self.rtol, atol if self.atol is None else self.atol)


EXACT = Tolerance(0.0, 0.0)


def difference(got: Any, want: Any, tolerance: Tolerance = EXACT) -> str | None:
    """How ``got`` differs from ``want``, as the end of the sentence "It returned …"; None if it does not."""
    if got is None and want is not None:
        return f"None, not {describe(want)}. Did you forget a return statement?"
    return _difference(got, want, tolerance)


def _difference(got: Any, want: Any, tolerance: Tolerance) -> str | None:
    if isinstance(want, torch.Tensor):
        return _tensor_difference(got, want, tolerance)
    if isinstance(want, np.ndarray):
        return _array_difference(got, want, tolerance)
    if type(want) is float and type(got) is float:
        return _value_difference(_float64(got), _float64(want), tolerance)
    if type(got) is not type(want):
        return _type_difference(got, want)
    if isinstance(want, list | tuple):
        return _sequence_difference(got, want, tolerance)
    if isinstance(want, dict):
        return _dict_difference(got, want, tolerance)
    if got == want or (got != got and want != want):
        return None
    return _unlike(got, want)


def describe(value: Any) -> str:
    """A value in a few words: numbers and small things as they are, tensors by shape and dtype."""
    if isinstance(value, torch.Tensor):
        kind = f"tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
        return f"{_shown(value.tolist())} (a {kind})" if value.numel() <= 6 else f"a {kind}"
    if isinstance(value, np.ndarray):
        kind = f"NumPy array of shape {value.shape} and dtype {value.dtype}"
        return f"{_shown(value.tolist())} (a {kind})" if value.size <= 6 else f"a {kind}"
    if isinstance(value, np.generic):
        return f"{value!r} (a NumPy scalar)"
    if isinstance(value, Handle):
        return f"{_cut(value.repr)} (a {value.type.removeprefix('builtins.').removeprefix('lab.')} object)"
    return _shown(value)


def _shown(value: Any) -> str:
    return _cut(rounded(value))


def rounded(value: Any) -> str:
    """``repr`` with floats to six significant digits, in nested lists too: float32 in full is noise to a reader."""
    if type(value) is float:
        return f"{value:.6g}" if value % 1 or abs(value) >= 1e16 else repr(value)
    if type(value) is list:
        return f"[{', '.join(rounded(item) for item in value)}]"
    return repr(value)


def _cut(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _type_difference(got: Any, want: Any) -> str:
    if got is None or want is None:
        return f"{describe(got)}, not {describe(want)}"
    article = _type_name(want)
    text = f"{describe(got)}, which is {_type_name(got)}, not {article}"
    if isinstance(got, torch.Tensor) and isinstance(want, bool | int | float) and got.numel() == 1:
        text += ". A tensor with one element becomes a Python number with .item()"
    return text


def _type_name(value: Any) -> str:
    if isinstance(value, Handle):
        return f"a {value.type.removeprefix('builtins.').removeprefix('lab.')} object"
    name = {torch.Tensor: "tensor", np.ndarray: "NumPy array"}.get(type(value), type(value).__name__)
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _unlike(got: Any, want: Any) -> str:
    """``got, not want``; numbers in full where rounding would print both the same."""
    mine, right = describe(got), describe(want)
    return f"{mine}, not {right}" if mine != right else f"{got!r}, not {want!r}"


def _tensor_difference(got: Any, want: torch.Tensor, tolerance: Tolerance) -> str | None:
    if type(got) is not torch.Tensor:
        return _type_difference(got, want)
    if got.shape != want.shape:
        return f"a tensor of shape {tuple(got.shape)}, not {tuple(want.shape)}{_shape_hint(got, want)}"
    if got.dtype != want.dtype:
        return f"a tensor of dtype {got.dtype}, not {want.dtype}"
    return _value_difference(got.detach(), want.detach(), tolerance)


def _array_difference(got: Any, want: np.ndarray[Any, Any], tolerance: Tolerance) -> str | None:
    if type(got) is not np.ndarray:
        return _type_difference(got, want)
    if got.shape != want.shape:
        return f"an array of shape {got.shape}, not {want.shape}"
    if got.dtype != want.dtype:
        return f"an array of dtype {got.dtype}, not {want.dtype}"
    return _value_difference(torch.from_numpy(got.copy()), torch.from_numpy(want.copy()), tolerance, "an array")


def _float64(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _shape_hint(got: torch.Tensor, want: torch.Tensor) -> str:
    if got.dim() == want.dim() >= 2 and tuple(got.shape) == tuple(reversed(want.shape)):
        return " (the axes are in reverse order)"
    if got.numel() == want.numel():
        return " (the same number of elements, laid out differently)"
    return ""


def _value_difference(
    got: torch.Tensor, want: torch.Tensor, tolerance: Tolerance, noun: str = "a tensor"
) -> str | None:
    rtol, atol = tolerance.of(want.dtype)
    wide = torch.complex128 if want.is_complex() else torch.float64
    whole = not (want.is_floating_point() or want.is_complex())
    # Integers as they are: float64 has only 53 bits for them.
    exact = whole and rtol == atol == 0
    a, b = (got, want) if exact else (got.to(wide), want.to(wide))
    wrong = a.ne(b) if exact else ~torch.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
    if not wrong.any():
        return None
    index = tuple(int(i) for i in wrong.nonzero()[0])
    first = _unlike(got[index].item(), want[index].item())
    if not index:
        return first
    count = int(wrong.sum())
    text = f"{noun} that differs in {count} of {want.numel()} elements; the first is at index {list(index)}: {first}"
    if not whole and bool(got.isnan().any()) and not bool(want.isnan().any()):
        text += "; it contains nan"
    return text


def _sequence_difference(got: Any, want: Any, tolerance: Tolerance) -> str | None:
    if len(got) != len(want):
        return f"{describe(got)} with {len(got)} items, not {len(want)}"
    for index, (mine, right) in enumerate(zip(got, want, strict=True)):
        if (found := _difference(mine, right, tolerance)) is not None:
            return f"a {type(got).__name__} whose item {index} is {found}"
    return None


def _dict_difference(got: dict[Any, Any], want: dict[Any, Any], tolerance: Tolerance) -> str | None:
    missing = [key for key in want if key not in got]
    extra = [key for key in got if key not in want]
    if missing or extra:
        parts = [f"without the key {missing[0]!r}"] if missing else []
        parts += [f"with the key {extra[0]!r}, which does not belong there"] if extra else []
        return "a dict " + " and ".join(parts)
    for key, right in want.items():
        if (found := _difference(got[key], right, tolerance)) is not None:
            return f"a dict in which {key!r} is {found}"
    return None
