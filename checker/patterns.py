"""What a wrong answer most likely is: the expected one with one of the usual mistakes in it.

Nothing is known of the exercise. A mistake is recognised by making it: the expected answer (or the wrong one) is
transformed, and if that gives the other, one sentence says so. A sentence is only given if it holds for every element
and if chance is a poor explanation (:mod:`checker.evidence`). The mistakes are those of a computation
(:mod:`checker.formulas`) and those of a place (:mod:`checker.arrangement`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from checker import arrangement, formulas
from checker.evidence import LIMIT, Pair, readable

__all__ = ["LIMIT", "recognise"]

Look = Callable[[Pair], str | None]
# The first one that sees something is the one that speaks.
_ON_VALUES: tuple[Look, ...] = (
    *(formulas.rounding, formulas.unchanged, formulas.constant, formulas.reduction, formulas.factor),
    *(formulas.opposite, formulas.offset, formulas.step, arrangement.mask, formulas.not_finite),
    *(formulas.wrong_axis, arrangement.moved, arrangement.shifted, formulas.along, arrangement.place),
)
_ON_COMPLEX: tuple[Look, ...] = (
    *(formulas.rounding, formulas.not_finite, formulas.factor, formulas.conjugate, arrangement.permuted),
)
_ON_SHAPE: tuple[Look, ...] = (
    *(arrangement.axis_of_one, arrangement.broadcast, arrangement.batch, arrangement.same_elements),
    *(arrangement.cut_short, formulas.reduction, formulas.reduced, formulas.total),
)


def recognise(got: Tensor, want: Tensor, rtol: float, atol: float, inputs: Sequence[Any] = ()) -> str | None:
    """One sentence (without its full stop) that explains how ``got`` became what it is instead of ``want``, or None.

    ``got`` and ``want`` differ in shape, dtype or values. ``inputs`` are the arguments of the call: their axes' sizes
    give factors a name, and a plain reduction of one is recognised.
    """
    if not (readable(got) and readable(want)):
        return None
    pair = Pair.of(got.detach(), want.detach(), rtol, atol, inputs)
    if got.shape != want.shape:
        looks = _ON_SHAPE
    elif got.dtype != want.dtype:
        return _dtype(got.detach(), want.detach(), pair)
    elif pair.got.is_complex():
        looks = _ON_COMPLEX
    else:
        looks = _ON_VALUES
    return next((sentence for look in looks if (sentence := look(pair)) is not None), None)


_WHERE_FROM = {
    torch.float64: "NumPy computes in float64 unless it is told otherwise",
    torch.float32: "torch makes float32 unless it is told otherwise",
    torch.int64: "torch makes int64 of Python ints unless it is told otherwise",
    torch.bool: "a comparison gives bool",
}


def _dtype(got: Tensor, want: Tensor, pair: Pair) -> str:
    if pair.same(pair.got, pair.want):
        source = _WHERE_FROM.get(got.dtype, "")
        return "The values are right, only the dtype is not" + (f": {source}" if source else "")
    whole = not (got.is_floating_point() or got.is_complex())
    if whole and want.is_floating_point() and pair.matches(pair.got, pair.want.trunc()):
        return "The fractions are cut off: something on the way was computed or stored in whole numbers"
    if whole and pair.whole and bool((want.to(got.dtype) == got).all()):
        return f"The values do not fit in {str(got.dtype).removeprefix('torch.')} and have wrapped around"
    return "Its values differ, too"
