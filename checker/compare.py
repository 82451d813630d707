"""Comparing what learner code returned with what is right, and saying how it differs.

Only data of :mod:`labkit.wire` arrives here, so types are exact: no ``__eq__``, no subclass, nothing that computes
when it is looked at. The comparison runs with the judge's own torch and numpy.

What is told of the expected answer (one element and where it stands, the size of the error, what pattern it follows)
helps nobody to read it out: inputs are drawn anew for every check, so an element learned from one attempt belongs to
an answer that is never asked for again. Still no message holds more than a few elements, and none is longer than
``MAX_LENGTH``.
"""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from checker.patterns import LIMIT, recognise
from labkit.wire import Handle, device_of

__all__ = ["EXACT", "MAX_LENGTH", "Tolerance", "describe", "difference", "rounded"]

MAX_LENGTH = 600
# Elements compared at once: several copies of them in float64 should fit the cache, never mind the memory.
_CHUNK = 1 << 18

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


@dataclass(frozen=True)
class _Terms:
    """What a comparison asks for."""

    tolerance: Tolerance
    inputs: Sequence[Any]
    layout: bool
    requires_grad: bool
    device: torch.device | None
    explain: bool


def difference(
    got: Any,
    want: Any,
    tolerance: Tolerance = EXACT,
    *,
    inputs: Sequence[Any] = (),
    layout: bool = False,
    requires_grad: bool = False,
    device: torch.device | str | None = None,
    explain: bool = True,
) -> str | None:
    """How ``got`` differs from ``want``, as the end of the sentence "It returned …"; None if it does not.

    Where a usual mistake explains the answer (:mod:`checker.patterns`), a second sentence says so, unless ``explain``
    is False; ``inputs``, the call's arguments, help to find it. ``layout`` also asks for the same order of the axes in
    memory, ``requires_grad`` for the same part in the gradient's graph, ``device`` for tensors that were on it in the
    sandbox (``"cuda"`` is any GPU, ``"cuda:1"`` that one). The last full stop is left to the caller; there are at most
    ``MAX_LENGTH`` characters.
    """
    place = None if device is None else torch.device(device)
    if got is None and want is not None:
        return f"None, not {describe(want)}. Did you forget a return statement?"
    found = _difference(got, want, _Terms(tolerance, inputs, layout, requires_grad, place, explain))
    return None if found is None else _bounded(found)


def _bounded(text: str) -> str:
    """Whoever reads a long text needs its start, which says where it is, and its end, which says why."""
    part = (MAX_LENGTH - 3) // 2
    return text if len(text) <= MAX_LENGTH else f"{text[:part]} … {text[-part:]}"


def _difference(got: Any, want: Any, terms: _Terms) -> str | None:
    if isinstance(want, torch.Tensor):
        return _tensor_difference(got, want, terms)
    if isinstance(want, np.ndarray):
        return _array_difference(got, want, terms)
    if type(got) is not type(want):
        return _type_difference(got, want)
    if isinstance(want, float | complex | np.inexact):
        return _value_difference(torch.from_numpy(np.array(got)), torch.from_numpy(np.array(want)), terms)
    if isinstance(want, list | tuple):
        return _sequence_difference(got, want, terms)
    if isinstance(want, dict):
        return _dict_difference(got, want, terms)
    return None if got == want else _unlike(got, want)


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
    if isinstance(value, torch.device):
        return f"the device {value}"
    if isinstance(value, Handle):
        return f"{_cut(value.repr)} (a {_handle_type(value)} object)"
    return _shown(value)


def _handle_type(value: Handle) -> str:
    return _cut(value.type.removeprefix("builtins.").removeprefix("lab."), 60)


