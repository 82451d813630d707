"""How much it takes to believe that two answers agree by more than chance.

A wrong answer is explained by transforming it, or the right one, and looking whether both are then the same. Many small
integers are the same by chance, and so are all tensors of zeros: what had to agree must be worth at least
``CONVINCING`` bits, more where more was tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["CONVINCING", "LIMIT", "Pair", "readable"]

# Looking takes time that the learner waits for: nothing is looked for in more elements than this.
LIMIT = 1 << 14
CONVINCING = 12.0
_MAX_RANK = 8
_MAX_SIZES = 40
# Above this, float64 no longer tells neighbouring integers apart.
_EXACT_WHOLE = 2**53


def readable(values: Tensor) -> bool:
    """Whether it is small enough to look at, and float64 (complex128) holds its values as they are."""
    if not 0 < values.numel() <= LIMIT or values.dim() > _MAX_RANK:
        return False
    if values.is_floating_point() or values.is_complex() or values.dtype is torch.bool:
        return True
    return bool(values.to(torch.float64).abs().max() <= _EXACT_WHOLE)


@dataclass(frozen=True)
class Pair:
    """Both answers in float64 (or complex128), and what counts as equal."""

    got: Tensor
    want: Tensor
    rtol: float
    atol: float
    dtype: torch.dtype
    inputs: list[Tensor]
    sizes: list[int]

    @classmethod
    def of(cls, got: Tensor, want: Tensor, rtol: float, atol: float, inputs: Sequence[Any]) -> Pair:
        wide = torch.complex128 if got.is_complex() or want.is_complex() else torch.float64
        tensors = list(_tensors(inputs))
        sizes = list(dict.fromkeys(_sizes([*tensors, want], inputs)))[:_MAX_SIZES]
        return cls(got.cpu().to(wide), want.cpu().to(wide), rtol, atol, want.dtype, tensors, sizes)

    @property
    def whole(self) -> bool:
        return not (self.dtype.is_floating_point or self.dtype.is_complex)

    @property
    def subject(self) -> str:
        return "It" if self.got.numel() == 1 else "Every element"

    def same(self, a: Tensor, b: Tensor) -> bool:
        """Equal shapes, and values within the tolerance."""
        if a.shape != b.shape:
            return False
        # Most guesses are wrong from the first element on, which is cheaper to ask for than all.
        first = (0,) * a.dim()
        x, y = (complex(a[first]), complex(b[first])) if a.numel() else (0, 0)
        # hypot: abs() of a large complex number raises.
        if math.hypot((x - y).real, (x - y).imag) > self.atol + self.rtol * math.hypot(y.real, y.imag):
            return False
        return bool(torch.isclose(a, b.to(a.dtype), rtol=self.rtol, atol=self.atol, equal_nan=True).all())

    def follows(self, a: Tensor, b: Tensor, *, among: int = 1, free: int = 0) -> bool:
        """``a`` is ``b`` although each different value of ``b`` could have come out otherwise.

        ``among`` mistakes are tried at this place; ``free`` numbers were fitted to the values first.
        """
        if not self.same(a, b):
            return False
        return min(self._value_bits(a, free), self._value_bits(b, free)) >= CONVINCING + math.log2(among)

    def matches(self, a: Tensor, b: Tensor, *, among: int = 1) -> bool:
        """``a`` is ``b`` although each element could have come out otherwise."""
        return self.same(a, b) and self.element_bits(b) >= CONVINCING + math.log2(among)

    def element_bits(self, values: Tensor) -> float:
        count = len(self._distinct(values))
        return max(self._value_bits(values), values.numel() * math.log2(count)) if count > 1 else 0.0

    def _distinct(self, values: Tensor) -> Tensor:
        """The finite values that differ by more than the tolerance, ascending."""
        flat = torch.view_as_real(values).reshape(-1) if values.is_complex() else values.reshape(-1)
        ordered: Tensor = torch.unique(flat[flat.isfinite()])
        apart = ordered.diff() > self.atol + self.rtol * ordered[1:].abs()
        return torch.cat([ordered[:1], ordered[1:][apart]])

    def _value_bits(self, values: Tensor, free: int = 0) -> float:
        """What the different values are worth together; the ``free`` most precious ones count nothing."""
        distinct = self._distinct(values)
        step = torch.full_like(distinct, 1.0) if self.whole else self.atol + self.rtol * distinct.abs()
        # Values such as 0.5 or 3.0 come out of many a wrong formula: they are worth their digits, no more.
        round_ = (distinct * 64 - (distinct * 64).round()).abs() <= 64 * step.minimum(torch.tensor(1e-4))
        step = step.maximum(torch.where(round_, 1 / 64, 0.0)).maximum(torch.tensor(2.0**-40))
        bits = (1 + distinct.abs() / step).log2().sort().values
        return float(bits[: len(bits) - free].sum())


def _tensors(inputs: Sequence[Any]) -> Iterator[Tensor]:
    """The real tensors and arrays among the arguments, in float64."""
    for value in inputs:
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(value.copy())
        if isinstance(value, Tensor) and not value.is_complex() and readable(value):
            yield value.detach().cpu().to(torch.float64)


def _sizes(tensors: Iterable[Tensor], inputs: Sequence[Any]) -> Iterator[int]:
    """Numbers that a mistaken formula may have multiplied or divided by: sizes of axes, numbers of elements."""
    for tensor in tensors:
        yield from (size for size in tensor.shape if size > 1)
    for value in inputs:
        if type(value) is int and 1 < value <= 10**6:
            yield value
        if isinstance(value, list | tuple) and len(value) > 1:
            yield len(value)
    for tensor in tensors:
        counts = [tensor.numel(), *(tensor.numel() // size for size in tensor.shape)]
        yield from (count for count in counts if count > 1)