class _Short(reprlib.Repr):
    """``repr`` of as much as can be shown anyway: what a learner returns may be a list of a million items."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlong, self.maxstring, self.maxother, self.fillvalue = 8, 80, 200, 200, "…"
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 40

    def repr_float(self, value: float, _level: int) -> str:
        return rounded(value)

    def repr_complex(self, value: complex, _level: int) -> str:
        return rounded(value)

    def repr_dict(self, value: dict[Any, Any], level: int) -> str:
        # In the order it was made: reprlib would sort the keys.
        items = itertools.islice(value.items(), 40 if level > 0 else 0)
        pairs = [f"{self.repr1(key, level - 1)}: {self.repr1(item, level - 1)}" for key, item in items]
        return f"{{{', '.join([*pairs, '…'] if len(value) > len(pairs) else pairs)}}}"

    def repr_bytes(self, value: bytes, _level: int) -> str:
        return repr(value[:200])


def _shown(value: Any) -> str:
    return _cut(_Short().repr(value))


def rounded(value: Any) -> str:
    """``repr`` with floats to six significant digits, in nested lists too: float32 in full is noise to a reader."""
    if type(value) is float:
        return f"{value:.6g}" if value % 1 or abs(value) >= 1e16 else repr(value)
    if type(value) is complex:
        return f"({value:.6g})"
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
        return f"a {_handle_type(value)} object"
    name = {torch.Tensor: "tensor", np.ndarray: "NumPy array"}.get(type(value), type(value).__name__)
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _unlike(got: Any, want: Any) -> str:
    """``got, not want``; numbers in full where rounding would print both the same."""
    mine, right = describe(got), describe(want)
    return f"{mine}, not {right}" if mine != right else f"{_cut(repr(got))}, not {_cut(repr(want))}"


def _tensor_difference(got: Any, want: torch.Tensor, terms: _Terms) -> str | None:
    if type(got) is not torch.Tensor:
        return _type_difference(got, want)
    # A reference may have been computed on a GPU; what comes over the wire is on the CPU.
    return (
        _data_difference(got.detach(), want.detach().cpu(), "a tensor", terms)
        or (_device_difference(got, terms.device) if terms.device else None)
        or (_layout_difference(got, want) if terms.layout else None)
        or (_grad_difference(got, want) if terms.requires_grad else None)
    )


def _array_difference(got: Any, want: np.ndarray[Any, Any], terms: _Terms) -> str | None:
    if type(got) is not np.ndarray:
        return _type_difference(got, want)
    # Copies: torch takes neither read-only arrays nor foreign byte orders.
    mine, right = (torch.from_numpy(a.astype(a.dtype.newbyteorder("="))) for a in (got, want))
    return _data_difference(mine, right, "an array", terms)


def _data_difference(got: torch.Tensor, want: torch.Tensor, noun: str, terms: _Terms) -> str | None:
    if got.shape == want.shape and got.dtype == want.dtype:
        return _value_difference(got, want, terms, noun)
    cause = _explained(got, want, terms)
    if got.shape != want.shape:
        hint = "" if cause else _shape_hint(got, want)
        return f"{noun} of shape {tuple(got.shape)}, not {tuple(want.shape)}{hint}{cause}"
    # An array's dtypes have the names of a tensor's, without "torch.".
    mine, right = (str(t.dtype) if noun == "a tensor" else str(t.dtype)[6:] for t in (got, want))
    return f"{noun} of dtype {mine}, not {right}{cause}"


def _explained(got: torch.Tensor, want: torch.Tensor, terms: _Terms) -> str:
    """The sentence about the likely mistake, ready to follow the one before; empty if none is recognised."""
    if not terms.explain:
        return ""
    # A check that asks for every bit still has an answer that is twice too large only up to rounding.
    sides = (terms.tolerance, Tolerance())
    limits = [side.of(dtype) for side in sides for dtype in (got.dtype, want.dtype)]
    rtol, atol = (max(values) for values in zip(*limits, strict=True))
    cause = recognise(got, want, rtol, atol, terms.inputs)
    return f". {cause}" if cause else ""


def _shape_hint(got: torch.Tensor, want: torch.Tensor) -> str:
    if got.dim() == want.dim() >= 2 and tuple(got.shape) == tuple(reversed(want.shape)):
        return " (the axes are in reverse order)"
    if got.squeeze().shape == want.squeeze().shape:
        return f" (an axis of size 1 is {'missing' if got.dim() < want.dim() else 'too many'})"
    if got.numel() == want.numel():
        return " (the same number of elements, laid out differently)"
    return ""


def _layout_difference(got: torch.Tensor, want: torch.Tensor) -> str | None:
    """The order of the axes in memory, which is all of the strides that crosses the wire."""
    mine, right = ([s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1] for t in (got, want))
    if mine == right or not got.numel():
        return None
    text = f"a tensor with the right values and strides {got.stride()}, not {want.stride()}"
    if want.is_contiguous():
        return f"{text}. A transpose or permute only changes strides: .contiguous() puts the elements in order"
    return f"{text}. It is a copy in order, where a view with its axes moved is asked" if got.is_contiguous() else text


def _device_difference(got: torch.Tensor, want: torch.device) -> str | None:
    """The device as the sandbox tells it, which is learner code's word: it teaches, and proves nothing."""
    mine = device_of(got)
    if mine.type == want.type and want.index in (None, mine.index):
        return None
    text = f"a tensor with the right values that is on {mine}; it should be on {want}"
    if mine.type == "cpu":
        return f"{text}. torch makes tensors on the CPU unless it is told otherwise: device=x.device makes one beside x"
    return f"{text}. Did .cpu() or .to() come too late, or on another tensor?" if want.type == "cpu" else text


def _grad_difference(got: torch.Tensor, want: torch.Tensor) -> str | None:
    if got.requires_grad == want.requires_grad:
        return None
    if got.requires_grad:
        return "a tensor with the right values that requires grad and should not: .detach() or torch.no_grad() ends it"
    return (
        "a tensor with the right values that no longer requires grad: .detach(), .data, .item(), torch.no_grad() and "
        "torch.tensor() cut it off the graph"
    )


@dataclass(frozen=True)
class _Errors:
    """Which elements are wrong, and the largest errors among the finite ones of them."""

    wrong: torch.Tensor
    absolute: float
    relative: float


def _errors(got: torch.Tensor, want: torch.Tensor, rtol: float, atol: float) -> _Errors:
    wide = torch.complex128 if want.is_complex() else torch.float64
    # Integers as they are: float64 has only 53 bits for them.
    exact = not (want.is_floating_point() or want.is_complex()) and rtol == atol == 0
    wrong = torch.zeros(want.numel(), dtype=torch.bool)
    absolute = relative = 0.0
    for start in range(0, want.numel(), _CHUNK):
        a, b = (t.reshape(-1)[start : start + _CHUNK] for t in (got, want))
        if exact:
            wrong[start : start + _CHUNK] = a.ne(b)
            continue
        a, b = a.to(wide), b.to(wide)
        here = wrong[start : start + _CHUNK] = ~torch.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
        of = here & a.isfinite() & b.isfinite()
        error = (a - b).abs().masked_fill(~of, 0)
        absolute = max(absolute, float(error.max()))
        # An error against 0 is infinite relative to it, which tells nothing.
        relative = max(relative, float((error / b.abs()).masked_fill(~of | (b == 0), 0).max()))
    return _Errors(wrong.reshape(want.shape), absolute, relative)


def _value_difference(got: torch.Tensor, want: torch.Tensor, terms: _Terms, noun: str = "a tensor") -> str | None:
    rtol, atol = terms.tolerance.of(want.dtype)
    errors = _errors(got, want, rtol, atol)
    count = int(errors.wrong.sum())
    if not count:
        return None
    index = _first(errors.wrong)
    text = _unlike(got[index].item(), want[index].item())
    if index:
        text = f"{noun} that differs in {count} of {want.numel()} elements; the first is at index {list(index)}: {text}"
        text += _largest(errors, rtol, atol) if count > 1 else ""
        text += _not_finite(got, want)
    return text + _explained(got, want, terms)


def _first(mask: torch.Tensor) -> tuple[int, ...]:
    flat = int(mask.reshape(-1).to(torch.uint8).argmax())
    return tuple(int(i) for i in np.unravel_index(flat, tuple(mask.shape)))


def _largest(errors: _Errors, rtol: float, atol: float) -> str:
    """Each error against its own part of the tolerance; nothing where every bit counts."""
    if not (rtol or atol) or not errors.absolute:
        return ""
    absolute = f"{errors.absolute:.3g} (tolerance {atol:.3g})"
    relative = f", relative {errors.relative:.3g} (tolerance {rtol:.3g})" if errors.relative else ""
    return f"; the largest error is {absolute}{relative}"


def _not_finite(got: torch.Tensor, want: torch.Tensor) -> str:
    """Where nan or inf first appears that is nowhere in the answer expected."""
    if not (got.is_floating_point() or got.is_complex()):
        return ""
    for name, is_it in (("nan", torch.isnan), ("inf", torch.isinf)):
        mine = is_it(got)
        if mine.any() and not is_it(want).any():
            return f"; it has {int(mine.sum())} {name}, the first at index {list(_first(mine))}, and should have none"
    return ""


def _sequence_difference(got: Any, want: Any, terms: _Terms) -> str | None:
    if len(got) != len(want):
        return f"{describe(got)} with {len(got)} {'item' if len(got) == 1 else 'items'}, not {len(want)}"
    mine, right = _numbers(got), _numbers(want)
    cause, inner = "", terms
    if mine is not None and right is not None:
        inner = replace(terms, explain=False)
    for index, (item, wanted) in enumerate(zip(got, want, strict=True)):
        if (found := _difference(item, wanted, inner)) is not None:
            if mine is not None and right is not None:
                cause = _explained(mine, right, terms)
            return f"a {type(got).__name__} whose item {index} is {found}{cause}"
    return None


def _numbers(items: Any) -> torch.Tensor | None:
    """A list of plain numbers as the tensor it could be, so that patterns are seen in it too."""
    kind = {type(item) for item in items} if len(items) <= LIMIT else set()
    if kind == {float} or (kind == {int} and all(abs(item) < 2**53 for item in items)):
        return torch.tensor(items, dtype=torch.float64 if kind == {float} else torch.int64)
    return None


def _dict_difference(got: dict[Any, Any], want: dict[Any, Any], terms: _Terms) -> str | None:
    missing = [key for key in want if key not in got]
    extra = [key for key in got if key not in want]
    if missing or extra:
        parts = [f"without the key {_key(missing[0])}"] if missing else []
        parts += [f"with the key {_key(extra[0])}, which does not belong there"] if extra else []
        return "a dict " + " and ".join(parts)
    for key, right in want.items():
        if (found := _difference(got[key], right, terms)) is not None:
            return f"a dict in which {_key(key)} is {found}"
    return None


def _key(key: Any) -> str:
    return _cut(_Short().repr(key), 60)
